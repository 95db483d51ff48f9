"""What thin QK learns from a model's pictures: second moments of each head, and what the first channels keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lib_attn.learn.capture import Capture
from lib_attn.learn.learners import Learner
from lib_attn.schema import Group
from lib_attn.techniques.thin_qk.maps import MOMENTS, curve_of, maps_of, moments_of
from lib_attn.techniques.thin_qk.settings import ThinQk
from lib_attn.unet.layers import Layer


@dataclass(frozen=True)
class Options(Group):
    """There is nothing to choose: a file serves every number of channels and both kinds of maps."""

    name: ClassVar[str] = ThinQk.name
    label: ClassVar[str] = ThinQk.label


def wants(options: Options) -> dict[str, Any]:
    """See `lib_attn.learn.learners.Learner`."""
    return {"samples": 0, "stretches": 1}


def learn(
    capture: Capture, options: Options, layers: Mapping[str, Layer]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Moments ``[H, d, d]`` by ``KEY.q``, ``KEY.spread``, ``KEY.out``, and figures: a curve of each layer for pairs."""
    tensors = {f"{key}.{name}": capture.moment(key, name) for key in capture.shapes for name in MOMENTS}
    curves = {}
    for key in capture.shapes:
        moments = moments_of(layers[key], tensors, key)
        curves[key] = curve_of(moments, maps_of(moments, "pair")).to_json()
    return tensors, {"figures": {"curves": curves}}


LEARNER = Learner(
    ThinQk.label,
    "Which channels of queries, keys and results count least in this model, so that they can be left out.",
    Options,
    wants,
    learn,
)
