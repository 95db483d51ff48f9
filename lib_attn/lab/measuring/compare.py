"""The same pictures without and with each variant: how long they take and how far they move."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.shared.distances import psnr, relative_l2


@dataclass(frozen=True)
class CompareSpec:
    """What is drawn on which model, with which variants. out: folder of the grid and the table."""

    model: ModelSpec
    variants: tuple[Variant, ...]
    requests: tuple[Request, ...]
    out: Path


@dataclass(frozen=True)
class Cell:
    """What one request gave with one variant.

    pictures: PIL, one for each seed. l2: of the final latents, psnr: of all pictures together in dB, both against full
    attention. said: what techniques had to say.
    """

    pictures: tuple[Any, ...]
    seconds: float
    l2: float
    psnr: float
    said: tuple[str, ...] = ()


def compare(model: LabModel, variants: Sequence[Variant], requests: Sequence[Request]) -> list[list[Cell]]:
    """For every request, full attention and each variant."""
    steps = sum(steps_of(request, variants) for request in requests)
    with tqdm(total=steps, desc="steps", file=sys.stderr) as bar:
        return [compare_one(model, request, variants, bar.update) for request in requests]


def compare_one(
    model: LabModel,
    request: Request,
    variants: Sequence[Variant],
    progress: Callable[[int], Any],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Cell]:
    """Full attention, then each variant.

    Args:
        progress: takes a number of steps done, `steps_of` in all. clock: gives seconds.
    """
    # What a process sets up once at a new size would be charged to full attention, which comes first.
    sample(model, replace(request, steps=1), progress=lambda: progress(1))
    cells: list[Cell] = []
    full, full_pictures = None, ()
    for variant in (FULL, *variants):
        said: list[str] = []
        start = clock()
        latents = sample(model, request, variant, say=said.append, progress=lambda: progress(1))
        seconds = clock() - start
        pictures = tuple(decode(model, latents))
        if full is None:
            full, full_pictures = latents, pictures
        distances = relative_l2(latents, full), psnr(np.stack(pictures), np.stack(full_pictures))
        cells.append(Cell(pictures, seconds, *distances, tuple(said)))
    return cells


def steps_of(request: Request, variants: Sequence[Variant]) -> int:
    """Sampling steps that `compare_one` makes."""
    return 1 + request.steps * (1 + len(variants))
