"""Tokens put together from atoms, and what comes out of a map that is known at the atoms only.

The static dictionary passes M atoms through self-attention once. A token is written as a sum of atoms, and its result
is the same sum of the atoms' results: with the pseudo-inverse and with ridge regression that is one matrix for the
whole layer, with sparse codes (orthogonal matching pursuit, Pati et al. 1993) a few atoms for each token.

Shapes: n tokens and M atoms of C channels.
"""

from __future__ import annotations

import torch

from lib_attn.unet.precision import without_autocast

TOKENS = 4096  # whose similarities with all atoms are held at once


def solver(atoms: torch.Tensor, ridge: float = 0.0) -> torch.Tensor:
    """Matrix ``[C, M]`` that gives a token's weights of `atoms` ``[M, C]``.

    Args:
        ridge: how strongly large weights are held back, as a share of the atoms' mean square; 0: pseudo-inverse.
    """
    atoms = atoms.float()
    with without_autocast(atoms.device):
        if not ridge:
            return torch.linalg.pinv(atoms)
        gram = atoms.T @ atoms
        held = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        return torch.linalg.solve(held, atoms.T)


def sparse_codes(x: torch.Tensor, atoms: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthogonal matching pursuit: the atoms of each token ``[n, count]``, and their weights ``[n, count]``.

    Args:
        x: ``[n, C]``. atoms: ``[M, C]`` with M at least `count`.
    """
    with without_autocast(x.device):
        length = atoms.float().norm(dim=1).clamp_min(1e-12)
        unit = atoms.float() / length[:, None]
        gram = unit @ unit.T
        found = [_pursuit(part.float() @ unit.T, gram, count) for part in x.split(TOKENS)]
        index, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
        return index, weight / length[index]


def _pursuit(fit: torch.Tensor, gram: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """fit: products ``[n, M]`` of tokens and unit atoms. gram: ``[M, M]`` of the atoms with one another."""
    index = fit.abs().argmax(1, keepdim=True)
    weight = fit.gather(1, index)
    for size in range(2, count + 1):
        left = fit - torch.einsum("nk,nkm->nm", weight, gram[index])
        best = left.abs().scatter_(1, index, -1.0).argmax(1, keepdim=True)
        index = torch.cat([index, best], 1)
        # Atoms that are nearly the same would share a weight of any size.
        own = gram[index[:, :, None], index[:, None]] + 1e-4 * torch.eye(size, device=gram.device)
        weight = torch.linalg.solve(own, fit.gather(1, index)[..., None])[..., 0]
    return index, weight


def rebuild(index: torch.Tensor, weight: torch.Tensor, results: torch.Tensor) -> torch.Tensor:
    """Sum of `results` ``[M, D]`` by sparse codes: ``[n, D]``."""
    out = weight[:, :1] * results[index[:, 0]]
    for atom, share in zip(index.T[1:], weight.T[1:], strict=True):
        out += share[:, None] * results[atom]
    return out
