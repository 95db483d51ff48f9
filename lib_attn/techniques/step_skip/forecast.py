"""What a model would predict at the next noise level, from what it predicted at earlier ones.

The forecast is one of the picture, not of the noise: where a sampler adds fresh noise in each step (ancestral and SDE
samplers), the noise predicted from an earlier latent knows nothing of it and would leave it in the picture, while the
picture forecast turns into the noise that lies between it and the latent at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from lib_attn.techniques.spacing import RISE


def picture_of(x: torch.Tensor, predicted: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The picture ``[C, h, w]`` that a prediction stands for, float32.

    Args:
        x: the latent as the model saw it, (picture + sigma noise) / sqrt(1 + sigma^2). predicted: of that.
        sigma: noise over signal. kind: of the prediction, ``epsilon`` or ``v``.
    """
    scale = math.sqrt(1.0 + sigma**2)
    if kind == "v":
        return x.float() / scale - predicted.float() * (sigma / scale)
    return x.float() * scale - predicted.float() * sigma


def prediction_of(x: torch.Tensor, picture: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The prediction that stands for a picture: the inverse of `picture_of`."""
    scale = math.sqrt(1.0 + sigma**2)
    if kind == "v":
        return (x.float() / scale - picture) * (scale / sigma)
    return (x.float() * scale - picture) / sigma


@dataclass
class Line:
    """The last two of a row's pictures, each with its sigma: older ones are forgotten."""

    known: list[tuple[float, torch.Tensor]] = field(default_factory=list)

    def learn(self, sigma: float, picture: torch.Tensor) -> None:
        """Take the picture ``[C, h, w]`` of a step computed in full."""
        if self.known and self.known[-1][1].shape != picture.shape:
            self.known.clear()
        self.known = [*self.known[-1:], (sigma, picture)]

    def at(self, sigma: float, trend: float) -> torch.Tensor:
        """The picture at a lower noise level, on a straight line over log sigma.

        Args:
            trend: share of the line's slope that is followed; at 0 the last picture stays.
        """
        (last, picture), before = self.known[-1], self.known[0]
        if len(self.known) < 2 or not trend or before[0] <= last * RISE:
            return picture
        share = math.log(last / sigma) / math.log(before[0] / last)
        return picture + trend * share * (picture - before[1])
