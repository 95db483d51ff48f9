"""Self-attention: a call while it is in flight (project, attend, project back), and the hook that catches it.

The projections are always called as modules, so LoRA layers, manual casts and low-precision storage keep acting.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from lib_attn.unet.flight import Flight, HostHooks, Moment
from lib_attn.unet.fused import full_attention
from lib_attn.unet.layers import Layer
from lib_attn.unet.neighbours import is_replaced
from lib_attn.unet.precision import without_autocast
from lib_attn.unet.rows import Row


@dataclass
class Call:
    """A self-attention call on its way.

    x: input ``[B, N, C]``, N = grid[0] * grid[1] in row-major order. rows: what each of the B rows is.
    plain: computes the call as if we were not there. edits: runtimes whose ``edit(call, q, k, v) -> (q, k, v, bias)``
    changes what attends to what; with them `project` gives the edited tensors, `exact` is full attention on them, and
    ``result(call, out)`` of theirs, the last one first, sees what came of it. skip: what the layer's result is added to
    ``[B, N, C]``, where a runtime wants to know it (``wants_skip``).
    """

    layer: Layer
    x: torch.Tensor
    grid: tuple[int, int]
    rows: tuple[Row, ...]
    moment: Moment
    plain: Callable[[], torch.Tensor]
    hooks: HostHooks = field(default_factory=HostHooks)
    edits: tuple[Any, ...] = ()
    skip: torch.Tensor | None = None
    bias: torch.Tensor | None = None  # of the edited keys, ``[B, 1, 1, keys]``; None: all count alike

    def exact(self) -> torch.Tensor:
        """What comes of the call without anybody who takes it."""
        return self.attend(self._full) if self.edits else self.plain()

    @property
    def module(self) -> Any:
        return self.layer.attn1

    @property
    def scale(self) -> float | None:
        return self._family.scale(self.module)

    @property
    def _family(self) -> Any:
        return self.layer.family

    def project(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v as ``[B, N, H, d]``, in float32 when the host upcasts attention."""
        q, k, v = self.project_input(self.x)
        self.bias = None
        for runtime in self.edits:
            q, k, v, bias = runtime.edit(self, q, k, v)
            if self.bias is not None:
                # Keys are added behind those that are there.
                before = F.pad(self.bias, (0, k.shape[1] - self.bias.shape[-1]))
                bias = before if bias is None else before + bias
            self.bias = bias
        return q, k, v

    def project_input(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v ``[B, N, H, d]`` of any input ``[B, N, C]`` of this layer, unedited."""
        to_k = to_v = x
        if self.hooks.hypernetwork is not None:
            to_k, to_v = self.hooks.hypernetwork(x)
        q, k, v, _ = self._family.projections(self.module)
        qkv = q(x), k(to_k), v(to_v)
        if self._upcast:
            qkv = tuple(t.float() for t in qkv)
        heads = self._family.heads(self.module)
        return tuple(t.unflatten(-1, (heads, -1)) for t in qkv)

    def _full(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        bias = None if self.bias is None else self.bias.to(q.dtype)
        return full_attention(q, k, v, bias, self.scale).transpose(1, 2)

    def attend(self, function: Callable[..., torch.Tensor], *args: Any, **options: Any) -> torch.Tensor:
        """Run ``function(q, k, v, …)`` on the projections and project its ``[B, N, H, d]`` back to ``[B, N, C]``."""
        q, k, v = self.project()
        if self._upcast:
            # Autocast would bring scaled_dot_product_attention straight back to half precision.
            with without_autocast(self.x.device):
                out = function(q, k, v, *args, **options)
        else:
            out = function(q, k, v, *args, **options)
        for runtime in reversed(self.edits):
            out = runtime.result(self, out)
        return self.finish(out)

    def finish(self, out: torch.Tensor) -> torch.Tensor:
        """Project a result ``[B, N, H, d]`` of attention back to ``[B, N, C]``."""
        out = out.flatten(-2)
        _, _, _, to_out = self._family.projections(self.module)
        return to_out(out.to(self.x.dtype) if self._upcast else out)

    @property
    def _upcast(self) -> bool:
        return bool(self.hooks.upcast and self.hooks.upcast())


class SelfAttentionHook:
    """Instance ``forward`` on the self-attention modules that runtimes want; each call goes to the first that takes it.

    Args:
        layers: all of the model's. runtimes: in the order in which they act.
        hooks: see `HostHooks`. inert: ``inert(module) -> bool``: whether an instance ``forward`` that was there before
            may be passed by. flight: the U-Net call in flight.
        note: ``note(runtime, changed)``, called for every call put to one of them. say: takes a sentence for the user.
        passed: ``passed(runtime, other)``, called where the other one comes before it, so that it is not asked.
    """

    def __init__(
        self, layers: Sequence[Layer], runtimes: Sequence[Any], hooks: HostHooks, inert: Callable, flight: Flight,
        note: Callable, say: Callable, passed: Callable,
    ):  # fmt: skip
        self._layers, self._runtimes, self._hooks, self._inert = tuple(layers), tuple(runtimes), hooks, inert
        self._flight, self._note, self._say, self._passed = flight, note, say, passed
        self._editors = [r for r in runtimes if r.has("edits")]
        self._attenders = [r for r in runtimes if r.has("attend")]
        self.on = False

    def install(self, layers: Sequence[Layer]) -> tuple[list[Any], list[Any]]:
        """Hook `layers`; returns the handles that take the hooks off and the forwards, each with its module."""
        self.on = True
        transformers = {id(layer.transformer): layer.transformer for layer in layers}.values()
        # Asked first: a runtime that fails must not leave hooks behind.
        seen = [layer for layer in layers if any(r.wants_skip(layer) for r in self._runtimes)]
        handles = [t.register_forward_pre_hook(self._enter_transformer, with_kwargs=True) for t in transformers]
        for layer in seen:
            norm, _ = layer.family.norms(layer.block)
            handles.append(norm.register_forward_pre_hook(self._see_skip(layer)))
        forwards = [(layer.attn1, _Forward(self, layer, vars(layer.attn1).get("forward"))) for layer in layers]
        return handles, forwards

    def release(self) -> None:
        """Let go of the runtimes."""
        self._runtimes, self._editors, self._attenders = (), [], []

    def _enter_transformer(self, transformer: Any, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs.get("x")
        if x is not None and x.ndim == 4:
            self._flight.grids[id(transformer)] = tuple(x.shape[-2:])

    def _see_skip(self, layer: Layer) -> Callable:
        def see(norm: Any, args: tuple) -> None:
            if self._flight.rows is not None and args:
                self._flight.skips[id(layer.block)] = args[0]

        return see

    def attention(self, layer: Layer, x: Any, exact: Callable, foreign: bool) -> Any:
        """Compute a plain self-attention call (no context, no mask) by the first technique that takes it."""
        grid = self._flight.grids.get(id(layer.transformer))
        if self._flight.rows is None or grid is None:
            return exact()
        if foreign and is_replaced(layer.attn1) and not self._inert(layer.attn1):
            self._say(self._replaced())
            return exact()
        if x.ndim != 3 or x.shape[1] != grid[0] * grid[1] or x.shape[0] != len(self._flight.rows):
            self._say("Attention Lab left some layers alone: something else rearranges their tokens (token merging?).")
            return exact()
        told = layer, x, grid, self._flight.rows, self._flight.moment, exact, self._hooks
        skip = self._flight.skips.pop(id(layer.block), None)
        call = Call(*told, skip=skip)
        asked = [r for r in self._editors if r.wants_self(layer)]
        # Who adds keys finds as many as tokens; who narrows the heads comes when nobody counts on their width any more.
        editors = tuple(sorted((r for r in asked if r.edits(call)), key=lambda r: (r.narrows, r.extends)))
        for runtime in asked:
            self._note(runtime, runtime in editors)
        if editors:
            call = Call(*told, editors, skip=skip)
        # Fast paths work on as many keys as tokens: where another one adds keys, full attention it is.
        taken, out = None, None
        for runtime in self._attenders:
            if not runtime.wants_self(layer):
                continue
            before = taken or next((e for e in editors if e.extends and e is not runtime), None)
            if before is not None:
                self._passed(runtime, before)
                continue
            out = runtime.attend(call)
            self._note(runtime, out is not None)
            taken = None if out is None else runtime
        return call.exact() if out is None else out

    def _replaced(self) -> str:
        """A sentence on the layers whose self-attention somebody else has replaced."""
        names = dict.fromkeys(
            layer.name for layer in self._layers if is_replaced(layer.attn1) and not self._inert(layer.attn1)
        )
        where = ", ".join(names) if len(names) <= 6 else f"{len(names)} blocks"
        return (
            f"Attention Lab left {where} alone: another extension has replaced self-attention there "
            "(Hypertile?). If it is off by now, it left that behind: loading the checkpoint again mends it."
        )

    def leave_alone(self, layer: Layer, x: Any, context: Any) -> None:
        """A call that is no plain self-attention: tell the user, unless the model itself is built so."""
        if self._flight.rows is None or getattr(layer.block, "disable_self_attn", False):
            return
        if getattr(context, "ndim", 0) == 3 and context.shape[1] < x.shape[1]:
            self._say(
                "Attention Lab left some layers alone: another extension thins out their keys (token downsampling?)."
            )
        else:
            self._say("Attention Lab left some layers alone: they see more than the picture (a reference, a video?).")


class _Forward:
    """Instance ``forward`` of one self-attention module. Holds the hook weakly: once that is gone it is inert."""

    def __init__(self, hook: SelfAttentionHook, layer: Layer, before: Callable | None):
        self._hook, self._layer, self.before = weakref.ref(hook), layer, before

    def __call__(self, x: Any, context: Any = None, mask: Any = None, **others: Any) -> Any:
        def exact() -> Any:
            module = self._layer.attn1
            if self.before is not None:
                return self.before(x, context=context, mask=mask, **others)
            return type(module).forward(module, x, context=context, mask=mask, **others)

        hook = self._hook()
        # A context in self-attention is ControlNet's reference mode and the like; other arguments are video models'.
        # Extensions that thin out keys hand the input itself over where they leave a layer alone.
        own = context is None or context is x
        plain = own and mask is None and not any(_given(value) for value in others.values())
        if hook is None or not hook.on:
            return exact()
        if not plain:
            hook.leave_alone(self._layer, x, context)
            return exact()
        return hook.attention(self._layer, x, exact, self.before is not None)


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, (int, bool)) and not value)
