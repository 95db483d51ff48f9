"""One cross-attention call: changed by hooks on its projections, never by a replaced forward.

Every attention optimisation of every host calls ``to_q``, ``to_k`` and the first module of ``to_out``; so the query is
picked up behind ``to_q`` and the result is changed in front of ``to_out``, whatever computes the attention between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lib_attn.unet.flight import Evaluation, Flight, HostHooks, Moment
from lib_attn.unet.layers import Layer
from lib_attn.unet.rows import Row


@dataclass
class CrossCall:
    """A cross-attention call just before its output projection.

    q, z: query and result ``[B, N, C]``, heads merged. k, v: of the text, ``[B, T, C]``. rows: what each of the B
    rows is. like: the text that the key was made from, for its type and device.
    """

    layer: Layer
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    like: torch.Tensor
    rows: tuple[Row, ...]
    moment: Moment
    evaluation: Evaluation
    hooks: HostHooks

    @property
    def heads(self) -> int:
        return self.layer.family.heads(self.layer.attn2)

    @property
    def scale(self) -> float | None:
        return self.layer.family.scale(self.layer.attn2)

    @property
    def upcast(self) -> bool:
        return bool(self.hooks.upcast and self.hooks.upcast())

    def project(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V ``[n, T, C]`` of another text ``[n, T, C_text]``, through the modules so that LoRA acts."""
        # A host may hand texts to the U-Net in another type than it shows them to extensions.
        for_k = for_v = context = context.to(self.like)
        if self.hooks.hypernetwork is not None:
            for_k, for_v = self.hooks.hypernetwork(context)
        _, to_k, to_v, _ = self.layer.family.projections(self.layer.attn2)
        return to_k(for_k), to_v(for_v)

    @property
    def projection_state(self) -> tuple:
        """Something that changes when LoRA or another checkpoint changes what `project` gives."""
        state = []
        for module in self.layer.family.projections(self.layer.attn2)[1:3]:
            weight = getattr(module, "weight", None)
            version = None if weight is None or weight.is_inference() else weight._version
            state += [id(weight), version, getattr(module, "network_current_names", None)]
        return tuple(state)


class CrossAttentionHook:
    """Hooks on one layer's cross-attention that let runtimes change its result.

    Args:
        runtimes: those with ``cross(call) -> z or None``.
        flight: the U-Net call in flight.
        note: ``note(runtime, changed)``, called for every call put to one of them. say: takes a sentence for the user.
    """

    def __init__(
        self, layer: Layer, runtimes: list[Any], hooks: HostHooks, flight: Flight, note: Callable, say: Callable
    ):
        self._layer, self._runtimes, self._hooks = layer, runtimes, hooks
        self._flight, self._note, self._say = flight, note, say
        self._q: torch.Tensor | None = None
        self._k: torch.Tensor | None = None
        self._v: torch.Tensor | None = None
        self._like: torch.Tensor | None = None
        self._projecting = False

    def install(self) -> list[Any]:
        """Put the hooks on; returns the handles that take them off."""
        to_q, to_k, to_v, to_out = self._layer.family.projections(self._layer.attn2)
        last = to_out[0] if isinstance(to_out, torch.nn.Sequential) else to_out
        return [
            to_q.register_forward_hook(self._see_query),
            to_k.register_forward_hook(self._see_key),
            to_v.register_forward_hook(self._see_value),
            last.register_forward_pre_hook(self._before_out),
        ]

    def release(self) -> None:
        """Let go of the runtimes, and of a call that came to no end."""
        self._runtimes = []
        self._q = self._k = self._v = self._like = None

    def _see_query(self, module: Any, args: tuple, output: torch.Tensor) -> None:
        if not self._projecting:
            self._q = output

    def _see_key(self, module: Any, args: tuple, output: torch.Tensor) -> None:
        if not self._projecting:
            self._k, self._like = output, args[0]

    def _see_value(self, module: Any, args: tuple, output: torch.Tensor) -> None:
        if not self._projecting:
            self._v = output

    def _before_out(self, module: Any, args: tuple) -> tuple | None:
        q, k, v, like = self._q, self._k, self._v, self._like
        self._q = self._k = self._v = self._like = None
        flight, rows = self._flight, self._flight.rows
        if rows is None or q is None or k is None or v is None or not args:
            return None
        z = args[0]
        if z.shape != q.shape or not len(z) == len(k) == len(v) == len(rows):
            self._say("Attention Lab left cross-attention alone: another extension computes it in its own way.")
            return None
        call = CrossCall(self._layer, q, k, v, z, like, rows, flight.moment, flight.evaluation, self._hooks)
        self._projecting = True
        try:
            for runtime in self._runtimes:
                changed = runtime.cross(call)
                self._note(runtime, changed is not None)
                call.z = call.z if changed is None else changed
        finally:
            self._projecting = False
        return None if call.z is z else (call.z, *args[1:])
