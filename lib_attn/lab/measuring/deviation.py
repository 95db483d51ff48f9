"""How far pictures move from full attention at the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.shared.distances import psnr, relative_l2
from lib_attn.lab.shared.progress import Progress, silent


@dataclass(frozen=True)
class DeviationSpec:
    """What is drawn on which model, with which variants."""

    model: ModelSpec
    requests: tuple[Request, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class DeviationRow:
    """One variant at one size.

    l2: relative L2 of the final latents, mean over the images. psnr: in dB, mean of those that differ at all; None
    where every picture is identical. said: what the technique had to tell.
    """

    name: str
    label: str
    kind: str
    source: str
    height: int
    width: int
    images: int
    l2: float
    psnr: float | None
    l2_all: list[float] | None = None
    said: list[str] | None = None
    settings: dict | None = None


def measure(
    model: LabModel,
    variants: Sequence[Variant],
    requests: Iterable[Request],
    *,
    progress: Progress = silent,
    keep: Callable[[list[DeviationRow]], None] = lambda rows: None,
) -> list[DeviationRow]:
    """Draw every request with full attention and with each variant, one image at a time.

    Args:
        keep: takes what there is after each image, so that a long run that is stopped leaves something.
    """
    found: dict[tuple, _Images] = {}
    for request in requests:
        for one in (request.one(index) for index in range(len(request.seeds))):
            progress(f"{one.width}x{one.height} {FULL.label}")
            full = sample(model, one, FULL)
            picture = decode(model, full)[0]
            for variant in variants:
                progress(f"{one.width}x{one.height} {variant.label}")
                said: list[str] = []
                latents = sample(model, one, variant, say=said.append)
                images = found.setdefault((variant.name, one.height, one.width), _Images(variant, one))
                images.note(relative_l2(latents, full), psnr(decode(model, latents)[0], picture), said)
            keep([images.row() for images in found.values()])
    return [images.row() for images in found.values()]


class _Images:
    """What has been measured of one variant at one size."""

    def __init__(self, variant: Variant, request: Request):
        self.variant, self.size = variant, (request.height, request.width)
        self.l2: list[float] = []
        self.psnr: list[float] = []
        self.said: set[str] = set()

    def note(self, l2: float, decibel: float, said: Sequence[str]) -> None:
        self.l2.append(l2)
        self.psnr.append(decibel)
        self.said |= set(said)

    def row(self) -> DeviationRow:
        v, finite = self.variant, [value for value in self.psnr if math.isfinite(value)]
        return DeviationRow(
            v.name, v.label, v.kind, v.source, *self.size, images=len(self.l2), l2=statistics.fmean(self.l2),
            psnr=statistics.fmean(finite) if finite else None, l2_all=list(self.l2), said=sorted(self.said),
            settings=v.changed,
        )  # fmt: skip
