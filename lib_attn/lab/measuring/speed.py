"""Time of one guided U-Net evaluation under each variant, measured side by side.

Every repeat runs all variants one after the other on the same input, so that whatever else the machine does hits all
alike; ratios are taken within a repeat and their median is reported.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lib_attn.lab.drawing import unet
from lib_attn.lab.drawing.unet import autocast
from lib_attn.lab.drawing.variants import FULL, SamplingPass, Variant
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.unet.families import find_layers
from lib_attn.unet.rows import plan_rows

#: Up to this size every variant has an untimed first run; above it, what is set up once is lost in the rest.
WARM_PIXELS = 768 * 768
#: Timesteps of the repeats: methods whose cost changes over sampling are met early, in the middle and late.
TIMESTEPS = (600, 300, 850, 450, 150)

#: Full-size U-Nets with random weights that can be measured, by name; toy is for trying something out.
MODELS = {"sd15": unet.SD15, "sdxl": unet.SDXL, "toy": unet.TOY}
LABELS = {"sd15": "SD 1.5 U-Net", "sdxl": "SDXL U-Net", "toy": "toy U-Net"}


@dataclass(frozen=True)
class Bench:
    """A U-Net and what it runs on.

    rows: batch rows of one evaluation, conditions first (2: one guided image). clock: ``wall``, or ``cpu`` for the
    processor time of this process, which other work on the machine hardly touches.
    """

    unet: torch.nn.Module
    params: dict
    device: str = "cpu"
    precision: str = "bf16"
    rows: int = 2
    clock: str = "wall"

    def seconds(self) -> float:
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds that `work` takes; on a GPU between two events of its stream."""
        if self.device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000
        start = self.seconds()
        work()
        return self.seconds() - start

    def inputs(self, height: int, width: int, seed: int = 0):
        """Latents ``[rows, 4, h, w]`` and context ``[rows, 77, context_dim]`` from a generator of their own."""
        generator = torch.Generator().manual_seed(seed)
        images = max(1, self.rows // 2)
        half = torch.randn(images, self.params["in_channels"], height // 8, width // 8, generator=generator)
        x = half.repeat(math.ceil(self.rows / images), 1, 1, 1)[: self.rows]
        context = torch.randn(self.rows, 77, self.params["context_dim"], generator=generator)
        return x.to(self.device), context.to(self.device)

    def plan(self):
        images = max(1, self.rows // 2)
        return plan_rows([[1.0]] * images, negatives=self.rows > 1)

    def call(self, x, timestep: float, context):
        """One evaluation, finished when it returns."""
        timesteps = torch.full((x.shape[0],), float(timestep), device=self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            out = self.unet(x, timesteps, context=context)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return out


@dataclass(frozen=True)
class BenchSpec:
    """A U-Net of `MODELS` with random weights; the other fields as in `Bench`."""

    model: str = "sd15"
    device: str = "cpu"
    precision: str = "bf16"
    rows: int = 2
    clock: str = "wall"

    def build(self) -> Bench:
        params = MODELS[self.model]
        network = unet.random_unet(params, precision=self.precision, device=self.device)
        return Bench(network, params, self.device, self.precision, self.rows, self.clock)


@dataclass(frozen=True)
class SpeedSpec:
    """What is timed. sizes: (height, width) in pixels."""

    bench: BenchSpec
    variants: tuple[Variant, ...]
    sizes: tuple[tuple[int, int], ...]
    repeats: int = 3


@dataclass(frozen=True)
class SpeedRow:
    """One variant at one size.

    seconds: median. ratio: full attention's time / its time, median over the repeats, with low and high. keys: per
    depth of the U-Net, how many keys a query meets. cycle: steps of the residual mode, with the seconds of its exact
    step and of one between.
    """

    name: str
    label: str
    kind: str
    source: str
    height: int
    width: int
    seconds: float
    ratio: float
    low: float
    high: float
    keys: dict[str, int]
    cycle: int | None = None
    exact_seconds: float | None = None
    step_seconds: float | None = None
    settings: dict | None = None


@dataclass(frozen=True)
class StepTime:
    """Seconds a step, averaged over a variant's cycle; of its exact step, and of the one after it."""

    seconds: float
    exact: float
    step: float


def measure_sizes(
    spec: SpeedSpec, progress: Progress = silent, keep: Callable[[list[SpeedRow]], None] = lambda rows: None
) -> list[SpeedRow]:
    """`measure` at every size. keep: takes what there is after each, so that a run that is stopped leaves something."""
    bench, rows = spec.bench.build(), []
    for height, width in spec.sizes:
        rows += measure(bench, spec.variants, height, width, repeats=spec.repeats, progress=progress)
        keep(rows)
    return rows


def measure(
    bench: Bench,
    variants: Sequence[Variant],
    height: int,
    width: int,
    *,
    repeats: int = 3,
    progress: Progress = silent,
) -> list[SpeedRow]:
    """Time all variants at one size.

    The residual mode is charged for its whole cycle: its exact step and one step between are timed in every repeat,
    and the average over the cycle is what counts.
    """
    variants = [FULL, *(v for v in variants if v.kind != "full")]
    x, context = bench.inputs(height, width)
    times: dict[str, list[StepTime]] = {v.name: [] for v in variants}
    keys: dict[str, dict] = {}
    for repeat in range(repeats):
        timestep = TIMESTEPS[repeat % len(TIMESTEPS)]
        ahead = SamplingPass(height, width, seeds=(repeat,))  # Hypertile draws its grids from the seed
        # Turning the order round every time keeps a drift of the clock speed from favouring anybody.
        for variant in variants if repeat % 2 == 0 else variants[::-1]:
            progress(f"{width}x{height} repeat {repeat + 1}/{repeats}: {variant.label}")
            if repeat == 0 and height * width <= WARM_PIXELS:
                time_once(bench, variant, x, timestep, context, ahead)
            with count_keys(bench.unet) if repeat == 0 else contextlib.nullcontext() as counted:
                times[variant.name].append(time_once(bench, variant, x, timestep, context, ahead, counted))
            if repeat == 0:
                keys[variant.name] = {f"d{d}": int(statistics.median(n)) for d, n in sorted(counted.items())}
    return [_summary(v, (height, width), times[v.name], times["full"], keys[v.name]) for v in variants]


def time_once(
    bench: Bench, variant: Variant, x, timestep: float, context, ahead: SamplingPass, counted=None
) -> StepTime:
    """Seconds of one step, averaged over the variant's cycle. counted: see `count_keys`; keys of the last step stay."""
    with variant.on(bench.unet, ahead) as begin:
        seconds = []
        for step in range(min(2, variant.cycle)):
            begin(bench.plan(), step, ahead.steps)
            if counted:
                counted.clear()
            seconds.append(bench.timed(lambda: bench.call(x, timestep, context)))
    first, last, cycle = seconds[0], seconds[-1], variant.cycle
    return StepTime((first + last * (cycle - 1)) / cycle, first, last)


def _summary(
    variant: Variant, size: tuple[int, int], own: list[StepTime], full: list[StepTime], keys: dict[str, int]
) -> SpeedRow:
    ratios = [f.seconds / o.seconds for f, o in zip(full, own, strict=True)]
    cycle = {}
    if variant.cycle > 1:
        cycle["cycle"] = variant.cycle
        cycle["exact_seconds"] = statistics.median(o.exact for o in own)
        cycle["step_seconds"] = statistics.median(o.step for o in own)
    return SpeedRow(
        variant.name, variant.label, variant.kind, variant.source, *size,
        seconds=statistics.median(o.seconds for o in own), ratio=statistics.median(ratios), low=min(ratios),
        high=max(ratios), keys=keys, settings=variant.changed, **cycle,
    )  # fmt: skip


@contextlib.contextmanager
def count_keys(unet):
    """Collect, per U-Net depth, how many keys the queries of self-attention meet, whoever computes it."""
    counted: dict[int, list[int]] = {}
    inside: list[int] = []
    original = F.scaled_dot_product_attention

    def counting(q, k, *args, **options):
        if inside:
            counted.setdefault(inside[-1], []).append(k.shape[-2])
        return original(q, k, *args, **options)

    handles = []
    for layer in find_layers(unet):
        enter = layer.attn1.register_forward_pre_hook(lambda m, a, depth=layer.depth: inside.append(depth))
        leave = layer.attn1.register_forward_hook(lambda m, a, o: inside.clear())
        handles += [enter, leave]
    F.scaled_dot_product_attention = counting
    try:
        yield counted
    finally:
        F.scaled_dot_product_attention = original
        for handle in handles:
            handle.remove()
