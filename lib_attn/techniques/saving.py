"""Negatives that drop out of the guidance are not computed; no technique, for it changes no picture."""

from __future__ import annotations

from lib_attn.techniques.base import Runtime
from lib_attn.unet.rows import NEGATIVE


class FreeSaving(Runtime):
    """Leaves out negatives that drop out of the guidance anyway; the result is the same up to rounding."""

    def enter(self, call):
        evaluation = call.evaluation
        if call.fixed or evaluation.negative_read:
            if not call.told and any(evaluation.drops_out(row.image) for row in evaluation.rows):
                why = call.fixed or evaluation.negative_read
                self._say(f"No negative at CFG 1 left nothing out: {why}.")
            return None
        return [i for i, row in enumerate(call.rows) if row.sign != NEGATIVE or not call.evaluation.unguided(row.image)]

    def fill(self, call, row):
        positive = call.positive(row.image)
        return 0.0 if positive is None else positive
