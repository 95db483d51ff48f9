"""Attention against clusters: a cluster's mean key and value stand for its n members, with log n on the logit.

- `live_attention`: every query sees the clusters of the whole picture. With one token a cluster that is full attention.
- `tiled_attention`: a tile of queries sees its own window in full, and of every cluster the mean of the members that
  lie outside the window; the windows are those of `lib_attn.techniques.near_sighted`.

log n with mean values is Multipole Attention (arXiv 2506.13059) and Transformer-VQ's counts (arXiv 2309.16354), without
their training. The mean key is exact to first order: what is left is the spread of the keys inside a cluster.
Shapes: B rows, H heads, N tokens of width d, M clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_attn.techniques.dictionary.clusters import means, sums
from lib_attn.techniques.near_sighted.kernel import (
    EXCLUDED,
    biased_attention,
    channel_attention,
    channels_pay,
    tile_groups,
    tile_windows,
    tiles_of,
)
from lib_attn.techniques.near_sighted.plan import Plan

GATHER_BYTES = 64 << 20  # most memory for the keys and values of one call's tiles
GATHER_BYTES_CPU = 16 << 20


@dataclass(frozen=True)
class Keys:
    """Keys and values ``[B, H, m, d]`` that stand for more or less than one token each. bias: ``[B, H, m]``, float32,
    added to their logits."""

    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor

    def __add__(self, other: Keys | None) -> Keys:
        if other is None:
            return self
        return Keys(*(torch.cat([a, b], 2) for a, b in zip(self._parts, other._parts, strict=True)))

    @property
    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.k, self.v, self.bias

    def __getitem__(self, rows: list[int]) -> Keys:
        """Those of some rows."""
        return Keys(*(x[rows] for x in self._parts))

    def repeat(self, times: int) -> Keys:
        """For `times` tiles: ``[times * B, H, m, d]``."""
        return Keys(*(x.repeat(times, *[1] * (x.ndim - 1)) for x in self._parts))


def live_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, labels: torch.Tensor, count: int,
    more: Keys | None = None, scale: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Attention of every query to clusters.

    Args:
        q, k, v: ``[B, N, H, d]``. labels: ``[B, H, N]``, the cluster of each key, below `count`.
        more: keys beside the clusters. scale: factor of the logits, 1/sqrt(d) when None.

    Returns:
        ``[B, N, H, d]``.
    """
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    keys = _clusters(*sums(torch.cat([k, v], -1), labels, count), k) + more
    return attend(q.transpose(1, 2), keys, scale).transpose(1, 2)


def tiled_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, labels: torch.Tensor, count: int, plan: Plan,
    more: Keys | None = None, scale: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Attention of every tile to its own window and to the clusters of what lies outside it.

    Args:
        plan: tiles and windows, without global and local cells. The other arguments as in `live_attention`.
    """
    grid = (plan.h, plan.w)
    both = torch.cat([k, v], -1)
    total, number = sums(both.transpose(1, 2), labels, count)
    q_map, both_map = q.unflatten(1, grid), both.unflatten(1, grid)
    label_map = labels.transpose(1, 2).unflatten(1, grid)[..., None]
    out = torch.empty_like(q)
    out_map = out.unflatten(1, grid)
    tile_bytes = both[:, 0].numel() * 4 * (plan.keys + count)
    for rows, columns in tile_groups(plan, max(1, (GATHER_BYTES if q.is_cuda else GATHER_BYTES_CPU) // tile_bytes)):
        tiles = len(rows) * len(columns)
        queries, near, near_labels = (
            x.flatten(0, 2).flatten(2, 3)
            for x in (
                tiles_of(q_map, rows, columns),
                tile_windows(both_map, plan, rows, columns),
                tile_windows(label_map, plan, rows, columns),
            )
        )
        own_total, own_number = sums(near, near_labels[..., 0], count)
        far = _clusters(total.repeat(tiles, 1, 1, 1) - own_total, number.repeat(tiles, 1, 1) - own_number, k)
        near_k, near_v = near.split([k.shape[-1], v.shape[-1]], -1)
        keys = Keys(near_k, near_v, far.bias.new_zeros(near_k.shape[:3])) + far
        keys = keys if more is None else keys + more.repeat(tiles)
        place = tiles_of(out_map, rows, columns)
        place.copy_(attend(queries, keys, scale).reshape(place.shape))
    return out


def full_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, more: Keys | None = None, scale: float | None = None
) -> torch.Tensor:
    """Attention to every token and to `more`."""
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    keys = Keys(k, v, torch.zeros(k.shape[:3], device=k.device)) + more
    return attend(q.transpose(1, 2), keys, scale).transpose(1, 2)


def _clusters(total: torch.Tensor, number: torch.Tensor, like: torch.Tensor) -> Keys:
    """Mean keys and values from sums of both, ``[b, H, M, dk + dv]``; a cluster without members is left out."""
    mean = means(total, number).to(like.dtype)
    bias = torch.where(number > 0.5, number.clamp(min=1).log(), EXCLUDED)
    return Keys(*mean.split([like.shape[-1], mean.shape[-1] - like.shape[-1]], -1), bias)


def attend(q: torch.Tensor, keys: Keys, scale: float | None = None) -> torch.Tensor:
    """Softmax attention of ``[B, H, n, d]`` queries to `keys`."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    compute = channel_attention if channels_pay(q, keys.v) else biased_attention
    return compute(q, keys.k, keys.v, keys.bias, scale)
