"""The U-Net's boundary: batch rows that are left out of a call and put back.

A runtime that has ``enter`` may leave rows out of a U-Net call: of the latents, the timesteps, the context and the
class embedding alike, so that everything inside sees a smaller but consistent batch. On the way out the rows are put
back with what the runtime's ``fill`` says. Nothing outside of the U-Net sees a difference in shape.

Two kinds of runtimes leave rows out, and both may do so at one call. Those that have ``learn`` forecast: what they
fill in goes to the sampler as it is, and they learn from what goes there. They are asked first, and whoever comes after
them knows only of the rows that they keep. Of the others the first one to leave rows out is the only one; what it fills
in passes every ``leave`` like a prediction that was computed. Where no row is left the U-Net does not compute at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lib_attn.unet.flight import Evaluation, Flight, Moment
from lib_attn.unet.layers import Block
from lib_attn.unet.rows import LATENT_CHANNELS, POSITIVE, Row

LEAST_SUM = 0.25  # of weights, as a share of their sizes' sum, for their mean to be near the conditions


@dataclass
class UnetCall:
    """A call of the U-Net on its way.

    rows: all rows that were asked for. kept: indices of those that are computed. through: number of In blocks that
    rows left out still pass (0: none). x, context: as handed in, all rows. fixed: why no row may be left out, as the
    end of a sentence, empty when one may; told: the user knows already. whole: every block has to see all rows, because
    ControlNet adds to the blocks what it computed for all. predictions: for each image the weights and predictions
    ``[C, h, w]`` of its conditions so far in this evaluation; complete once the negatives come.
    """

    evaluation: Evaluation
    rows: tuple[Row, ...]
    moment: Moment
    sigma: float
    x: torch.Tensor
    context: torch.Tensor | None
    kept: tuple[int, ...] = ()
    through: int = 0
    fixed: str = ""
    told: bool = False
    whole: bool = False
    predictions: dict[int, list[tuple[float, torch.Tensor]]] = field(default_factory=dict)

    @property
    def dropped(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.rows)) if i not in self.kept)

    def inner(self) -> UnetCall:
        """The call as it is for those who come after the rows that are left out have gone."""
        kept = list(self.kept)
        context = self.context
        if context is not None and context.shape[0] == len(self.rows):
            context = context[kept]
        return replace(
            self, rows=tuple(self.rows[i] for i in kept), x=self.x[kept], context=context,
            kept=tuple(range(len(kept))),
        )  # fmt: skip

    def positive(self, image: int) -> torch.Tensor | None:
        """Prediction ``[C, h, w]`` for an image's conditions together: their weighted mean. None before they came."""
        return weighted_mean(self.predictions.get(image, ()))


def has_mean(weights: Sequence[float]) -> bool:
    """Whether weights sum to enough for a mean by weight: with 1 and -0.99 it would be far from either condition."""
    return abs(sum(weights)) >= LEAST_SUM * sum(abs(weight) for weight in weights)


def weighted_mean(parts: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor | None:
    """Mean of tensors of one shape by weight; where negative weights all but cancel the others, of those above 0.

    With it in the negative's place, u + s * sum w (c - u) is the mean itself at any guidance scale s, unless weights
    cancel; then it is a prediction like any other, and guidance goes from there. None of none.
    """
    if len(parts) < 2:
        return parts[0][1] if parts else None
    if not has_mean([weight for weight, _ in parts]):
        parts = [part for part in parts if part[0] > 0] or parts[:1]
    total = sum(weight for weight, _ in parts)
    return sum(tensor * (weight / total) for weight, tensor in parts) if total else parts[0][1]


def take_rows(args: tuple, kwargs: dict, rows: int, kept: Sequence[int]) -> tuple[tuple, dict]:
    """The arguments of a call with only the rows `kept` of every tensor that has `rows` of them."""

    def cut(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == rows:
            return value[list(kept)]
        return value

    return tuple(cut(a) for a in args), {name: cut(value) for name, value in kwargs.items()}


class Boundary:
    """Leaves rows out of U-Net calls and puts them back; one per attachment.

    Args:
        runtimes: those with ``enter(call) -> kept rows or None`` and ``fill(call, row) -> prediction``, those with
            ``leave(call, output) -> output``, and those with ``learn(call, output)``.
        note: ``note(runtime, changed)``, called for every call put to one of them.

    Attributes:
        call: the call in flight, of the rows that no forecast stands for.
    """

    def __init__(self, runtimes: Sequence[Any], note: Callable):
        self._note = note
        self._learners = [r for r in runtimes if r.has("learn")]
        self._droppers = [r for r in runtimes if r.has("enter") and r not in self._learners]
        self._leavers = [r for r in runtimes if r.has("leave")]
        self._forecast: list[tuple[Any, UnetCall]] = []
        self._dropper: Any = None
        self._predictions: tuple[Evaluation | None, dict] = (None, {})
        self._asked: UnetCall | None = None
        self._dtype: torch.dtype | None = None
        self.call: UnetCall | None = None

    def release(self) -> None:
        """Let go of the runtimes and of all that is kept for them."""
        self._learners, self._droppers, self._leavers, self._forecast = [], [], [], []
        self._dropper = self._asked = self.call = None
        self._predictions = None, {}

    @property
    def used(self) -> bool:
        return bool(self._droppers or self._leavers or self._learners)

    def complete(self) -> None:
        """Begin the call in flight anew with all its rows: as if nobody had left any out."""
        for runtime in (*(runtime for runtime, _ in self._forecast), self._dropper):
            if runtime is not None:
                runtime.take_back()
        self.call, self._forecast, self._dropper = self._asked, [], None
        self.call.kept, self.call.through = tuple(range(len(self.call.rows))), 0

    @property
    def fewer(self) -> bool:
        """Whether rows are left out of the call in flight."""
        return self.call is not None and (self._dropper is not None or bool(self._forecast))

    @property
    def empty(self) -> bool:
        """Whether no row of the call in flight is left to compute."""
        return self.call is not None and not self.call.kept

    @property
    def inner_rows(self) -> tuple[Row, ...] | None:
        """Rows that the blocks of this call see, None when there are none."""
        if self.empty:
            return None
        return tuple(self.call.rows[i] for i in self.call.kept) if not self.call.through else self.call.rows

    def enter(self, call: UnetCall, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Ask the runtimes which rows are to be computed; returns the arguments of the call without the others.

        A call of which nothing is left keeps its arguments: nobody computes it, and who sees it from outside sees the
        shapes that he knows.
        """
        if self._predictions[0] is not call.evaluation:
            self._predictions = (call.evaluation, {})
        call.predictions = self._predictions[1]
        call.kept = tuple(range(len(call.rows)))
        self.call = self._asked = call
        self._forecast, self._dropper = [], None
        whole = args, kwargs
        for runtime in (*self._learners, *self._droppers):
            call = self.call
            if not call.rows or self._dropper is not None:
                break
            kept = runtime.enter(call)
            fewer = kept is not None and len(kept) < len(call.rows)
            left_out = {call.rows[i].image for i in range(len(call.rows)) if fewer and i not in kept}
            # Leaving out what drops out of the formula changes no picture.
            changed = bool(left_out) if runtime in self._learners else not all(map(call.evaluation.unguided, left_out))
            self._note(runtime, changed)
            if not fewer:
                continue
            call.kept = tuple(kept)
            if not call.through:
                args, kwargs = take_rows(args, kwargs, len(call.rows), call.kept)
            if runtime in self._learners:
                self._forecast.append((runtime, call))
                self.call = call.inner()
            else:
                self._dropper = runtime
        return whole if self.empty else (args, kwargs)

    def nothing(self) -> torch.Tensor:
        """Stands for the prediction ``[B, C, h, w]`` of an empty call; nobody reads its values."""
        x = self._asked.x
        return torch.zeros_like(x[:, :LATENT_CHANNELS], dtype=self._dtype or x.dtype)

    def leave(self, output: torch.Tensor) -> torch.Tensor:
        """Put the rows back that were left out; returns the prediction with all rows."""
        call = self.call
        complete = self._dropper is None or call.through
        if not self.empty:
            self._dtype = output.dtype
            for index, prediction in zip(range(len(call.rows)) if complete else call.kept, output, strict=True):
                row = call.rows[index]
                if row.sign == POSITIVE:
                    call.predictions.setdefault(row.image, []).append((row.weight, prediction))
        if not complete:
            output = _filled(self._dropper, call, output)
        if call.rows:
            for runtime in self._leavers:
                before, output = output, runtime.leave(call, output)
                self._note(runtime, output is not before)
        for runtime, outer in reversed(self._forecast):
            output = _filled(runtime, outer, output)
        for runtime in self._learners:
            runtime.learn(self._asked, output)
        return output


def _filled(runtime: Any, call: UnetCall, output: torch.Tensor) -> torch.Tensor:
    """The prediction of all rows of `call`, given that of the kept ones; what `runtime` says for the others."""
    full = output.new_empty((len(call.rows), output.shape[1], *call.x.shape[2:]))
    if call.kept:
        full[list(call.kept)] = output
    for index in call.dropped:
        full[index] = runtime.fill(call, call.rows[index])
    return full


class InnerRows:
    """Rows that pass the first In blocks, are left out in the middle, and come back before the last Out blocks.

    Skip connections match because Out block n - 1 - j takes the output of In block j.

    Args:
        blocks: the U-Net's, in forward order.
        through: how many blocks at either end see all rows, 1 … number of In blocks.
        boundary: knows the call in flight.
        refill: ``refill(call, h) -> h`` for the output of the last block between, given the rows that were computed
            (all of them in a call that leaves none out) and to return all rows.
        flight: told the rows that the blocks see from now on.
    """

    def __init__(self, blocks: Sequence[Block], through: int, boundary: Boundary, refill: Callable, flight: Flight):
        self._boundary, self._refill, self._flight = boundary, refill, flight
        inputs, outputs = (sum(block.section == section for block in blocks) for section in ("in", "out"))
        through = min(through, inputs)
        self._blocks = [
            block.module
            for block in blocks
            if block.section == "mid"
            or (block.section == "in" and block.number >= through)
            or (block.section == "out" and block.number < outputs - through)
        ]

    def install(self) -> list[Any]:
        """Hook the blocks; returns the handles that take the hooks off."""
        handles = [block.register_forward_pre_hook(self._enter, with_kwargs=True) for block in self._blocks]
        return [*handles, self._blocks[-1].register_forward_hook(self._leave)]

    def release(self) -> None:
        """Let go of the runtime."""
        self._refill = None

    def _enter(self, block: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        call = self._boundary.call
        if call is None or not call.through:
            return None
        if block is self._blocks[0]:
            self._flight.rows = tuple(call.rows[i] for i in call.kept)
        return take_rows(args, kwargs, len(call.rows), call.kept)

    def _leave(self, block: Any, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        call = self._boundary.call
        if call is None or (len(call.kept) < len(call.rows) and not call.through):
            return None
        if call.through:
            self._flight.rows = call.rows
        return self._refill(call, output)
