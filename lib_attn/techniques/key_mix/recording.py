"""A recorded run: what self-attention of one image saw, kept in CPU memory so that later pictures can follow it."""

from __future__ import annotations

from typing import Any

import torch

from lib_attn.techniques.base import Context
from lib_attn.techniques.budget import Budget
from lib_attn.unet.rows import NEGATIVE, POSITIVE, Row


class Recording:
    """Inputs ``[N, C]`` of self-attention layers, and what blocks hand on, over one sampling pass, in half precision.

    Projected anew when it is played back, an input takes a third of what queries, keys and values would. A place is the
    index of a layer or the name of a block.

    Args:
        limit: most bytes it may take; places that do not fit are left out as a whole.
        device: where it is kept, None for where the inputs are.
        layout: names and widths of the model's layers. Models of another layout cannot follow it.
    """

    def __init__(self, limit: int, device: str | None = "cpu", layout: tuple = ()):
        self.layout = layout
        self.about: dict = {}  # what a host wants to tell of it
        self._budget, self._device = Budget(limit), device
        self._kept: dict[tuple, dict[float, torch.Tensor]] = {}
        self._grids: dict[int | str, tuple[int, int]] = {}

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self._budget.bytes

    def store(self, place: int | str, sign: str, time: float, x: torch.Tensor, grid: tuple[int, int]) -> bool:
        """Keep the input of one place at one time; False when there is no room for this place."""
        kept = self._kept.setdefault((place, sign), {})
        if not self._budget.take(place, 0 if time in kept else x.numel() * 2):
            self._kept = {key: inputs for key, inputs in self._kept.items() if key[0] != place}
            return False
        # Normed inputs are far from the end of float16's range, and it has three bits more than bfloat16; features may
        # reach it in a model that runs in bfloat16.
        most = torch.finfo(torch.float16).max
        kept[time] = x.detach().to(self._device or x.device, torch.float16, copy=True).clamp_(-most, most)
        self._grids[place] = grid
        return True

    def get(self, place: int | str, sign: str, time: float):
        """(input, its grid) nearest in time, of the other sign where there is none; None when never recorded."""
        kept = self._kept.get((place, sign)) or next((v for k, v in self._kept.items() if k[0] == place and v), None)
        if not kept:
            return None
        return kept[min(kept, key=lambda t: abs(t - time))], self._grids[place]

    def store_row(self, place: int | str, row, x: torch.Tensor, grid: tuple[int, int]) -> bool:
        """The same for a run of one step, by row instead of sign and where the input lies."""
        return self.store(place, row, 0.0, x, grid)

    def get_row(self, place: int | str, row):
        """(input, its grid) of a row; None when it was not kept."""
        kept = self._kept.get((place, row))
        return (kept[0.0], self._grids[place]) if kept else None


class Recorder:
    """Takes notes in one sampling pass: of the run to be recorded, and of the step before.

    A place is the index of a layer or the name of a block; what is noted there is ``[B, N, C]``.

    Args:
        name: of the technique, under which the recorded run is kept for later pictures.
        limit: most bytes of the recorded run, and of two steps together.
        wanted: ``wanted(row) -> bool``: whether a row is needed from the step before.
    """

    def __init__(self, name: str, context: Context, limit: int, wanted: Any):
        self._name, self._context, self._limit, self._wanted = name, context, limit, wanted
        self._now, self._before = (-1, Recording(0)), Recording(0)
        self._recording: Recording | None = None

    @property
    def recorded(self) -> Recording | None:
        """The recorded run of an earlier pass."""
        return self._context.store.get(self._name)

    def before(self, place: int | str, row: Row):
        """(input, its grid) of a row in the step before, or None."""
        return self._before.get_row(place, row)

    def record(self, call: Any, place: int | str, inputs: torch.Tensor, grid: tuple[int, int]) -> None:
        """Add this call to the run that is being recorded; only the first image's rows are kept."""
        if self._recording is None:
            self._recording = Recording(self._limit, layout=self._context.layout)
            self._context.store.keep(self._name, self._recording)
            self._context.say("Key mix: this run is recorded for later pictures.")
        for row, x in zip(call.rows, inputs, strict=True):
            if row.image == 0 and row.part == 0:
                sign = NEGATIVE if row.sign == NEGATIVE else POSITIVE
                if not self._recording.store(place, sign, call.moment.time, x, grid):
                    self._context.say("Key mix: Mix memory is too small for the recording; some of it is left out.")

    def remember(self, call: Any, place: int | str, inputs: torch.Tensor, grid: tuple[int, int]) -> None:
        """Keep this evaluation's inputs; those of the one before become the source."""
        if call.moment.step != self._now[0]:
            self._before, self._now = self._now[1], (call.moment.step, Recording(self._limit // 2, None))
        for row, x in zip(call.rows, inputs, strict=True):
            if self._wanted(row) and not self._now[1].store_row(place, row, x, grid):
                self._context.say("Key mix: Mix memory is too small for the previous step; some of it is not mixed.")
