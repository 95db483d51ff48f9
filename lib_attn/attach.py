"""Put techniques on a U-Net and take them off again.

    from lib_attn import settings
    from lib_attn.attach import attach

    near = settings.NearSighted(enabled=True, tile=16, pool=4)
    with attach(model, [near], steps=20, seeds=[1]):
        sample(model)

Works on any U-Net built like CompVis' ``UNetModel`` (ldm and sgm: SD 1.x, 2.x, XL), with or without the webui.
While attached, self-attention layers that a technique wants have an instance ``forward``; the class ``forward``, which
hosts exchange when the user picks another attention optimisation, is looked up at every call and never replaced.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lib_attn.attention import Call, HostHooks, Moment
from lib_attn.boundary import TRAINED_STEPS, Boundary, Evaluation, InnerRows, UnetCall, argument, sigma_of
from lib_attn.cross import CrossSeam
from lib_attn.features import FeatureSeam
from lib_attn.layers import Layer, find_blocks, find_layers, find_unet
from lib_attn.rows import POSITIVE, Cursor, Row
from lib_attn.settings import Group
from lib_attn.store import Store
from lib_attn.techniques import ORDER, load
from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.negative_skip.runtime import FreeSaving


def attach(model: Any, techniques: Iterable[Group], **options: Any) -> Attachment:
    """Attach `techniques` (settings groups with ``enabled`` on) to `model`; a context manager, see `Attachment`.

    Raises:
        TypeError: when `model` has no U-Net of the supported kind.
    """
    return Attachment(model, techniques, **options)


class Attachment:
    """The techniques sitting on one U-Net.

    Args:
        model: a U-Net, or the LatentDiffusion / DiffusionEngine around it.
        techniques: settings groups; those that are not enabled are left out.
        seeds: one per image of the batch; decides where moving tile borders start.
        steps: number of U-Net evaluations to come, when nobody calls `begin_step`. Without it the share of the steps
            is taken from the timesteps.
        hypernetwork, upcast: see `HostHooks`.
        constant_rows: whether something else cannot bear that the number of rows changes between U-Net calls.
        prediction: what the model predicts, ``epsilon`` or ``v``.
        save_negative: leave the negative rows out where they drop out of the guidance (scale 1, weights that sum to 1).
        store: what techniques keep from one attachment to the next, such as a recorded run.
        inert: ``inert(module) -> bool``: whether an instance ``forward`` that was there before may be passed by.
        say: takes each sentence meant for the user, once.

    Attributes:
        placed, offered, acted, spoke: names of the techniques that sit on some part of the model, of those that a call
            was put to so far, of those that answered one, and of those that told the user something. The saving at
            scale 1 is no technique and in none of them.
        layers: the model's layers with attention, `lib_attn.layers.Layer`.
    """

    def __init__(
        self,
        model: Any,
        techniques: Iterable[Group],
        *,
        seeds: Sequence[int] | None = None,
        steps: int | None = None,
        hypernetwork: Callable | None = None,
        upcast: Callable[[], bool] | None = None,
        inert: Callable[[Any], bool] | None = None,
        constant_rows: Callable[[], bool] | None = None,
        prediction: str = "epsilon",
        save_negative: bool = False,
        store: Store | None = None,
        say: Callable[[str], None] | None = None,
    ):
        self._unet = find_unet(model)
        self.placed: set[str] = set()
        self.offered: set[str] = set()
        self.acted: set[str] = set()
        self.spoke: set[str] = set()
        self._said: set[str] = set()
        self._say_to = say
        self._inert = inert or (lambda module: False)
        self._hooks = HostHooks(hypernetwork, upcast)
        self._names: dict[int, str] = {}
        self.layers, self._blocks = tuple(find_layers(self._unet)), tuple(find_blocks(self._unet))
        self._context = Context(
            tuple(seeds or ()), self._tell, prediction, self._hooks, self.layers, self._blocks, store or Store()
        )
        groups = sorted((g for g in techniques if g.enabled), key=lambda g: ORDER.index(g.name))
        self._runtimes: list[Runtime] = [self._make(group) for group in groups]
        if save_negative and not any(r.compares for r in self._runtimes):
            self._runtimes.append(FreeSaving(None, self._context))
        self._constant_rows = constant_rows or (lambda: False)
        self._editors = [r for r in self._runtimes if r.has("edit")]
        self._boundary = Boundary(self._runtimes, self._note)
        self._evaluation = Evaluation()
        self._steps = steps
        self._cursor: Cursor | None = None
        self._size: tuple[int, int] | None = None
        self._moment = Moment(-1, 0.0, 0.0)
        self._timestep: float | None = None
        self._rows: tuple[Row, ...] | None = None
        self._grids: dict[int, tuple[int, int]] = {}
        self._handles: list[Any] = []
        self._forwards: list[tuple[Any, Any, Any]] = []
        if self._runtimes:
            self._install()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @property
    def attached(self) -> bool:
        return bool(self._handles)

    @property
    def reads_text(self) -> bool:
        """Whether a technique wants to know the negative prompt's words (``negative`` and ``words``)."""
        return any(r.reads_text for r in self._runtimes)

    def model_is(self, model: Any) -> bool:
        """Whether this sits on the U-Net of `model`."""
        try:
            return find_unet(model) is self._unet
        except TypeError:
            return False

    def _make(self, group: Group) -> Runtime:
        def say(text: str) -> None:
            self.spoke.add(group.name)
            self._tell(text)

        runtime = load(group.name)(group, replace(self._context, say=say))
        self._names[id(runtime)] = group.name
        return runtime

    def say(self, text: str) -> None:
        """Tell the user one sentence that concerns all techniques, once."""
        self.spoke.update(self._names.values())
        self._tell(text)

    def _tell(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            if self._say_to is not None:
                self._say_to(text)

    def begin_step(
        self, rows: Sequence[Row] | None, step: int, total: int, size: tuple[int, int] | None = None, **told: Any
    ) -> None:
        """Announce the next evaluation of a guided sampler.

        Args:
            rows: `lib_attn.rows.plan_rows`, or None when it cannot be known: then nothing is touched.
            step, total: running number and expected count of evaluations.
            size: of the latents, (h, w); U-Net calls of another size are somebody else's.
            told: ``cfg``, ``negative``, ``words``, ``negative_read``, ``editions``, ``positive_only`` of
                `lib_attn.boundary.Evaluation`, where known.
        """
        if rows is None:
            self.say("Attention Lab did nothing in some steps: which row of the batch is which image is unclear.")
        self._cursor, self._size = Cursor(rows or ()), size
        self._evaluation = Evaluation(tuple(rows or ()), step, **told)
        # Adaptive samplers make more evaluations than they announce: those stand at the end.
        self._moment = Moment(step, min(1.0, step / max(1, total)), self._moment.time)

    def end_step(self) -> None:
        """The evaluation is over: U-Net calls before the next `begin_step` are not ours."""
        if self._cursor is not None:
            self._cursor.close()

    def pictures(self) -> list[tuple[int, Any]]:
        """(image, map ``[h, w]`` with values 0 … 1) that the techniques have to show so far."""
        found = []
        for runtime in self._runtimes:
            shown = runtime.pictures()
            if shown:
                self._mark(self.acted, runtime)
            found += shown.items()
        return found

    def detach(self) -> None:
        """Remove every patch. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, ours, before in self._forwards:
            # Somebody who wrapped us meanwhile keeps his wrapper; ours then only passes calls on.
            if module.__dict__.get("forward") is ours:
                if before is None:
                    del module.forward
                else:
                    module.forward = before
        self._forwards.clear()
        self._rows = None
        self._grids.clear()
        self._runtimes = []

    def _install(self) -> None:
        layers = []
        for layer in self.layers:
            asking = [r for r in self._runtimes if r.wants_self(layer)]
            layers += [layer] * bool(asking)
            self._mark(self.placed, *asking)
        self._handles.append(self._unet.register_forward_pre_hook(self._enter_unet, with_kwargs=True))
        self._handles.append(self._unet.register_forward_hook(self._leave_unet))
        for transformer in {id(layer.transformer): layer.transformer for layer in layers}.values():
            self._handles.append(transformer.register_forward_pre_hook(self._enter_transformer, with_kwargs=True))
        for layer in layers:
            module = layer.attn1
            before = module.__dict__.get("forward")
            ours = _SelfAttention(self, layer, before)
            self._forwards.append((module, ours, before))
            module.forward = ours
        self._mark(self.placed, *(r for r in self._runtimes if r.has("enter")))
        for seam in self._seams():
            self._handles += seam.install()

    def _seams(self) -> Iterator[Any]:
        """The hooks that the runtimes ask for beyond self-attention."""
        for runtime in self._runtimes:
            if runtime.through:
                yield InnerRows(self._unet, runtime.through, self._boundary, runtime.refill, self._show_rows)
        for block in self._blocks:
            asking = [r for r in self._runtimes if r.wants_features(block)]
            if asking:
                self._mark(self.placed, *asking)
                yield FeatureSeam(block, asking, self._now, self._note)
        for layer in self.layers:
            asking = [r for r in self._runtimes if r.wants_cross(layer)]
            if asking and layer.attn2 is not None:
                self._mark(self.placed, *asking)
                yield CrossSeam(layer, asking, self._hooks, self._now, self._note, self.say)

    def _now(self) -> tuple[tuple[Row, ...] | None, Moment, Evaluation]:
        return self._rows, self._moment, self._evaluation

    def _note(self, runtime: Any, changed: bool) -> None:
        """A call was put to `runtime`, which may have changed it."""
        self._mark(self.offered, runtime)
        if changed:
            self._mark(self.acted, runtime)

    def _mark(self, names: set[str], *runtimes: Any) -> None:
        names.update(self._names[id(r)] for r in runtimes if id(r) in self._names)

    def _show_rows(self, rows: tuple[Row, ...]) -> None:
        self._rows = rows

    def _enter_unet(self, unet: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        x, timesteps = argument(args, kwargs, 0, "x"), argument(args, kwargs, 1, "timesteps")
        timestep = float(timesteps.flatten()[0]) if timesteps is not None else 0.0
        time = min(max(1.0 - timestep / TRAINED_STEPS, 0.0), 1.0)
        self._grids.clear()
        self._boundary.call = None
        if self._cursor is None:
            self._rows = tuple(Row(POSITIVE, i) for i in range(x.shape[0]))
            step = self._moment.step + (timestep != self._timestep)
            self._timestep = timestep
            share = step / self._steps if self._steps else time
            self._moment = Moment(step, min(share, 1.0), time)
            return None
        if self._cursor.open and self._size not in (None, tuple(x.shape[-2:])):
            self.say("Attention Lab left the picture alone: another extension computes it in parts (tiled diffusion?).")
            self._rows = None
            return None
        self._rows = self._cursor.take(x.shape[0])
        self._moment = Moment(self._moment.step, self._moment.share, time)
        if self._rows is None or not self._boundary.used:
            return None
        context = argument(args, kwargs, 2, "context")
        call = UnetCall(self._evaluation, self._rows, self._moment, sigma_of(timestep), x, context)
        call.fixed, call.whole = self._constant_rows(), "forward" in vars(unet)
        args, kwargs = self._boundary.enter(call, args, kwargs)
        self._rows = self._boundary.inner_rows
        return args, kwargs

    def _leave_unet(self, unet: Any, args: tuple, output: Any) -> Any:
        self._rows = None
        if self._boundary.call is None:
            return None
        return self._boundary.leave(output)

    def _enter_transformer(self, transformer: Any, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs.get("x")
        if x is not None and x.ndim == 4:
            self._grids[id(transformer)] = tuple(x.shape[-2:])

    def self_attention(self, layer: Layer, x: Any, exact: Callable, foreign: bool) -> Any:
        """Compute a plain self-attention call (no context, no mask) by the first technique that takes it."""
        grid = self._grids.get(id(layer.transformer))
        if self._rows is None or grid is None:
            return exact()
        if foreign and not self._inert(layer.attn1):
            self.say("Attention Lab left some layers alone: another extension has replaced them (Hypertile?).")
            return exact()
        if x.ndim != 3 or x.shape[1] != grid[0] * grid[1] or x.shape[0] != len(self._rows):
            self.say("Attention Lab left some layers alone: something else rearranges their tokens (token merging?).")
            return exact()
        call = Call(layer, x, grid, self._rows, self._moment, exact, self._hooks)
        asked = [r for r in self._editors if r.wants_self(layer)]
        editors = tuple(r for r in asked if r.edits(call))
        for runtime in asked:
            self._note(runtime, runtime in editors)
        if editors:
            call = Call(layer, x, grid, self._rows, self._moment, exact, self._hooks, editors)
        for runtime in self._runtimes:
            # Fast paths work on as many keys as tokens; where an edit adds keys, full attention it is.
            if runtime.has("attend") and runtime.wants_self(layer) and not any(e.extends for e in editors):
                out = runtime.attend(call)
                self._note(runtime, out is not None)
                if out is not None:
                    return out
        return call.exact()

    def leave_alone(self, layer: Layer) -> None:
        """A call that is no plain self-attention: tell the user, unless the model itself is built so."""
        if self._rows is not None and not getattr(layer.block, "disable_self_attn", False):
            self.say("Attention Lab left some layers alone: they see more than the picture (a reference, a video?).")


class _SelfAttention:
    """Instance ``forward`` of one self-attention module. Holds the attachment weakly: once that is gone it is inert."""

    def __init__(self, attachment: Attachment, layer: Layer, before: Callable | None):
        self._attachment, self._layer, self._before = weakref.ref(attachment), layer, before

    def __call__(self, x: Any, context: Any = None, mask: Any = None, **others: Any) -> Any:
        def exact() -> Any:
            module = self._layer.attn1
            if self._before is not None:
                return self._before(x, context=context, mask=mask, **others)
            return type(module).forward(module, x, context=context, mask=mask, **others)

        attachment = self._attachment()
        # A context in self-attention is ControlNet's reference mode and the like; other arguments are video models'.
        plain = context is None and mask is None and not any(_given(value) for value in others.values())
        if attachment is None or not attachment.attached:
            return exact()
        if not plain:
            attachment.leave_alone(self._layer)
            return exact()
        return attachment.self_attention(self._layer, x, exact, self._before is not None)


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, (int, bool)) and not value)
