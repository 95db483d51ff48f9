"""Clusters of a picture's keys: which of M centres each key belongs to, and what the members of a cluster are like.

Lloyd's k-means in two halves, `assign` and `sums`. Every head clusters its own keys: measured on the embedded model,
attention's output is nearer to the exact one by 5 to 40 % than where all heads share clusters of the layer's input
(docs/dictionary.md). Centres of the step before are a start for the next one, so that one iteration is enough
(SVG2, arXiv 2505.18875).

Shapes: B rows, H heads, N tokens of width d, M clusters.
"""

from __future__ import annotations

import torch

SCORES = 16 << 20  # most similarities of keys and centres at once
SCORES_CPU = 1 << 18  # there, what stays near the cores takes half the time


def strided(x: torch.Tensor, count: int) -> torch.Tensor:
    """`count` tokens of ``[B, H, N, d]`` spread evenly over the map, to start clusters from."""
    index = torch.linspace(0, x.shape[2] - 1, count, device=x.device).round().long()
    return x[:, :, index]


def assign(x: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Index of the nearest of ``[B, H, M, d]`` centres for each of ``[B, H, N, d]``: int64 ``[B, H, N]``."""
    b, heads, n, _ = x.shape
    x, centres = x.flatten(0, 1), centres.flatten(0, 1).float()
    # |x - c|^2 but for what is the same for all c; about the centres' mean the terms are small enough for bfloat16.
    mean = centres.mean(1, keepdim=True)
    centres = centres - mean
    offset = -(centres * (mean + 0.5 * centres)).sum(-1)
    centres, offset = centres.transpose(1, 2).to(x.dtype), offset[:, None].to(x.dtype)
    most = max(1, (SCORES if x.is_cuda else SCORES_CPU) // centres.shape[2])
    tokens, groups = min(n, most), max(1, most // n)
    out = x.new_empty(len(x), n, dtype=torch.long)
    for g in range(0, len(x), groups):
        for t in range(0, n, tokens):
            part = slice(g, g + groups), slice(t, t + tokens)
            out[part] = torch.baddbmm(offset[part[0]], x[part], centres[part[0]]).max(-1).indices
    return out.view(b, heads, n)


def sums(x: torch.Tensor, labels: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and number of the members of each cluster, in float32.

    Args:
        x: ``[B, H, N, d]``. labels: ``[B, H, N]`` with values below `count`.

    Returns:
        ``[B, H, count, d]`` and ``[B, H, count]``.
    """
    b, heads, n, d = x.shape
    flat = (labels.reshape(b * heads, n) + count * torch.arange(b * heads, device=x.device)[:, None]).flatten()
    numbers = torch.bincount(flat, minlength=b * heads * count)
    # index_add_ adds on CUDA in an order that changes from run to run, and so would the picture.
    add = _add_in_order if x.is_cuda else _add
    return add(x.reshape(-1, d), flat, numbers).view(b, heads, count, d), numbers.view(b, heads, count).float()


def _add(x: torch.Tensor, labels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(numbers), x.shape[1], device=x.device).index_add_(0, labels, x.float())


def _add_in_order(x: torch.Tensor, labels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    ordered = x[labels.argsort(stable=True)].float()
    return torch.segment_reduce(ordered, "sum", lengths=numbers, unsafe=True)


def means(total: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Mean of the members from what `sums` gives; 0 where a cluster has none."""
    return total / number.clamp(min=1)[..., None]


def lloyd(x: torch.Tensor, centres: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K-means from `centres` on: the last assignment ``[B, H, N]``, and the centres it was made with ``[B, H, M, d]``.

    A centre without members stays where it was.
    """
    labels = assign(x, centres)
    for _ in range(iterations - 1):
        total, number = sums(x, labels, centres.shape[2])
        centres = torch.where(number[..., None] > 0, means(total, number).to(x.dtype), centres)
        labels = assign(x, centres)
    return labels, centres
