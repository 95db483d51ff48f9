"""Stage `vae`: train the autoencoder on crops, then fold the latents' mean and spread into its 1x1 layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .loop import Loop, LoopConfig
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
        views = [pictures[picks[i], t:t + edge, x:x + edge] for t, x in zip(tops[i], lefts[i])]
        out[i] = max(views, key=lambda v: v[::4, ::4].std()) if best[i] < 0.75 else views[0]
    return out


def train(folder: Path, pictures: np.ndarray, model: Autoencoder, config: LoopConfig, phases: Sequence[tuple],
          loss: VaeLoss | None = None, on_save=None) -> Loop:
    """Train on crops. phases: (first step, crop edge, crops per step) in order; the batch of a phase must be
    divisible by the number of processes. Returns the finished loop."""
    loss = loss or VaeLoss()
    loop = Loop(folder, model, config, on_save)
    share = loop.accelerator.num_processes

    def loss_of(network, step, _rows):
        _, edge, batch = [p for p in phases if p[0] <= step][-1]
        rng = draw_for(config.seed, step)
        cut = crops(pictures, batch, edge, rng)
        noise = torch.randn(batch, 4, edge // 8, edge // 8, generator=rng)
        part = batch // share
        rows = slice(loop.accelerator.process_index * part, (loop.accelerator.process_index + 1) * part)
        x = to_signed(cut[rows], loop.accelerator.device)
        y, mean, logvar = network(x, noise[rows].to(x.device))
        error = (y.float() - x)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error.square().mean() + loss.l1 * error.abs().mean() + loss.kl * kl * 4

    loop.run(loss_of, "vae")
    return loop


def draw_for(seed: int, step: int) -> torch.Generator:
    from .loop import draw

    return draw(seed, "vae", step)


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


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal to noise ratio in dB of pictures in -1..1."""
    return float(10 * torch.log10(4.0 / (a.clamp(-1, 1) - b).square().mean()))
