"""The checkpoint that is to draw maps: its U-Net, text encoder and both halves of its autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec, load
from lib_attn.lab.drawing.encoder import Encoder, load_encoder
from lib_attn.lab.shared.results import file_hash

from ..reference_model.unet import use_fast_attention
from ..reference_model.vae import to_signed

DIGITS = 10  # of the file's sha256


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
        encoder = load_encoder(ModelSpec(path, device)).to(memory_format=torch.channels_last)
        return Base(path, model, encoder, file_hash(path)[:DIGITS])

    @torch.no_grad()
    def encode(self, pictures: np.ndarray, precision: str = "no") -> torch.Tensor:
        """uint8 (B, H, W, 3) -> scaled latents (B, 4, H/8, W/8) on the CPU.

        precision: "bf16" for a third of the time on a CPU with matrix units for it.
        """
        with torch.autocast(self.model.device, torch.bfloat16, enabled=precision == "bf16"):
            return self.encoder(to_signed(pictures, self.model.device)).float().cpu()
