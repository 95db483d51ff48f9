"""Hooks on whole blocks of the U-Net, for techniques that change or compare features between blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lib_attn.unet.flight import Evaluation, Flight, Moment
from lib_attn.unet.layers import Block
from lib_attn.unet.rows import Row


@dataclass
class BlockCall:
    """The output of a block on its way to the next.

    h: ``[B, C, h, w]``. rows: what each of the B rows is.
    """

    block: Block
    h: torch.Tensor
    rows: tuple[Row, ...]
    moment: Moment
    evaluation: Evaluation


class BlockHook:
    """A hook behind one block that lets runtimes change its output.

    Args:
        runtimes: those with ``features(call) -> h or None``.
        flight: the U-Net call in flight.
        note: ``note(runtime, changed)``, called for every call put to one of them.
    """

    def __init__(self, block: Block, runtimes: list[Any], flight: Flight, note: Callable):
        self._block, self._runtimes, self._flight, self._note = block, runtimes, flight, note

    def install(self) -> list[Any]:
        """Put the hook on; returns the handles that take it off."""
        return [self._block.module.register_forward_hook(self._behind)]

    def release(self) -> None:
        """Let go of the runtimes."""
        self._runtimes = []

    def _behind(self, module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        flight, rows = self._flight, self._flight.rows
        if rows is None or not isinstance(output, torch.Tensor) or output.ndim != 4 or output.shape[0] != len(rows):
            return None
        call = BlockCall(self._block, output, rows, flight.moment, flight.evaluation)
        for runtime in self._runtimes:
            changed = runtime.features(call)
            self._note(runtime, changed is not None)
            call.h = call.h if changed is None else changed
        return None if call.h is output else call.h
