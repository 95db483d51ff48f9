"""Figures from verdicts and masks, and what can be read off a picture's pixels where the mask lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib_attn.lab.judging.judge import COLOURS, Judge, Verdict, expected
from lib_attn.lab.shared.distances import psnr, relative_l2, ssim
from lib_attn.learn.scenes import vocabulary
from lib_attn.learn.scenes.layout import Scene


@dataclass(frozen=True)
class Score:
    """Shares of pictures, 0..1. colour and shape: every asked-for object has it, in any order; both: every
    object has its colour and its shape; count: as many as asked for; relation: both, and in the right order;
    background: as asked for."""

    pictures: int
    colour: float
    shape: float
    both: float
    count: float
    relation: float
    background: float


def score(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> Score:
    """Compare verdicts with the prompts they were drawn for. Raises ValueError when there are none."""
    if not verdicts or len(verdicts) != len(scenes):
        raise ValueError(f"{len(verdicts)} pictures cannot be judged by {len(scenes)} prompts.")
    rows = []
    for seen, scene in zip(verdicts, scenes, strict=False):
        want = expected(scene)

        def same(part, seen=seen, want=want):
            return sorted(map(part, seen.objects)) == sorted(map(part, want.objects))

        rows.append(
            (
                same(lambda o: o[0]),
                same(lambda o: o[1]),
                same(lambda o: o),
                len(seen.objects) == len(want.objects),
                seen.objects == want.objects,
                seen.background == want.background,
            )
        )
    return Score(len(rows), *(float(v) for v in np.mean(np.array(rows, float), axis=0)))


def appearance(verdicts: Sequence[Verdict], word: str) -> float:
    """Share of pictures in which the named colour, shape or background is seen."""
    return float(np.mean([word == v.background or any(word in o for o in v.objects) for v in verdicts]))


def silhouette_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean intersection over union of boolean masks (B, h, w); two empty masks agree."""
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return float(np.mean(np.where(either == 0, 1.0, both / np.maximum(either, 1))))


@dataclass(frozen=True)
class Distance:
    """How far pictures are from others: PSNR in dB, SSIM, overlap of the silhouettes (intersection over union), and
    relative L2 of the final latents where they are known."""

    psnr: float
    ssim: float
    silhouette: float
    latent_l2: float | None = None


def distance(
    judge: Judge,
    pictures: np.ndarray,
    baseline: np.ndarray,
    latents: torch.Tensor | None = None,
    baseline_latents: torch.Tensor | None = None,
) -> Distance:
    """Distance of pictures uint8 (B, H, W, 3) to those of the same prompts and seeds without a technique."""
    (_, masks), (_, baseline_masks) = judge.look(pictures), judge.look(baseline)
    moved = None if latents is None or baseline_latents is None else relative_l2(latents, baseline_latents)
    overlap = silhouette_overlap(masks, baseline_masks)
    return Distance(psnr(pictures, baseline), ssim(pictures, baseline), overlap, moved)


def seen_colour(verdict: Verdict, fallback: str) -> str:
    """The colour of the first object, `fallback` where none is seen."""
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
