"""What is known while a U-Net call is on its way: when it is made, of which evaluation, and which row is what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from lib_attn.unet.families import Ldm
from lib_attn.unet.rows import IMAGE_ONLY, NEGATIVE, POSITIVE, Row

CHUNK = 77  # columns of text per chunk of a CLIP prompt, begin and end included


@dataclass(frozen=True)
class Moment:
    """Where in sampling a U-Net call stands.

    step: running number of the evaluation (second-order samplers make two a step). share: step / all steps, 0 … 1.
    time: 0 for pure noise … 1 for the finished picture, from the timestep the model was given. steps: number of all
    evaluations, None when nobody said.
    """

    step: int
    share: float
    time: float
    steps: int | None = None

    def within(self, start: float, end: float) -> bool:
        """Whether the steps from share `start` to share `end` are on; a window up to 1 holds the end itself."""
        return start <= self.share < end or start < end == 1.0 == self.share


@dataclass(frozen=True)
class HostHooks:
    """What a host does inside attention besides the attention itself.

    hypernetwork: ``context -> (context for K, context for V)``. upcast: whether attention is to run in float32.
    """

    hypernetwork: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    upcast: Callable[[], bool] | None = None


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
    adaptive: the sampler chooses its steps by comparing predictions.
    """

    rows: tuple[Row, ...] = ()
    number: int = -1
    cfg: float | None = None
    negative: torch.Tensor | None = None
    words: tuple[tuple[int, ...], ...] | None = None
    negative_read: str = ""
    editions: tuple[Any, ...] | None = None
    positive_only: bool = False
    adaptive: bool = False

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
class Flight:
    """The U-Net call in flight, shared by all hooks of an attachment.

    rows: what each row inside the U-Net is, None between calls and in calls that are somebody else's. grids: height and
    width of the map that each transformer (by id) has last seen. skips: what the self-attention to come of each
    transformer block (by id) is added to, where somebody wants to know.
    """

    rows: tuple[Row, ...] | None = None
    moment: Moment = field(default_factory=lambda: Moment(-1, 0.0, 0.0))
    evaluation: Evaluation = field(default_factory=Evaluation)
    grids: dict[int, tuple[int, int]] = field(default_factory=dict)
    skips: dict[int, torch.Tensor] = field(default_factory=dict)


@lru_cache(maxsize=1)
def _log_sigmas() -> tuple[float, ...]:
    """log of noise over signal for the timesteps of Stable Diffusion's schedule (scaled linear, 0.00085 … 0.012)."""
    low, high, kept, out = math.sqrt(0.00085), math.sqrt(0.012), 1.0, []
    for i in range(Ldm.STEPS):
        kept *= 1.0 - (low + (high - low) * i / (Ldm.STEPS - 1)) ** 2
        out.append(0.5 * math.log((1.0 - kept) / kept))
    return tuple(out)


def sigma_of(timestep: float) -> float:
    """Noise over signal at a timestep (may be fractional): 0.03 at 0 … 14.6 at 999."""
    at = min(max(timestep, 0.0), Ldm.STEPS - 1.0)
    low = min(int(at), Ldm.STEPS - 2)
    logs = _log_sigmas()
    return math.exp(logs[low] + (logs[low + 1] - logs[low]) * (at - low))
