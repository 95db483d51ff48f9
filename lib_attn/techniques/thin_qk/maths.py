"""Maps of queries and keys to fewer channels, and what they lose. One head is a matrix; H heads come as a batch.

With queries q and keys k of a head as rows, the logits are q k^T. Two maps P_q and P_k ``[d, r]`` give q P_q (k P_k)^T.
For second moments S_q = mean q^T q and S_k, all pairs of a query and a key taken together, the mean squared error is
tr(E^T S_q E S_k) with E = 1 - P_q P_k^T, and it is least for the SVD of S_q^1/2 S_k^1/2 = U s V^T with

    P_q = S_k^1/2 V_r s_r^-1/2,    P_k = S_q^1/2 U_r s_r^-1/2

(KQ-SVD, arXiv 2512.05916, there for keys and queries themselves). Columns come in the order of what they carry, so that
the first r of them are the maps for r. Values and the output projection W are the same case: v P_v and P_o^T W, with
the moments of the attention's result for S_q and W W^T for S_k.
"""

from __future__ import annotations

import torch

from lib_attn.unet.precision import without_autocast

FLOOR = 1e-6  # of the largest singular value; what lies below carries nothing that rounding would not drown


def root(moment: torch.Tensor) -> torch.Tensor:
    """Square root of positive semidefinite ``[…, d, d]``."""
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp_min(0.0).sqrt()[..., None, :]) @ vectors.mT


def pair(q_moment: torch.Tensor, k_moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best two maps of second moments ``[H, d, d]``: ``[H, d, d]`` each, the weightiest column first."""
    q_root, k_root = root(q_moment.double()), root(k_moment.double())
    u, s, vh = torch.linalg.svd(q_root @ k_root)
    scale = torch.where(s > FLOOR * s[..., :1], s, torch.inf).rsqrt()[..., None, :]
    return (k_root @ vh.mT * scale).float(), (q_root @ u * scale).float()


def shared(q_moment: torch.Tensor, k_moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One orthogonal map for both: principal directions of queries and keys together, each counted alike."""
    total = sum(m.double() / m.double().diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(1e-30)
                for m in (q_moment, k_moment))  # fmt: skip
    both = torch.linalg.eigh(total).eigenvectors.flip(-1).float()
    return both, both


MAPS = {"pair": pair, "shared": shared}


def kept(maps: tuple[torch.Tensor, torch.Tensor], q_moment: torch.Tensor, k_moment: torch.Tensor) -> torch.Tensor:
    """Share of the logits' energy that the first r columns keep, ``[H, d]`` for r = 1 … d.

    The maps' product has to be 1 where all columns are taken (`pair`, `shared`). Then E is the sum over the columns
    left out, and the error a sum over pairs of them.
    """
    q_part, k_part = (m.double().mT @ s.double() @ m.double() for m, s in zip(maps, (q_moment, k_moment), strict=True))
    pairs = q_part * k_part.mT
    # lost[r]: the sum over pairs of columns r, r + 1, …
    lost = pairs.flip(-1, -2).cumsum(-1).cumsum(-2).diagonal(dim1=-2, dim2=-1).flip(-1)
    lost = torch.cat([lost[..., 1:], torch.zeros_like(lost[..., :1])], -1)
    return (1.0 - lost / pairs.sum((-2, -1))[..., None].clamp_min(1e-30)).float()


def lost(maps: tuple[torch.Tensor, torch.Tensor], q: torch.Tensor, k: torch.Tensor) -> float:
    """Share of the logits' energy that maps ``[H, d, r]`` lose for queries and keys ``[B, n, H, d]``, of all heads.

    What the keys of a row have in common counts for nothing, since it drops out of the softmax.
    """
    k = k - k.mean(1, keepdim=True)
    q_moment, k_moment = (torch.einsum("bnhi,bnhj->bhij", x, x) for x in (q, k))
    error = torch.eye(q.shape[-1], device=q.device) - maps[0].to(q.device) @ maps[1].to(q.device).mT
    total = torch.einsum("bhij,bhji->", q_moment, k_moment)
    return float(torch.einsum("bhij,bhji->", error.mT @ q_moment @ error, k_moment) / total.clamp_min(1e-30))


def energy(q_moment: torch.Tensor, k_moment: torch.Tensor) -> torch.Tensor:
    """Mean squared logit before scaling, ``[H]``."""
    return torch.einsum("hij,hji->h", q_moment.double(), k_moment.double()).float()


def head_moments(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Second moments ``[H, d, d]`` of what a projection ``[H * d, C]`` makes of inputs of which nothing is known."""
    by_head = weight.float().unflatten(0, (heads, -1))
    with without_autocast(weight.device):
        return by_head @ by_head.mT


def thin(x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """``[B, N, H, d]`` -> ``[B, N, H, r]`` by maps ``[H, d, r]`` of the same type, in which it stays."""
    with without_autocast(x.device):
        return torch.einsum("bnhd,hdr->bnhr", x, maps)
