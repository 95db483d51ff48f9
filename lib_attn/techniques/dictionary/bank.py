"""The style bank: what self-attention saw in other pictures, condensed, for new pictures to look up too.

For each layer and stretch of sampling time the bank has the mean input of m clusters of tokens and how many tokens
each stands for. Keys and values are linear in the input, so those of a mean are the means of its members' keys and
values, and they are projected by the loaded model with its LoRA. No picture is drawn along to look at, which is what
reference-only and StyleAligned (arXiv 2312.02133) do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lib_attn.techniques.near_sighted.kernel import EXCLUDED


@dataclass(frozen=True)
class Entry:
    """Mean inputs ``[S, m, C]`` of a layer's clusters in S equal stretches of sampling time, and counts ``[S, m]``."""

    x: torch.Tensor
    count: torch.Tensor

    def at(self, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        """``[m, C]`` and ``[m]`` at a time from 0, pure noise, to 1."""
        stretch = min(int(time * len(self.x)), len(self.x) - 1)
        return self.x[stretch], self.count[stretch]


def entries(tensors: Mapping[str, torch.Tensor]) -> dict[str, Entry]:
    """The bank in a learned file's tensors, by layer."""
    keys = (name.removeprefix("bank.") for name in tensors if name.startswith("bank."))
    return {key: Entry(tensors[f"bank.{key}"], tensors[f"bank_counts.{key}"]) for key in keys}


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
