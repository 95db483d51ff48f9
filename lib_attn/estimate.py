"""How much self-attention near-sighted attention leaves at a picture size, before any picture is made.

`javascript/attention_lab.js` computes the same for the text below the sliders; a test keeps the two together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lib_attn.techniques.near_sighted.plan import make_plan, worthwhile
from lib_attn.unet.layers import Layer, parse_selector

LATENT = 8  # picture pixels per latent pixel
MIDDLE = 0.5  # sampling time that stands for all of it

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


@dataclass(frozen=True)
class Estimate:
    """tiles: on the largest map that is tiled, 0 when none is. left: share of the similarities that is computed."""

    tiles: int
    left: float


def estimate(width: int, height: int, settings, family: str) -> Estimate:
    """Estimate for a picture of `width` x `height` pixels and the `NearSighted` settings on a model `family`."""
    selector = parse_selector(settings.blocks)
    full = left = 0.0
    tiles, largest = 0, 0
    for section, numbers, depth, blocks in FAMILIES[family]:
        h, w = (_halved(math.ceil(size / LATENT), depth) for size in (height, width))
        plan = make_plan(h, w, settings, depth=depth, time=MIDDLE)
        for number in numbers:
            cost = float(h * w) ** 2 * min(2**depth, 4) * blocks
            full += cost
            layer = Layer("", section, number, depth, 0, None, None)
            chosen = worthwhile(plan) if selector.auto else selector.matches(layer) and not plan.exact
            left += cost * (plan.cost if chosen else 1.0)
            if chosen and h * w > largest:
                tiles, largest = plan.tiles, h * w
    share = left / full
    if settings.exact_every:
        share += (1.0 - share) / settings.exact_every
    return Estimate(tiles, 1.0 - (1.0 - share) * max(0.0, settings.end - settings.start))


def _halved(size: int, depth: int) -> int:
    for _ in range(depth):
        size = (size + 1) // 2
    return size
