"""Pictures shown to a model as it meets them while it draws: made noisy, with a caption or none.

Host-independent: the model's U-Net, a function that predicts, and pictures as latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lib_attn.attach import attach
from lib_attn.learn.capture import Capture
from lib_attn.learn.run import Pictures, Plan, Run
from lib_attn.schema import Group
from lib_attn.unet.flight import sigma_of

if TYPE_CHECKING:
    from PIL import Image

#: Timesteps at which each picture is shown: all of sampling, the stretches that place colours most often.
TIMESTEPS = (50, 150, 250, 350, 450, 550, 700, 850)

MAX_PICTURES = 1000
GRID = 64  # pixels that both sides are a multiple of, for every U-Net
SLIM = 4.0  # most of one side to the other; what is slimmer is cut at its ends

Predict = Callable[[torch.Tensor, float], Any]


def fitted(picture: Image.Image, side: float) -> np.ndarray:
    """A picture, uint8 ``[h, w, 3]``: scaled to about `side` x `side` pixels, its sides to multiples of 64.

    It is turned as its camera says, and transparent places become white.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    shape = min(max(picture.width / picture.height, 1 / SLIM), SLIM) ** 0.5
    width, height = (max(GRID, round(length / GRID) * GRID) for length in (side * shape, side / shape))
    whole = Image.alpha_composite(white, picture).convert("RGB")
    return np.asarray(ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS))


def noisy(latent: torch.Tensor, timestep: float, generator: torch.Generator) -> torch.Tensor:
    """A latent ``[1, 4, h, w]`` as it is at a timestep of Stable Diffusion's noise schedule."""
    sigma = sigma_of(timestep)
    noise = torch.randn(latent.shape, generator=generator).to(latent)
    return (latent + sigma * noise) / (1 + sigma**2) ** 0.5


def show_one(number: int, capture: Capture, model: Any, predict: Predict, latent: torch.Tensor, **options: Any) -> None:
    """Pass one picture through a model.

    Args:
        number: of the picture, which decides its noise. capture: takes what passes.
        model: a U-Net, or the model around it. predict: ``predict(x [1, 4, h, w], timestep)`` calls it with a caption
            or none.
        latent: ``[1, 4, h, w]``, scaled as the U-Net takes it. options: of `lib_attn.attach.attach`.
    """
    generator = torch.Generator().manual_seed(number)
    with attach(model, [], observers=[capture.observer()], **options), torch.no_grad():
        for timestep in TIMESTEPS:
            predict(noisy(latent, timestep, generator), float(timestep))


def show(run: Run, model: Any, predict: Predict, latents: Iterable[torch.Tensor], **options: Any) -> Iterator[None]:
    """Pass the pictures that a run still lacks through a model; yields after each, so that it can be stopped there.

    Args:
        run: of learning, see `plan_of`. latents: of the pictures from number ``run.done`` on. The others as in
            `show_one`.
    """
    for latent in latents:
        show_one(run.done, run.capture, model, predict, latent, **options)
        run.drawn()
        yield


def plan_of(
    kind: str, names: Sequence[str], options: Group, caption: str = "", checkpoint: tuple[str, str] = ("", ""),
    pictures: Pictures | None = None,
) -> Plan:  # fmt: skip
    """The plan of a run over pictures, by name; with other names, another caption or other options it begins anew.

    Args:
        pictures: their size and the layers, where chosen.
    """
    pictures = replace(pictures or Pictures(), count=len(names), steps=len(TIMESTEPS), cfg=1.0, seed=Pictures.seed)
    return Plan(kind, pictures, options, (f"{len(names)} pictures: {caption}", *names), checkpoint)
