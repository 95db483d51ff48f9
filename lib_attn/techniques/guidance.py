"""What techniques that compare positive and negative have in common: which rows belong together, and a cap."""

from __future__ import annotations

import torch

from lib_attn.unet.rows import IMAGE_ONLY, NEGATIVE, POSITIVE


def partners(rows) -> dict[int, int]:
    """Index of each positive row with its image's negative row in the same call, where there is one."""
    if any(row.sign == IMAGE_ONLY for row in rows):
        return {}
    negatives = {row.image: i for i, row in enumerate(rows) if row.sign == NEGATIVE}
    return {i: negatives[row.image] for i, row in enumerate(rows) if row.sign == POSITIVE and row.image in negatives}


def are_left_out(call) -> bool:
    """Whether the negatives of a `lib_attn.unet.batch.UnetCall` are all left out because guidance has no use for them.

    Negatives left out in some steps only are no news: what acts in the others acts.
    """
    negatives = [i for i, row in enumerate(call.rows) if row.sign == NEGATIVE]
    alone = [i for i in negatives if call.evaluation.unguided(call.rows[i].image) and i not in call.kept]
    return bool(call.evaluation.guided and negatives and alone == negatives)


def are_apart(call) -> bool:
    """Whether no negative of a `lib_attn.unet.batch.UnetCall` has its image's positive beside it."""
    negatives = [row.image for row in call.rows if row.sign == NEGATIVE]
    positives = {row.image for row in call.rows if row.sign == POSITIVE}
    return bool(call.evaluation.guided and negatives and not are_left_out(call) and positives.isdisjoint(negatives))


def cap(changed, before, tau: float, blend: float):
    """Keep a changed result ``[B, N, C]`` near what it was.

    Args:
        tau: a token's L1 norm may become this many times what it was (NAG's tau; at least 1).
        blend: share of the changed result (NAG's alpha), the rest is the result before.
    """
    changed, old = changed.float(), before.float()
    # A sum over 320 … 1280 channels can leave half precision's range.
    ratio = changed.abs().sum(-1, keepdim=True) / old.abs().sum(-1, keepdim=True).clamp_min(1e-6)
    changed = changed * (tau / ratio.clamp_min(tau))
    return torch.lerp(old, changed, blend).to(before.dtype)
