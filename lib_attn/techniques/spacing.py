"""How steps that are computed in full are spread over a sampling pass, for techniques that leave steps out."""

from __future__ import annotations

import math

ENOUGH_STEPS = 20  # with fewer, the model's predictions change more from step to step than an estimate can follow
RISE = 1.0001  # sigma above an earlier one's by more than rounding: the sampler went back up


def key_interval(key_every: float, early: float, share: float, steps: int | None = None) -> float:
    """Steps from one full step to the next at a share of the steps.

    Guidance changes most in the first steps, and an error there moves the picture most. At `early` 1 full step number
    k of K comes after a share (k / K)^2 of the steps, which is an interval of 2 n sqrt(share): about as many full
    steps as one every n, but most of them early. n is `key_every` from `ENOUGH_STEPS` on; with fewer, each step goes
    further, and n falls towards 1 as N^1.5 of the number of steps N. At `early` 0 they are spread evenly, every
    `key_every`.

    Args:
        steps: number of all steps, None when unknown: then there are enough.
    """
    few = 0.0 if steps is None else early * (1.0 - min(1.0, steps / ENOUGH_STEPS) ** 1.5)
    return (1.0 + (key_every - 1.0) * (1.0 - few)) * (1.0 + early * (2.0 * math.sqrt(share) - 1.0))


def is_due(since: int, interval: float) -> bool:
    """Whether the next step is a full one, when `since` steps have been left out after the last one.

    Intervals are rounded down up to three quarters, which brings the count near that of an even spread.
    """
    return since + 1 >= interval - 0.75
