"""Tokens condensed to atoms: by k-means, by sparse coding, by singular vectors."""

from __future__ import annotations

import torch

from lib_attn.techniques.dictionary.clusters import assign, lloyd, means, sums
from lib_attn.techniques.dictionary.codes import rebuild, sparse_codes

METHODS = ("k-means", "sparse", "SVD")
ITERATIONS = 15
CODE = 4  # atoms of a code, for the error that a file tells


def learn_atoms(x: torch.Tensor, count: int, method: str = "k-means") -> tuple[torch.Tensor, torch.Tensor]:
    """Atoms of tokens ``[n, C]``: ``[M, C]`` and how many tokens each stands for, ``[M]``, the commonest first.

    M is at most `count` and n, for SVD at most C. k-means: means of clusters. sparse: scikit-learn's
    MiniBatchDictionaryLearning, scaled to the size that they have in tokens. SVD: the directions in which tokens differ
    most from 0, as long as tokens are in them on average.

    Raises:
        ValueError: sparse coding without scikit-learn.
    """
    x, count = x.float(), min(count, len(x))
    if method == "k-means":
        return _sorted(*clusters(x, count))
    atoms = _sparse(x, count) if method == "sparse" else _singular(x, count)
    index, _ = sparse_codes(x, atoms, 1)
    return _sorted(atoms, torch.bincount(index[:, 0], minlength=len(atoms)).float())


def clusters(x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """K-means of tokens ``[n, C]``: means ``[m, C]`` and members ``[m]``; m is less than `count` where tokens are."""
    labels, centres = lloyd(x[None, None], _far_apart(x, count)[None, None], ITERATIONS)
    total, number = sums(x[None, None], labels, centres.shape[2])
    found = number[0, 0] > 0
    return means(total, number)[0, 0, found], number[0, 0, found]


def _far_apart(x: torch.Tensor, count: int) -> torch.Tensor:
    """Tokens to start from, each drawn by its squared distance to those before (k-means++, Arthur and Vassilvitskii
    2007), so that what is rare is not left out."""
    generator = torch.Generator().manual_seed(0)
    picks, distance = [0], (x - x[0]).square().sum(1)
    while len(picks) < count and distance.max() > 0:
        picks.append(int(torch.multinomial(distance, 1, generator=generator)))
        distance = torch.minimum(distance, (x - x[picks[-1]]).square().sum(1))
    return x[picks]


def _sparse(x: torch.Tensor, count: int) -> torch.Tensor:
    try:
        from sklearn.decomposition import MiniBatchDictionaryLearning
    except ImportError:
        raise ValueError("Sparse coding needs scikit-learn (pip install scikit-learn), or choose k-means") from None
    learner = MiniBatchDictionaryLearning(count, alpha=0.1, batch_size=256, max_iter=20, random_state=0)
    unit = torch.from_numpy(learner.fit((x / x.norm(dim=1).mean()).numpy()).components_).float()
    index, weight = sparse_codes(x, unit, min(CODE, count))
    total, number = sums(weight.reshape(1, 1, -1, 1), index.reshape(1, 1, -1), count)
    size = means(total, number)[0, 0]
    return unit * torch.where(size == 0, 1.0, size)


def _singular(x: torch.Tensor, count: int) -> torch.Tensor:
    _, values, directions = torch.linalg.svd(x, full_matrices=False)
    return directions[:count] * values[:count, None] / len(x) ** 0.5


def _sorted(atoms: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = counts.argsort(descending=True, stable=True)
    return atoms[order], counts[order]


def nearest_error(x: torch.Tensor, atoms: torch.Tensor) -> float:
    """Relative error of tokens ``[n, C]`` with the nearest of ``[M, C]`` atoms in their place."""
    found = atoms[assign(x[None, None], atoms[None, None])[0, 0]]
    return float((found - x).norm() / x.norm())


def code_error(x: torch.Tensor, atoms: torch.Tensor) -> float:
    """Relative error of tokens ``[n, C]`` put together from `CODE` of ``[M, C]`` atoms each."""
    found = rebuild(*sparse_codes(x, atoms, min(CODE, len(atoms))), atoms)
    return float((found - x).norm() / x.norm())
