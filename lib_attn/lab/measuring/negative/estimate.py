"""How far the final latents move from full guidance when the negative is left out of most steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.embedded import PROMPTS
from lib_attn.lab.drawing.sampling import sample
from lib_attn.lab.drawing.variants import setting
from lib_attn.lab.measuring.cost import Case
from lib_attn.lab.measuring.negative.cases import every
from lib_attn.lab.measuring.negative.drawn import DrawSpec
from lib_attn.lab.shared.distances import relative_l2
from lib_attn.lab.shared.progress import Progress


@dataclass(frozen=True)
class EstimateRow:
    """One case. l2: relative L2, mean over the images. rows: share of rows that passed the middle of the model."""

    name: str
    l2: float
    rows: float
    settings: dict
    l2_all: list[float] | None = None


def estimate_cases() -> list[Case]:
    """Ways to fill in for the negative, with full steps spread evenly and most of them early."""
    fills = {"copy, even": "fill=copy; early=0", "last guidance, even": "trend=0; early=0",
             "estimate, even": "early=0", "copy": "fill=copy", "estimate": ""}  # fmt: skip
    cases = [Case(f"every 3: {name}", setting("", every(3, text))) for name, text in fills.items()]
    for n in (2, 5):
        cases += [Case(f"every {n}: {name}", setting("", every(n, fills[name])))
                  for name in ("copy, even", "copy", "estimate")]  # fmt: skip
    return [
        *cases,
        Case("every 3: estimate, straight line", setting("", every(3, "trend=1"))),
        Case("every 3: estimate, last guidance", setting("", every(3, "trend=0"))),
        Case("every 3: zeros", setting("", every(3, "fill=zeros"))),
        Case("every 3: estimate, 2 In blocks kept", setting("", every(3, "through=2"))),
        Case("adaptive 0.99, at most 5: estimate", setting("", every(5, "adaptive=0.99; early=0"))),
    ]


def measure_estimate(
    model: LabModel, cases: Sequence[Case], how: DrawSpec, images: int, progress: Progress
) -> list[EstimateRow]:
    """Relative L2 of the final latents to those of guidance in every step, and the share of rows computed."""
    batches = []
    for first in range(0, images, how.batch):
        count = min(how.batch, images - first)
        prompts = [PROMPTS[(first + i) % len(PROMPTS)] for i in range(count)]
        batches.append(how.request(prompts, [how.seed + first + i for i in range(count)], "", 5.0))
    progress("full guidance")
    passed = [0]
    hook = model.unet.middle_block.register_forward_pre_hook(lambda m, a: passed.__setitem__(0, passed[0] + len(a[0])))
    try:
        guided = [sample(model, request) for request in batches]
        full, out = passed[0], []
        for case in cases:
            progress(case.name)
            passed[0], found = 0, []
            for request, baseline in zip(batches, guided, strict=True):
                latents = sample(model, request, case.variant)
                found += [relative_l2(own, other) for own, other in zip(latents, baseline, strict=True)]
            settings = case.variant.changed or {}
            out.append(EstimateRow(case.name, statistics.fmean(found), passed[0] / full, settings, found))
        return out
    finally:
        hook.remove()
