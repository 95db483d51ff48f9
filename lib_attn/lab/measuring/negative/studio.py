"""A run of ``bench negative``: what it measures, and the model and judge that its parts share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.variants import Variant
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.measuring.negative.drawn import DrawSpec
from lib_attn.lab.measuring.speed import BenchSpec
from lib_attn.lab.shared.results import file_hash


@dataclass(frozen=True)
class CostSpec:
    """What the part `cost` measures. sizes: (height, width). words: of the negative. count: the arithmetic too."""

    bench: BenchSpec
    sizes: tuple[tuple[int, int], ...]
    repeats: int = 3
    words: int = 16
    count: bool = True


@dataclass(frozen=True)
class NegativeSpec:
    """What is measured, and on what.

    results: folder of result files and pictures. variants: compared in place of the built-in cases, at guidance scale
    `cfg` where that is a matter of the case. judge: its file. only: cases by name beside the first of a part; empty:
    all. size … batch: as in `DrawSpec`.
    """

    model: ModelSpec
    judge: Path
    results: Path
    cost: CostSpec
    variants: tuple[Variant, ...] = ()
    cfg: float = 5.0
    only: tuple[str, ...] = ()
    images: int = 24
    size: int = 256
    steps: int = 20
    sampler: str = "DDIM"
    seed: int = 1
    batch: int = 8


class Studio:
    """Model and judge of a run, loaded when the first part wants them.

    Raises:
        LabError: on reading one that cannot be loaded.
    """

    def __init__(self, spec: NegativeSpec):
        self.spec = spec

    @cached_property
    def model(self) -> LabModel:
        return self.spec.model.load()

    @cached_property
    def judge(self) -> Judge:
        return Judge.load(self.spec.judge)

    @cached_property
    def how(self) -> DrawSpec:
        s = self.spec
        cache = s.results / "pictures"
        return DrawSpec(s.size, s.steps, s.sampler, s.seed, s.batch, file_hash(s.model.file), cache)
