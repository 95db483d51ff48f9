"""``bench negative``: the list of its parts, what each writes into its result file, and what a page shows of that.

To add a part: cases, a measurement and its row in `lib_attn.lab.measuring.negative`, a table in `negative_tables`, and
an entry of `PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lib_attn.lab.drawing.variants import FULL
from lib_attn.lab.measuring import cost
from lib_attn.lab.measuring.cost import Case, CostRow
from lib_attn.lab.measuring.negative.cases import cost_cases
from lib_attn.lab.measuring.negative.effect import (
    Effect,
    EffectRow,
    effect_cases,
    measure_effect,
    weak_guidance_cases,
)
from lib_attn.lab.measuring.negative.estimate import EstimateRow, estimate_cases, measure_estimate
from lib_attn.lab.measuring.negative.mix import KINDS, MixRow, groups_of, measure_mix, mix_cases
from lib_attn.lab.measuring.negative.studio import NegativeSpec, Studio
from lib_attn.lab.measuring.speed import LABELS
from lib_attn.lab.reports.negative_tables import cost_table, effect_table, estimate_table, mix_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine, one_thread
from lib_attn.lab.shared.markdown import markdown_table
from lib_attn.lab.shared.progress import Progress, progress_bar
from lib_attn.lab.shared.results import command_line, from_json, to_json


@dataclass(frozen=True)
class Part:
    """One measurement.

    name: on the command line and of its result file. about: above its table; it may name {threads}, {repeats}
    and {words}. row: what it measures, shown by table. cases: what is compared. calls: how often `measure` reports its
    progress. measure: of (studio, cases, progress). draws: it draws pictures on the run's model.
    """

    name: str
    about: str
    row: type
    cases: Callable[[NegativeSpec], Sequence[Any]]
    calls: Callable[[NegativeSpec, Sequence[Any]], int]
    measure: Callable[[Studio, Sequence[Any], Progress], list]
    table: Callable[[Sequence[Any]], str]
    draws: bool = True

    @property
    def kind(self) -> str:
        """How its result files name it."""
        return f"negative {self.name}"


# ------------------------------------------------------------------------------------------- cases and measurements


def _cost(studio: Studio, cases: Sequence[Case], progress: Progress) -> list[CostRow]:
    spec, rows = studio.spec.cost, []
    bench = spec.bench.build()
    for height, width in spec.sizes:
        rows += cost.measure(bench, cases, height, width, repeats=spec.repeats, words=spec.words, count=spec.count,
                             progress=progress)  # fmt: skip
    return rows


def _estimate_cases(spec: NegativeSpec) -> list[Case]:
    return [Case(v.label, v) for v in spec.variants] or estimate_cases()


def _effects(built_in: Callable[[], list[Effect]]) -> Callable[[NegativeSpec], list[Effect]]:
    return lambda spec: [Effect(v.label, v, spec.cfg, spec.cfg) for v in spec.variants] or built_in()


def _effect(studio: Studio, cases: Sequence[Effect], progress: Progress) -> list[EffectRow]:
    return measure_effect(studio.model, studio.judge, cases, studio.how, studio.spec.images, progress)


def _effect_calls(spec: NegativeSpec, cases: Sequence[Effect]) -> int:
    return len(cases) + len({case.base for case in cases})


def _mix_cases(spec: NegativeSpec) -> list[Case]:
    return [Case("off", FULL), *(Case(v.label, v) for v in spec.variants)] if spec.variants else mix_cases()


EFFECT = (
    'Prompts leave the colour open ("a cube, grey background"). The first row of each guidance scale is drawn '
    "without a negative; the colour the judge sees there is what the picture's negative names in all rows below, "
    "same seed. Another named: the same colour when the negative names another one; what is lost there as well is "
    "disturbance. Area: share of the object's pixels that have that colour, where the judge sees an object. "
    "Change: against the same guidance scale without a technique, picture by picture, ± one standard error. "
    "Prompt right: one object of the right shape before the right background."
)

#: In the order in which they are measured.
PARTS = (
    Part(
        name="cost",
        about=(
            "One guided picture; the first case has two rows. Time is that of the process on {threads}, median of "
            "{repeats} interleaved repeats; arithmetic is counted in matrix products, convolutions and attention. "
            "Over one row: against a picture without any negative, once the negative's keys and values are kept. The "
            "negative has {words} words."
        ),
        row=CostRow,
        cases=lambda spec: cost_cases(),
        calls=lambda spec, cases: len(spec.cost.sizes) * len(cases) * (spec.cost.repeats + spec.cost.count),
        measure=_cost,
        table=cost_table,
        draws=False,
    ),
    Part(
        name="estimate",
        about=(
            "Relative L2 of the final latents to those of guidance in every step, same seeds, guidance scale 5. Even: "
            "full steps evenly spread; otherwise most of them early. Mean ± one standard error, and the largest of "
            "them (furthest picture). The last column compares with the closer copy of the positive (as the webui's "
            "NGMS fills in) with as many rows."
        ),
        row=EstimateRow,
        cases=_estimate_cases,
        calls=lambda spec, cases: len(cases) + 1,
        measure=lambda s, cases, progress: measure_estimate(s.model, cases, s.how, s.spec.images, progress),
        table=estimate_table,
    ),
    Part(
        name="effect",
        about=EFFECT,
        row=EffectRow,
        cases=_effects(effect_cases),
        calls=_effect_calls,
        measure=_effect,
        table=effect_table,
    ),
    Part(
        name="contrast",
        about=f"{EFFECT} CFG 2.5 has the pictures of CFG 2 without a negative as its own; changes are against CFG 2.",
        row=EffectRow,
        cases=_effects(weak_guidance_cases),
        calls=_effect_calls,
        measure=_effect,
        table=effect_table,
    ),
    Part(
        name="mix",
        about=(
            "Batches of 4 pictures of one shape, the first being the source, guidance scale 5. Another: the source of "
            "another batch of the same shape and background, which was not used. Overlap: intersection over union of "
            "the judge's silhouettes. Distance: of the objects' mean colours in RGB (0 … 441). Nearer than off: (own "
            "- another) less the same without a technique, mean of the batches ± one standard error; for a distance "
            "below 0 is nearer. Shapes differ: each picture of the batch is asked for another shape."
        ),
        row=MixRow,
        cases=_mix_cases,
        calls=lambda spec, cases: len(KINDS) * len(cases),
        measure=lambda s, cases, progress: measure_mix(
            s.model, s.judge, cases, s.how, groups_of(s.spec.images), progress
        ),
        table=mix_table,
    ),
)


# ------------------------------------------------------------------------------------------- result files


def check_only(parts: Sequence[Part], spec: NegativeSpec) -> None:
    """Raises `LabError` when none of the parts has a case that the run asks for by name."""
    there = [case.name for part in parts for case in part.cases(spec)]
    unknown = [name for name in spec.only if name not in there]
    if unknown:
        raise LabError(f"There is no case {unknown[0]!r}: there are {'; '.join(there)}.")


def _cases_of(part: Part, spec: NegativeSpec) -> list[Any]:
    # The first is what the others are compared with.
    first, *others = part.cases(spec)
    return [first, *(case for case in others if not spec.only or case.name in spec.only)]


def run_part(part: Part, studio: Studio) -> dict[str, Any]:
    """Measure a part; returns its result file's content."""
    spec, cases = studio.spec, _cases_of(part, studio.spec)
    result = {"kind": part.kind, "command": command_line()}
    if part.draws:
        result |= {"machine": machine(spec.model.device), "checkpoint": studio.model.name, "sha256": studio.how.model}
        result |= {name: getattr(spec, name) for name in ("images", "size", "steps", "sampler", "seed")}
        result |= {"precision": spec.model.precision}
        with progress_bar(part.calls(spec, cases)) as progress:
            return result | {"results": [to_json(row) for row in part.measure(studio, cases, progress)]}
    bench = spec.cost.bench
    with one_thread(), progress_bar(part.calls(spec, cases)) as progress:
        # The machine is described as it is while measuring.
        result |= {"machine": machine(bench.device), "model": bench.model, "precision": bench.precision}
        result |= {"repeats": spec.cost.repeats}
        return result | {"results": [to_json(row) for row in part.measure(studio, cases, progress)]}


def rows_of(part: Part, result: dict[str, Any]) -> list[Any]:
    """The rows of a part's result file."""
    return [from_json(part.row, {"settings": {}} | row) for row in result["results"]]


def table(part: Part, result: dict[str, Any]) -> str:
    """Markdown table of a part's result file."""
    return part.table(rows_of(part, result))


# ------------------------------------------------------------------------------------------- in a page


def block(part: Part, result: dict[str, Any]) -> str:
    """What a page shows of a part's result file, in Markdown."""
    parts = [f"```\n{result['command']}\n```", _about(part, result), table(part, result)]
    changed = {row.name: row.settings for row in rows_of(part, result) if row.settings}
    if changed:
        rows = [[n, " ".join(f"{k.partition('.')[2]}={v}" for k, v in own.items())] for n, own in changed.items()]
        parts += ["Parameters that are not at their defaults:", markdown_table(("case", "parameters"), rows)]
    return "\n\n".join(parts)


def _about(part: Part, result: dict[str, Any]) -> str:
    machine, first = result["machine"], result["results"][0]
    text = part.about.format(threads=machine["device"], repeats=result.get("repeats"), words=first.get("words"))
    if not part.draws:
        model = f"{LABELS[result['model']]} with random weights"
        return f"{text} {model}, {result['precision']}, torch {machine['torch']}."
    if part.name == "effect" and (other := [r["name"] for r in result["results"] if r["name"] in ("CFG 3", "CFG 8")]):
        text += f" {' and '.join(other)}: against the pictures of CFG 5 without a negative."
    pictures = first.get("pictures", result["images"])
    if part.name != "estimate":
        text += f" A share has a standard error of at most {50 / pictures**0.5:.0f} points."
    drawn = f"{result['steps']} steps {result['sampler']}, seeds from {result['seed']}, {result['precision']}"
    model = f"model {result['checkpoint']}, SHA-256 {result['sha256']}…"
    return f"{text} {pictures} pictures of {result['size']} px a row, {drawn}; {model}."


BLOCKS = {part.kind: partial(block, part) for part in PARTS}
"""Kind of a part's result file: what a page shows of it."""
