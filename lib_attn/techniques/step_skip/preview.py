"""What the panel says on step skip before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.facts import Facts, Pass, Said
from lib_attn.techniques.spacing import ENOUGH_STEPS
from lib_attn.techniques.step_skip.runtime import FEW, TWO, Track, may_skip
from lib_attn.techniques.step_skip.settings import StepSkip

#: Fewer computed steps leave noise with DPM++ 2M, see docs/step-skip.md.
ENOUGH_COMPUTED = 8
LITTLE = 0.5  # of the steps that "Computed step every" would leave out


def computed_steps(s: Any, steps: int) -> int:
    """How many steps are computed, as `StepSkip` settings plan them for an ordinary sampler."""
    track, computed = Track(), 0
    for step in range(steps):
        share = step / steps
        if s.start <= share < s.end and may_skip(s, track, step, share, steps):
            track.since += 1
        else:
            track.since, track.steps, computed = 0, track.steps + 1, computed + 1
    return computed


def tell(s: StepSkip, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    counts = [(computed_steps(s, p.steps), p.steps) for p in passes]
    wanted = [(steps - computed) / (steps * (1 - 1 / s.key_every)) for computed, steps in counts if s.key_every > 1]
    few = s.early > 0 and all(steps < ENOUGH_STEPS for _, steps in counts)
    if few and wanted and 0 < max(wanted) < LITTLE:
        for computed, steps in counts:
            said.warn(
                "{computed} of {steps} steps are computed: with fewer than 20, one step is often too long for a "
                "forecast (Computed steps early).", slight=True, computed=computed, steps=steps,
            )  # fmt: skip
        return
    for computed, steps in counts:
        if computed < steps:
            said.line("{computed} of {steps} steps are computed.", computed=computed, steps=steps)
    fewest = min((computed for computed, steps in counts if computed < steps), default=ENOUGH_COMPUTED)
    if fewest < ENOUGH_COMPUTED:
        said.warn(
            "Only {computed} steps are computed, so noise may be left in the picture: raise Steps or "
            "lower Computed step every.",
            computed=fewest,
        )
    if all(computed == steps for computed, steps in counts):
        said.warn(_why_all(s, max(p.steps for p in passes), few), idle=True)


def _why_all(s: StepSkip, steps: int, few: bool) -> str:
    if s.key_every > 1 and steps <= 2:
        return TWO
    return FEW if s.key_every > 1 and few else "Every step is computed: nothing is saved."
