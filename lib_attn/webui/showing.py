"""The user's own pictures shown to the host's model: read from what the page or an API client sends, encoded by the
checkpoint's VAE and passed through its U-Net in a job of the host.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from modules import processing, prompt_parser, shared
from PIL import Image, ImageOps

from lib_attn.learn import shown
from lib_attn.learn.run import Run
from lib_attn.webui import host

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # none that runs or reads anything else
PIXELS = 64_000_000


@dataclass(frozen=True)
class Own:
    """Pictures of the user's own, as the bytes of their files, and what is on them."""

    files: tuple[bytes, ...]
    caption: str = ""

    @property
    def names(self) -> list[str]:
        """The same for the same pictures."""
        return [hashlib.sha256(file).hexdigest() for file in self.files]


def read(given: Any, caption: str) -> Own:
    """Own pictures from texts in base64, as the host's img2img takes them; each is looked at whole.

    Raises:
        ValueError: with one sentence, when there is none, one too many, or one that is no picture.
    """
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError("The field init_images is a list of pictures in base64, as img2img takes them")
    if not given:
        raise ValueError("There are no pictures to learn from: add some, or learn from pictures that the model draws")
    most = shown.MAX_PICTURES
    if len(given) > most:
        raise ValueError(f"There may be {most} pictures at most")
    return Own(tuple(itertools.starmap(_bytes, enumerate(given, 1))), caption)


def _bytes(number: int, text: str) -> bytes:
    try:
        file = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        with _open(file) as picture:
            size = picture.width * picture.height
            if size <= PIXELS:
                ImageOps.exif_transpose(picture)
    except Exception:  # damaged files make Pillow raise TypeError, struct.error, NotImplementedError and more
        raise ValueError(f"Picture {number} cannot be read: PNG, JPEG, WebP, GIF and BMP are understood") from None
    if size > PIXELS:
        raise ValueError(f"Picture {number} is too large: 64 million pixels at most")
    return file


def _open(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file), formats=FORMATS)


class Stopped(Exception):
    """The user has interrupted."""


def show(run: Run, own: Own) -> bool:
    """Show the host's model the next picture of a run; False when the user has stopped it.

    Raises:
        ValueError: with one sentence, when nothing could be seen.
    """
    wanted, state, told = run.plan.pictures, shared.state, []
    with _open(own.files[run.done]) as picture:
        pixels = shown.fitted(picture, (wanted.width * wanted.height) ** 0.5)
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, prompt=own.caption, seed=run.done, steps=len(shown.TIMESTEPS), cfg_scale=1.0,
        width=pixels.shape[1], height=pixels.shape[0], sampler_name="Euler a", scheduler="Automatic",
        do_not_save_samples=True, do_not_save_grid=True,
    )  # fmt: skip

    def sample(conditioning: Any, **_: Any) -> Any:
        refusal = host.refusal()
        if refusal is not None:
            raise ValueError(refusal.rstrip("."))
        with contextlib.suppress(Stopped):
            shown.show_one(
                run.done, run.capture, p.sd_model, _Predict(p, conditioning),
                host.encoded(p.sd_model, pixels, run.done),
                hypernetwork=host.apply_hypernetworks, upcast=host.upcasts_attention, inert=host.is_idle_wrapper,
                say=told.append,
            )  # fmt: skip
        # Nothing was drawn: the host gets back what it was given.
        return processing.DecodedSamples([torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1])

    p.sample = sample
    with contextlib.closing(p):
        processing.process_images(p)
    if told:
        raise ValueError(told[0].rstrip("."))
    return not (state.interrupted or state.skipped)


class _Predict:
    """Calls the host's model with the caption, as its samplers do."""

    def __init__(self, p: Any, conditioning: Any):
        self._p = p
        _, text = prompt_parser.reconstruct_multicond_batch(conditioning, 0)
        text = {name: value[:1] for name, value in text.items()} if isinstance(text, dict) else text[:1]
        self._text = text if isinstance(text, dict) else {"c_crossattn": [text]}
        self._timesteps = itertools.count(1)

    def __call__(self, x: torch.Tensor, timestep: float) -> None:
        state = shared.state
        if state.interrupted or state.skipped:
            raise Stopped
        image = self._p.txt2img_image_conditioning(x)
        time = torch.full((1,), timestep, device=x.device)
        self._p.sd_model.apply_model(x, time, cond={**self._text, "c_concat": [image]})
        state.sampling_steps, state.sampling_step = len(shown.TIMESTEPS), next(self._timesteps)
