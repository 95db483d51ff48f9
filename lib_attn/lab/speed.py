"""Time and memory of one guided U-Net evaluation under each variant, measured side by side.

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

from lib_attn.lab.peers import Job
from lib_attn.lab.unet import autocast
from lib_attn.lab.variants import FULL, Variant
from lib_attn.unet.families import find_layers
from lib_attn.unet.rows import plan_rows

#: Up to this size every variant has an untimed first run; above it, what is set up once is lost in the rest.
WARM_PIXELS = 768 * 768

#: Timesteps of the repeats: methods whose cost changes over sampling are met early, in the middle and late.
TIMESTEPS = (600, 300, 850, 450, 150)


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


def measure(
    bench: Bench,
    variants: Sequence[Variant],
    height: int,
    width: int,
    *,
    repeats: int = 3,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Time all variants at one size.

    The residual mode is charged for its whole cycle: its exact step and one step between are timed in every repeat,
    and the average over the cycle is what counts.

    Returns:
        one dictionary per variant: seconds (median), ratio (full's time / its time, median over the repeats), low and
        high (range of the ratio), keys (per U-Net depth), exact_seconds and step_seconds for a cycle.
    """
    variants = [FULL, *(v for v in variants if v.kind != "full")]
    x, context = bench.inputs(height, width)
    times: dict[str, list[dict]] = {v.name: [] for v in variants}
    keys: dict[str, dict] = {}
    for repeat in range(repeats):
        timestep = TIMESTEPS[repeat % len(TIMESTEPS)]
        job = Job(height, width, seeds=(repeat,))  # Hypertile draws its grids from the seed
        # Turning the order round every time keeps a drift of the clock speed from favouring anybody.
        for variant in variants if repeat % 2 == 0 else variants[::-1]:
            progress(f"{width}x{height} repeat {repeat + 1}/{repeats}: {variant.label}")
            if repeat == 0 and height * width <= WARM_PIXELS:
                time_once(bench, variant, x, timestep, context, job)
            with count_keys(bench.unet) if repeat == 0 else contextlib.nullcontext() as counted:
                times[variant.name].append(time_once(bench, variant, x, timestep, context, job, counted))
            if repeat == 0:
                keys[variant.name] = {f"d{d}": int(statistics.median(n)) for d, n in sorted(counted.items())}
    size = {"height": height, "width": width}
    return [_summary(v, times[v.name], times["full"], keys[v.name]) | size for v in variants]


def time_once(bench: Bench, variant: Variant, x, timestep: float, context, job: Job, counted=None) -> dict:
    """Seconds of one step, averaged over the variant's cycle. counted: see `count_keys`; keys of the last step stay."""
    with variant.on(bench.unet, job) as begin:
        seconds = []
        for step in range(min(2, variant.cycle)):
            begin(bench.plan(), step, job.steps)
            if counted:
                counted.clear()
            start = bench.seconds()
            bench.call(x, timestep, context)
            seconds.append(bench.seconds() - start)
    first, last, cycle = seconds[0], seconds[-1], variant.cycle
    return {"seconds": (first + last * (cycle - 1)) / cycle, "exact": first, "step": last}


def _summary(variant: Variant, own: list[dict], full: list[dict], keys: dict) -> dict:
    ratios = [f["seconds"] / o["seconds"] for f, o in zip(full, own, strict=True)]
    out = {
        "name": variant.name, "label": variant.label, "kind": variant.kind, "source": variant.source,
        "seconds": statistics.median(o["seconds"] for o in own),
        "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "keys": keys,
    }  # fmt: skip
    if variant.cycle > 1:
        out["cycle"] = variant.cycle
        out["exact_seconds"] = statistics.median(o["exact"] for o in own)
        out["step_seconds"] = statistics.median(o["step"] for o in own)
    if variant.settings is not None:
        out["settings"] = changed(variant.settings)
    return out


def changed(settings) -> dict:
    """The parameters that are not at their defaults, by dotted name."""
    plain = type(settings)().flat()
    return {k: v for k, v in settings.flat().items() if v != plain[k] and not k.endswith(".enabled")}


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


def peak_memory(bench: Bench, variant: Variant, height: int, width: int) -> dict:
    """MiB that a cycle of steps needs on top of the weights. Run it in a process of its own.

    On CUDA the allocator's peak; on a CPU the growth of the process' resident memory, high-water mark reset first.
    """
    x, context = bench.inputs(height, width)
    cuda = bench.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = _reset_high_water()
    with variant.on(bench.unet, Job(height, width)) as begin:
        for step in range(min(2, variant.cycle)):
            begin(bench.plan(), step, 20)
            bench.call(x, TIMESTEPS[0], context)
    after = torch.cuda.max_memory_allocated() / 2**20 if cuda else _high_water()
    return {"name": variant.name, "height": height, "width": width, "weights": before, "growth": after - before}


def _reset_high_water() -> float:
    """Reset Linux' high-water mark of resident memory; MiB resident now."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return _status("VmRSS") or _high_water()


def _high_water() -> float:
    value = _status("VmHWM")
    if value is None:
        import resource  # not on Windows

        value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return value


def _status(name: str) -> float | None:
    try:
        with open("/proc/self/status") as file:
            return next(float(line.split()[1]) / 1024 for line in file if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return None
