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

import dataclasses
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from lib_attn.attention import Call, HostHooks, Moment
from lib_attn.boundary import TRAINED_STEPS, Boundary, Evaluation, InnerRows, UnetCall, argument, sigma_of
from lib_attn.cross import CrossSeam
from lib_attn.features import FeatureSeam
from lib_attn.layers import Layer, UnsupportedModel, find_blocks, find_layers, find_unet
from lib_attn.neighbours import Neighbours, is_replaced
from lib_attn.rows import POSITIVE, Cursor, Matcher, Row
from lib_attn.settings import Group
from lib_attn.techniques import RUNTIMES
from lib_attn.techniques.negative_skip import FreeSaving

log = logging.getLogger("attention_lab")

WORKS_INSIDE = "another extension works inside the model and may count on every row"
UNCLEAR = "Attention Lab did nothing in some steps: which row of the batch is which image is unclear."
FAILED_BEFORE = "another extension failed when a row was left out"


def attach(model: Any, techniques: Iterable[Group], **options: Any) -> Attachment:
    """Attach `techniques` (settings groups with ``enabled`` on) to `model`; a context manager, see `Attachment`.

    Raises:
        UnsupportedModel: when `model` has no U-Net of the supported kind.
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
        harmless: ``harmless(module) -> bool``: whether a method that somebody replaced there treats each row alike.
        whole: every row is to be computed, because a call with fewer has failed before (see `failed_with_fewer`).
        prediction: what the model predicts, ``epsilon`` or ``v``.
        save_negative: leave the negative rows out where they drop out of the guidance (scale 1, weights that sum to 1).
        references: `lib_attn.techniques.reference.Store`, where recorded runs are kept.
        inert: ``inert(module) -> bool``: whether an instance ``forward`` that was there before may be passed by.
        say: takes each sentence meant for the user, once.

    Attributes:
        placed, offered, acted, spoke: names of the techniques that sit on some part of the model, of those that a call
            was put to so far, of those that answered one, and of those that told the user something. The saving at
            scale 1 is no technique and in none of them.
        layers: the model's layers with attention, `lib_attn.layers.Layer`.
        failed_with_fewer: whether a U-Net call raised an error with rows left out; none are left out since.
        failed: whether something of ours raised an error; nothing is done since.
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
        harmless: Callable[[Any], bool] | None = None,
        whole: bool = False,
        prediction: str = "epsilon",
        save_negative: bool = False,
        references: Any = None,
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
        # What is skipped is decided and learnt from before others change the negative's prediction.
        groups = sorted((g for g in techniques if g.enabled), key=lambda g: list(RUNTIMES).index(g.name))
        self._runtimes = [self._make(group, seeds or ()) for group in groups]
        if save_negative and not any(getattr(r, "compares", False) for r in self._runtimes):
            # Negative skip says the same of itself.
            told = any(group.name == "negative_skip" for group in groups)
            self._runtimes.append(FreeSaving((lambda text: None) if told else self._tell))
        # Once: the model may look different while it samples, when others wrap or exchange blocks of it.
        self.layers, self._blocks = tuple(find_layers(self._unet)), tuple(find_blocks(self._unet))
        self._neighbours = Neighbours(self.layers, self._blocks, harmless or (lambda module: False))
        self.failed_with_fewer, self.failed = whole, False
        widths = [(layer.name, getattr(layer.attn1.to_q, "in_features", 0)) for layer in self.layers]
        for runtime in self._runtimes:
            if hasattr(runtime, "bind"):
                runtime.bind(
                    prediction=prediction, hooks=self._hooks, references=references, layout=tuple(widths),
                    blocks=self._blocks,
                )  # fmt: skip
        self._editors = [r for r in self._runtimes if hasattr(r, "edit")]
        self._boundary = Boundary(self._runtimes, self._note)
        self._evaluation = Evaluation()
        self._steps = steps
        self._cursor: Cursor | None = None
        self._size: tuple[int, int] | None = None
        self._moment = Moment(-1, 0.0, 0.0)
        self._timestep: float | None = None
        self._rows: tuple[Row, ...] | None = None
        self._matcher: Matcher | None = None
        self._reads: Callable[[], str] | None = None
        self._arguments: tuple[tuple, dict] = ((), {})
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
        return any(getattr(r, "reads_text", False) for r in self._runtimes)

    def model_is(self, model: Any) -> bool:
        """Whether this sits on the U-Net of `model`."""
        try:
            return find_unet(model) is self._unet
        except UnsupportedModel:
            return False

    def _make(self, group: Group, seeds: Sequence[int]) -> Any:
        def say(text: str) -> None:
            self.spoke.add(group.name)
            self._tell(text)

        runtime = RUNTIMES[group.name](group, seeds, say)
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
        self,
        rows: Sequence[Row] | None,
        step: int,
        total: int,
        size: tuple[int, int] | None = None,
        *,
        latents: Any = None,
        texts: Sequence[Any] | None = None,
        reads: Callable[[], str] | None = None,
        **told: Any,
    ) -> None:
        """Announce the next evaluation of a guided sampler.

        Args:
            rows: `lib_attn.rows.plan_rows`, or None when it cannot be known: then nothing is touched.
            step, total: running number and expected count of evaluations.
            size: of the latents, (h, w); U-Net calls of another size are somebody else's.
            latents, texts: see `lib_attn.rows.Matcher`; without latents the rows are taken to come as planned.
            reads: ``reads() -> str``: gives ``negative_read``; asked when the first U-Net call comes, for others may be
                told of the evaluation later than we are.
            told: ``cfg``, ``negative``, ``words``, ``negative_read``, ``editions``, ``positive_only`` of
                `lib_attn.boundary.Evaluation`, where known.
        """
        if rows is None:
            self.say(UNCLEAR)
        self._cursor, self._size, self._reads = Cursor(rows or ()), size, reads
        self._matcher = Matcher(rows, latents, texts) if rows and latents is not None else None
        self._evaluation = Evaluation(tuple(rows or ()), step, **told)
        # Adaptive samplers make more evaluations than they announce: those stand at the end.
        self._moment = Moment(step, min(1.0, step / max(1, total)), self._moment.time, total)

    def end_step(self) -> None:
        """The evaluation is over: U-Net calls before the next `begin_step` are not ours."""
        if self._cursor is not None:
            self._cursor.close()

    def why_idle(self, name: str) -> str | None:
        """What the technique `name` itself says on why it did nothing, as the end of a sentence."""
        asked = [r for r in self._runtimes if self._names.get(id(r)) == name and hasattr(r, "why_idle")]
        return asked[0].why_idle() if asked else None

    def pictures(self) -> list[tuple[int, Any]]:
        """(image, map ``[h, w]`` with values 0 … 1) that the techniques have to show so far."""
        found = []
        for runtime in self._runtimes:
            shown = runtime.pictures() if hasattr(runtime, "pictures") else {}
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
            asking = [r for r in self._runtimes if _asks(r, "wants", layer)]
            layers += [layer] * bool(asking)
            self._mark(self.placed, *asking)
        self._handles.append(self._unet.register_forward_pre_hook(self._enter_unet, with_kwargs=True))
        self._handles.append(self._unet.register_forward_hook(self._leave_unet))
        self._replace_forward(self._unet, _Unet(self, self._unet, vars(self._unet).get("forward")))
        for transformer in {id(layer.transformer): layer.transformer for layer in layers}.values():
            self._handles.append(transformer.register_forward_pre_hook(self._enter_transformer, with_kwargs=True))
        for layer in layers:
            self._replace_forward(layer.attn1, _SelfAttention(self, layer, vars(layer.attn1).get("forward")))
        self._mark(self.placed, *(r for r in self._runtimes if hasattr(r, "enter")))
        for seam in self._seams():
            self._handles += seam.install()

    def _replace_forward(self, module: Any, ours: Any) -> None:
        self._forwards.append((module, ours, ours.before))
        module.forward = ours

    def _seams(self) -> Iterator[Any]:
        """The hooks that the runtimes ask for beyond self-attention."""
        for runtime in self._runtimes:
            if getattr(runtime, "through", 0):
                yield InnerRows(self._blocks, runtime.through, self._boundary, runtime.refill, self._show_rows)
        for block in self._blocks:
            asking = [r for r in self._runtimes if _asks(r, "wants_features", block)]
            if asking:
                self._mark(self.placed, *asking)
                yield FeatureSeam(block, asking, self._now, self._note)
        for layer in self.layers:
            asking = [r for r in self._runtimes if _asks(r, "wants_cross", layer)]
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
        self._arguments, self._boundary.call, self._rows = (args, kwargs), None, None
        self._grids.clear()
        if self.failed:
            return None
        try:
            return self._enter(unet, args, kwargs)
        except Exception:
            self._stand_back()
            return None

    def _enter(self, unet: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        x, timesteps = argument(args, kwargs, 0, "x"), argument(args, kwargs, 1, "timesteps")
        timestep = float(timesteps.flatten()[0]) if timesteps is not None else 0.0
        time = min(max(1.0 - timestep / TRAINED_STEPS, 0.0), 1.0)
        if self._cursor is None:
            self._rows = tuple(Row(POSITIVE, i) for i in range(x.shape[0]))
            step = self._moment.step + (timestep != self._timestep)
            self._timestep = timestep
            share = step / self._steps if self._steps else time
            self._moment = Moment(step, min(share, 1.0), time, self._steps)
            return None
        if self._cursor.open and self._size not in (None, tuple(x.shape[-2:])):
            self.say("Attention Lab left the picture alone: another extension computes it in parts (tiled diffusion?).")
            return None
        rows, context = self._cursor.take(x.shape[0]), argument(args, kwargs, 2, "context")
        if rows is not None and self._matcher is not None:
            rows = self._matcher.match(rows, x, context)
            if rows is None:
                self.say(UNCLEAR)
        self._moment = dataclasses.replace(self._moment, time=time)
        if rows is None or not self._boundary.used:
            self._rows = rows
            return None
        if self._reads is not None:
            read, self._reads = self._reads(), None
            self._evaluation = dataclasses.replace(self._evaluation, negative_read=read)
        call = UnetCall(self._evaluation, rows, self._moment, sigma_of(timestep), x, context)
        call.fixed, call.told, call.whole = self._why_fixed(), self.failed_with_fewer, is_replaced(unet)
        args, kwargs = self._boundary.enter(call, args, kwargs)
        self._rows = self._boundary.inner_rows
        return args, kwargs

    def _why_fixed(self) -> str:
        """Why no row may be left out now, as the end of a sentence; empty when one may."""
        if self.failed_with_fewer:
            return FAILED_BEFORE
        found = self._neighbours.found()
        return f"{WORKS_INSIDE} ({found})" if found else ""

    def _leave_unet(self, unet: Any, args: tuple, output: Any) -> Any:
        self._rows = None
        if self._boundary.call is None:
            return None
        try:
            return self._boundary.leave(output)
        except Exception:
            fewer = self._boundary.fewer
            self._stand_back()
            args, kwargs = self._arguments
            return vars(unet)["forward"](*args, **kwargs) if fewer else None

    def compute(self, plain: Callable, args: tuple, kwargs: dict) -> Any:
        """Run the U-Net's own forward `plain`; where it fails with ours in it, again with all rows, then without us."""
        if self._rows is None and not self._boundary.fewer:
            return plain(*args, **kwargs)
        generators = _generators()
        try:
            return plain(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception:
            if self._boundary.fewer:
                log.exception("Attention Lab: a U-Net call failed with rows left out; it is made again with all rows")
                self.failed_with_fewer = True
                self.say(f"Attention Lab computes every row from now on: {FAILED_BEFORE}. See the log.")
                self._boundary.complete()
                self._rows = self._boundary.inner_rows
                args, kwargs = self._arguments
                try:
                    _restore(generators)
                    return plain(*args, **kwargs)
                except Exception:
                    log.exception("Attention Lab: it failed with all rows as well")
            self._stand_back()
        _restore(generators)
        return plain(*args, **kwargs)

    def _stand_back(self) -> None:
        """After an error with ours in a U-Net call: do nothing any more, say so, and keep the error for the log."""
        log.exception("Attention Lab stands back after an error in a U-Net call")
        self.failed, self._rows, self._boundary.call = True, None, None
        self.say(
            "Attention Lab stood back: a step of this picture failed with it, alone or beside another extension. "
            "See the log."
        )

    def _enter_transformer(self, transformer: Any, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs.get("x")
        if x is not None and x.ndim == 4:
            self._grids[id(transformer)] = tuple(x.shape[-2:])

    def self_attention(self, layer: Layer, x: Any, exact: Callable, foreign: bool) -> Any:
        """Compute a plain self-attention call (no context, no mask) by the first technique that takes it."""
        grid = self._grids.get(id(layer.transformer))
        if self._rows is None or grid is None:
            return exact()
        if foreign and is_replaced(layer.attn1) and not self._inert(layer.attn1):
            self.say(self._replaced())
            return exact()
        if x.ndim != 3 or x.shape[1] != grid[0] * grid[1] or x.shape[0] != len(self._rows):
            self.say("Attention Lab left some layers alone: something else rearranges their tokens (token merging?).")
            return exact()
        call = Call(layer, x, grid, self._rows, self._moment, exact, self._hooks)
        asked = [r for r in self._editors if r.wants(layer)]
        editors = tuple(r for r in asked if r.edits(call))
        for runtime in asked:
            self._note(runtime, runtime in editors)
        if editors:
            call = Call(layer, x, grid, self._rows, self._moment, exact, self._hooks, editors)
        for runtime in self._runtimes:
            # Fast paths work on as many keys as tokens; where an edit adds keys, full attention it is.
            if hasattr(runtime, "attend") and runtime.wants(layer) and not any(e.extends for e in editors):
                out = runtime.attend(call)
                self._note(runtime, out is not None)
                if out is not None:
                    return out
        return call.exact()

    def _replaced(self) -> str:
        """A sentence on the layers whose self-attention somebody else has replaced."""
        names = dict.fromkeys(
            layer.name for layer in self.layers if is_replaced(layer.attn1) and not self._inert(layer.attn1)
        )
        where = ", ".join(names) if len(names) <= 6 else f"{len(names)} blocks"
        return (
            f"Attention Lab left {where} alone: another extension has replaced self-attention there "
            "(Hypertile?). If it is off by now, it left that behind: loading the checkpoint again mends it."
        )

    def leave_alone(self, layer: Layer, x: Any, context: Any) -> None:
        """A call that is no plain self-attention: tell the user, unless the model itself is built so."""
        if self._rows is None or getattr(layer.block, "disable_self_attn", False):
            return
        if getattr(context, "ndim", 0) == 3 and context.shape[1] < x.shape[1]:
            self.say(
                "Attention Lab left some layers alone: another extension thins out their keys (token downsampling?)."
            )
        else:
            self.say("Attention Lab left some layers alone: they see more than the picture (a reference, a video?).")


def _generators() -> tuple:
    """The state of the global random generators."""
    return torch.random.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(generators: tuple) -> None:
    torch.random.set_rng_state(generators[0])
    if generators[1] is not None:
        torch.cuda.set_rng_state(generators[1])


class _Unet:
    """Instance ``forward`` of the U-Net: the only place where an error inside of it can be caught."""

    def __init__(self, attachment: Attachment, unet: Any, before: Callable | None):
        self._attachment, self._unet, self.before = weakref.ref(attachment), weakref.ref(unet), before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        attachment = self._attachment()
        if attachment is None or not attachment.attached:
            return self._plain(*args, **kwargs)
        return attachment.compute(self._plain, args, kwargs)

    def _plain(self, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        unet = self._unet()
        return type(unet).forward(unet, *args, **kwargs)


class _SelfAttention:
    """Instance ``forward`` of one self-attention module. Holds the attachment weakly: once that is gone it is inert."""

    def __init__(self, attachment: Attachment, layer: Layer, before: Callable | None):
        self._attachment, self._layer, self.before = weakref.ref(attachment), layer, before

    def __call__(self, x: Any, context: Any = None, mask: Any = None, **others: Any) -> Any:
        def exact() -> Any:
            module = self._layer.attn1
            if self.before is not None:
                return self.before(x, context=context, mask=mask, **others)
            return type(module).forward(module, x, context=context, mask=mask, **others)

        attachment = self._attachment()
        # A context in self-attention is ControlNet's reference mode and the like; other arguments are video models'.
        # Extensions that thin out keys hand the input itself over where they leave a layer alone.
        own = context is None or context is x
        plain = own and mask is None and not any(_given(value) for value in others.values())
        if attachment is None or not attachment.attached:
            return exact()
        if not plain:
            attachment.leave_alone(self._layer, x, context)
            return exact()
        return attachment.self_attention(self._layer, x, exact, self.before is not None)


def _asks(runtime: Any, method: str, *args: Any) -> bool:
    """Whether `runtime` has `method` and it answers yes."""
    return hasattr(runtime, method) and getattr(runtime, method)(*args)


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, (int, bool)) and not value)
