"""What is put on a U-Net while it draws: nothing, a method of other people, or settings of ours, all alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib_attn import presets
from lib_attn.attach import attach
from lib_attn.lab.shared.errors import LabError
from lib_attn.learned.files import Loader
from lib_attn.preview import told_after
from lib_attn.schema import Technique
from lib_attn.settings import TECHNIQUES, Settings, all_params
from lib_attn.store import Store
from lib_attn.techniques.base import Runtime
from lib_attn.techniques.facts import Facts, Pass
from lib_attn.unet.profile import profile_of

#: Called before every guided evaluation with its rows, its running number, the number of all, and by name what else
#: `lib_attn.unet.flight.Evaluation` holds.
Begin = Callable[..., None]


@dataclass(frozen=True)
class SamplingPass:
    """What a method may know about the pictures to come.

    height, width: in pixels. seeds: of the batch. steps: of the sampler. cfg: guidance scale. negative: whether there
    is a negative prompt.
    """

    height: int
    width: int
    seeds: tuple[int, ...] = (0,)
    steps: int = 20
    cfg: float = 7.0
    negative: bool = False

    @property
    def facts(self) -> Facts:
        """The same as `lib_attn.preview` wants it, without what is known of the model."""
        passes = (Pass(self.width, self.height, self.steps, self.cfg),)
        return Facts(passes, len(self.seeds), negative=self.negative)


@dataclass(frozen=True)
class Variant:
    """One way of computing self-attention.

    kind: ``full``, ``free``, ``peer`` or ``ours``. put: ``put(unet, ahead)`` returns a context manager within which the
    method is on the U-Net (ahead: a `SamplingPass`). settings: of ours, in place of `put`. source: of its code.
    observers: each gives a runtime that looks on beside the settings.
    """

    name: str
    label: str
    kind: str
    put: Any = field(repr=False, default=None)
    settings: Settings | None = None
    source: str = ""
    observers: tuple[Callable[[], Runtime], ...] = ()

    @property
    def cycle(self) -> int:
        """Steps after which the cost repeats: see `lib_attn.schema.Technique`."""
        return max([1, *(g.cycle for g in self.settings.active())]) if self.settings else 1

    @property
    def changed(self) -> dict[str, Any] | None:
        """Parameters that are not at their defaults, by dotted name; None where it is no setting of ours."""
        if self.settings is None:
            return None
        plain, values = Settings().flat(), self.settings.flat()
        named = [p.key for p in all_params() if p.name != "enabled"]
        return {key: values[key] for key in named if values[key] != plain[key]}

    @property
    def techniques(self) -> tuple[str, ...]:
        """Names of the techniques of ours that are on."""
        return tuple(g.name for g in self.settings.active()) if self.settings else ()

    @property
    def uses_negative(self) -> bool:
        """Whether the negative has to be there even where guidance has no use for it."""
        return any(g.needs_negative for g in self.settings.active()) if self.settings else False

    def completed(self, fitting: Callable[[str], Sequence[str]], say: Callable[[str], None] | None = None) -> Variant:
        """The same with the learned files that it lacks and that are the only ones to fit.

        Args:
            fitting: see `lib_attn.settings.Settings.completed`. say: takes a sentence on each.
        """
        if self.settings is None:
            return self
        settings, said = self.settings.completed(fitting)
        for sentence in said if say is not None else ():
            say(sentence)
        return self if settings == self.settings else replace(self, settings=settings)

    @contextlib.contextmanager
    def on(
        self,
        unet,
        ahead: SamplingPass,
        say: Callable[[str], None] | None = None,
        prediction: str = "epsilon",
        store: Store | None = None,
        files: Loader | None = None,
    ) -> Iterator[Begin]:
        """Put this variant on `unet`, which predicts `prediction`; yields the function to call before each evaluation.

        Args:
            say: takes a sentence for the user. At the end it is told of each technique that changed nothing, and why.
            prediction: ``epsilon`` or ``v``.
            store: what techniques keep from one picture to the next. files: loads learned files.
        """
        if self.settings is None:
            with self.put(unet, ahead):
                yield lambda rows, step, total, **told: None
            return
        groups = self.settings.for_pass(hires=False)
        options = {"seeds": ahead.seeds, "steps": ahead.steps, "prediction": prediction, "store": store, "say": say}
        options |= {"files": files, "observers": [make() for make in self.observers]}
        recorded = store is not None and any(store.get(group.name) is not None for group in groups)
        with attach(unet, groups, **options) as attachment:
            yield attachment.begin_step
            if say is not None:
                facts = replace(ahead.facts, profile=profile_of(unet), recorded=recorded)
                acted = attachment.acted
                for sentence in told_after(self.settings, facts, lambda g: g.name in acted, attachment.why_idle):
                    say(sentence)


FULL = Variant("full", "Full attention", "full", lambda unet, ahead: contextlib.nullcontext())


def ours(name: str, label: str, settings: Settings) -> Variant:
    return Variant(name, label, "ours", settings=settings, source="this project")


def watched(observer: Callable[[], Runtime]) -> Variant:
    """Full attention with somebody looking on."""
    return Variant("watched", "Watched", "full", settings=Settings(), observers=(observer,))


def preset_variants(technique: str) -> list[Variant]:
    """The shipped presets that switch a technique on, as variants."""
    return [ours(name, name, settings) for name, settings in load_presets().items() if settings[technique].enabled]


def technique_variants() -> list[Variant]:
    """One variant of each technique: its defaults, or the preset that shows it on a single picture."""
    return [replace(preset(g.shown_by), name=g.name) if g.shown_by else defaults(g) for g in TECHNIQUES]


def defaults(technique: type[Technique]) -> Variant:
    """A technique as it is when nothing but its switch is moved."""
    return ours(technique.name, technique.label, read_settings({f"{technique.name}.enabled": True}))


def load_presets() -> dict[str, Settings]:
    """Shipped presets by name."""
    return {name: read_settings(values) for name, values in presets.shipped().items()}


def preset(name: str, **changes) -> Variant:
    """A shipped preset, with changes by dotted name, as a variant."""
    return ours(name, name, read_settings(load_presets()[name].flat() | changes))


def setting(name: str, text: str) -> Variant:
    """A variant from ``parameter=value; parameter=value``."""
    return parse_setting(f"{name}: {text};")


def parse_setting(text: str) -> Variant:
    """Read ``name: tile=16 pool=4 exact_every=3`` as a variant of ours; the name may be left out.

    A parameter is named in full (``near_sighted.tile``) or alone where only one technique has it, or only one of
    those that the other items name (``tile=16 blocks=d0``); items are separated by spaces, or by semicolons where
    values have spaces in them. A technique that is named is switched on.

    Raises:
        LabError: when something in it is not understood.
    """
    name, colon, body = text.partition(":")
    name, body = (name.strip(), body) if colon else ("", text)
    items: list[tuple[str, str]] = []
    for item in filter(None, map(str.strip, body.split(";" if ";" in body else None))):
        key, equals, value = item.partition("=")
        if not equals:
            raise LabError(f"'{item}' is no setting: write parameter=value, for example tile=16.")
        items.append((key, value))
    found = [_keys_named(key) for key, _ in items]
    meant = {keys[0].partition(".")[0] for keys in found if len(keys) == 1}
    values: dict[str, Any] = {full_key(key, meant): value for key, value in items}
    for technique in {key.partition(".")[0] for key in values} - {"general"}:
        values.setdefault(f"{technique}.enabled", True)
    settings = read_settings(values)
    name = name or " ".join(f"{k.partition('.')[2]}={v}" for k, v in values.items() if not k.endswith(".enabled"))
    return ours(name or "defaults", name or "defaults", settings)


def full_key(name: str, meant: Collection[str] = ()) -> str:
    """``tile`` -> ``near_sighted.tile``; names with a dot are checked and handed back.

    A name that a later technique took up as well still means the earlier one's, so that a command line keeps its sense.

    Args:
        meant: techniques that decide where several have the parameter.

    Raises:
        LabError: when there is no such parameter or several techniques have it.
    """
    keys = _keys_named(name)
    if len(keys) > 1:
        keys = [key for key in keys if key.partition(".")[0] in meant] or keys
        release = {p.key: p.since for p in all_params()}
        keys = [key for key in keys if release[key] == min(map(release.get, keys))]
    if len(keys) != 1:
        why = f"several techniques have it, write one of {', '.join(keys)}" if keys else "there is no such parameter"
        raise LabError(f"'{name}' is not understood: {why}.")
    return keys[0]


def _keys_named(name: str) -> list[str]:
    keys = [p.key for p in all_params() if name in (p.key, p.name)]
    return [key for key in keys if not key.startswith("general.")] or keys


def read_settings(values: dict[str, Any]) -> Settings:
    """`Settings.read`, but everything it would only mention is an error here.

    Raises:
        LabError: with the first sentence.
    """
    settings, messages = Settings.read(values)
    if messages:
        raise LabError(messages[0])
    return settings
