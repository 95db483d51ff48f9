"""The maps of a layer, from a learned file or from the layer's weights, kept from one picture to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lib_attn.techniques.thin_qk.maths import MAPS, energy, head_moments, kept, pair
from lib_attn.techniques.thin_qk.ranks import Curve
from lib_attn.unet.layers import Layer

#: What a file holds of each layer, ``[H, d, d]``; see `lib_attn.learn.capture`.
MOMENTS = ("q", "spread", "out")


@dataclass(frozen=True)
class LayerMaps:
    """Whole maps ``[H, d, d]``, the weightiest column first: of queries, keys, values, and back to the output."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor


def moments_of(layer: Layer, tensors: Mapping[str, torch.Tensor] | None, key: str) -> dict[str, torch.Tensor]:
    """Second moments ``[H, d, d]`` of a layer, float32 on the CPU: those of `MOMENTS`, and ``gram`` of its output.

    Args:
        tensors: of a learned file; None: moments as they follow from the weights.

    Raises:
        ValueError: when the layer's weights cannot be read.
        LookupError: when the file has no tensors of this layer.
    """
    to_q, to_k, to_v, to_out = layer.family.projections(layer.attn1)
    heads = layer.family.heads(layer.attn1)
    with torch.inference_mode():
        found = {"gram": head_moments(_weight(to_out).mT, heads).cpu()}
        if tensors is None:
            for name, module in zip(MOMENTS, (to_q, to_k, to_v), strict=True):
                found[name] = head_moments(_weight(module), heads).cpu()
            return found
    for name in MOMENTS:
        moment = tensors.get(f"{key}.{name}")
        if moment is None or moment.shape != found["gram"].shape:
            raise LookupError(key)
        found[name] = moment.float()
    return found


def _weight(module: Any) -> torch.Tensor:
    """The matrix ``[out, in]`` of a projection, which may stand in a list with a dropout behind it."""
    linear = module if hasattr(module, "weight") else module[0]
    if linear.weight.ndim != 2:
        raise ValueError("no matrix")
    return linear.weight.float()


def maps_of(moments: Mapping[str, torch.Tensor], form: str) -> LayerMaps:
    """The maps of a layer.

    Args:
        form: of queries and keys, a name in `lib_attn.techniques.thin_qk.maths.MAPS`.
    """
    return LayerMaps(*MAPS[form](moments["q"], moments["spread"]), *pair(moments["out"], moments["gram"]))


def curve_of(moments: Mapping[str, torch.Tensor], maps: LayerMaps) -> Curve:
    """What the first r channels of a layer keep."""
    q, k, out, gram = (moments[name] for name in ("q", "spread", "out", "gram"))
    logits, values = kept((maps.q, maps.k), q, k), kept((maps.v, maps.out), out, gram)
    size, brought = energy(q, k), energy(out, gram)
    share = brought / brought.sum().clamp_min(1e-30)
    error = (1.0 - logits) * (size / logits.shape[-1])[:, None]  # of the logits, scaled
    return Curve(
        kept=tuple(logits.amin(0).tolist()),
        mean=tuple((logits * (size / size.sum().clamp_min(1e-30))[:, None]).sum(0).tolist()),
        values=tuple(values.amin(0).tolist()),
        # A softmax is wrong by its logits' error, but by no more than all of it.
        lost=tuple((share[:, None] * error / (1.0 + error)).sum(0).tolist()),
        lost_values=tuple((share[:, None] * (1.0 - values)).sum(0).tolist()),
    )


class KeptMaps:
    """Maps of earlier passes (see `lib_attn.store.Kept`), found again as long as the moments are the same."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self._found: dict[tuple, tuple[dict[str, torch.Tensor], LayerMaps, Curve]] = {}

    @property
    def bytes(self) -> int:
        tensors = (t for moments, maps, _ in self._found.values() for t in (*moments.values(), *vars(maps).values()))
        return sum(t.numel() * t.element_size() for t in tensors)

    def get(self, key: str, moments: dict[str, torch.Tensor], form: str) -> tuple[LayerMaps, Curve]:
        """Maps and curve of the layer `key`."""
        known = self._found.get((key, form))
        if known is None or any(not torch.equal(value, moments[name]) for name, value in known[0].items()):
            maps = maps_of(moments, form)
            known = self._found[key, form] = moments, maps, curve_of(moments, maps)
        return known[1:]
