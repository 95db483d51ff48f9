"""Positive and negative compared inside the U-Net, while both pass it anyway.

Ordinary guidance compares the two predictions at the end. Here h+ and h- are the features of the positive and the
negative row behind a block, K+ and K- their keys in self-attention:

- *feature*: h+ + g (h+ - h-), guidance before the end of the model;
- *orthogonal*: h+ - g (h- less its part along h+), the way Perp-Neg (arXiv 2304.04968) treats predictions;
- *keys*: K+' = (1 + g) K+ - g K- with V+. The logits are then (1 + g) q k+ - g q k-, so the attention is that of the
  positive to the power 1 + g over that of the negative to the power g: a quotient of two maps of one picture;
- *map*: ||h+ - h-|| of each place as a spatial guidance scale, as S-CFG (arXiv 2404.05384) has it for segments.

Both pushes are capped and blended like NAG (`lib_attn.techniques.guidance.cap`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_attn.techniques.guidance import cap

# Of the guidance, where the two rows agree: with none at all, plain areas keep the noise of guidance scale 1.
FLOOR = 0.5


def orthogonal_part(x: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """`x` less its projection on `along`, token by token over the last dimension."""
    share = (x * along).sum(-1, keepdim=True) / (along * along).sum(-1, keepdim=True).clamp_min(1e-12)
    return x - share * along


def push(positive, negative, feature: float, orthogonal: float, tau: float, blend: float):
    """Features ``[B, C, h, w]`` of the positives moved away from the negatives'; (0, 0) or blend 0 is the identity."""
    if not blend or not (feature or orthogonal):
        return positive
    # Token by token: channels last.
    before = positive.permute(0, 2, 3, 1)
    own, other = before.float(), negative.permute(0, 2, 3, 1).float()
    changed = own + feature * (own - other)
    if orthogonal:
        changed = changed - orthogonal * orthogonal_part(other, own)
    return cap(changed, before, tau, blend).permute(0, 3, 1, 2)


def contrast_keys(positive: torch.Tensor, negative: torch.Tensor, gain: float) -> torch.Tensor:
    """(1 + g) K+ - g K-."""
    return positive + gain * (positive - negative)


def difference_map(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Length of the difference of two features ``[C, h, w]`` at each place, smoothed, with mean 1: ``[h, w]``."""
    length = (positive.float() - negative.float()).norm(dim=0)
    smooth = F.avg_pool2d(length[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    mean = smooth.mean()
    return smooth / mean if mean > 0 else torch.ones_like(smooth)


def spatial_scale(difference: torch.Tensor, strength: float, size) -> torch.Tensor:
    """Factor ``[h, w]`` of the guidance for latents of `size`: 1 + strength (map - 1), at least `FLOOR`, to mean 1."""
    grown = F.interpolate(difference[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
    scale = (1.0 + strength * (grown - 1.0)).clamp_min(FLOOR)
    return scale / scale.mean().clamp_min(1e-6)


def scale_guidance(positive: torch.Tensor, negative: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The negative that makes guidance `scale` times as strong at each place: c - scale (c - u).

    u' + s (c - u') is then c + (s - 1) scale (c - u).
    """
    return positive - scale.to(positive.dtype) * (positive - negative)
