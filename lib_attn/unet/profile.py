"""What can be known of a U-Net without a picture: its places, their widths, and the work beside self-attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib_attn.unet.families import find_blocks, find_layers, find_unet
from lib_attn.unet.layers import Layer

# (section, block numbers, depth, transformer blocks in each); channels double with each level up to fourfold.
FAMILIES = {
    "SD 1, 2": (
        ("in", (1, 2), 0, 1), ("in", (4, 5), 1, 1), ("in", (7, 8), 2, 1), ("mid", (0,), 3, 1),
        ("out", (3, 4, 5), 2, 1), ("out", (6, 7, 8), 1, 1), ("out", (9, 10, 11), 0, 1),
    ),
    "SDXL": (
        ("in", (4, 5), 1, 2), ("in", (7, 8), 2, 10), ("mid", (0,), 2, 10),
        ("out", (0, 1, 2), 2, 10), ("out", (3, 4, 5), 1, 2),
    ),
}  # fmt: skip
WIDTH = 320  # channels at depth 0 of both
REST = {"SD 1, 2": 76e6, "SDXL": 160e6}  # `profile_of` gives these for the real ones
BLOCKS = {"SD 1, 2": (12, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)), "SDXL": (9, (0, 0, 0, 1, 1, 1, 2, 2, 2))}


@dataclass(frozen=True)
class Profile:
    """What an estimate has to know of a U-Net.

    layers: its self-attention as `Layer` without modules, with the channels of each in `widths`. blocks: all blocks
    likewise. rest: multiply-adds per latent pixel and row beside the similarities.
    """

    layers: tuple[Layer, ...]
    widths: tuple[int, ...]
    blocks: tuple[Layer, ...]
    rest: float


def profile_of(model: Any) -> Profile:
    """The profile of a U-Net, or of the model around it.

    Raises:
        TypeError: when it has no U-Net of the supported kind.
    """
    unet = find_unet(model)
    layers, blocks = find_layers(unet), find_blocks(unet)
    rest = 0.0
    for block in blocks:
        for name, module in block.module.named_modules():
            # Keys and values of the prompt and the time's embedding do not grow with the picture.
            if "emb_layers" in name or name.endswith(("attn2.to_k", "attn2.to_v")):
                continue
            weight = getattr(module, "weight", None)
            if weight is not None and weight.ndim > 1:
                rest += weight.numel() / 4**block.depth
    return Profile(
        tuple(_place(x.name, x.section, x.number, x.depth) for x in layers),
        tuple(int(getattr(x.attn1.to_q, "in_features", WIDTH)) for x in layers),
        tuple(_place(x.name, x.section, x.number, x.depth) for x in blocks),
        rest,
    )


def family_profile(family: str) -> Profile:
    """The profile of a model family, for when no model is at hand."""
    layers, widths = [], []
    for section, numbers, depth, count in FAMILIES[family]:
        for number in numbers:
            layers += [_place("", section, number, depth)] * count
            widths += [WIDTH * min(2**depth, 4)] * count
    count, depths = BLOCKS[family]
    blocks = [_place("", "in", i, depth) for i, depth in enumerate(depths)] + [_place("", "mid", 0, depths[-1])]
    blocks += [_place("", "out", i, depths[count - 1 - i]) for i in range(count)]
    return Profile(tuple(layers), tuple(widths), tuple(blocks), REST[family])


def _place(name: str, section: str, number: int, depth: int) -> Layer:
    return Layer(name, section, number, depth, 0, None, None)


def count_places(places: tuple[Layer, ...], matches: Callable[[Layer], bool]) -> int:
    """How many blocks of a profile are chosen; layers of one block count once."""
    return len({(p.section, p.number) for p in places if matches(p)})
