"""What near-sighted attention gains at a picture size, before any picture is made.

The time of a U-Net step is taken to be

    rest * pixels  +  RATE * (multiply-adds of the similarities)

where `rest` counts the weights of everything else. RATE and OVERHEAD were fitted to ``bench speed`` on a processor with
fast bfloat16 units (SD 1.5, 512 and 1024 px), which the estimate meets to within a tenth (tests/test_preview.py). Other
devices differ: where convolutions are slower beside similarities, less is gained (docs/whole-pictures.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lib_attn.techniques.near_sighted.plan import make_plan, worthwhile
from lib_attn.unet.layers import Layer, parse_selector
from lib_attn.unet.profile import Profile

LATENT = 8  # picture pixels per latent pixel
MIDDLE = 0.5  # sampling time that stands for all of it
RATE = 2.6  # time of a multiply-add of the similarities, against one of convolutions and projections
OVERHEAD = 0.05  # what tiles and pooling cost beside the similarities, as a share of those of full attention


@dataclass(frozen=True)
class Estimate:
    """tiles: on the largest map that is treated, 0 when none is. left: share of the similarities that is computed.

    layers: how many layers are treated. speed: how many times as fast a step becomes, on average over all steps.
    """

    tiles: int
    left: float
    layers: int
    speed: float


def estimate(width: int, height: int, settings, profile: Profile, share: float | None = None) -> Estimate:
    """Estimate for a picture of `width` x `height` pixels with `NearSighted` settings.

    Args:
        share: of the steps in which it acts; by default what lies between Start and End.
    """
    selector = parse_selector(settings.blocks)
    tiles = largest = 0

    def left(layer: Layer, h: int, w: int) -> float | None:
        nonlocal tiles, largest
        plan = make_plan(h, w, settings, depth=layer.depth, time=MIDDLE)
        chosen = worthwhile(plan) if selector.auto else selector.matches(layer) and not plan.exact
        if chosen and h * w > largest:
            tiles, largest = plan.tiles, h * w
        return plan.cost if chosen else None

    if share is None:
        share = max(0.0, settings.end - settings.start)
    if settings.exact_every:
        share *= 1.0 - 1.0 / settings.exact_every
    return replace(speed_up(width, height, profile, share, left), tiles=tiles)


def speed_up(
    width: int, height: int, profile: Profile, share: float, left: Callable[[Layer, int, int], float | None]
) -> Estimate:
    """Estimate for any shortcut of self-attention; its `tiles` are 0.

    Args:
        share: of the steps in which it acts.
        left: ``left(layer, h, w)``: share of the similarities that it computes on an h x w map, None for all.
    """
    sizes = [math.ceil(size / LATENT) for size in (height, width)]
    full = computed = treated = 0.0
    layers = 0
    for layer, channels in zip(profile.layers, profile.widths, strict=True):
        h, w = (_halved(size, layer.depth) for size in sizes)
        cost, part = 2.0 * float(h * w) ** 2 * channels, left(layer, h, w)
        full += cost
        computed += cost * (1.0 if part is None else part)
        treated += cost * (part is not None)
        layers += part is not None
    rest = profile.rest * sizes[0] * sizes[1]
    saved = share * (full - computed)
    before, after = rest + RATE * full, rest + RATE * (full - saved + share * OVERHEAD * treated)
    return Estimate(0, 1.0 - saved / full if full else 1.0, layers, before / after if after else 1.0)


def _halved(size: int, depth: int) -> int:
    for _ in range(depth):
        size = (size + 1) // 2
    return size
