"""What the panel says on negative skip before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.facts import Facts, Pass, Said
from lib_attn.techniques.negative_skip.runtime import FEW, NOT_GUIDED, ONE, Track, has_stopped, may_skip
from lib_attn.techniques.negative_skip.settings import NegativeSkip
from lib_attn.techniques.spacing import ENOUGH_STEPS

LITTLE = 0.5  # of the negatives that "Full step every" would leave out
FIRST_SIGMA = 14.6  # any falling sequence does: only whether the noise falls or rises counts


def negative_steps(s: Any, steps: int) -> list[int]:
    """Steps that compute the negative, as `NegativeSkip` settings plan them for an ordinary sampler."""
    track, full, gated = Track(), [], False
    for i in range(steps):
        share = i / steps
        sigma = FIRST_SIGMA * (1 - share)
        if s.start <= share < s.end and has_stopped(s, share):
            # What stands for the negative from now on has to be known; T-GATE's is taken in the first step behind it.
            known = {"plain": True, "estimate": bool(full), "T-GATE": gated}[s.stopped]
            gated = True
            if not known:
                full.append(i)
            continue
        if s.start <= share < s.end and may_skip(s, track, share, sigma, steps):
            track.since = (track.since or 0) + 1
            continue
        full.append(i)
        if s.start <= share < s.end:
            # With Adaptive it is the pictures that decide; this is the most that can be left out.
            track.since, track.sigma, track.agrees = 0, sigma, True
    return full


def _why_full(s: NegativeSkip, steps: int) -> str:
    leaves_out = s.key_every != 1 and s.keep_first < 1
    if leaves_out and steps == 1:
        return ONE
    if leaves_out and s.early > 0 and steps < ENOUGH_STEPS:
        return FEW
    return "Every step computes the negative: nothing is saved."


def tell(s: NegativeSkip, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    penalty = s.penalty != "off" and s.strength > 0 and s.blend > 0
    saves = penalised = False
    for p in passes:
        if p.cfg == 1:
            said.line("At CFG 1 the negative is never computed: half the work.")
            saves, penalised = True, penalised or penalty
            continue
        full = negative_steps(s, p.steps)
        left_out = p.steps - len(full)
        saves = saves or bool(left_out)
        penalised = (
            penalised or penalty and (s.penalty_when == "all steps" or s.penalty_when == "skipped steps" and left_out)
        )
        if not left_out:
            continue
        values = {"full": len(full), "steps": p.steps}
        few = s.early > 0 and p.steps < ENOUGH_STEPS and s.key_every > 1
        if few and not penalised and left_out < LITTLE * p.steps * (1 - 1 / s.key_every):
            said.warn(
                "Negative computed in {full} of {steps} steps: with fewer than 20, one step is often too long for an "
                "estimate (Full steps early).", slight=True, **values,
            )  # fmt: skip
        elif s.through:
            said.line("Negative computed in full in {full} of {steps} steps.", **values)
        elif s.adaptive:
            said.line("Negative computed in {full} of {steps} steps at least.", **values)
        else:
            percent = round(50 * left_out / p.steps)
            said.line(
                "Negative computed in {full} of {steps} steps: about {percent} % less work.", **values, percent=percent
            )
    if not penalised and all(p.cfg == 1 for p in passes):
        said.warn(NOT_GUIDED, idle=True)
    if not saves:
        said.warn(_why_full(s, max(p.steps for p in passes)), idle=not penalised)
    if penalty and not penalised and s.penalty_when == "at CFG 1":
        if saves:
            said.warn("The penalty works at CFG 1 only; here only the negative's steps are saved.")
        else:
            said.warn("The penalty works at CFG 1 only.", idle=True)
    if penalised and facts.negative is False:
        said.warn("The penalty needs a negative prompt.")
