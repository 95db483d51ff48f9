"""The U-Net's boundary: what a guided evaluation is, and batch rows that are left out of it and put back.

A runtime that has ``enter`` may leave rows out of a U-Net call: of the latents, the timesteps, the context and the
class embedding alike, so that everything inside sees a smaller but consistent batch. On the way out the rows are put
back with what the runtime's ``fill`` says. Nothing outside of the U-Net sees a difference in shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from lib_attn.attention import Moment
from lib_attn.layers import Block
from lib_attn.rows import IMAGE_ONLY, NEGATIVE, POSITIVE, Row

TRAINED_STEPS = 1000  # timesteps of every Stable Diffusion schedule
LEAST_SUM = 0.25  # of weights, as a share of their sizes' sum, for their mean to be near the conditions
STAND_IN = 8  # latent side of the call made in the place of one that has no rows left


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a guided sampler, announced before its U-Net calls.

    rows: all of it, in order. number: running number. cfg: the guidance scale, None when unknown.
    negative: text of the negatives ``[images, T, C]`` in its natural length, None when unknown.
    words: for each image the columns of `negative` that are words; None when unknown.
    negative_read: that somebody beyond the ordinary combination u + s (c - u) reads the negative's prediction, as a
    sentence without its end; empty when nobody does.
    editions: for each image something that changes when its prompts do (prompt editing), None when unknown.
    positive_only: the host itself leaves all negatives out of this evaluation; their rows will not come.
    """

    rows: tuple[Row, ...] = ()
    number: int = -1
    cfg: float | None = None
    negative: torch.Tensor | None = None
    words: tuple[tuple[int, ...], ...] | None = None
    negative_read: str = ""
    editions: tuple[Any, ...] | None = None
    positive_only: bool = False

    def edition(self, image: int) -> Any:
        """Which of its prompts an image is at."""
        return None if self.editions is None else self.editions[image]

    @property
    def guided(self) -> bool:
        """Positive and negative rows and no third kind."""
        signs = {row.sign for row in self.rows}
        return POSITIVE in signs and NEGATIVE in signs and IMAGE_ONLY not in signs

    def weights(self, image: int) -> list[float]:
        """Weights of an image's conditions."""
        return [row.weight for row in self.rows if row.sign == POSITIVE and row.image == image]

    def weight(self, image: int) -> float:
        """Their sum."""
        return sum(self.weights(image))

    def scale(self, image: int) -> float | None:
        """s for which u + s (c - u) is what the host makes of an image's negative u and weighted mean c."""
        return None if self.cfg is None else self.cfg * self.weight(image)

    def drops_out(self, image: int) -> bool:
        """Whether u + s * sum w (c - u) is free of the negative u of `image`: s times the sum of the weights is 1."""
        scale = self.scale(image)
        return scale is not None and self.guided and abs(scale - 1.0) < 1e-6

    def unguided(self, image: int) -> bool:
        """Whether nobody at all needs the negative of `image`: it drops out, and nobody else reads it."""
        return not self.negative_read and self.drops_out(image)


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


@lru_cache(maxsize=1)
def _log_sigmas() -> tuple[float, ...]:
    """log of noise over signal for the timesteps of Stable Diffusion's schedule (scaled linear, 0.00085 … 0.012)."""
    low, high, kept, out = math.sqrt(0.00085), math.sqrt(0.012), 1.0, []
    for i in range(TRAINED_STEPS):
        kept *= 1.0 - (low + (high - low) * i / (TRAINED_STEPS - 1)) ** 2
        out.append(0.5 * math.log((1.0 - kept) / kept))
    return tuple(out)


def sigma_of(timestep: float) -> float:
    """Noise over signal at a timestep (may be fractional): 0.03 at 0 … 14.6 at 999."""
    at = min(max(timestep, 0.0), TRAINED_STEPS - 1.0)
    low = min(int(at), TRAINED_STEPS - 2)
    logs = _log_sigmas()
    return math.exp(logs[low] + (logs[low + 1] - logs[low]) * (at - low))


def take_rows(args: tuple, kwargs: dict, rows: int, kept: Sequence[int]) -> tuple[tuple, dict]:
    """The arguments of a call with only the rows `kept` of every tensor that has `rows` of them."""

    def cut(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == rows:
            return value[list(kept)]
        return value

    return tuple(cut(a) for a in args), {name: cut(value) for name, value in kwargs.items()}


def argument(args: tuple, kwargs: dict, place: int, name: str) -> Any:
    """An argument that may have been given by position or by name, else None."""
    return args[place] if len(args) > place else kwargs.get(name)


class Boundary:
    """Leaves rows out of U-Net calls and puts them back; one per attachment.

    Args:
        runtimes: those with ``enter(call) -> kept rows or None`` and ``fill(call, row) -> prediction``, and those
            with ``leave(call, output) -> output``.
        note: ``note(runtime, changed)``, called for every call put to one of them.
    """

    def __init__(self, runtimes: Sequence[Any], note: Callable):
        self._note = note
        self._droppers = [r for r in runtimes if hasattr(r, "enter")]
        self._leavers = [r for r in runtimes if hasattr(r, "leave")]
        self._dropper: Any = None
        self._stand_in = False
        self._predictions: tuple[Evaluation | None, dict] = (None, {})
        self.call: UnetCall | None = None

    @property
    def used(self) -> bool:
        return bool(self._droppers or self._leavers)

    def complete(self) -> None:
        """Begin the call in flight anew with all its rows: as if nobody had left any out."""
        self.call.kept, self.call.through = tuple(range(len(self.call.rows))), 0
        if hasattr(self._dropper, "take_back"):
            self._dropper.take_back()
        self._dropper, self._stand_in = None, False

    @property
    def fewer(self) -> bool:
        """Whether rows are left out of the call in flight."""
        return self.call is not None and self._dropper is not None

    @property
    def inner_rows(self) -> tuple[Row, ...] | None:
        """Rows that the blocks of this call see, None when the call only stands in for one without rows."""
        if self._stand_in:
            return None
        return tuple(self.call.rows[i] for i in self.call.kept) if not self.call.through else self.call.rows

    def enter(self, call: UnetCall, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Ask the runtimes which rows are to be computed; returns the arguments of the call without the others."""
        if self._predictions[0] is not call.evaluation:
            self._predictions = (call.evaluation, {})
        call.predictions = self._predictions[1]
        call.kept = tuple(range(len(call.rows)))
        self.call, self._dropper, self._stand_in = call, None, False
        for runtime in self._droppers:
            kept = runtime.enter(call)
            fewer = kept is not None and len(kept) < len(call.rows)
            left_out = {call.rows[i].image for i in range(len(call.rows)) if fewer and i not in kept}
            # Leaving out what drops out of the formula changes no picture.
            self._note(runtime, not all(map(call.evaluation.unguided, left_out)))
            if fewer:
                call.kept, self._dropper = tuple(kept), runtime
                break
        if self._dropper is None or call.through:
            return args, kwargs
        if call.kept:
            return take_rows(args, kwargs, len(call.rows), call.kept)
        return self._nothing_left(args, kwargs)

    def _nothing_left(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Arguments of the smallest call there is: a module cannot be kept from running by its hooks."""
        self._stand_in = True
        args, kwargs = take_rows(args, kwargs, len(self.call.rows), (0,))
        if self.call.whole:  # ControlNet's hints have the picture's size
            return args, kwargs
        if args:
            return (args[0][..., :STAND_IN, :STAND_IN], *args[1:]), kwargs
        return args, {**kwargs, "x": kwargs["x"][..., :STAND_IN, :STAND_IN]}

    def leave(self, output: torch.Tensor) -> torch.Tensor:
        """Put the rows back that were left out; returns the prediction with all rows."""
        call = self.call
        complete = self._dropper is None or call.through
        shown = range(len(call.rows)) if complete else call.kept
        if not self._stand_in:
            for index, prediction in zip(shown, output, strict=True):
                row = call.rows[index]
                if row.sign == POSITIVE:
                    call.predictions.setdefault(row.image, []).append((row.weight, prediction))
        if not complete:
            full = output.new_empty((len(call.rows), output.shape[1], *call.x.shape[2:]))
            if call.kept:
                full[list(call.kept)] = output
            for index in call.dropped:
                full[index] = self._dropper.fill(call, call.rows[index])
            output = full
        for runtime in self._leavers:
            before, output = output, runtime.leave(call, output)
            self._note(runtime, output is not before)
        return output


class InnerRows:
    """Rows that pass the first In blocks, are left out in the middle, and come back before the last Out blocks.

    Skip connections match because Out block n - 1 - j takes the output of In block j.

    Args:
        blocks: the U-Net's, in forward order.
        through: how many blocks at either end see all rows, 1 … number of In blocks.
        boundary: knows the call in flight.
        refill: ``refill(call, h) -> h`` for the output of the last block between, given the rows that were computed
            (all of them in a call that leaves none out) and to return all rows.
        show: told the rows that the blocks see from now on.
    """

    def __init__(self, blocks: Sequence[Block], through: int, boundary: Boundary, refill: Callable, show: Callable):
        self._boundary, self._refill, self._show = boundary, refill, show
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

    def _enter(self, block: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        call = self._boundary.call
        if call is None or not call.through:
            return None
        if block is self._blocks[0]:
            self._show(tuple(call.rows[i] for i in call.kept))
        return take_rows(args, kwargs, len(call.rows), call.kept)

    def _leave(self, block: Any, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        call = self._boundary.call
        if call is None or (len(call.kept) < len(call.rows) and not call.through):
            return None
        if call.through:
            self._show(call.rows)
        return self._refill(call, output)
