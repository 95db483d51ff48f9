"""Pictures shown to a model as it meets them while it draws: made noisy, with a caption or none.

Host-independent: the model's U-Net, a function that predicts, and pictures as latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lib_attn.attach import attach
from lib_attn.learn.capture import Capture
from lib_attn.unet.flight import sigma_of

#: Timesteps at which each picture is shown: all of sampling, the stretches that place colours most often.
TIMESTEPS = (50, 150, 250, 350, 450, 550, 700, 850)

Predict = Callable[[torch.Tensor, float], Any]


def noisy(latent: torch.Tensor, timestep: float, generator: torch.Generator) -> torch.Tensor:
    """A latent ``[1, 4, h, w]`` as it is at a timestep of Stable Diffusion's noise schedule."""
    sigma = sigma_of(timestep)
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    return (latent + sigma * noise) / (1 + sigma**2) ** 0.5


def show(
    model: Any, predict: Predict, latents: Iterable[torch.Tensor], capture: Capture, *,
    first: int = 0, hypernetwork: Callable | None = None, keep: Callable[[int], bool | None] = lambda done: None,
) -> int:  # fmt: skip
    """Pass pictures through a model while `capture` looks on; returns how many have been shown in all.

    Args:
        model: a U-Net, or the model around it. predict: ``predict(x [1, 4, h, w], timestep)`` calls it with a caption
            or none.
        latents: of the pictures ``[1, 4, h, w]``, scaled as the U-Net takes them; those from number `first` on.
        first: number of the first one, so that a run that goes on sees the noise that it would have seen.
        keep: called after each picture with how many are done; says True to stop.
    """
    done = first
    with attach(model, [], observers=[capture.observer()], hypernetwork=hypernetwork), torch.inference_mode():
        for latent in latents:
            generator = torch.Generator().manual_seed(done)
            for timestep in TIMESTEPS:
                predict(noisy(latent, timestep, generator), float(timestep))
            done += 1
            if keep(done):
                break
    return done
