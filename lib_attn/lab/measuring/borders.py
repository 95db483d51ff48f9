"""How visible the borders of near-sighted attention's tiles are: jumps across them against jumps inside."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.shared.errors import LabError


@dataclass(frozen=True)
class BorderSpec:
    """What is drawn on which model, with which variants of near-sighted attention."""

    model: ModelSpec
    requests: tuple[Request, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class BorderRow:
    """Mean absolute jump between neighbours across borders and inside tiles; their ratio is 1 where none is seen."""

    across: float
    inside: float
    images: int = 1

    @property
    def ratio(self) -> float:
        return self.across / self.inside if self.inside else math.nan


def border_jumps(difference: torch.Tensor, tile: int) -> BorderRow:
    """Jumps of one picture.

    Args:
        difference: ``[..., h, w]``, best the difference to full attention, where the picture itself has gone.
        tile: side of a tile; the first border lies at `tile`.
    """
    across, inside = [], []
    for axis in (-2, -1):
        size = difference.shape[axis]
        jumps = difference.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
        # Jump i lies between tokens i and i + 1.
        border = torch.zeros(size - 1, dtype=torch.bool)
        border[[cut - 1 for cut in range(tile, size, tile)]] = True
        across.append(jumps[border])
        inside.append(jumps[~border])
    return BorderRow(float(torch.cat(across).mean()), float(torch.cat(inside).mean()))


def measure(model: LabModel, variant: Variant, requests: Iterable[Request]) -> BorderRow:
    """`border_jumps` of the final latents' difference to full attention, averaged over images, for fixed borders.

    Borders are looked for where they lie without shift, so a moving border shows as a ratio near 1.

    Raises:
        LabError: when a picture is no larger than a tile.
    """
    near = variant.settings["near_sighted"]
    found = []
    for request in requests:
        for one in (request.one(index) for index in range(len(request.seeds))):
            difference = sample(model, one, variant) - sample(model, one, FULL)
            longer = max(one.height, one.width) // 8
            tile = math.ceil(longer / near.tile_count) if near.tile_count else near.tile
            if not 0 < tile < longer:
                raise LabError(f"{variant.label} has no tile border at {one.width}x{one.height}, so there is no seam.")
            found.append(border_jumps(difference, tile))
    across, inside = (statistics.fmean(getattr(f, key) for f in found) for key in ("across", "inside"))
    return BorderRow(across, inside, len(found))
