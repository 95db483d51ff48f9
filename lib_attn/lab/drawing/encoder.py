"""The encoding half of a checkpoint's VAE: pictures to latents."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib_attn.lab.drawing.checkpoint import VAE, ModelSpec, read_config, read_weights
from lib_attn.lab.shared.errors import LabError
from lib_attn.learn.shown import MAX_PICTURES, fitted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Encoder(nn.Module):
    """``AutoencoderKL``'s encoder.

    Args:
        params: of the VAE, as in a checkpoint's yaml. scale: factor between its latents and the U-Net's.
    """

    def __init__(self, params: dict, scale: float):
        super().__init__()
        config = dict(params["ddconfig"])
        # The package greets on the standard output and draws from the global generator.
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            from ldm.modules.diffusionmodules.model import Encoder as Inner

            self.encoder = Inner(**config)
            self.quant_conv = nn.Conv2d(2 * config["z_channels"], 2 * params.get("embed_dim", 4), 1)
        self._scale = scale

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """``[B, 3, 8h, 8w]``, -1 … 1 -> the mean latents ``[B, 4, h, w]``, scaled as the U-Net takes them."""
        return self.quant_conv(self.encoder(pictures)).chunk(2, 1)[0] * self._scale


def load_encoder(spec: ModelSpec) -> Encoder:
    """The encoder of a checkpoint.

    Raises:
        LabError: when it cannot be read, or has none.
    """
    config = read_config(spec.file.with_suffix(".yaml"))
    weights = {k.removeprefix(VAE): v.float() for k, v in read_weights(spec.file).items() if k.startswith(VAE)}
    try:
        encoder = Encoder(config["first_stage_config"]["params"], config["scale_factor"])
        encoder.load_state_dict({k: v for k, v in weights.items() if k.startswith(("encoder.", "quant_conv."))})
    except (ImportError, RuntimeError, TypeError, KeyError) as error:
        raise LabError(f"{spec.file.name} has no encoder that this lab can build: {str(error)[:200]}.") from None
    return encoder.eval().requires_grad_(False).to(spec.device)


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder, by name, at most `MAX_PICTURES`.

    Raises:
        LabError: when there is none.
    """
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file())[:MAX_PICTURES]
    if not found:
        raise LabError(f"There are no pictures ({', '.join(SUFFIXES)}) in {folder}.")
    return found


def read_picture(path: Path, side: float) -> np.ndarray:
    """A picture, uint8 ``[h, w, 3]``, as `lib_attn.learn.shown.fitted` makes it.

    Raises:
        LabError: when it cannot be read.
    """
    from PIL import Image

    try:
        return fitted(Image.open(path), side)
    except Exception as error:  # damaged files make Pillow raise TypeError, struct.error and more
        raise LabError(f"{path.name} cannot be read as a picture: {error}.") from None


def encoded(spec: ModelSpec, pictures: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
    """Latents ``[1, 4, h, w]`` of uint8 pictures ``[h, w, 3]``, one by one.

    Raises:
        LabError: as `load_encoder`.
    """
    encoder = load_encoder(spec)
    for picture in pictures:
        values = torch.from_numpy(np.asarray(picture, np.float32) / 127.5 - 1).permute(2, 0, 1)
        with torch.inference_mode():
            yield encoder(values[None].to(spec.device))
