"""Geometry of near-sighted attention: tiles, key windows, global cells, and when treating a map is worth it.

No tensors here, so that panel and page can ask what a setting leaves before any picture is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_TILE = 8  # tokens; smaller tiles starve the matmul without saving keys
WORTHWHILE = 0.6  # share of the keys above which a level is left exact: gathering costs more than it saves
LEAST_TOKENS = 2048  # smaller maps hold about 1 % of the attention at 1024 px, and change the picture most


@dataclass(frozen=True)
class Plan:
    """Geometry of one attention call on an h x w map, in tokens.

    tile: side of a query tile, 0 for none. window: side of the key window before clamping. offset: where the first
    tile border lies, (y, x), below `tile`. pool: side of a global cell, 0 for none. local: height and width of a
    local cell. sample: which token of a global cell stands for it, (y, x) below `pool`; None: the middle one.
    """

    h: int
    w: int
    tile: int
    window: int
    pool: int
    local: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)
    sample: tuple[int, int] | None = None

    @property
    def window_size(self) -> tuple[int, int]:
        """Height and width of every key window in local cells."""
        return (window_cells(self.h, self.window, self.local[0]), window_cells(self.w, self.window, self.local[1]))

    @property
    def keys(self) -> int:
        """Keys that each query sees."""
        own = self.window_size[0] * self.window_size[1] if self.tile else 0
        return own + (math.ceil(self.h / self.pool) * math.ceil(self.w / self.pool) if self.pool else 0)

    @property
    def cost(self) -> float:
        """Share of the similarity matrix that is left, 1 for full attention."""
        return self.keys / (self.h * self.w)

    @property
    def tiles(self) -> int:
        """Number of query tiles, the partial ones at the border included."""
        if not self.tile:
            return 1
        axes = zip((self.h, self.w), self.offset, strict=True)
        down, across = (tile_borders(size, self.tile, offset) for size, offset in axes)
        return len(down) * len(across)

    @property
    def exact(self) -> bool:
        """True when the result is that of full attention, so that it need not be computed this way at all."""
        if not self.tile:
            return self.pool <= 1
        covers = self.window >= max(self.h, self.w) and self.local == (1, 1)
        return covers or (self.pool == 1 and self.local == (1, 1))


def time_curve(base: float, peak: float, time: float, peak_time: float, decay: float) -> float:
    """Move from `base` to `peak` and back over the sampling time (0 noise … 1 picture); `peak` 0 means `base`.

    The bell ``exp(-((time - peak_time) * decay)^2)`` is that of comfyui_slothful_attention.
    """
    if not peak:
        return base
    return base + (peak - base) * math.exp(-(((time - peak_time) * decay) ** 2))


def make_plan(
    h: int, w: int, settings, *, depth: int = 0, time: float = 0.0, shift: tuple[float, float] = (0.0, 0.0),
    sample: tuple[float, float] | None = None,
):  # fmt: skip
    """Geometry for an h x w map at U-Net depth `depth` (0: full latent), at sampling time 0 … 1.

    Args:
        settings: a `lib_attn.settings.NearSighted`.
        shift: point in the unit square that says where in its range the tile border lies, see `shift_point`.
        sample: point in the unit square that says which token of a global cell stands for it; None: the middle one.
    """
    scale = 2.0 ** (-depth * settings.depth_scaling)
    if settings.tile_count:
        tile = math.ceil(max(h, w) / settings.tile_count)
    else:
        wanted = time_curve(settings.tile, settings.tile_peak, time, settings.peak_time, settings.time_decay)
        tile = max(MIN_TILE, round(wanted * scale)) if settings.tile else 0
    wanted = time_curve(settings.pool, settings.pool_peak, time, settings.peak_time, settings.time_decay)
    pool = max(1, round(wanted * scale)) if settings.pool else 0
    local = settings.local_pool
    reach = settings.shift * tile if tile < max(h, w) else 0
    return Plan(
        h, w, tile,
        window=tile + 2 * round(settings.halo * scale) if tile else 0,
        pool=pool,
        local=(1, local) if settings.local_shape == "1D" else (local, local),
        offset=(int(shift[0] * reach), int(shift[1] * reach)),
        sample=None if sample is None else (int(sample[0] * pool), int(sample[1] * pool)),
    )  # fmt: skip


def worthwhile(plan: Plan) -> bool:
    """Whether this level saves enough to be treated when the user leaves the choice to us."""
    return not plan.exact and plan.h * plan.w >= LEAST_TOKENS and plan.cost <= WORTHWHILE


def shift_point(step: int, layer: int, seed: int) -> tuple[float, float]:
    """Deterministic point in the unit square; consecutive steps and layers fill it evenly.

    Over steps it is the R2 sequence of M. Roberts ("The unreasonable effectiveness of quasirandom sequences", 2018),
    started at a place that depends on the layer and on the image's seed.
    """
    plastic = 1.32471795724474602596
    y = (seed * 2654435761) % 2**32 / 2**32 + step / plastic + layer * math.sqrt(2)
    x = (seed * 2246822519) % 2**32 / 2**32 + step / plastic**2 + layer * math.sqrt(3)
    return y % 1.0, x % 1.0


def window_cells(size: int, window: int, cell: int) -> int:
    """Local cells that a key window covers along one axis of `size` tokens."""
    cells = math.ceil(size / cell)
    # A window that does not start on a cell border touches one cell more.
    return min(cells, math.ceil(window / cell) + (1 if cell > 1 else 0))


def tile_borders(size: int, tile: int, offset: int) -> list[tuple[int, int]]:
    """Start and end of each tile along one axis; those at the border may be smaller."""
    cuts = [0, *range(offset or tile, size, tile), size]
    return list(zip(cuts[:-1], cuts[1:], strict=True))
