"""How many channels each layer keeps, from what the first r of them keep. No tensors, so that a preview can ask."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LEAST_POINTS = 2048  # of a layer that is worth a thought where the choice is left to us
ALL_KEPT = "Every channel is kept: nothing is changed."
ROUND = 8  # kernels on a CPU and most others work in lanes of 8 channels
PLACES = 5  # decimal places of what a file tells


@dataclass(frozen=True)
class Curve:
    """What is kept of a layer by its first r channels, r = 1 … d.

    kept: least share of a head's logits' energy. mean: the same over all heads together. values: least share of the
    energy that a head's values bring to the output. lost: relative squared error that is to be expected of the output:
    mean squared error of the logits, and what values lose, heads weighted by what they bring to the output.
    """

    kept: tuple[float, ...]
    mean: tuple[float, ...]
    values: tuple[float, ...]
    lost: tuple[float, ...]
    lost_values: tuple[float, ...]

    @property
    def width(self) -> int:
        return len(self.kept)

    def to_json(self) -> dict[str, list[float]]:
        return {name: [round(x, PLACES) for x in values] for name, values in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any) -> Curve | None:
        """What `to_json` made; None when it is something else."""
        try:
            curve = cls(**{name: tuple(map(float, numbers)) for name, numbers in value.items()})
        except (TypeError, ValueError, AttributeError):
            return None
        return curve if curve.width and len({len(v) for v in asdict(curve).values()}) == 1 else None


def curves_of(about: Mapping[str, Any]) -> dict[str, Curve]:
    """The curves that a learned file tells of, by layer; those that cannot be read are left out."""
    figures = about.get("figures")
    told = figures.get("curves") if isinstance(figures, dict) else None
    curves = {key: Curve.from_json(value) for key, value in told.items()} if isinstance(told, dict) else {}
    return {key: curve for key, curve in curves.items() if curve is not None}


def ranks(settings: Any, curves: Mapping[str, Curve], depths: Mapping[str, int], step: int = ROUND) -> dict[str, int]:
    """Channels that each layer keeps, by key, its whole width where nothing is left out.

    Args:
        settings: `ThinQk`. curves, depths: of the layers it acts on, by key. step: see `ThinQk.round_to`.
    """
    step = settings.round_to or step
    if settings.choose == "budget":
        return _spread(settings, curves, depths, step)
    return {key: _rounded(_needed(settings, curve), step, curve.width) for key, curve in curves.items()}


def _needed(settings: Any, curve: Curve) -> int:
    if settings.choose == "fixed":
        return settings.channels
    if settings.energy >= 1.0:
        return curve.width
    found = [_first(curve.kept, settings.energy)]
    if settings.values:
        found.append(_first(curve.values, settings.energy))
    return max(found)


def _first(kept: Sequence[float], share: float) -> int:
    return next((r for r, x in enumerate(kept, 1) if x >= share), len(kept))


def _rounded(rank: int, step: int, width: int) -> int:
    return min(math.ceil(rank / step) * step, width)


def _spread(settings: Any, curves: Mapping[str, Curve], depths: Mapping[str, int], step: int) -> dict[str, int]:
    """Channels are given where they save most error for their work, until the budget is spent.

    Work on similarities goes with the square of the number of points, a sixteenth on each deeper level.
    """

    def cost(key: str, channels: int) -> float:
        return channels / 16.0 ** depths[key]

    def offer(key: str) -> tuple[float, str]:
        rank, width = found[key], curves[key].width
        more = min(rank + step, width)
        return -(lost[key][rank - 1] - lost[key][more - 1]) / cost(key, more - rank), key

    lost = {k: [a + b * settings.values for a, b in zip(c.lost, c.lost_values, strict=True)] for k, c in curves.items()}
    found = {key: min(step, curve.width) for key, curve in curves.items()}
    left = settings.budget * sum(cost(key, curve.width) for key, curve in curves.items())
    left -= sum(cost(key, rank) for key, rank in found.items())
    offers = [offer(key) for key, curve in curves.items() if found[key] < curve.width]
    heapq.heapify(offers)
    while offers:
        _, key = heapq.heappop(offers)
        more = min(found[key] + step, curves[key].width)
        price = cost(key, more - found[key])
        if price > left + 1e-9:
            continue
        left -= price
        found[key] = more
        if more < curves[key].width:
            heapq.heappush(offers, offer(key))
    return found
