"""Softmax attention by torch's fused kernel, where there is one that can be trusted with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

SCORES = 1 << 28  # most similarities at once where no kernel spares them


def full_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """softmax(q k^T scale + mask) v: ``[B, H, N, e]``.

    Args:
        q: ``[B, H, N, d]``. k: ``[B, H, M, d]``. v: ``[B, H, M, e]``. mask: bool or added, broadcast to
            ``[B, H, N, M]``. scale: None for d^-0.5.
    """
    if mask is not None and q.is_cuda:
        # torch 2.1 is wrong in float32 with a mask where these are not contiguous (pytorch/pytorch#112577).
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if spares_similarities(q.device):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    most = max(1, SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    out = []
    for start in range(0, q.shape[2], most):
        part = slice(start, start + most)
        of_part = mask if mask is None or mask.shape[-2] == 1 else mask[..., part, :]
        out.append(F.scaled_dot_product_attention(q[:, :, part], k, v, attn_mask=of_part, scale=scale))
    return torch.cat(out, 2)


def spares_similarities(device: torch.device) -> bool:
    """Whether torch has a kernel there that never holds all similarities: on CPU and NVIDIA's GPUs."""
    return device.type == "cpu" or (device.type == "cuda" and torch.version.hip is None)
