"""The checkpoint that is to draw maps: its U-Net, text encoder and both halves of its autoencoder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib_attn.lab.drawing.checkpoint import VAE, LabModel, load, read_config, read_weights

from ..reference_model.unet import use_fast_attention
from ..reference_model.vae import to_signed


class Encoder(nn.Module):
    """The encoding half of ``AutoencoderKL``: pictures (B, 3, H, W) in -1..1 -> latent means (B, 4, H/8, W/8)."""

    def __init__(self, params):
        from ldm.modules.diffusionmodules.model import Encoder as LdmEncoder

        super().__init__()
        config = dict(params["ddconfig"])
        self.encoder = LdmEncoder(**config)
        self.quant_conv = nn.Conv2d(2 * config["z_channels"], 2 * params.get("embed_dim", 4), 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.quant_conv(self.encoder(pictures)).chunk(2, dim=1)[0]


@dataclass(frozen=True)
class Base:
    """model: the lab's, with nothing that is trained; digest: first digits of the file's sha256."""

    path: Path
    model: LabModel
    encoder: Encoder
    digest: str

    @staticmethod
    def load(path: Path, device: str = "cpu") -> Base:
        """Raises LabError when the checkpoint cannot be used."""
        model = load(path, device=device)
        use_fast_attention(model.unet)
        with torch.random.fork_rng(devices=[]):
            encoder = Encoder(read_config(path.with_suffix(".yaml"))["first_stage_config"]["params"])
        weights = {k.removeprefix(VAE): v.float() for k, v in read_weights(path).items() if k.startswith(VAE)}
        encoder.load_state_dict({k: v for k, v in weights.items() if k.startswith(("encoder.", "quant_conv."))})
        encoder = encoder.to(device).eval().requires_grad_(False)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:10]
        return Base(path, model, encoder, digest)

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> scaled latents (B, 4, H/8, W/8) on the CPU."""
        return (self.encoder(to_signed(pictures, self.model.device)) * self.model.scale_factor).float().cpu()
