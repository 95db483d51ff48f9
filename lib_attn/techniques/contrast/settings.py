"""What the user can set for contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import OF_STEPS, Technique, param


@dataclass(frozen=True)
class Contrast(Technique):
    """Positive and negative row compared inside the U-Net."""

    name: ClassVar[str] = "contrast"
    label: ClassVar[str] = "Contrast"
    blocks_help: ClassVar[str] = "Where features and keys are compared: auto (mid,out0-3), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
    needs_negative: ClassVar[bool] = True
    release: ClassVar[int] = 2
    about: ClassVar[str] = (
        "Positive and negative pass the model side by side; here they are compared inside of it, at next to no cost. "
        "Each comparison has a strength of its own, 0 is off. It needs the negative, so that is computed even at CFG scale 1."
    )

    enabled: bool = param(False, "Contrast", "Compare positive and negative inside the model.")
    feature: float = param(0.3, "Feature push", "Pushes the positive's features away from the negative's. 0: off.", 0.0, 4.0, 0.05)
    keys: float = param(0.0, "Key contrast", "What looks alike in the negative only counts less. 0: off.", 0.0, 4.0, 0.05)
    orthogonal: float = param(0.0, "Orthogonal push", "Takes from the positive's features the part of the negative's that they do not share. 0: off.", 0.0, 4.0, 0.05, advanced=True)
    map_strength: float = param(0.0, "Difference map", "CFG acts more where positive and negative differ and less elsewhere; its mean stays. 0: everywhere alike, 1: in proportion.", 0.0, 2.0, 0.05)
    show_map: bool = param(False, "Show difference map", "Adds a picture to the gallery: where positive and negative differ, all steps together.")
    tau: float = param(1.5, "Contrast cap", "Features may grow to this many times their size.", 1.0, 10.0, 0.1, advanced=True)
    blend: float = param(0.5, "Contrast blend", "Share of the changed features.", 0.0, 1.0, 0.05, advanced=True)
    feature_start: float = param(0.0, "Feature push start", "When in the course of the steps the feature push starts.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    feature_end: float = param(1.0, "Feature push end", "When in the course of the steps it stops.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    keys_start: float = param(0.0, "Key contrast start", "When in the course of the steps the key contrast starts.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    keys_end: float = param(1.0, "Key contrast end", "When in the course of the steps it stops.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    orthogonal_start: float = param(0.0, "Orthogonal push start", "When in the course of the steps the orthogonal push starts.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    orthogonal_end: float = param(1.0, "Orthogonal push end", "When in the course of the steps it stops.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    map_start: float = param(0.0, "Difference map start", "When in the course of the steps the map scales CFG.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    map_end: float = param(1.0, "Difference map end", "When in the course of the steps it stops.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
