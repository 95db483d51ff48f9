"""What the user can set for step skip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import OF_STEPS, Technique, param


@dataclass(frozen=True)
class StepSkip(Technique):
    """Whole steps left out, and what the model would have predicted forecast."""

    name: ClassVar[str] = "step_skip"
    label: ClassVar[str] = "Step skip"
    blocks: ClassVar[str] = "auto"  # a step is left out of the whole model, so there are none to choose
    shown_by: ClassVar[str] = "Every 2nd step"
    release: ClassVar[int] = 4
    about: ClassVar[str] = (
        "The model is computed in some steps only; in between, what it predicts is forecast. Half the work from 20 "
        "steps on, at every size; nearer to the picture of all steps than half as many steps."
    )

    enabled: bool = param(False, "Step skip", "Leave whole steps out and forecast them.")
    key_every: float = param(2.0, "Computed step every", "Every n-th step is computed, on average: Computed steps early says how they are spread. Counted for each image. 1: every step.", 1.0, 10.0, 0.5, unit="steps", reads=(1.0, "steps"))
    early: float = param(1.0, "Computed steps early", "1: computed steps lie close together at first, where the picture takes shape, and rarer later; about as many in all. 0: evenly spread.", 0.0, 1.0, 0.05, advanced=True)
    trend: float = param(0.5, "Forecast trend", "How far the forecast continues the change between the last two computed steps. 0: the last one as it is.", 0.0, 1.0, 0.05, advanced=True)
    keep_first: float = param(0.0, "Computed steps first", "The first steps, which decide the layout, are all computed. At least two always are.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    keep_last: float = param(0.0, "Computed steps last", "The last steps, which decide the details, are all computed.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
