"""Cross-attention's result held fast after the negative has stopped.

T-GATE (arXiv 2404.02747): from the gate step on an image has one row and no guidance, and each cross-attention gives
the mean of what it gave the positive and the negative in that step. The mean is taken before the output projection,
which is linear, so it is that of the outputs as well. Self-attention is never held.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from lib_attn.unet.batch import has_mean
from lib_attn.unet.rows import NEGATIVE, POSITIVE, Row


class Gate:
    """What cross-attention gave at the gate step: one tensor ``[N, C]`` for each image and layer."""

    def __init__(self):
        self._evaluation = None
        self._learning: Collection[int] = ()
        self._held: dict[int, dict[int, torch.Tensor]] = {}
        self._shut: set[int] = set()

    def begin(self, evaluation, images: Collection[int]) -> None:
        """An evaluation begins that is the gate step of `images`."""
        self._evaluation, self._learning = evaluation, images
        for image in images:
            self.open(image)

    def end(self, image: int) -> None:
        """Positive and negative of `image` have been computed."""
        if image in self._learning:
            self._shut.add(image)

    def open(self, image: int) -> None:
        """Forget what was held of `image`: its prompts or its size have changed."""
        self._held.pop(image, None)
        self._shut.discard(image)

    def shut(self, image: int) -> bool:
        """Whether the gate step of `image` is over."""
        return image in self._shut

    def learn(self, call) -> None:
        """Note the results of a `lib_attn.unet.cross_attention.CrossCall` of the gate step."""
        if call.evaluation is not self._evaluation:
            return
        for z, row in zip(call.z, call.rows, strict=True):
            if row.image in self._learning:
                held = self._held.setdefault(row.image, {})
                part = z * _share(row, call.evaluation.weights(row.image))
                held[call.layer.index] = held[call.layer.index] + part if call.layer.index in held else part

    def replace(self, call, images: Collection[int]) -> torch.Tensor | None:
        """The results ``[B, N, C]`` with what is held in the place of the positive rows of `images`; None of none."""
        out = None
        for index, row in enumerate(call.rows):
            if row.sign != POSITIVE or row.image not in images or not self.shut(row.image):
                continue
            held = self._held.get(row.image, {}).get(call.layer.index)
            if held is None or held.shape != call.z[index].shape:
                continue
            out = call.z.clone() if out is None else out
            out[index] = held
        return out


def _share(row: Row, weights: list[float]) -> float:
    """How much a row counts in the mean of positive and negative; an image's conditions count by weight together."""
    if row.sign == NEGATIVE:
        return 0.5
    if has_mean(weights):
        return 0.5 * row.weight / sum(weights)
    above = sum(weight for weight in weights if weight > 0)
    return 0.5 * max(0.0, row.weight) / above if above else 0.5 / len(weights)
