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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lib_attn.learned.files import Loader
from lib_attn.settings import Group
from lib_attn.store import Store
from lib_attn.techniques import ORDER, TECHNIQUES, load
from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.facts import EQUALS_FULL, NOTHING_TO_GAIN
from lib_attn.techniques.saving import FreeSaving
from lib_attn.unet.batch import Boundary, InnerRows, UnetCall
from lib_attn.unet.blocks import BlockHook
from lib_attn.unet.cross_attention import CrossAttentionHook
from lib_attn.unet.families import family_of
from lib_attn.unet.flight import Evaluation, Flight, HostHooks, Moment, sigma_of
from lib_attn.unet.guard import FAILED_BEFORE, Guard
from lib_attn.unet.layers import parse_selector
from lib_attn.unet.neighbours import Neighbours, is_replaced
from lib_attn.unet.rows import POSITIVE, Cursor, Matcher, Row
from lib_attn.unet.self_attention import SelfAttentionHook

WORKS_INSIDE = "another extension works inside the model and may count on every row"
UNCLEAR = "Attention Lab did nothing in some steps: which row of the batch is which image is unclear."


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
        store: what techniques keep from one attachment to the next, such as a recorded run.
        files: loads learned files.
        observers: runtimes of no technique that look on and change nothing.
        inert: ``inert(module) -> bool``: whether an instance ``forward`` that was there before may be passed by.
        say: takes each sentence meant for the user, once.

    Attributes:
        placed, offered, acted, spoke: names of the techniques that sit on some part of the model, of those that a call
            was put to so far, of those that answered one, and of those that told the user something. The saving at
            scale 1 is no technique and in none of them.
        passed: names of techniques that were not asked in some layer, each with that of the one before it there.
        layers: the model's layers with attention, `lib_attn.unet.layers.Layer`.
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
        store: Store | None = None,
        files: Loader | None = None,
        observers: Iterable[Runtime] = (),
        say: Callable[[str], None] | None = None,
    ):
        self._family = family_of(model)
        self._unet = self._family.unet(model)
        self.placed: set[str] = set()
        self.offered: set[str] = set()
        self.acted: set[str] = set()
        self.spoke: set[str] = set()
        self.passed: dict[str, str] = {}
        self._said: set[str] = set()
        self._say_to = say
        self._names: dict[int, str] = {}
        # Once: the model may look different while it samples, when others wrap or exchange blocks of it.
        self.layers, self._blocks = tuple(self._family.layers(self._unet)), tuple(self._family.blocks(self._unet))
        self._hooks = HostHooks(hypernetwork, upcast)
        kept = store or Store(), files or Loader()
        self._context = Context(
            tuple(seeds or ()), self._tell, prediction, self._hooks, self.layers, self._blocks, *kept
        )
        groups = sorted((g for g in techniques if g.enabled), key=lambda g: ORDER.index(g.name))
        self._runtimes: list[Runtime] = [self._make(group) for group in groups]
        if save_negative and not any(r.compares for r in self._runtimes):
            # A technique that leaves negatives out says the same of itself.
            told = any(group.skips_negative for group in groups)
            self._runtimes.append(FreeSaving(None, replace(self._context, say=_nobody) if told else self._context))
        self._runtimes += observers
        self._flight = Flight()
        self._boundary = Boundary(self._runtimes, self._note)
        self._guard = Guard(self._boundary, self._flight, whole, self.say)
        self._self_attention = SelfAttentionHook(
            self.layers, self._runtimes, self._hooks, inert or _no, self._flight, self._note, self.say, self._pass
        )
        self._neighbours = Neighbours(self.layers, self._blocks, harmless or _no)
        self._steps, self._timestep = steps, None
        self._cursor: Cursor | None = None
        self._size: tuple[int, int] | None = None
        self._matcher: Matcher | None = None
        self._reads: Callable[[], str] | None = None
        self._handles: list[Any] = []
        self._inner: list[Any] = []  # hooks inside of the U-Net beyond self-attention
        self._forwards: list[tuple[Any, Any]] = []
        if self._runtimes:
            try:
                self._install()
            except BaseException:
                self.detach()
                raise

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
        return self._family.unet(model) is self._unet

    @property
    def failed_with_fewer(self) -> bool:
        return self._guard.failed_with_fewer

    @property
    def failed(self) -> bool:
        return self._guard.failed

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
            rows: `lib_attn.unet.rows.plan_rows`, or None when it cannot be known: then nothing is touched.
            step, total: running number and expected count of evaluations.
            size: of the latents, (h, w); U-Net calls of another size are somebody else's.
            latents, texts: see `lib_attn.unet.rows.Matcher`; without latents the rows are taken to come as planned.
            reads: ``reads() -> str``: gives ``negative_read``; asked when the first U-Net call comes, for others may be
                told of the evaluation later than we are.
            told: ``cfg``, ``negative``, ``words``, ``negative_read``, ``editions``, ``positive_only``,
                ``adaptive`` of `lib_attn.unet.flight.Evaluation`, where known.
        """
        if rows is None:
            self.say(UNCLEAR)
        self._cursor, self._size, self._reads = Cursor(rows or ()), size, reads
        self._matcher = Matcher(rows, latents, texts) if rows and latents is not None else None
        flight = self._flight
        flight.evaluation = Evaluation(tuple(rows or ()), step, **told)
        # Adaptive samplers make more evaluations than they announce: those stand at the end.
        flight.moment = Moment(step, min(1.0, step / max(1, total)), flight.moment.time, total)

    def end_step(self) -> None:
        """The evaluation is over: U-Net calls before the next `begin_step` are not ours."""
        if self._cursor is not None:
            self._cursor.close()

    def why_idle(self, group: Group) -> str | None:
        """Why a technique took no call although its steps had come, as whole sentences; None when it cannot be said, or
        when it has said so itself."""
        if group.name in self.spoke:
            return None
        placed, chosen, blocks = group.name in self.placed, parse_selector(group.blocks), group.blocks
        if not placed and not chosen.auto and not any(map(chosen.matches, self.layers)):
            return f"This model has no attention in the blocks {blocks}."
        offered, before = not placed or group.name in self.offered, self.passed.get(group.name)
        runtime = next((r for r in self._runtimes if self._names.get(id(r)) == group.name), None)
        own = self._ask(runtime.why_idle, None) if offered and runtime is not None else None
        if own is not None:
            return own
        if before is not None:
            technique = next(t.label for t in TECHNIQUES if t.name == before)
            return f"{technique} comes before it in the same blocks."
        if not offered:
            return None
        if not group.by_size:
            return "With these values and this prompt there was nothing to do."
        return NOTHING_TO_GAIN if chosen.auto else EQUALS_FULL

    def pictures(self) -> list[tuple[int, Any]]:
        """(image, map ``[h, w]`` with values 0 … 1) that the techniques have to show so far."""
        found = []
        for runtime in self._runtimes:
            shown = self._ask(runtime.pictures, {})
            if shown:
                self._mark(self.acted, runtime)
            found += shown.items()
        return found

    def _ask(self, question: Callable, otherwise: Any) -> Any:
        """The answer of a technique to a question after sampling; `otherwise` where it fails: there is a picture."""
        try:
            return question()
        except Exception:
            self._guard.stand_back()
            return otherwise

    def detach(self) -> None:
        """Remove every patch. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for module, ours in self._forwards:
            # Somebody who wrapped us meanwhile keeps his wrapper; ours then only passes calls on.
            if vars(module).get("forward") is ours:
                if ours.before is None:
                    del module.forward
                else:
                    module.forward = ours.before
        self._forwards.clear()
        self._guard.on = self._self_attention.on = False
        self._flight.rows = None
        self._flight.grids.clear()
        self._flight.skips.clear()
        # What runtimes keep may be gigabytes on the GPU. Hooks and attachment know each other, and torch's own frames
        # know the hooks they have called, so it would go with the next collection of cycles only.
        self._runtimes = []
        for hook in (self._boundary, self._self_attention, *self._inner):
            hook.release()
        self._inner.clear()
        self._matcher = None

    def _install(self) -> None:
        asking = {id(layer): [r for r in self._runtimes if r.wants_self(layer)] for layer in self.layers}
        self._mark(self.placed, *(r for runtimes in asking.values() for r in runtimes))
        self._mark(self.placed, *(r for r in self._runtimes if r.has("enter")))
        self._handles.append(self._unet.register_forward_pre_hook(self._enter_unet, with_kwargs=True))
        self._handles.append(self._unet.register_forward_hook(self._leave_unet))
        handles, forwards = self._self_attention.install([layer for layer in self.layers if asking[id(layer)]])
        self._handles += handles
        self._forwards = [self._guard.forward(self._unet), *forwards]
        for module, ours in self._forwards:
            module.forward = ours
        for hook in self._more_hooks():
            self._inner.append(hook)
            self._handles += hook.install()

    def _more_hooks(self) -> Iterator[Any]:
        """The hooks that the runtimes ask for beyond self-attention."""
        for runtime in self._runtimes:
            if runtime.through:
                yield InnerRows(self._blocks, runtime.through, self._boundary, runtime.refill, self._flight)
        for block in self._blocks:
            asking = [r for r in self._runtimes if r.wants_features(block)]
            if asking:
                self._mark(self.placed, *asking)
                yield BlockHook(block, asking, self._flight, self._note)
        for layer in self.layers:
            asking = [r for r in self._runtimes if r.wants_cross(layer)]
            if asking and layer.attn2 is not None:
                self._mark(self.placed, *asking)
                yield CrossAttentionHook(layer, asking, self._hooks, self._flight, self._note, self.say)

    def _note(self, runtime: Any, changed: bool) -> None:
        """A call was put to `runtime`, which may have changed it."""
        self._mark(self.offered, runtime)
        if changed:
            self._mark(self.acted, runtime)

    def _pass(self, runtime: Any, other: Any) -> None:
        """`runtime` was not asked, because `other` comes before it."""
        self.passed[self._names[id(runtime)]] = self._names[id(other)]

    def _mark(self, names: set[str], *runtimes: Any) -> None:
        names.update(self._names[id(r)] for r in runtimes if id(r) in self._names)

    def _enter_unet(self, unet: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self._guard.arguments, self._boundary.call, self._flight.rows = (args, kwargs), None, None
        self._flight.grids.clear()
        if self.failed:
            return None
        try:
            return self._enter(unet, args, kwargs)
        except Exception:
            self._guard.stand_back()
            return None

    def _enter(self, unet: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        flight = self._flight
        x, timesteps, context = (self._family.argument(args, kwargs, name) for name in self._family.ARGUMENTS)
        timestep = float(timesteps.flatten()[0]) if timesteps is not None else 0.0
        time = min(max(1.0 - timestep / self._family.STEPS, 0.0), 1.0)
        if self._cursor is None:
            flight.rows = tuple(Row(POSITIVE, i) for i in range(x.shape[0]))
            step = flight.moment.step + (timestep != self._timestep)
            self._timestep = timestep
            share = step / self._steps if self._steps else time
            flight.moment = Moment(step, min(share, 1.0), time, self._steps)
            return None
        if self._cursor.open and self._size not in (None, tuple(x.shape[-2:])):
            self.say("Attention Lab left the picture alone: another extension computes it in parts (tiled diffusion?).")
            return None
        rows = self._cursor.take(x.shape[0])
        if rows is not None and self._matcher is not None:
            rows = self._matcher.match(rows, x, context)
            if rows is None:
                self.say(UNCLEAR)
        flight.moment = replace(flight.moment, time=time)
        if rows is None or not self._boundary.used:
            flight.rows = rows
            return None
        if self._reads is not None:
            read, self._reads = self._reads(), None
            flight.evaluation = replace(flight.evaluation, negative_read=read)
        call = UnetCall(flight.evaluation, rows, flight.moment, sigma_of(timestep), x, context)
        call.fixed, call.told, call.whole = self._why_fixed(), self.failed_with_fewer, is_replaced(unet)
        args, kwargs = self._boundary.enter(call, args, kwargs)
        flight.rows = self._boundary.inner_rows
        return args, kwargs

    def _why_fixed(self) -> str:
        """Why no row may be left out now, as the end of a sentence; empty when one may."""
        if self.failed_with_fewer:
            return FAILED_BEFORE
        found = self._neighbours.found()
        return f"{WORKS_INSIDE} ({found})" if found else ""

    def _leave_unet(self, unet: Any, args: tuple, output: Any) -> Any:
        self._flight.rows = None
        if self._boundary.call is None:
            return None
        try:
            return self._boundary.leave(output)
        except Exception:
            fewer = self._boundary.fewer
            self._guard.stand_back()
            args, kwargs = self._guard.arguments
            return vars(unet)["forward"](*args, **kwargs) if fewer else None


def _no(module: Any) -> bool:
    return False


def _nobody(text: str) -> None:
    pass
