"""One self-attention call of a U-Net while it is in flight: project, attend, project back.

The projections are always called as modules, so LoRA layers, manual casts and low-precision storage keep acting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from lib_attn.layers import Layer
from lib_attn.rows import Row


@dataclass(frozen=True)
class Moment:
    """Where in sampling a U-Net call stands.

    step: running number of the evaluation (second-order samplers make two a step). share: step / all steps, 0 … 1.
    time: 0 for pure noise … 1 for the finished picture, from the timestep the model was given. steps: number of all
    evaluations, None when nobody said.
    """

    step: int
    share: float
    time: float
    steps: int | None = None

    def within(self, start: float, end: float) -> bool:
        """Whether the steps from share `start` to share `end` are on; a window up to 1 holds the end itself."""
        return start <= self.share < end or start < end == 1.0 == self.share


@dataclass(frozen=True)
class HostHooks:
    """What a host does inside attention besides the attention itself.

    hypernetwork: ``context -> (context for K, context for V)``. upcast: whether attention is to run in float32.
    """

    hypernetwork: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    upcast: Callable[[], bool] | None = None


@dataclass
class Call:
    """A self-attention call on its way.

    x: input ``[B, N, C]``, N = grid[0] * grid[1] in row-major order. rows: what each of the B rows is.
    exact: computes the call as if we were not there. edits: runtimes whose ``edit(call, q, k, v) -> (q, k, v, bias)``
    changes what attends to what; with them `project` gives the edited tensors, and `exact` is full attention on them.
    """

    layer: Layer
    x: torch.Tensor
    grid: tuple[int, int]
    rows: tuple[Row, ...]
    moment: Moment
    exact: Callable[[], torch.Tensor]
    hooks: HostHooks = field(default_factory=HostHooks)
    edits: tuple[Any, ...] = ()
    bias: torch.Tensor | None = None  # of the edited keys, ``[B, 1, 1, keys]``; None: all count alike

    def __post_init__(self) -> None:
        if self.edits:
            self.exact = lambda: self.attend(self._full)

    @property
    def module(self) -> Any:
        return self.layer.attn1

    @property
    def scale(self) -> float | None:
        return getattr(self.module, "scale", None)

    def project(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v as ``[B, N, H, d]``, in float32 when the host upcasts attention."""
        q, k, v = self.project_input(self.x)
        self.bias = None
        for runtime in self.edits:
            q, k, v, bias = runtime.edit(self, q, k, v)
            if bias is not None:
                self.bias = bias
        return q, k, v

    def project_input(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v ``[B, N, H, d]`` of any input ``[B, N, C]`` of this layer, unedited."""
        to_k = to_v = x
        if self.hooks.hypernetwork is not None:
            to_k, to_v = self.hooks.hypernetwork(x)
        qkv = self.module.to_q(x), self.module.to_k(to_k), self.module.to_v(to_v)
        if self._upcast:
            qkv = tuple(t.float() for t in qkv)
        return tuple(t.unflatten(-1, (self.module.heads, -1)) for t in qkv)

    def _full(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        bias = None if self.bias is None else self.bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale).transpose(1, 2)

    def attend(self, function: Callable[..., torch.Tensor], *args: Any, **options: Any) -> torch.Tensor:
        """Run ``function(q, k, v, …)`` on the projections and project its ``[B, N, H, d]`` back to ``[B, N, C]``."""
        q, k, v = self.project()
        if self._upcast:
            # Autocast would bring scaled_dot_product_attention straight back to half precision.
            with torch.autocast(device_type=self.x.device.type, enabled=False):
                out = function(q, k, v, *args, **options)
        else:
            out = function(q, k, v, *args, **options)
        out = out.flatten(-2)
        return self.module.to_out(out.to(self.x.dtype) if self._upcast else out)

    @property
    def _upcast(self) -> bool:
        return bool(self.hooks.upcast and self.hooks.upcast())
