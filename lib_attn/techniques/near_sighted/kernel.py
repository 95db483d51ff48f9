"""Near-sighted attention: every tile of queries sees its own surroundings in full and the whole picture pooled.

A tile of queries gets two sets of keys in one softmax: the tokens of a window around it, and one key for each square
cell of the picture. A cell's key stands for the n tokens it has *outside* the window, so log n is added to its logit
(Bolya et al., "Token Merging", eq. on proportional attention, arXiv 2210.09461); a cell wholly inside the window is
left out. With keys and values constant over each cell this equals full attention exactly.

One token of each cell gives the key. Which one changes from step to step and layer to layer: always the same one
(ToDo, the nodes named below) moves every cell's content by up to half a cell the same way in each step, which adds
up over sampling, while moving ones err in all directions and average out.

Ideas from HyperTile (tfernd/HyperTile), the note and nodes of MitoshiroPJ/comfyui_slothful_attention, Swin
Transformer (arXiv 2103.14030: moving window borders), ToDo (arXiv 2402.13573: subsampled keys and values, reached
here with tile 0). What differs: windows are clamped into the picture instead of padded or wrapped, pooled keys are
weighted, sampled tokens move, and any tile divides any picture.

Shapes: B rows, N = h*w tokens in row-major order, H heads of width d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F

from lib_attn.techniques.near_sighted.plan import Plan, tile_borders
from lib_attn.unet.fused import full_attention

GATHER_BYTES = 64 << 20  # most memory for the keys and values gathered for one call
GATHER_BYTES_CPU = 16 << 20  # there, what stays near the cores is faster, and calls are cheap
LANES = 8  # channels that carry a bias; kernels want widths that are multiples of 8
EXCLUDED = -1e4  # logit of a key that is left out; finite, so that half precision and 0 * x stay defined


def near_sighted_attention(
    q,
    k,
    v,
    plan: Plan,
    *,
    scale=None,
    strength=0.0,
    average=False,
    mode="average",
    k_blend=0.0,
    v_blend=0.0,
    channels=None,
):
    """Attention of a row-major h x w map with local windows and pooled global keys.

    Args:
        q, k, v: ``[B, N, H, d]`` with N = plan.h * plan.w; v may have another d.
        scale: factor of the logits, 1/sqrt(d) when None.
        strength: added to the logits of the global keys; 0 is unbiased.
        average: global keys are averages over their cell instead of the token that `Plan.sample` names.
        mode, k_blend, v_blend: pooling inside the window, see `pool_map`.
        channels: whether the bias rides in extra channels of q and k instead of a mask; None: where that is faster,
            see `channels_pay`.

    Returns:
        ``[B, N, H, dv]``.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    channels = channels_pay(q, v) if channels is None else channels
    far = _global_keys(k, v, plan, average) if plan.pool else None
    if not plan.tile:
        if far is None:
            raise ValueError("near-sighted attention needs tiles or global keys")
        bias = far.log_count if plan.h % plan.pool or plan.w % plan.pool else None
        bias = None if bias is None else bias.to(q.device).expand(q.shape[0], -1)
        attend = channel_attention if channels and bias is not None else biased_attention
        return attend(q.transpose(1, 2), far.k, far.v, bias, scale).transpose(1, 2)
    near_k = pool_map(k, plan.h, plan.w, plan.local, mode, k_blend)
    near_v = pool_map(v, plan.h, plan.w, plan.local, mode, v_blend)
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    maps = [x.unflatten(1, (plan.h, plan.w)) for x in (q, out)]
    cells = [math.ceil(size / side) for size, side in zip((plan.h, plan.w), plan.local, strict=True)]
    near = [x.unflatten(1, cells) for x in (near_k, near_v)]
    lanes = LANES if channels and (far is not None or _uneven(plan)) else 0
    tile_bytes = (k[:, 0].numel() + v[:, 0].numel()) * k.element_size() * plan.keys
    most = max(1, (GATHER_BYTES if q.is_cuda else GATHER_BYTES_CPU) // tile_bytes)
    groups = list(tile_groups(plan, most))
    room, learns = None, torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    for rows, columns in groups:
        if room is None or learns:  # a backward pass needs what would be overwritten
            room = _Room(max(len(r) * len(c) for r, c in groups), near, far, plan.keys, lanes)
        _attend_tiles(maps, near, room, plan, rows, columns, strength, far is not None, scale)
    return out


class _Room:
    """Memory for the keys and values of one batch of tiles. The global ones are the same for all and written once."""

    def __init__(self, tiles: int, near, far, keys: int, lanes: int):
        self.lanes = lanes
        self.own = keys - (far.k.shape[2] if far is not None else 0)
        self.k, self.v = (x.new_empty(tiles, x.shape[0], x.shape[3], keys, x.shape[4] + lanes) for x in near)
        for x, pooled in ((self.k, far and far.k), (self.v, far and far.v)):
            width = x.shape[-1] - lanes
            if pooled is not None:
                x[..., self.own :, :width] = pooled
            if lanes:
                x[..., width:] = 0

    def fill(self, windows) -> None:
        """Write ``[ny, nx, B, H, wy, wx, d]`` keys and values of as many tiles."""
        for x, window in zip((self.k, self.v), windows, strict=True):
            ny, nx, _, _, wy, wx, width = window.shape
            own = x[: ny * nx].unflatten(0, (ny, nx))[..., : self.own, :width]
            own.unflatten(-2, (wy, wx)).copy_(window)


def _attend_tiles(maps, near, room, plan: Plan, rows, columns, strength, has_global, scale) -> None:
    """One batched call for tiles of equal size: `rows` and `columns` are their borders along each axis."""
    q_map, out_map = maps
    b, heads, d = q_map.shape[0], q_map.shape[3], q_map.shape[4]
    th, tw, ny, nx = rows[0][1] - rows[0][0], columns[0][1] - columns[0][0], len(rows), len(columns)

    room.fill([tile_windows(x, plan, rows, columns) for x in near])
    bias = _bias(replace(plan, sample=None), tuple(rows), tuple(columns), strength, has_global)
    keys, values = room.k[: ny * nx], room.v[: ny * nx]
    if bias is not None:
        bias = bias.to(q_map.device, non_blocking=True)
    if bias is not None and room.lanes:
        q = q_map.new_empty(ny, nx, b, heads, th, tw, d + room.lanes)
        q[..., :d] = tiles_of(q_map, rows, columns)
        q[..., d:] = _constant_lanes(q)
        _write_lanes(keys, bias[:, None, None, :], scale)
        bias = None
    else:
        q = tiles_of(q_map, rows, columns)
        if bias is not None:
            bias = bias[:, None].expand(-1, b, -1).flatten(0, 1)
    q = q.reshape(-1, heads, th * tw, q.shape[-1])
    out = biased_attention(q, keys.flatten(0, 1), values.flatten(0, 1), bias, scale)
    out = out[..., : out_map.shape[-1]].reshape(ny, nx, b, heads, th, tw, -1)
    tiles_of(out_map, rows, columns).copy_(out)


def tiles_of(x, rows, columns):
    """``[B, h, w, H, d]`` -> ``[ny, nx, B, H, th, tw, d]``: a view of the tiles with these borders, all of one size."""
    area = x[:, rows[0][0] : rows[-1][1], columns[0][0] : columns[-1][1]]
    sizes = [(len(borders), borders[0][1] - borders[0][0]) for borders in (rows, columns)]
    return area.unflatten(2, sizes[1]).unflatten(1, sizes[0]).permute(1, 3, 0, 5, 2, 4, 6)


def tile_windows(near, plan: Plan, rows, columns):
    """``[B, h, w, H, d]`` -> ``[ny, nx, B, H, wy, wx, d]``: the key window of each tile, without a copy where the
    windows lie evenly (all but those that the picture's border holds back)."""
    for axis, borders in ((1, rows), (2, columns)):
        starts, count = _starts(plan, axis - 1, tuple(borders))
        step = starts[1] - starts[0] if len(starts) > 1 else 1
        if step > 0 and all(b - a == step for a, b in zip(starts, starts[1:], strict=False)):
            area = near.narrow(axis, starts[0], starts[-1] - starts[0] + count)
            near = area.unfold(axis, count, step)
        else:
            index = torch.tensor(starts)[:, None] + torch.arange(count)
            near = near.index_select(axis, index.flatten().to(near.device)).unflatten(axis, index.shape)
            near = near.movedim(axis + 1, -1)
    return near.permute(1, 2, 0, 3, 5, 6, 4)


def channels_pay(q, v) -> bool:
    """Whether a bias is cheaper in extra channels than as a mask.

    On CUDA the flash kernel takes no mask, and no value width of its own; it works in widths of 32 or 64, so where
    the head leaves lanes of its last bucket free (d = 40 runs as 64), the channels cost nothing.
    """
    d = q.shape[-1]
    return q.is_cuda and v.shape[-1] == d and d % 64 != 0 and (d + LANES - 1) // 64 == d // 64


def biased_attention(q, k, v, bias, scale):
    """Softmax attention with one additive bias per key.

    Args:
        q, k, v: ``[b, H, n, d]``. bias: ``[b, keys]``, ``[b, H, keys]`` or None, float32.
    """
    if bias is not None:
        bias = _by_head(bias).to(q.dtype)[:, :, None]
    return full_attention(q, k, v, bias, scale)


def channel_attention(q, k, v, bias, scale):
    """`biased_attention` without a mask: q gets constant channels, k the bias in two parts, v zeros."""
    q = torch.cat([q, _constant_lanes(q).expand(*q.shape[:3], LANES)], -1)
    k = F.pad(k, (0, LANES))
    _write_lanes(k, _by_head(bias), scale)
    width = v.shape[-1]
    v = F.pad(v, (0, q.shape[-1] - width))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[..., :width]


def _by_head(bias):
    return bias if bias.ndim == 3 else bias[:, None]


def _constant_lanes(q):
    lanes = q.new_zeros(LANES)
    lanes[:2] = 2.0
    return lanes


def _write_lanes(k, bias, scale) -> None:
    """Put a bias ``[..., keys]`` into the last lanes of keys ``[..., keys, d + LANES]``; its rounding error goes into
    a lane of its own, so that half precision carries it as well as a mask does."""
    high = (bias / scale * 0.5).to(k.dtype)
    k[..., -LANES] = high
    k[..., -LANES + 1] = (bias / scale * 0.5 - high.float()).to(k.dtype)


def pool_map(x, h: int, w: int, cell: tuple[int, int], mode: str = "average", blend: float = 0.0, sample=None):
    """Pool a map of tokens over cells: ``[B, h*w, H, d]`` -> ``[B, ceil(h/ch) * ceil(w/cw), H, d]``.

    blend 0 takes one token of each cell (`sample`, None: the middle one), 1 its average or maximum, between: a mix.
    Cells at the border may be smaller; they are pooled over the tokens they have.
    """
    if cell == (1, 1):
        return x
    b, n, heads, d = x.shape
    one = x.view(b, h, w, heads, d)
    sample = sample or (None, None)
    ys, xs = (_taken(*axis).to(x.device) for axis in zip((h, w), cell, sample, strict=True))
    one = one.index_select(1, ys).index_select(2, xs).reshape(b, -1, heads, d)
    if not blend:
        return one
    flat = x.reshape(b, h, w, heads * d).permute(0, 3, 1, 2)
    if mode == "max":
        pooled = F.max_pool2d(flat, cell, cell, ceil_mode=True)
    else:
        pooled = F.avg_pool2d(flat, cell, cell, ceil_mode=True, count_include_pad=False)
    pooled = pooled.permute(0, 2, 3, 1).reshape(b, -1, heads, d)
    return pooled if blend == 1 else torch.lerp(one, pooled, blend)


@dataclass(frozen=True)
class _Global:
    """Pooled keys and values ``[B, H, cells, d]``, and the log of the tokens that each stands for."""

    k: torch.Tensor
    v: torch.Tensor
    log_count: torch.Tensor


def _global_keys(k, v, plan: Plan, average: bool) -> _Global:
    cell = (plan.pool, plan.pool)
    blend = 1.0 if average else 0.0
    counts = _cell_counts(plan.h, plan.pool)[:, None] * _cell_counts(plan.w, plan.pool)
    pooled = [pool_map(x, plan.h, plan.w, cell, "average", blend, plan.sample) for x in (k, v)]
    return _Global(*(x.transpose(1, 2).contiguous() for x in pooled), counts.flatten().log())


def _taken(size: int, side: int, sample: int | None) -> torch.Tensor:
    """The token of each cell along one axis: number `sample`, or the last where it has fewer; None: the middle one."""
    starts = torch.arange(0, size, side)
    last = torch.clamp(size - starts, max=side) - 1
    return starts + (last // 2 if sample is None else torch.clamp(last, max=sample))


def _cell_counts(size: int, side: int) -> torch.Tensor:
    starts = torch.arange(0, size, side)
    return torch.clamp(size - starts, max=side).float()


def tile_groups(plan: Plan, most: int):
    """Yield (row borders, column borders) of tiles of one size, at most about `most` tiles each.

    Border tiles keep their true, smaller size instead of being padded: the work is that of the picture, not more.
    """
    for rows in _runs(tile_borders(plan.h, plan.tile, plan.offset[0])):
        for columns in _runs(tile_borders(plan.w, plan.tile, plan.offset[1])):
            across = min(len(columns), most)
            down = max(1, most // across)
            for y in range(0, len(rows), down):
                for x in range(0, len(columns), across):
                    yield rows[y : y + down], columns[x : x + across]


def _runs(intervals: list[tuple[int, int]]):
    """Split a list of intervals into runs of equal length."""
    run = [intervals[0]]
    for item in intervals[1:]:
        if item[1] - item[0] != run[0][1] - run[0][0]:
            yield run
            run = []
        run.append(item)
    yield run


def _starts(plan: Plan, axis: int, borders: tuple) -> tuple[list[int], int]:
    """Where the key window of each tile starts along one axis, in local cells, and how many cells it has."""
    size, cell, count = (plan.h, plan.w)[axis], plan.local[axis], plan.window_size[axis]
    last = math.ceil(size / cell) - count
    return [min(max(math.floor(((a + b) / 2 - plan.window / 2) / cell), 0), last) for a, b in borders], count


def _uneven(plan: Plan) -> bool:
    """Whether some local cells are cut by the border, so that they count less."""
    return bool(plan.h % plan.local[0] or plan.w % plan.local[1])


@lru_cache(maxsize=256)
def _bias(plan: Plan, rows: tuple, columns: tuple, strength: float, has_global: bool):
    """The bias of all keys of each tile, ``[tiles, keys]``, or None where all count alike."""
    if not has_global and not _uneven(plan):
        return None
    axes = []
    for axis, borders in enumerate((rows, columns)):
        size, cell, pool = (plan.h, plan.w)[axis], plan.local[axis], plan.pool or (plan.h, plan.w)[axis]
        starts, count = _starts(plan, axis, borders)
        start = torch.tensor(starts)
        own_counts = _cell_counts(size, cell)[start[:, None] + torch.arange(count)]
        # How many tokens of each global cell lie outside the window, along this axis only.
        edges = torch.arange(0, size, pool)
        low, high = start * cell, torch.clamp((start + count) * cell, max=size)
        cell_end = torch.clamp(edges + pool, max=size)
        inside = (torch.minimum(high[:, None], cell_end) - torch.maximum(low[:, None], edges)).clamp(min=0).float()
        axes.append((own_counts, (cell_end - edges).float(), inside))
    (ny, cy, oy), (nx, cx, ox) = axes
    own = (ny[:, None, :, None] * nx[None, :, None, :]).flatten(2).flatten(0, 1).log()
    if not has_global:
        return own
    left = (cy[:, None] * cx)[None, None] - oy[:, None, :, None] * ox[None, :, None, :]
    left = left.flatten(2).flatten(0, 1)
    far = torch.where(left > 0, left.clamp(min=1).log() + strength, torch.tensor(EXCLUDED))
    return torch.cat([own, far], 1)
