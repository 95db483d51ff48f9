"""A recorded run: what self-attention of one image saw, kept in CPU memory so that later pictures can follow it."""

from __future__ import annotations

import torch


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
        self._limit, self._device, self.bytes = limit, device, 0
        self._kept: dict[tuple, dict[float, torch.Tensor]] = {}
        self._grids: dict[int | str, tuple[int, int]] = {}
        self._full: set[int | str] = set()

    def store(self, place: int | str, sign: str, time: float, x: torch.Tensor, grid: tuple[int, int]) -> bool:
        """Keep the input of one place at one time; False when there is no room for this place."""
        if place in self._full:
            return False
        kept = self._kept.setdefault((place, sign), {})
        size = x.numel() * 2
        if time not in kept and self.bytes + size > self._limit:
            self._full.add(place)
            for key in [key for key in self._kept if key[0] == place]:
                self.bytes -= sum(t.numel() * t.element_size() for t in self._kept.pop(key).values())
            return False
        self.bytes += 0 if time in kept else size
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


class Store:
    """Holds the last recording beyond the job that made it."""

    def __init__(self):
        self.recording: Recording | None = None
