"""Pictures drawn to be judged, kept in a folder so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant


@dataclass(frozen=True)
class DrawSpec:
    """How pictures are drawn. batch: at once; it does not change them. model: hash of the model's file.

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
        """Pictures of one negative and guidance scale, drawn this way."""
        return Request(tuple(prompts), tuple(seeds), negative, self.size, self.size, self.steps, self.sampler, cfg)


def draw(model, how: DrawSpec, prompts, negatives, seeds, cfg: float, variant: Variant = FULL) -> np.ndarray:
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


def draw_batch(model, how: DrawSpec, request: Request, variant: Variant) -> np.ndarray:
    """Pictures uint8 ``[n, H, W, 3]`` of one request, out of the cache when they are there."""
    file, variant = None, variant.completed(model.fitting)
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
