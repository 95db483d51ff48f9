"""Which row of a U-Net batch is which image, on which side of the guidance.

A guided sampler evaluates ``[conditions of image 0, … of image n-1, negatives of images 0 … n-1]`` (CompVis' and
stable-diffusion-webui's order: conditions first). One image may have several conditions (``AND``); the evaluation may
be cut into several U-Net calls, and the negatives may be missing. The order never changes, so the rows of a call are
found by counting. A call that does not fit the count was made by somebody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

POSITIVE, NEGATIVE, IMAGE_ONLY = "positive", "negative", "image"


@dataclass(frozen=True)
class Row:
    """One row of a U-Net batch. `part` counts the AND conditions of an image, `weight` is that condition's weight."""

    sign: str
    image: int
    part: int = 0
    weight: float = 1.0


def plan_rows(weights: Sequence[Sequence[float]], *, negatives: bool = True, edit: bool = False) -> list[Row]:
    """List the rows of one evaluation in order.

    Args:
        weights: for each image the weights of its conditions, e.g. ``[[1.0], [0.7, 0.3]]``.
        negatives: whether a negative row per image follows.
        edit: InstructPix2Pix order ``[text+image, image only, neither]``.
    """
    rows = [Row(POSITIVE, i, part, float(w)) for i, parts in enumerate(weights) for part, w in enumerate(parts)]
    if edit:
        rows += [Row(IMAGE_ONLY, i) for i in range(len(weights))]
    if negatives:
        rows += [Row(NEGATIVE, i) for i in range(len(weights))]
    return rows


class Cursor:
    """Deals the planned rows of one evaluation out to the U-Net calls that make it up."""

    def __init__(self, rows: Sequence[Row] = ()):
        self._rows, self._next = tuple(rows), 0

    @property
    def open(self) -> bool:
        """Whether planned rows are left that no call has taken."""
        return self._next < len(self._rows)

    def take(self, count: int) -> tuple[Row, ...] | None:
        """The rows of a call with `count` rows, or None when it is a foreign call (more rows than are left)."""
        if count <= 0 or self._next + count > len(self._rows):
            return None
        rows = self._rows[self._next : self._next + count]
        self._next += count
        return rows

    def close(self) -> None:
        """End of the evaluation: rows not taken (skipped negatives) are forgotten, later calls are foreign."""
        self._next = len(self._rows)
