"""The same pictures without and with each variant: how long they take and how far they move."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    """One picture (PIL). l2: of the final latents, psnr: of the picture in dB, both against full attention."""

    picture: Any
    seconds: float
    l2: float
    psnr: float
    said: tuple[str, ...] = ()


def compare(model: LabModel, variants: Sequence[Variant], requests: Sequence[Request]) -> list[list[Cell]]:
    """For every request, full attention and each variant."""
    rows = []
    every = [FULL, *variants]
    with tqdm(total=len(requests) * len(every) * requests[0].steps, desc="steps", file=sys.stderr) as bar:
        for number, request in enumerate(requests):
            row: list[Cell] = []
            full = full_picture = None
            if not number or request.width != requests[number - 1].width:
                # What a process sets up once at a new size would be charged to full attention, which comes first.
                sample(model, replace(request, steps=1))
            for variant in every:
                said: list[str] = []
                start = time.perf_counter()
                latents = sample(model, request, variant, say=said.append, progress=bar.update)
                seconds = time.perf_counter() - start
                picture = decode(model, latents)[0]
                if variant is FULL:
                    full, full_picture = latents, picture
                distances = relative_l2(latents, full), psnr(picture, full_picture)
                row.append(Cell(picture, seconds, *distances, tuple(said)))
            rows.append(row)
    return rows
