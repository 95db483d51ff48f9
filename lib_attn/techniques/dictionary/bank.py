"""The style bank: what self-attention saw in other pictures, condensed, for new pictures to look up too.

For each layer and stretch of sampling time the bank has the mean input of m clusters of tokens and how many tokens
each stands for. Keys and values are linear in the input, so those of a mean are the means of its members' keys and
values, and they are projected by the loaded model with its LoRA. No picture is drawn along to look at, which is what
reference-only and StyleAligned (arXiv 2312.02133) do.
"""

from __future__ import annotations

import math

import torch

from lib_attn.techniques.near_sighted.kernel import EXCLUDED


def weight_bias(count: torch.Tensor, tokens: int, strength: float) -> torch.Tensor:
    """Bias ``[m]`` with which keys that stand for `count` ``[m]`` tokens count, all together, `strength` times as much
    as the `tokens` of a picture."""
    share = count / count.sum().clamp_min(1)
    return torch.where(share > 0, share.clamp_min(1e-12).log() + math.log(strength * tokens), EXCLUDED)


def matched(v: torch.Tensor, count: torch.Tensor, own: torch.Tensor, amount: float) -> torch.Tensor:
    """Values ``[1, m, H, d]`` on the way to the mean and spread of a picture's own.

    Args:
        count: ``[m]``, how many tokens each stands for. own: ``[B, N, H, d]``. amount: 0 as they are … 1 matched.

    Returns:
        ``[B, m, H, d]``.
    """
    v, mine = v.float(), own.float()
    share = (count / count.sum().clamp_min(1))[None, :, None, None]
    mean = (v * share).sum(1, keepdim=True)
    spread = ((v - mean).square() * share).sum(1, keepdim=True).sqrt().clamp_min(1e-5)
    wanted = mine.std(1, keepdim=True, unbiased=False)
    fitted = (v - mean) * (wanted / spread) + mine.mean(1, keepdim=True)
    return torch.lerp(v.expand_as(fitted), fitted, amount).to(own.dtype)
