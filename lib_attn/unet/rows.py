"""Which row of a U-Net batch is which image, on which side of the guidance.

A guided sampler evaluates ``[conditions of image 0, … of image n-1, negatives of images 0 … n-1]`` (CompVis' and
stable-diffusion-webui's order: conditions first). One image may have several conditions (``AND``); the evaluation may
be cut into several U-Net calls, and the negatives may be missing. The order never changes, so the rows of a call are
found by counting. A call that does not fit the count was made by somebody else. Other extensions may put the rows in
another order after they were announced; what arrives is held against what each row was made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_attn.unet.precision import without_autocast

POSITIVE, NEGATIVE, IMAGE_ONLY = "positive", "negative", "image"
LATENT_CHANNELS = 4  # what follows them (a mask, another picture) may differ between the rows of an image
CLOSE = 0.02  # relative distance up to which latents are the same but for their scale and the rounding of a type


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


class Matcher:
    """Checks the rows of one evaluation's U-Net calls against what they were made of.

    Args:
        rows: as planned, in order. latents: ``[images, C, h, w]``, what each image's rows are copies of; samplers scale
            them before the U-Net.
        texts: for each planned row its text ``[T, C]``, or None when they are not known.
    """

    def __init__(self, rows: Sequence[Row], latents: torch.Tensor, texts: Sequence[torch.Tensor] | None = None):
        self._left = list(rows)
        self._latents = latents[:, :LATENT_CHANNELS].flatten(1).float()
        known = texts is not None and len(texts) == len(self._left)
        self._texts = dict(zip(self._left, texts, strict=True)) if known else {}

    def match(
        self, planned: Sequence[Row], x: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[Row, ...] | None:
        """The rows of a call in the order in which they arrive, None when nobody can say.

        Args:
            planned: what they should be. x: latents ``[rows, C, h, w]``. context: their texts ``[rows, T, C]``.
        """
        images = self._images(x)
        if images is None:
            # Somebody has changed the latents since; then rows of an image are still copies of one another.
            return self._take(planned) if _copies(planned, x) else None
        fits = [row.image in found for row, found in zip(planned, images, strict=True)]
        if all(fits) and all(len(found) == 1 for found in images):
            return self._take(planned)
        return self._assign(planned, images, context)

    def _images(self, x: torch.Tensor) -> list[set[int]] | None:
        """For each row the images whose latents it is a copy of; None when a row is a copy of none."""
        rows, latents = x[:, :LATENT_CHANNELS].flatten(1).float(), self._latents.to(x.device)
        if rows.shape[1] != latents.shape[1]:
            return None
        distances = []
        with without_autocast(x.device):  # in half precision a sum of squares over a picture overflows
            for latent in latents:
                scale = (rows @ latent) / (latent @ latent).clamp_min(1e-12)
                distances.append((rows - scale[:, None] * latent).norm(dim=1) / rows.norm(dim=1).clamp_min(1e-12))
        found = []
        for row in torch.stack(distances, 1).tolist():
            best = min(row)
            if not best <= CLOSE:
                return None
            found.append({i for i, distance in enumerate(row) if distance <= 4 * best + 1e-4})
        return found

    def _assign(self, planned, images, context) -> tuple[Row, ...] | None:
        """Give each row that arrives a planned row of its sign, image and text, the one planned there if it may be."""
        spoken = [self._spoken(context, i) for i in range(len(planned))]
        known, out, left = all(spoken), [], list(self._left)
        for row, found, texts in zip(planned, images, spoken, strict=True):
            may = [r for r in left if r.sign == row.sign and r.image in found and (not known or r in texts)]
            if not may:
                return None
            chosen = row if row in may else may[0]
            if chosen != row and not known and len({r.weight for r in may if r.image == chosen.image}) > 1:
                return None  # which part of an AND prompt it is decides its weight
            left.remove(chosen)
            out.append(chosen)
        return self._take(out)

    def _spoken(self, context: torch.Tensor | None, index: int) -> set[Row]:
        """The planned rows whose text the row at `index` has."""
        if context is None or context.ndim != 3:
            return set()
        found, text = set(), context[index]
        for row, expected in self._texts.items():
            length = min(len(expected), len(text))
            if expected.shape[1] == text.shape[1] and torch.equal(expected[:length].to(text), text[:length]):
                found.add(row)
        return found

    def _take(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        self._left = [row for row in self._left if row not in rows]
        return tuple(rows)


def _copies(rows: Sequence[Row], x: torch.Tensor) -> bool:
    """Whether the rows planned for one image have equal latents."""
    first: dict[int, torch.Tensor] = {}
    latents = x[:, :LATENT_CHANNELS]
    return all(torch.equal(first.setdefault(row.image, own), own) for row, own in zip(rows, latents, strict=True))
