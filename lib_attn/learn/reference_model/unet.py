"""Stage `unet`: train the U-Net and the text encoder together on cached latents."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional

from lib_attn.unet.precision import without_autocast

from .diffusion import NoiseConfig, add_noise, draw_steps, loss_weights, with_offset
from .gaze import Gaze
from .loop import Loop, LoopConfig, draw
from .models import TextToNoise

#: From this many queries and keys on the fused kernel is used, whose backward pass is slow on a CPU.
FUSED_ABOVE = 2048
#: Self-attention of more tokens than this may be trained on averages of 2 x 2 places.
POOLED_ABOVE = 1024


def _averaged(x: torch.Tensor) -> torch.Tensor:
    """(B, N, C) of a square picture -> (B, N / 4, C): averages over 2 x 2 places."""
    edge = math.isqrt(x.shape[1])
    return functional.avg_pool2d(x.transpose(1, 2).unflatten(2, (edge, edge)), 2).flatten(2).transpose(1, 2)


def _attend(self, x, context=None, mask=None):
    """Attention of ldm's CrossAttention for training. x (B, N, C), context (B, M, C') -> (B, N, C).

    Plain matrix products below FUSED_ABOVE tokens.
    """
    if context is None:
        # Keys and values are linear in x, so their averages are those of x.
        context = _averaged(x) if getattr(self, "pooled", False) and x.shape[1] > POOLED_ABOVE else x
    batch, heads = x.shape[0], self.heads

    def split(t):
        return t.view(batch, -1, heads, t.shape[-1] // heads).transpose(1, 2)

    q, k, v = split(self.to_q(x)), split(self.to_k(context)), split(self.to_v(context))
    if q.shape[2] >= FUSED_ABOVE and k.shape[2] >= FUSED_ABOVE:
        out = functional.scaled_dot_product_attention(q, k, v)
    else:
        # Autocast would lift the softmax to float32 and double its memory traffic.
        with without_autocast(x.device):
            attention = torch.softmax((q * self.scale) @ k.transpose(-1, -2), dim=-1)
            out = attention @ v
        if getattr(self, "gaze", None) is not None and self.training:
            self.gaze.see(attention)
    return self.to_out(out.transpose(1, 2).reshape(batch, x.shape[1], -1))


def use_fast_attention(model: torch.nn.Module) -> None:
    """Give ldm's attention layers the forward above; parameters and results stay what they are."""
    for module in model.modules():
        if hasattr(module, "to_q") and hasattr(module, "heads"):
            module.forward = types.MethodType(_attend, module)


def pool_keys(model: torch.nn.Module, pooled: bool) -> None:
    """Whether self-attention of more than POOLED_ABOVE tokens reads averages over 2 x 2 places, while it trains.

    At 64 x 64 latents it is three quarters of the work of a step; with averages, a quarter of that.
    """
    for module in model.modules():
        if hasattr(module, "to_q") and hasattr(module, "heads"):
            module.pooled = pooled


@dataclass(frozen=True)
class Latents:
    """latents: float16 (N, 4, h, w), scaled; tokens: int64 (U, 77), the distinct captions;
    caption: int64 (N,), row of `tokens`; empty: int64 (1, 77), the empty caption; kinds: rows int64 (K,)
    of the scenes that are "single" (one object), "pair" (two with a relation) or "several" of a kind;
    objects: int64 (N,), how many objects each scene has."""

    latents: torch.Tensor
    tokens: torch.Tensor
    caption: torch.Tensor
    empty: torch.Tensor
    kinds: dict[str, torch.Tensor] = field(default_factory=dict)
    objects: torch.Tensor | None = None


def train(
    folder: Path,
    data: Latents,
    model: TextToNoise,
    config: LoopConfig,
    noise: NoiseConfig | None = None,
    caption_dropout: float = 0.1,
    on_save=None,
    title: str = "unet",
    focus: float = 0.0,
    focus_on: str = "single",
    gaze: float = 0.0,
    after_step=None,
    pooled: float = 0.0,
) -> Loop:
    """Train on random rows of `data`; which rows, steps and noise depends on (seed, step) alone.

    focus: share of samples drawn from the scenes of the kind `focus_on`, the others from all scenes; gaze: weight of
    looking at the right token (see `gaze`), which needs square pictures; after_step: see `Loop`; pooled: share of the
    steps, from the first on, with averaged keys (see `pool_keys`), which needs square pictures too.
    """
    noise = noise or NoiseConfig()
    watcher = Gaze() if gaze else None
    if watcher:
        watcher.watch(model)
    loop = Loop(folder, model, config, on_save, after_step)
    device = loop.accelerator.device
    weights = loss_weights(noise).to(device)
    count, rows_of_kind = len(data.latents), data.kinds.get(focus_on, ())

    def loss_of(network, step, rows):
        pool_keys(model, step < pooled * config.steps)
        rng = draw(config.seed, title, step)
        picks = torch.randint(0, count, (config.batch,), generator=rng)
        t = draw_steps(config.batch, noise, rng)
        eps = torch.randn(config.batch, *data.latents.shape[1:], generator=rng)
        drop = torch.rand(config.batch, generator=rng) < caption_dropout
        if focus and len(rows_of_kind):
            chosen = rows_of_kind[torch.randint(0, len(rows_of_kind), (config.batch,), generator=rng)]
            picks = torch.where(torch.rand(config.batch, generator=rng) < focus, chosen, picks)
        eps = with_offset(eps, noise, rng)
        picks, t, eps, drop = picks[rows], t[rows].to(device), eps[rows].to(device), drop[rows]
        tokens = torch.where(drop[:, None], data.empty, data.tokens[data.caption[picks]]).to(device)
        if watcher:
            watcher.begin(tokens, torch.where(drop, 0, data.objects[picks]).to(device))
        noisy = add_noise(data.latents[picks].float().to(device), eps, t, noise.signal)
        error = network(noisy, t, tokens).float() - eps
        loss = (weights[t] * error.square().mean((1, 2, 3))).mean()
        return loss + gaze * watcher.loss() if watcher else loss

    loop.run(loss_of, title)
    return loop
