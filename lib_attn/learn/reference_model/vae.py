"""Stage `vae`: train the autoencoder on crops, then fold the latents' mean and spread into its 1x1 layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .loop import Loop, LoopConfig, draw
from .models import SCALE_FACTOR, Autoencoder


@dataclass(frozen=True)
class VaeLoss:
    """kl: weight of the KL term per latent value; l1: weight of the absolute error beside the squared."""

    kl: float = 2e-5
    l1: float = 0.5


def to_signed(pictures: np.ndarray, device="cpu") -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in -1..1. Made contiguous: the channels-last strides a permute
    leaves behind halve the speed of the whole network on a CPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    return tensor.to(device).float() / 127.5 - 1


def crops(pictures: np.ndarray, count: int, edge: int, generator: torch.Generator, tries: int = 3) -> np.ndarray:
    """Cut `count` crops of edge x edge from uint8 pictures (N, H, W, 3); of `tries` places the liveliest is
    taken three times in four, because most of a scene is plain background."""
    n, height, width, _ = pictures.shape
    picks = torch.randint(0, n, (count,), generator=generator).tolist()
    tops = torch.randint(0, height - edge + 1, (count, tries), generator=generator).tolist()
    lefts = torch.randint(0, width - edge + 1, (count, tries), generator=generator).tolist()
    best = torch.rand(count, generator=generator).tolist()
    out = np.empty((count, edge, edge, 3), np.uint8)
    for i in range(count):
        views = [pictures[picks[i], t : t + edge, x : x + edge] for t, x in zip(tops[i], lefts[i], strict=False)]
        out[i] = max(views, key=lambda v: v[::4, ::4].std()) if best[i] < 0.75 else views[0]
    return out


def train(
    folder: Path,
    pictures: np.ndarray,
    model: Autoencoder,
    config: LoopConfig,
    phases: Sequence[tuple],
    loss: VaeLoss | None = None,
    on_save=None,
) -> Loop:
    """Train on crops. phases: (first step, crop edge, crops per step) in order; the batch of a phase must be
    divisible by the number of processes. Returns the finished loop."""
    loss = loss or VaeLoss()
    loop = Loop(folder, model, config, on_save)
    share = loop.accelerator.num_processes

    def loss_of(network, step, _rows):
        _, edge, batch = [p for p in phases if p[0] <= step][-1]
        rng = draw(config.seed, "vae", step)
        cut = crops(pictures, batch, edge, rng)
        noise = torch.randn(batch, 4, edge // 8, edge // 8, generator=rng)
        part = batch // share
        rows = slice(loop.accelerator.process_index * part, (loop.accelerator.process_index + 1) * part)
        x = to_signed(cut[rows], loop.accelerator.device)
        y, mean, logvar = network(x, noise[rows].to(x.device))
        error = y.float() - x
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error.square().mean() + loss.l1 * error.abs().mean() + loss.kl * kl * 4

    loop.run(loss_of, "vae")
    return loop


class DecoderOnly(torch.nn.Module):
    """The decoding half as a module of its own; the encoding half is frozen, so cached latents stay right."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        autoencoder.encoder.requires_grad_(False)
        autoencoder.quant_conv.requires_grad_(False)
        self.decoder, self.post_quant_conv = autoencoder.decoder, autoencoder.post_quant_conv

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latents))


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def polish(
    folder: Path,
    sets: Sequence[tuple[torch.Tensor, np.ndarray]],
    decoder: torch.nn.Module,
    config: LoopConfig,
    phases: Sequence[tuple],
    jitter: float = 0.03,
    crop: int = 0,
) -> Loop:
    """Train a decoder, of latents that are not scaled, on whole pictures, or on parts of `crop` x `crop` latents where
    they are large.

    Crops teach edges quickly, but GroupNorm sees other statistics in a whole picture and shifts its colours.
    decoder: as `DecoderOnly`. sets: (scaled latents (N, 4, h, w), pictures uint8 (N, 8 h, 8 w, 3)) per resolution;
    phases: (first step, number of the set, pictures per step); jitter: spread of noise on the latents, as a sampler
    leaves some.
    """
    loop = Loop(folder, decoder, config)
    share, device = loop.accelerator.num_processes, loop.accelerator.device

    def loss_of(network, step, _rows):
        _, which, batch = [p for p in phases if p[0] <= step][-1]
        latents, pictures = sets[which]
        rng = draw(config.seed, "polish", step)
        picks = torch.randint(0, len(latents), (batch,), generator=rng)
        edge, top, left = latents.shape[-1], 0, 0
        if crop:
            edge = min(crop, edge)
            top, left = torch.randint(0, latents.shape[-1] - edge + 1, (2,), generator=rng).tolist()
        noise = jitter * torch.randn(batch, latents.shape[1], edge, edge, generator=rng)
        part = batch // share
        rows = slice(loop.accelerator.process_index * part, (loop.accelerator.process_index + 1) * part)
        z = latents[picks][:, :, top : top + edge, left : left + edge].float()
        z = ((z + noise) / SCALE_FACTOR)[rows].to(device)
        x = pictures[picks[rows].numpy(), 8 * top : 8 * (top + edge), 8 * left : 8 * (left + edge)]
        x = to_signed(x, device)
        y = network(z).float()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(y), _edges(x), strict=True))
        return (y - x).square().mean() + 0.5 * (y - x).abs().mean() + 0.5 * edges

    loop.run(loss_of, "polish")
    return loop


@torch.no_grad()
def encode(model: Autoencoder, pictures: np.ndarray, precision: str = "bf16") -> torch.Tensor:
    """Pictures uint8 (B, H, W, 3) -> latent means (B, 4, H/8, W/8), float32, not yet scaled."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model.moments(to_signed(pictures, device))[0].float()


@torch.no_grad()
def fold_statistics(model: Autoencoder, means: torch.Tensor) -> None:
    """Rescale in place so that SCALE_FACTOR * latent has mean 0 and spread 1 in every channel.

    means: (N, 4, h, w), latents of the model as it is. quant_conv gets (z - mean) / std / SCALE_FACTOR,
    post_quant_conv its inverse, so pictures do not change and the host's fixed factor fits.
    """
    mean = means.mean((0, 2, 3)).to(model.quant_conv.weight)
    factor = 1.0 / (means.std((0, 2, 3)).to(mean) * SCALE_FACTOR)
    model.quant_conv.weight[:4] *= factor[:, None, None, None]
    model.quant_conv.bias[:4] = (model.quant_conv.bias[:4] - mean) * factor
    model.quant_conv.bias[4:] += 2 * torch.log(factor)
    weight = model.post_quant_conv.weight
    model.post_quant_conv.bias += weight[:, :, 0, 0] @ mean
    weight /= factor[None, :, None, None]
