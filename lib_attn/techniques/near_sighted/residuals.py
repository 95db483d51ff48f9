"""What a shortcut of attention is off by, measured in exact steps and added in the steps between."""

from __future__ import annotations

import torch

from lib_attn.techniques.budget import Budget


class Residuals:
    """Keeps ``exact - near-sighted`` of the last exact step for every row of every layer.

    The idea is DiTFastAttn's (arXiv 2406.08552), there for windows along the raster line of a transformer.
    Kept as bytes with one scale for each token, which moves a difference by at most 1/254 of the token's largest
    entry; what would go beyond `limit` bytes is not kept.
    """

    def __init__(self, limit: int):
        self._budget, self._kept = Budget(limit), {}

    def full(self, layer: int) -> bool:
        """Whether this layer found no room and so goes without."""
        return self._budget.closed(layer)

    def store(self, layer: int, rows, step: int, difference) -> bool:
        """Keep ``[B, N, C]`` row by row; returns False when there is no room for this layer."""
        size = difference[0].numel() + 4 * difference[0, :, 0].numel()
        new = sum((layer, row) not in self._kept for row in rows)
        if not self._budget.take(layer, new * size):
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] != layer}
            return False
        for row, part in zip(rows, difference, strict=True):
            scale = part.abs().amax(-1, keepdim=True).float().clamp(min=1e-30) / 127
            self._kept[layer, row] = (step, ((part / scale).round().to(torch.int8), scale))
        return True

    def get(self, layer: int, rows, oldest: int, dtype=torch.float32):
        """``[B, N, C]`` for these rows, or None when one is missing or was stored before step `oldest`."""
        found = [self._kept.get((layer, row)) for row in rows]
        if any(item is None or item[0] < oldest for item in found):
            return None
        out = torch.empty(len(found), *found[0][1][0].shape, dtype=dtype, device=found[0][1][0].device)
        for row, (_, (part, scale)) in zip(out, found, strict=True):
            torch.mul(part, scale, out=row)
        return out
