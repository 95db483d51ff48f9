"""Training of the small network that reads a map from predicted latents (`lib_attn.techniques.depth_guide.head`)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lib_attn.techniques.depth_guide.head import PREFIX, Head, blurred, error
from lib_attn.techniques.depth_guide.maps import Map
from lib_attn.techniques.depth_guide.settings import KIND

from ..reference_model.loop import draw

__all__ = ["KIND", "PREFIX", "Map", "train_head"]

#: Predictions early in sampling are blurred, up to this many places.
BLUR = 4.0
#: Share of batches that are blurred; all have noise of up to NOISE.
BLURRED = 0.7
NOISE = 0.3


def train_head(
    latents: torch.Tensor,
    maps: torch.Tensor,
    steps: int = 500,
    batch: int = 32,
    lr: float = 2e-3,
    seed: int = 0,
    progress: Callable[[float], None] = lambda loss: None,
) -> Head:
    """Learn to read `maps` (N, h, w), 0 … 1, from scaled latents (N, 4, h, w) of the pictures they belong to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(latents.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    for step in range(steps):
        rng = draw(seed, "head", step)
        picks = torch.randint(0, len(latents), (batch,), generator=rng)
        chance, spread = torch.rand(2, generator=rng).tolist()
        x = blurred(latents[picks].float(), BLUR * spread if chance < BLURRED else 0.0)
        x = x + NOISE * torch.rand(batch, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20, (steps - step) / (0.4 * steps))
        loss = error(head(x), maps[picks]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(float(loss.detach()))
    return head.requires_grad_(False)
