"""What the user can set for near-sighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.schema import PIXELS, Technique, param


@dataclass(frozen=True)
class NearSighted(Technique):
    """Self-attention that sees its own tile in full and the rest of the picture pooled."""

    name: ClassVar[str] = "near_sighted"
    label: ClassVar[str] = "Near-sighted"
    blocks_help: ClassVar[str] = "Where it acts: auto (each level where it saves time at this size), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
    hires_in_sight: ClassVar[bool] = True
    by_size: ClassVar[bool] = True
    about: ClassVar[str] = (
        "Faster large pictures: each tile of the picture looks at itself in full and at the rest pooled. "
        "Little to gain below about 768 px, and on SDXL below about 1536 px."
    )

    enabled: bool = param(False, "Near-sighted", "Switch near-sighted attention on.")
    tile: int = param(16, "Tile size", "Side of a tile. Larger is closer to full attention and slower. 1 to 8 are the same: 8 is the least. 0: no tiles, only the pooled picture (with subsample: ToDo).", 0, 256, unit="8 px", reads=PIXELS)
    tile_count: int = param(0, "Tile count", "Instead of a tile size: how many tiles along the longer side. 0: use the tile size.", 0, 64, advanced=True)
    halo: int = param(0, "Halo", "How far the keys of a tile reach beyond its border.", 0, 64, unit="8 px", reads=PIXELS, advanced=True)
    shift: float = param(0.5, "Shift", "How far tile borders wander from step to step and layer to layer, so that no seam stays in one place. 0: fixed borders.", 0.0, 1.0, 0.05, unit="share of a tile", reads=(100.0, "% of a tile"), advanced=True)
    pool: int = param(4, "Global pooling", "How coarsely a tile sees the rest of the picture: side of the square that one point stands for. 1: every point (exact), larger: faster. 0: tiles are blind to the rest.", 0, 32, unit="8 px", reads=PIXELS)
    global_keys: str = param("moving", "Global keys", "What stands for a square: one token of it, another one in each step (moving) or always the middle one (subsample), or the average of all.", choices=("moving", "subsample", "average"), advanced=True)
    global_strength: float = param(0.0, "Global strength", "Added to the logit of the global keys. 0 weighs a key by the number of tokens it stands for, which is unbiased; below, tiles grow more independent.", -8.0, 8.0, 0.1, advanced=True)
    exact_every: int = param(0, "Exact step every", "Every n-th step is computed in full, and the difference it makes is added in the steps between. Needs memory. 0: never.", 0, 50, unit="steps", reads=(1.0, "steps"))
    residual_memory: int = param(2048, "Residual memory", "Most memory that the stored differences of the exact steps may take; layers beyond it do without.", 0, 65536, 64, unit="MiB", reads=(1.0, "MiB"), advanced=True)
    local_pool: int = param(1, "Local pooling", "Pools the keys inside the tile too: side of a square (2D) or length of a run (1D). 1: off.", 1, 8, advanced=True)
    local_shape: str = param("2D", "Local pooling shape", "Squares, or runs along a row.", choices=("2D", "1D"), advanced=True)
    local_mode: str = param("average", "Local pooling mode", "What the blends below mix in.", choices=("average", "max"), advanced=True)
    local_k_blend: float = param(0.0, "Local K blend", "0: a pooled key is one token of its square; 1: the pooled value.", 0.0, 1.0, 0.05, advanced=True)
    local_v_blend: float = param(0.0, "Local V blend", "The same for the values.", 0.0, 1.0, 0.05, advanced=True)
    tile_peak: int = param(0, "Peak tile size", "Tile size at the peak time; between, it moves from the base tile size by the time curve. 0: as the base.", 0, 256, unit="8 px", reads=PIXELS, advanced=True)
    pool_peak: int = param(0, "Peak global pooling", "Global pooling at the peak time. 0: as the base.", 0, 32, unit="8 px", reads=PIXELS, advanced=True)
    peak_time: float = param(0.4, "Peak time", "Where the time curve peaks: 0 is pure noise, 1 the finished picture.", 0.0, 1.0, 0.05, advanced=True)
    time_decay: float = param(2.0, "Time decay", "How fast the time curve falls off around the peak: exp(-((t - peak) decay)^2). 0: always at the peak.", 0.0, 20.0, 0.1, advanced=True)
    depth_scaling: float = param(1.0, "Depth scaling", "1: tile and pooling cover the same part of the picture at every level of the U-Net; 0: the same number of tokens.", 0.0, 2.0, 0.1, advanced=True)

    @property
    def cycle(self) -> int:
        """Every so many steps one is computed in full."""
        return max(1, self.exact_every)
