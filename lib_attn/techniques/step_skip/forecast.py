"""What a model would predict at the next noise level, from what it predicted at earlier ones.

Latents are written z = picture + sigma noise, and what a model predicts as the noise in them or as the picture. Along
the path of a sampler that only follows its model the noise changes least, so that is what is forecast. Where a sampler
adds noise of its own (ancestral and SDE samplers), noise predicted from an earlier latent knows nothing of it and would
leave it in the picture; there the picture stays as it was, and the noise is what lies between it and the latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lib_attn.techniques.spacing import RISE
from lib_attn.unet.precision import without_autocast

FRESH = 0.15  # of sigma: what a step leaves unexplained above it is noise that the sampler has added


def noise_of(x: torch.Tensor, predicted: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The noise ``[C, h, w]`` that a prediction stands for, float32.

    Args:
        x: the latent as the model saw it, z / sqrt(1 + sigma^2). predicted: of that. sigma: noise over signal.
        kind: of the prediction, ``epsilon`` or ``v``.
    """
    if kind != "v":
        return predicted.float()
    return (predicted.float() + sigma * x.float()) / math.sqrt(1.0 + sigma**2)


def prediction_of(x: torch.Tensor, noise: torch.Tensor, sigma: float, kind: str) -> torch.Tensor:
    """The prediction that stands for a noise: the inverse of `noise_of`."""
    return noise * math.sqrt(1.0 + sigma**2) - sigma * x.float() if kind == "v" else noise


def unscaled(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """z of a latent as the model saw it, float32."""
    return x.float() * math.sqrt(1.0 + sigma**2)


@dataclass
class Line:
    """The last two computed evaluations of a row: sigma, latent z and noise of each. Older ones are forgotten."""

    known: list[tuple[float, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def learn(self, sigma: float, z: torch.Tensor, noise: torch.Tensor) -> None:
        """Take a computed evaluation; both tensors ``[C, h, w]``."""
        self.known = [*self.known[-1:], (sigma, z, noise)]

    def at(self, sigma: float, z: torch.Tensor, trend: float, fresh: bool) -> torch.Tensor:
        """The noise in the latent z at a lower noise level.

        Args:
            trend: share of the slope that is followed of the straight line over log sigma; at 0 the noise stays.
            fresh: whether the sampler adds noise of its own: then the picture stays as it was at the last evaluation.
        """
        last, latest, noise = self.known[-1]
        if fresh:
            return (z - (latest - last * noise)) / sigma
        before, _, older = self.known[0]
        if len(self.known) > 1 and before > last * RISE:
            return noise + trend * math.log(last / sigma) / math.log(before / last) * (noise - older)
        return noise


def has_fresh_noise(z: torch.Tensor, sigma: float, past: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]]) -> bool:
    """Whether a sampler has put noise of its own into the latent z on the way from the evaluations before.

    A sampler that follows its model goes along what was predicted, whatever its formula and guidance are: z is a sum
    of latents and noises of the last evaluations. What is left over is noise.

    Args:
        past: latent and noises of the rows of the last one or two evaluations.
    """
    # Products of single precision may be carried out in less; not every device has double.
    kind = torch.float64 if z.device.type in ("cpu", "cuda") else torch.float32
    known = torch.stack([t.flatten() for latent, noises in past for t in (latent, *noises)]).to(kind)
    target = z.flatten().to(kind)
    with without_autocast(z.device):
        gram, along = (known @ known.T).cpu().double(), (known @ target).cpu().double()
        gram += (1e-9 * gram.diagonal().mean() + 1e-30) * torch.eye(len(gram), dtype=gram.dtype)
        left = target - torch.linalg.solve(gram, along).to(z.device, kind) @ known
    return float(left.square().mean().sqrt()) > FRESH * sigma
