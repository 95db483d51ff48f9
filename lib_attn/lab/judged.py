"""Pictures drawn to be judged, and what can be read off them beyond the judge's names."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib_attn.lab.sampling import Request, decode, sample
from lib_attn.lab.scenebench import COLOURS, Verdict
from lib_attn.lab.variants import FULL, Variant
from lib_attn.learn.scenes import vocabulary


@dataclass(frozen=True)
class How:
    """How pictures are drawn. batch: at once; it does not change them. model: print of the model's file.

    cache: folder where pictures are kept, so that a run that was stopped goes on; None: nowhere.
    """

    size: int = 256
    steps: int = 20
    sampler: str = "DDIM"
    seed: int = 1
    batch: int = 8
    model: str = ""
    cache: Path | None = None

    def request(self, prompts: Sequence[str], seeds: Sequence[int], negative: str, cfg: float) -> Request:
        return Request(tuple(prompts), tuple(seeds), negative, self.size, self.size, self.steps, self.sampler, cfg)


def draw(model, how: How, prompts, negatives, seeds, cfg: float, variant: Variant = FULL) -> np.ndarray:
    """Pictures uint8 ``[n, H, W, 3]``, in the order asked for; those with the same negative share a batch."""
    out: list = [None] * len(prompts)
    for word in dict.fromkeys(negatives):
        places = [i for i, negative in enumerate(negatives) if negative == word]
        for first in range(0, len(places), how.batch):
            part = places[first : first + how.batch]
            request = how.request([prompts[i] for i in part], [seeds[i] for i in part], word, cfg)
            for i, picture in zip(part, draw_batch(model, how, request, variant), strict=True):
                out[i] = picture
    return np.stack(out)


def draw_batch(model, how: How, request: Request, variant: Variant) -> np.ndarray:
    """Pictures uint8 ``[n, H, W, 3]`` of one request, out of the cache when they are there."""
    file = None
    if how.cache is not None:
        settings = variant.settings.flat() if variant.settings is not None else None
        known = json.dumps([how.model, model.precision, repr(request), settings], sort_keys=True)
        file = how.cache / f"{hashlib.sha256(known.encode()).hexdigest()[:24]}.npy"
        if file.is_file():
            return np.load(file)
    pictures = np.stack([np.asarray(picture) for picture in decode(model, sample(model, request, variant))])
    if file is not None:
        how.cache.mkdir(parents=True, exist_ok=True)
        np.save(file.with_suffix(".tmp.npy"), pictures)
        file.with_suffix(".tmp.npy").replace(file)
    return pictures


def seen_colour(verdict: Verdict, fallback: str) -> str:
    return verdict.objects[0][0] if verdict.objects else fallback


def shows(verdict: Verdict, shape: str) -> bool:
    """One object, of this shape."""
    return len(verdict.objects) == 1 and verdict.objects[0][1] == shape


def object_pixels(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels of what the mask marks, less its rim: uint8 ``[H, W, 3]``, bool ``[h, w]`` -> uint8 ``[n, 3]``.

    A cell of the mask at the object's outline is partly background. An object that is all rim is kept whole.
    """
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = (np.arange(size) * cells // size for size, cells in zip(picture.shape, mask.shape, strict=False))
    return picture[(inner if inner.any() else mask)[np.ix_(rows, columns)]]


def colour_shares(pixels: np.ndarray) -> np.ndarray:
    """Share of pixels ``[n, 3]`` nearest to each of `COLOURS`: float ``[colours]``; nan without pixels.

    Nearest by angle in RGB, which light and shade leave as it is. Greys and what is almost black have none of them.
    """
    if not len(pixels):
        return np.full(len(COLOURS), np.nan)
    names = np.array([vocabulary.COLOURS[name] for name in COLOURS])
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    values = pixels.astype(float)
    bright = values.max(1)
    coloured = (bright >= 32) & (bright - values.min(1) >= 0.25 * bright)
    return np.bincount((values[coloured] @ names.T).argmax(1), minlength=len(COLOURS)) / len(pixels)


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of the mean colours of two sets of pixels ``[n, 3]`` in RGB, 0 … 441; nan when one is empty."""
    return float(np.linalg.norm(a.mean(0) - b.mean(0))) if len(a) and len(b) else float("nan")


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; nan values are left out, and an error that cannot be known is nan."""
    kept = [float(v) for v in values if v == v]
    if not kept:
        return float("nan"), float("nan")
    return statistics.fmean(kept), statistics.stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else float("nan")
