"""What guidance costs: time and arithmetic of guided U-Net evaluations with a technique, against plain guidance.

Cases are run one after the other in every repeat and compared within it. On a CPU the processor time of this process
is what counts: other programs on the machine lengthen the time by the clock, but hardly the work.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lib_attn.lab.drawing.variants import FULL, SamplingPass, Variant
from lib_attn.lab.measuring.speed import TIMESTEPS, WARM_PIXELS, Bench
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.rows import plan_rows

#: Name of the case that is a single row without a negative.
ONE_ROW = "CFG 1"


@dataclass(frozen=True)
class Case:
    """Guidance at one scale with a technique.

    cfg: guidance scale; at 1 the negative's row is only there if `variant` wants it, as in `drawing.sampling`.
    steps: evaluations after which the cost repeats; all of them are measured and averaged.
    """

    name: str
    variant: Variant = FULL
    cfg: float = 5.0
    steps: int = 1

    @property
    def rows(self) -> int:
        return 1 if self.cfg == 1 and not self.variant.uses_negative else 2


@dataclass(frozen=True)
class CostRow:
    """One case at one size.

    seconds: an evaluation, median over the repeats; clock: the same by the wall clock. ratio: its time / the first
    case's, median, with low and high. one_row: the same against a single row, where a case `ONE_ROW` is there. macs:
    multiplications an evaluation; macs_last: once what is kept between evaluations is there; macs_ratio and
    macs_one_row: against the first case and against a single row. words: of the negative prompt.
    """

    name: str
    cfg: float
    steps: int
    height: int
    width: int
    words: int
    seconds: float
    clock: float
    ratio: float
    low: float
    high: float
    one_row: float | None = None
    macs: float | None = None
    macs_last: float | None = None
    macs_ratio: float | None = None
    macs_one_row: float | None = None
    settings: dict | None = None


def _run(
    bench: Bench, case: Case, height: int, width: int, words: int, steps: int, before: Callable, after: Callable
) -> None:
    """Evaluations of a case, the noise falling from one to the next. before, after: called around each of them."""
    x, context = bench.inputs(height, width)
    x, context = x[: case.rows], context[: case.rows]
    rows = plan_rows([[1.0]], negatives=case.rows == 2)
    told = {"cfg": case.cfg}
    if case.rows == 2:
        told |= {"negative": context[1:], "words": (tuple(range(1, 1 + words)),)}
    with case.variant.on(bench.unet, SamplingPass(height, width, steps=max(20, steps))) as begin:
        for step in range(steps):
            begin(rows, step, max(20, steps), **told)
            before()
            bench.call(x, max(TIMESTEPS) - 10 * step, context)
            after()


def arithmetic(bench: Bench, case: Case, height: int, width: int, words: int) -> dict:
    """Multiplications (with their additions) of matrix products, convolutions and attention, an evaluation.

    Returns:
        macs: mean over the case's evaluations. last: of one when what is kept between them is there.
    """
    counted: list[Arithmetic] = []
    _run(bench, case, height, width, words, max(2, case.steps), lambda: counted.append(Arithmetic().__enter__()),
         lambda: counted[-1].__exit__(None, None, None))  # fmt: skip
    return {"macs": sum(c.macs for c in counted[: case.steps]) / case.steps, "last": counted[-1].macs}


class Arithmetic(TorchDispatchMode):
    """Counts multiplications of matrix products, convolutions and attention, which are not carried out.

    Their results are zeros of the right shape: what is counted does not depend on values, and a full-size model at
    1024 px takes seconds.
    """

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        count = _COUNTED.get(func.overloadpacket)
        if count is None:
            with self:  # composite operators are taken apart, and what they are made of comes here again
                found = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if found is NotImplemented else found
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        out = func(*tree_map(_without_values, args), **tree_map(_without_values, kwargs))
        out = tree_map(lambda t: torch.zeros_like(t, device=device) if isinstance(t, torch.Tensor) else t, out)
        self.macs += count(*args, out=out)
        return out


def _without_values(value):
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _product(a, b, *_, out):
    return out.numel() * a.shape[-1]


def _added_product(bias, a, b, *_, out):
    return out.numel() * a.shape[-1]


def _convolution(x, weight, *_, out):
    return out.numel() * weight[0].numel()


def _attention(q, k, v, *_, out):
    return math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


_aten = torch.ops.aten
_COUNTED = {_aten.mm: _product, _aten.bmm: _product, _aten.addmm: _added_product, _aten.baddbmm: _added_product,
            _aten.convolution: _convolution, _aten._scaled_dot_product_flash_attention: _attention,
            _aten._scaled_dot_product_efficient_attention: _attention,
            _aten._scaled_dot_product_flash_attention_for_cpu: _attention}  # fmt: skip


def seconds(bench: Bench, case: Case, height: int, width: int, words: int) -> dict:
    """Seconds an evaluation, mean over the case's evaluations: of this process, and by the clock."""
    found: list[tuple[float, float]] = []
    start = [0.0, 0.0]

    def before():
        start[:] = time.process_time(), time.perf_counter()

    def after():
        found.append((time.process_time() - start[0], time.perf_counter() - start[1]))

    _run(bench, case, height, width, words, case.steps, before, after)
    own, clock = (statistics.fmean(values) for values in zip(*found, strict=True))
    return {"seconds": clock if bench.device == "cuda" else own, "clock": clock}


def measure(
    bench: Bench,
    cases: Sequence[Case],
    height: int,
    width: int,
    *,
    repeats: int = 3,
    words: int = 16,
    count: bool = True,
    progress: Progress = silent,
) -> list[CostRow]:
    """Time all cases at one size, the first one being what the others are compared with.

    Args:
        words: how many words the negative prompt has. count: count the arithmetic too, in a run of its own.
    """
    times: dict[str, list[dict]] = {case.name: [] for case in cases}
    macs: dict[str, dict] = {}
    for case in cases if count else ():
        progress(f"{width}x{height} arithmetic: {case.name}")
        macs[case.name] = arithmetic(bench, case, height, width, words)
    if height * width <= WARM_PIXELS:
        # What a process sets up once at a new size would be charged to whoever comes first.
        x, context = bench.inputs(height, width)
        bench.call(x[:1], max(TIMESTEPS), context[:1])
    for repeat in range(repeats):
        # Turning the order round keeps a drift of the clock speed from favouring anybody.
        for case in cases if repeat % 2 == 0 else cases[::-1]:
            progress(f"{width}x{height} repeat {repeat + 1}/{repeats}: {case.name}")
            times[case.name].append(seconds(bench, case, height, width, words))
    size = {"height": height, "width": width, "words": words}
    return [CostRow(case.name, case.cfg, case.steps, **size, **_figures(case, times, macs, cases[0].name),
                    settings=case.variant.changed) for case in cases]  # fmt: skip


def _figures(case: Case, times: dict, macs: dict, first: str) -> dict[str, float]:
    own = [t["seconds"] for t in times[case.name]]

    def against(name: str) -> list[float]:
        return [a / b["seconds"] for a, b in zip(own, times[name], strict=True)]

    ratios = against(first)
    out = {"seconds": statistics.median(own), "clock": statistics.median(t["clock"] for t in times[case.name]),
           "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}  # fmt: skip
    if ONE_ROW in times:
        out["one_row"] = statistics.median(against(ONE_ROW))
    if case.name in macs:
        out |= {"macs": macs[case.name]["macs"], "macs_last": macs[case.name]["last"]}
        out["macs_ratio"] = out["macs"] / macs[first]["macs"]
        if ONE_ROW in macs:
            out["macs_one_row"] = out["macs_last"] / macs[ONE_ROW]["macs"]
    return out
