"""The layout of a picture, set while it is still loud noise: its own colours go where the map wants their depth.

Where things stand is decided in the first steps, by the coarse parts of the noise as much as by the prompt. So these
are taken out of the noise to begin with, and in the first steps every place of the predicted picture that has another
depth than it is to have gets the colours that the nearest places of that depth show in the same prediction. Nothing
comes from the map but depth. What is right already keeps its colours: else two things at one depth would share theirs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_attn.techniques.depth_guide.head import blurred

#: Noise level (sigma) down to which colours are moved: below it a picture has detail that would be lost.
LOUD = 2.3
#: Spread of what is taken out of the noise, in shares of the longer side.
COARSE = 1 / 16
#: Most places on the longer side that colours are taken from.
PLACES = 32
#: How far away these may be, in shares of the longer side, and how much depths may differ: one spread.
FAR, DEPTH = 0.1, 0.15


def quieted(noise: torch.Tensor, amount: float) -> torch.Tensor:
    """Noise ``[B, C, h, w]`` with a share `amount` (0 … 1) of its coarse parts taken out, as loud as before."""
    left = noise - min(amount, 1.0) * blurred(noise, COARSE * max(noise.shape[-2:]))
    return left * (noise.std((1, 2, 3), keepdim=True) / left.std((1, 2, 3), keepdim=True))


def arranged(latents: torch.Tensor, depth: torch.Tensor, wanted: torch.Tensor, amount: float = 1.0) -> torch.Tensor:
    """Predicted latents ``[B, C, h, w]`` in another layout.

    Each place becomes the mean of all places, weighted by how near they are and how near their depth (`depth`
    ``[B, h, w]``) is to the one that this place is to have (`wanted`, the same shape); the less so, the nearer its own
    depth is to that. amount: 0 … 1, a share of that change; beyond 1 also places that are nearly right are changed.
    """
    height, width = latents.shape[-2:]
    scale = min(1.0, PLACES / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    source = torch.cat([latents, depth[:, None]], 1).float()
    # On mps torch pools only to sizes that divide the picture's.
    on = "cpu" if source.device.type == "mps" else source.device
    source = F.adaptive_avg_pool2d(source.to(on), size).to(source.device).flatten(2)
    colours, levels = source[:, :-1], source[:, -1]
    away = torch.cdist(_places((height, width), latents), _places(size, latents)) / (FAR * max(height, width))
    apart = (wanted.float().flatten(1)[:, :, None] - levels[:, None]) / DEPTH
    weights = torch.softmax(-0.5 * (away**2 + apart**2), -1)
    moved = (weights @ colours.transpose(1, 2)).transpose(1, 2).reshape(latents.shape).to(latents.dtype)
    wrong = 1 - torch.exp(-0.5 * ((wanted.float() - depth.float()) / DEPTH) ** 2)[:, None].to(latents.dtype)
    return latents + (amount * wrong).clamp(max=1) * (moved - latents)


def _places(size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Middles ``[N, 2]`` of a grid's places, in places of `like`."""
    down, right = (
        (torch.arange(n, device=like.device) + 0.5) * m / n for n, m in zip(size, like.shape[-2:], strict=True)
    )
    return torch.cartesian_prod(down, right)
