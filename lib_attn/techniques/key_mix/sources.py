"""Where mixed keys, values and features come from: which rows are mixed, and what each of them follows."""

from __future__ import annotations

from typing import Any

import torch

from lib_attn.techniques.base import Context
from lib_attn.techniques.guidance import partners
from lib_attn.techniques.key_mix.maths import blur, shift
from lib_attn.techniques.key_mix.recording import Recorder
from lib_attn.unet.rows import NEGATIVE, POSITIVE, Row

#: Sources whose tensors come from an earlier call.
RECORDED = ("recorded run", "previous step")

FOLLOWS_ITSELF = "A run that is being recorded cannot follow a recorded run."
NOT_RECORDED = "There is no recorded run yet: make one picture with Record this run."


class Sources:
    """Finds the sources of one pass.

    Args:
        settings: of key mix. name: the technique's. feature_blocks: names of the blocks whose features are mixed.

    Attributes:
        why: there is no source, as a whole sentence; None where there is one.
    """

    def __init__(self, name: str, settings: Any, context: Context, feature_blocks: frozenset[str]):
        self._settings, self._context, self._say = settings, context, context.say
        self._feature_blocks = feature_blocks
        self.why: str | None = None
        self._recorder = Recorder(name, context, settings.memory << 20, self.wanted)

    def note(self, call, place, x, grid, mixes: bool) -> None:
        """Keep what this call saw for later: x ``[B, N, C]`` of a layer (its index) or behind a block (its name)."""
        if self._settings.record:
            self._recorder.record(call, place, x, grid)
        if mixes and self._settings.source == "previous step":
            self._recorder.remember(call, place, x, grid)

    def wanted(self, row: Row) -> bool:
        """Whether a row of this sign is mixed."""
        side = self._settings.side
        return side == "both" or (side == "positive") == (row.sign == POSITIVE)

    def chosen(self, call, place) -> dict[int, Any]:
        """Rows to be mixed, each with where its source is found: a row, a list of rows, a recorded input, or None."""
        s, rows = self._settings, call.rows
        mine = [i for i, row in enumerate(rows) if self.wanted(row)]
        if s.source in ("blurred", "shifted"):
            return dict.fromkeys(mine)
        if s.source == "negative":
            return {i: other for i, other in partners(rows).items() if i in mine}
        if s.source == "first image":
            first = {(row.sign, row.part): i for i, row in enumerate(rows) if row.image == 0}
            at = {i: first.get((rows[i].sign, rows[i].part), first.get((rows[i].sign, 0))) for i in mine}
            # Where a single row of the first image is missing, its negative is left out in this step.
            if mine and not any(row.image == 0 for row in rows):
                self._say(
                    "Key mix did nothing where the first image is computed apart from the others: switch on 'Batch "
                    "cond/uncond' in the webui's settings."
                )
            return {i: other for i, other in at.items() if other is not None and rows[i].image != 0}
        if s.source == "batch mean":
            groups = {i: [j for j, row in enumerate(rows) if row.sign == rows[i].sign] for i in mine}
            return {i: group for i, group in groups.items() if len({rows[j].image for j in group}) > 1}
        found = {i: self._recorded(call, place, rows[i]) for i in mine}
        return {i: item for i, item in found.items() if item is not None}

    def _recorded(self, call, place, row):
        if self._settings.source == "previous step":
            return self._recorder.before(place, row)
        if self._settings.record:
            self.why = FOLLOWS_ITSELF
            return None
        recording = self._recorder.recorded
        if recording is None:
            self.why = NOT_RECORDED
            return None
        if recording.layout != self._context.layout:
            self.why = "The recorded run is of another kind of model."
            return None
        found = recording.get(place, NEGATIVE if row.sign == NEGATIVE else POSITIVE, call.moment.time)
        if found is None and place in self._feature_blocks:
            self._say(
                f"Key mix left features behind {place} alone: the recorded run has none of them (Feature blocks, Mix "
                "memory)."
            )
        return found

    def projections(self, call, q, k, v, chosen):
        """q, k, v ``[n, M, H, d]`` of the sources of the chosen rows, and their grid."""
        if self._settings.source in RECORDED:
            # Converted one by one: autocast's own types of stack do not include all that may be stored.
            inputs = torch.stack([x.to(call.x.device, call.x.dtype) for x, _ in chosen.values()])
            return (*call.project_input(inputs), next(iter(chosen.values()))[1])
        return (*(self.elsewhere(t, chosen, call.grid, call.layer.depth) for t in (q, k, v)), call.grid)

    def elsewhere(self, x, chosen, grid, depth):
        """What a source inside this call has in place of the chosen rows of x ``[B, N, H, d]``."""
        s, mixed = self._settings, list(chosen)
        if s.source == "blurred":
            return blur(x[mixed], grid, s.blur / 2**depth)
        if s.source == "shifted":
            return shift(x[mixed], grid, *(round(d / 2**depth) for d in (s.shift_y, s.shift_x)))
        if s.source == "batch mean":
            return torch.stack([x[group].mean(0) for group in chosen.values()])
        return x[list(chosen.values())]
