"""Pictures shown to a model as it meets them while it draws: made noisy, with a caption or none.

Host-independent: the model's U-Net, a function that predicts, and pictures as latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from lib_attn.attach import attach
from lib_attn.learn.run import Pictures, Plan, Run
from lib_attn.schema import Group
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
    run: Run, model: Any, predict: Predict, latents: Iterable[torch.Tensor], hypernetwork: Callable | None = None
) -> Iterator[None]:
    """Pass the pictures that a run still lacks through a model; yields after each, so that it can be stopped there.

    Args:
        run: of learning, see `plan_of`.
        model: a U-Net, or the model around it. predict: ``predict(x [1, 4, h, w], timestep)`` calls it with a caption
            or none.
        latents: of the pictures from number ``run.done`` on, ``[1, 4, h, w]``, scaled as the U-Net takes them.
    """
    for latent in latents:
        generator = torch.Generator().manual_seed(run.done)
        observers = [run.capture.observer()]
        with attach(model, [], observers=observers, hypernetwork=hypernetwork), torch.inference_mode():
            for timestep in TIMESTEPS:
                predict(noisy(latent, timestep, generator), float(timestep))
        run.drawn()
        yield


def plan_of(
    kind: str, names: Sequence[str], options: Group, caption: str = "", checkpoint: tuple[str, str] = ("", "")
) -> Plan:
    """The plan of a run over pictures, by name; with other names, another caption or other options it begins anew."""
    pictures = Pictures(count=len(names), steps=len(TIMESTEPS), cfg=1.0)
    return Plan(kind, pictures, options, (f"{len(names)} pictures: {caption}", *names), checkpoint)
