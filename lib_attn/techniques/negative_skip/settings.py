"""What the user can set for negative skip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import OF_STEPS, Technique, param


@dataclass(frozen=True)
class NegativeSkip(Technique):
    """The negative row left out in some steps, and the negative prompt kept alive in cross-attention."""

    name: ClassVar[str] = "negative_skip"
    label: ClassVar[str] = "Negative skip"
    blocks_help: ClassVar[str] = "Where the penalty acts: auto or all (every block), in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
    needs_negative: ClassVar[bool] = True
    skips_negative: ClassVar[bool] = True
    only_in_blocks: ClassVar[bool] = False  # the penalty alone is
    shown_by: ClassVar[str] = "Negative every 3rd step"
    release: ClassVar[int] = 2
    about: ClassVar[str] = (
        "The negative prompt doubles the work. Here it is computed in some steps only and estimated in between. "
        "At CFG scale 1 it is never computed; the penalty lets the negative prompt act all the same."
    )

    enabled: bool = param(False, "Negative skip", "Leave the negative out where it can be filled in.")
    key_every: int = param(3, "Full step every", "Every n-th step computes the negative, on average: Full steps early says how they are spread. Counted for each image from its last full step. 1: every step. 0: no limit.", 0, 50, unit="steps", reads=(1.0, "steps"))
    early: float = param(1.0, "Full steps early", "1: full steps lie close together at first, where the negative's effect changes most, and rarer later; about as many in all. 0: evenly spread.", 0.0, 1.0, 0.05, advanced=True)
    fill: str = param("estimate", "Fill", "What stands for the negative in the other steps. Estimate: from the guidance of the last full step, so CFG scale keeps its meaning. Copy of the positive and zeros: CFG scale does nothing in these steps.", choices=("estimate", "copy", "zeros"), advanced=True)
    until: float = param(1.0, "Negative until", "When in the course of the steps the negative stops for good; Stopped negative says what stands for it. 1: never.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True, since=4)
    stopped: str = param("estimate", "Stopped negative", "What stands for it then. Estimate: as in skipped steps. T-GATE: no guidance, and cross-attention keeps the mean of positive and negative of the step in which the negative stopped. Plain: no guidance.", choices=("estimate", "T-GATE", "plain"), advanced=True, since=4)
    keep_first: float = param(0.0, "Full steps first", "The first steps, which decide the layout, are computed in full.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    adaptive: float = param(0.0, "Adaptive", "Leave the negative out only while the cosine of the two predictions of the last full step is at least this much; Full step every still holds. Try 0.99. 0: off.", 0.0, 1.0, 0.001, advanced=True)
    hysteresis: float = param(0.01, "Hysteresis", "How far the cosine has to fall below the adaptive value before every step is full again.", 0.0, 1.0, 0.001, advanced=True)
    trend: float = param(0.7, "Trend", "How far the estimate continues the change between the last two full steps. 0: the guidance of the last one as it is.", 0.0, 1.0, 0.05, advanced=True)
    sigma_power: float = param(0.0, "Change with noise", "Power of sigma with which the estimated guidance goes: 0 keeps the difference of the noise predictions, -1 that of the predicted pictures.", -2.0, 2.0, 0.05, advanced=True)
    low_weight: float = param(1.0, "Coarse weight", "Weight of the coarse part of the estimated guidance.", 0.0, 2.0, 0.05, advanced=True)
    high_weight: float = param(1.0, "Fine weight", "Weight of the fine part of the estimated guidance.", 0.0, 2.0, 0.05, advanced=True)
    through: int = param(0, "Keep In blocks", "The negative still passes the first In blocks and comes back for as many last Out blocks. Slower, and closer to full on some models. 0: it is left out of the whole model. Not together with ControlNet.", 0, 12, unit="blocks", reads=(1.0, "blocks"), advanced=True)
    penalty: str = param("NAG", "Penalty", "How the negative prompt's words act without a negative: NAG pushes away from them, value sign flip takes away what fits them, NASA subtracts.", choices=("NAG", "value sign flip", "NASA", "off"))
    penalty_when: str = param("at CFG 1", "Penalty when", "At CFG scale 1 only, in all steps without a negative, or in all steps on top of CFG.", choices=("at CFG 1", "skipped steps", "all steps"))
    strength: float = param(2.0, "Penalty strength", "How hard the negative prompt's words push. 0: no penalty. NAG: its usual scale less 1.", 0.0, 20.0, 0.05)
    tau: float = param(2.5, "Penalty cap", "A token may grow to this many times its size (NAG's tau).", 1.0, 10.0, 0.1, advanced=True)
    blend: float = param(0.5, "Penalty blend", "Share of the changed result (NAG's alpha). The papers of the other two penalties have 1.", 0.0, 1.0, 0.05, advanced=True)
    flip_bias: float = param(-0.2, "Flip bias", "Value sign flip: added to the logits of the negative's words.", -8.0, 8.0, 0.1, advanced=True)
    penalty_start: float = param(0.0, "Penalty start", "When in the course of the steps the penalty starts.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    penalty_end: float = param(1.0, "Penalty end", "When in the course of the steps the penalty stops.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
