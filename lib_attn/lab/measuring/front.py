"""Time of whole pictures against what they lose: ours, other people's methods, and fewer steps.

Time is that of the U-Net over all evaluations of a picture. A schedule is made of few kinds of evaluations: all rows,
without the negatives, forecast, thinned … In every repeat each case goes through its schedule; the first evaluation of
each kind is timed where it comes, and the picture's time is the sum over all of them. In the others nothing is carried
out (`lib_attn.lab.measuring.cost.Arithmetic`), only the techniques go on.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.unet import TOY, random_unet
from lib_attn.lab.drawing.variants import SamplingPass, Variant, load_presets, ours, preset, setting
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.measuring.cost import Arithmetic
from lib_attn.lab.measuring.negative.cases import every
from lib_attn.lab.measuring.peers import FREE, peer_variants
from lib_attn.lab.measuring.prompted import Drawn, JudgedRow, Prompted, draw, judge_drawn
from lib_attn.lab.measuring.speed import WARM_PIXELS, Bench
from lib_attn.lab.measuring.steps import FORMULA, Passed, StepCase, thinned
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.techniques import load

FULL_CASE = "all steps"
FASTEST = "Fast "  # presets whose names begin so are made for the front
#: Ours one by one.
ALONE: dict[str, Callable[[], Variant]] = {
    "near-sighted": lambda: preset("Faster large pictures"),
    "negative every 3rd": lambda: setting("", every(3)),
    "step skip 2": lambda: preset("Every 2nd step"),
}
#: Shares of the steps of the rows "fewer steps".
FEWER = (0.15, 0.25, 0.35, 0.5, 0.65)


@dataclass(frozen=True)
class TimeRow:
    """One case at one size.

    steps: evaluations of a picture. computed: those that carry out any arithmetic. seconds: of a picture, median;
    ratio: time of all steps / its time within a repeat, median, with low and high. parts: how many evaluations of
    each kind there are, and the seconds of one. whole: seconds of a picture really run from end to end.
    """

    name: str
    height: int
    width: int
    images: int
    steps: int
    computed: int
    seconds: float
    ratio: float
    low: float
    high: float
    parts: list[list[float]]
    whole: float | None = None


@dataclass(frozen=True, kw_only=True)
class QualityRow(JudgedRow):
    """One case with one sampler; l2: to all steps."""

    name: str
    sampler: str
    size: int
    settings: dict | None = None


def front_cases(
    steps: int, own: Sequence[Variant] = (), webui: str | None = None, slothful: str | None = None
) -> tuple[list[StepCase], list[str]]:
    """All steps first, and fewer of them, which everything else has to beat at its time; then the floor of what
    self-attention can save, ours, other people's code, formulas of our own for what has none here, and `own`.

    Returns:
        the cases, and a sentence for each method that cannot be had here.
    """
    peers, missing = peer_variants(webui, slothful)
    cases = [StepCase(FULL_CASE)]
    cases += [StepCase(f"{k} steps", steps=k) for k in sorted({max(1, round(steps * s)) for s in FEWER})]
    cases += [StepCase(FREE.label, FREE)]
    cases += [StepCase(name, variant()) for name, variant in ALONE.items()]
    cases += [StepCase(v.label, v) for v in peers]
    cases += [StepCase(f"DeepCache {n} (our formula)", thinned(n, deep=True)) for n in (3, 5)]
    cases += [StepCase("T-GATE 50 % (our formula)", setting("", every(1, "until=0.5; stopped=T-GATE"))),
              StepCase("Spectrum 3 (our formula)", thinned(3, deep=True, fit=True))]  # fmt: skip
    presets = [ours(n, n, found) for n, found in load_presets().items() if n.startswith(FASTEST)]
    return cases + [StepCase(v.label, v) for v in (*presets, *own)], missing


def evaluations(
    bench: Bench, case: StepCase, height: int, width: int, steps: int, cfg: float
) -> Iterator[Callable[[], object]]:
    """A picture's evaluations in order; each has to be carried out before the next is asked for."""
    steps = case.steps or steps
    x, context = bench.inputs(height, width)
    images, rows = bench.rows // 2, bench.plan()
    ahead = SamplingPass(height, width, tuple(range(images)), steps, cfg, negative=True)
    with case.variant.on(bench.unet, ahead) as begin:
        for step, timestep in enumerate(torch.linspace(999, 0, steps).tolist()):
            begin(rows, step, steps, cfg=cfg, negative=context[images:])
            yield lambda timestep=timestep: bench.call(x, timestep, context)


#: Rows that pass the first In block and the middle block in an evaluation, and whether it begins a technique's cycle.
Kind = tuple[int, int, bool]


def kinds(bench: Bench, case: StepCase, steps: int, cfg: float, height: int = 64, width: int = 64) -> list[Kind]:
    """The kind of each evaluation of a picture; `bench` may hold a small U-Net."""
    out = []
    first, middle = (Passed(module) for module in (bench.unet.input_blocks[0], bench.unet.middle_block))
    for step, evaluate in enumerate(evaluations(bench, case, height, width, steps, cfg)):
        first.rows = middle.rows = 0
        evaluate()
        out.append((first.rows, middle.rows, case.variant.cycle > 1 and step % case.variant.cycle == 0))
    return out


def time_kinds(
    bench: Bench, case: StepCase, plan: Sequence[Kind], known: dict, height: int, width: int, steps: int, cfg: float
) -> dict[Kind, float]:
    """Seconds of each kind of evaluation in `plan`, carried out once.

    Args:
        known: seconds of kinds that need not be timed again.
    """
    found = {kind: known[kind] for kind in plan if kind in known}
    if set(plan) <= set(found):
        return found
    for kind, evaluate in zip(plan, evaluations(bench, case, height, width, steps, cfg), strict=True):
        if kind in found:
            with Arithmetic():
                evaluate()
        else:
            found[kind] = bench.timed(evaluate)
        if set(plan) <= set(found):
            break
    return found


def inside(variant: Variant) -> Any:
    """What two variants have in common when the same rows take them the same time: what is done inside the U-Net.

    Leaving rows out, and formulas that call the U-Net's own blocks, do nothing there.
    """
    if variant.kind in ("peer", "free") and variant.source != FORMULA:
        return variant.name
    groups = variant.settings.active() if variant.settings else ()
    return tuple(group for group in groups if not load(group.name).has("enter"))


def measure_time(
    bench: Bench,
    cases: Sequence[StepCase],
    height: int,
    width: int,
    *,
    steps: int = 20,
    cfg: float = 7.0,
    repeats: int = 3,
    share: bool = False,
    whole: Sequence[str] = (),
    progress: Progress = silent,
) -> list[TimeRow]:
    """Time all cases at one size, the first one being all steps, side by side in every repeat.

    Args:
        share: let cases that are the same `inside` share what their evaluations take; for where these are dear.
        whole: names of cases whose picture is run from end to end once as well.
    """
    small = Bench(random_unet(TOY, precision="fp32"), TOY, precision="fp32", rows=bench.rows)
    plans = {case.name: kinds(small, case, steps, cfg) for case in cases}
    schedule = height, width, steps, cfg
    found: dict[str, list[dict[Kind, float]]] = {case.name: [] for case in cases}
    if height * width <= WARM_PIXELS:
        next(evaluations(bench, cases[0], *schedule))()
    for repeat in range(repeats):
        common: dict[Any, dict[Kind, float]] = {}
        # Turning the order round keeps a drift of the clock speed from favouring anybody.
        for case in cases if repeat % 2 == 0 else cases[::-1]:
            progress(f"{width}x{height} repeat {repeat + 1}/{repeats}: {case.name}")
            known = common.setdefault(inside(case.variant), {}) if share else {}
            found[case.name].append(time_kinds(bench, case, plans[case.name], known, *schedule))
            known.update(found[case.name][-1])
    rows, base = [], _sums(plans[cases[0].name], found[cases[0].name])
    for case in cases:
        row = _time_row(case.name, plans[case.name], found[case.name], base, (height, width, bench.rows // 2))
        took = bench.timed(lambda case=case: _run(bench, case, schedule)) if case.name in whole else None
        rows.append(replace(row, whole=took))
    return rows


def _run(bench: Bench, case: StepCase, schedule: tuple) -> None:
    for evaluate in evaluations(bench, case, *schedule):
        evaluate()


def _sums(plan: Sequence[Kind], repeats: Sequence[dict[Kind, float]]) -> list[float]:
    """Seconds of a picture in every repeat."""
    return [sum(seconds[kind] for kind in plan) for seconds in repeats]


def _time_row(name: str, plan: Sequence[Kind], repeats: list, base: Sequence[float], size: tuple) -> TimeRow:
    own = _sums(plan, repeats)
    ratios = [b / s for b, s in zip(base, own, strict=True)]
    found = sorted(set(plan), reverse=True)
    parts = [[plan.count(kind), statistics.median(seconds[kind] for seconds in repeats)] for kind in found]
    return TimeRow(name, *size, len(plan), sum(kind[0] > 0 for kind in plan), statistics.median(own),
                   statistics.median(ratios), min(ratios), max(ratios), parts)  # fmt: skip


def measure_quality(
    model: LabModel,
    judge: Judge,
    cases: Sequence[StepCase],
    how: Prompted,
    *,
    progress: Progress = silent,
    keep: Callable[[list[QualityRow]], None] = lambda rows: None,
) -> list[QualityRow]:
    """Draw the same prompts and seeds with each case, the first one being all steps.

    Args:
        keep: takes what there is after each case, so that a long run that is stopped leaves something.
    """
    asked, open_ones, rows = how.asked, how.open_ones, []
    full: Drawn | None = None
    for case in cases:
        progress(f"{how.size} px, {how.sampler}: {case.name}")
        own = replace(how, steps=case.steps or how.steps)
        drawn = draw(model, own, [*asked, *open_ones], case.variant)
        full = full or drawn
        found = judge_drawn(judge, asked, open_ones, drawn, full)
        rows.append(
            QualityRow(name=case.name, sampler=how.sampler, size=how.size, **found, settings=case.variant.changed)
        )
        keep(rows)
    return rows
