"""Convolutions that see nothing but their own place, so that far places hear of each other through attention.

The convolutions of a small U-Net reach over the whole picture on its deep levels, and what they can do they do: with
the attention map replaced by a plain average such a model draws nearly the same. A phase may therefore let the outer
taps of some 3 x 3 kernels fade to zero. The layout of the weights stays that of Stable Diffusion, and a place still
learns where the border is from the way in, whose kernels are left whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .models import UNetConfig


def blocks_of_level(config: UNetConfig, level: int) -> list[str]:
    """Names of the residual blocks on the way out on one level, 0 the finest; the deepest has the middle as well."""
    deepest, each = len(config.channel_mult) - 1, config.num_res_blocks + 1
    first = (deepest - level) * each
    middle = ["middle_block.0", "middle_block.2"] if level == deepest else []
    return middle + [f"output_blocks.{first + i}.0" for i in range(each)]


def narrowed(config: UNetConfig, levels: Sequence[int]) -> list[str]:
    """Names of the 3 x 3 kernels, in the U-Net's state dict, that lose their reach on these levels."""
    return [
        f"{block}.{layer}.weight"
        for level in levels
        for block in blocks_of_level(config, level)
        for layer in ("in_layers.2", "out_layers.3")
    ]


def remaining(step: int, fade: int) -> float:
    """Share of the outer taps left after `step` steps: 1 at the start, 0 from `fade` on."""
    return max(0.0, 1 - step / fade) if fade else 0.0


class Narrow:
    """Scales the outer taps after each step; called with the TextToNoise module and the number of steps done."""

    def __init__(self, config: UNetConfig, levels: Sequence[int], fade: int):
        self.names, self.fade = narrowed(config, levels), fade

    @torch.no_grad()
    def __call__(self, module: torch.nn.Module, step: int) -> None:
        before = remaining(step - 1, self.fade)
        self.scale(module.unet, remaining(step, self.fade) / before if before else 0.0)

    @torch.no_grad()
    def scale(self, unet: torch.nn.Module, factor: float) -> None:
        weights = dict(unet.named_parameters())
        for name in self.names:
            weight = weights[name]
            middle = weight[:, :, 1, 1].clone()
            weight.mul_(factor)
            weight[:, :, 1, 1] = middle
