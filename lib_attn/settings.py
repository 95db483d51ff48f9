"""Every parameter of Attention Lab, once.

One dataclass per technique; each field is made by `param` and carries range, label and help. Panel, infotext keys,
X/Y/Z axes, API fields, command-line options, the tables in the docs and validation are all generated from here, so
a new parameter is one line. A technique's own are in its folder, see
`lib_attn.techniques`; its class can be imported from here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from lib_attn import __version__
from lib_attn.schema import GENERAL, MAX_UNIT, Group, Param, param, read_release
from lib_attn.techniques import TECHNIQUES


@dataclass(frozen=True)
class General(Group):
    """What holds for all techniques."""

    name: ClassVar[str] = GENERAL
    label: ClassVar[str] = "Attention Lab"

    enabled: bool = param(False, "Attention Lab", "Master switch. Off: the picture is bit-identical to one made without this extension.")
    inner_passes: bool = param(
        False,
        "Also in inner passes",
        "Extensions such as ADetailer run small img2img jobs inside a job. Off leaves those exact; they are small, so there is little to gain.",
    )
    skip_cfg1: bool = param(
        True,
        "No negative at CFG 1",
        "At CFG scale 1 the negative prompt drops out of the formula, yet the webui computes it. On: it is left out, which halves the work; the result is the same up to rounding.",
        since=2,
    )
    compare: bool = param(
        False, "Compare off / on", "Draws the same seeds without and with Attention Lab, and adds pairs, their difference and times to the gallery.", since=3, transient=True,
    )

GROUPS: tuple[type[Group], ...] = (General, *TECHNIQUES)


def all_params() -> tuple[Param, ...]:
    """All parameters of all groups in panel order, without wishes for one job."""
    return tuple(p for group in GROUPS for p in group.params())


def positional_params() -> tuple[Param, ...]:
    """All parameters in the frozen order of the positional API: by release, then by panel order."""
    return tuple(sorted((p for group in GROUPS for p in group.all_params()), key=lambda p: p.since))


@dataclass(frozen=True)
class Settings:
    """One value of every group; `settings["near_sighted"].tile`. Build it with `read` from untrusted input."""

    groups: tuple[Group, ...] = tuple(group() for group in GROUPS)

    def __getitem__(self, name: str) -> Any:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    @property
    def general(self) -> General:
        return self["general"]

    def active(self) -> Iterator[Group]:
        """The techniques that are switched on, none when the master switch is off."""
        if self.general.enabled:
            yield from (g for g in self.groups if g.name != General.name and g.enabled)

    def for_pass(self, hires: bool) -> tuple[Group, ...]:
        """The active techniques of the hires pass (`hires` true) or of the ordinary one."""
        wanted = ("same", "only") if hires else ("same", "off")
        return tuple(g for g in self.active() if g.hires in wanted)

    def replace(self, **groups: Group) -> Settings:
        """A copy with whole groups replaced: ``settings.replace(near_sighted=NearSighted(enabled=True))``."""
        return Settings(tuple(groups.get(g.name, g) for g in self.groups))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain JSON: general fields on top, one dictionary per technique. `read` takes it back."""
        out: dict[str, Any] = self.general.to_dict()
        out.update({g.name: g.to_dict() for g in self.groups if g.name != General.name})
        return out

    def flat(self) -> dict[str, Any]:
        """``{"near_sighted.tile": 16, …}`` for every parameter."""
        return {f"{g.name}.{name}": value for g in self.groups for name, value in g.to_dict().items()}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> tuple[Settings, list[str]]:
        """Build settings from nested (`to_dict`) or dotted (`flat`) names, or a mix of both.

        Missing values take their defaults. Without a word on the master switch it is on as soon as one technique is.

        Returns:
            the settings, and one clear sentence for everything that was not understood, refused or clamped.
        """
        messages: list[str] = []
        if not isinstance(values, Mapping):
            return cls(), [f"Attention Lab's settings are a dictionary of named fields, not {type(values).__name__}: all are left at their defaults."]
        nested: dict[str, dict[str, Any]] = {group.name: {} for group in GROUPS}
        general_names = {p.name for p in General.all_params()}
        for key, value in values.items():
            key = str(key)
            head, _, tail = key.partition(".")
            if tail and head in nested:
                nested[head][tail] = value
            elif key in nested and isinstance(value, Mapping):
                nested[key].update({str(k): v for k, v in value.items()})
            elif key in general_names:
                nested[General.name][key] = value
            elif key in nested:
                shown = repr(value)[:40]
                messages.append(f"{key} takes a dictionary of its parameters, not {shown}: it is left out.")
            else:
                shown = repr(key[:40])
                messages.append(f"There is no technique or setting {shown}: it is left out.")
        groups = []
        for group in GROUPS:
            value, said = group.read(nested[group.name])
            groups.append(value)
            messages += said
        settings = cls(tuple(groups))
        if "enabled" not in nested[General.name] and any(g.enabled for g in settings.groups if g.name != General.name):
            settings = settings.replace(general=dataclasses.replace(settings.general, enabled=True))
        return settings, messages

    def with_files(self, change: Callable[[str, str], str]) -> Settings:
        """A copy with every learned file that an active technique names passed through ``change(kind, value)``."""
        changed = {}
        for group in self.active():
            files = {p.name: change(p.file, value) for p in group.params() if p.file and (value := getattr(group, p.name))}
            changed[group.name] = dataclasses.replace(group, **files)
        return self.replace(**changed)

    def completed(self, fitting: Callable[[str], Sequence[str]]) -> tuple[Settings, list[str]]:
        """A copy in which active techniques that lack a learned file have the only one that fits; a sentence on each.

        Args:
            fitting: see `lib_attn.schema.Technique.fitting_files`.
        """
        taken, said = {}, []
        for group in self.active():
            files, technique = group.fitting_files(fitting), group.label
            if len(files) == 1:
                (name,) = files
                taken[group.name] = dataclasses.replace(group, file=name)
                said.append(f"No file was chosen for {technique}: {name} is used, which fits.")
            elif files:
                names = ", ".join(files)
                said.append(f"No file was chosen for {technique}, and several fit: {names}.")
        return self.replace(**taken), said

    def to_infotext(self, full: bool = False) -> dict[str, str]:
        """Infotext pairs of the active techniques; empty when nothing is on.

        Args:
            full: a key for every parameter, defaults too, as earlier pictures have it. Otherwise one key a technique
                with the values that are not at their defaults, and the release whose defaults are meant.
        """
        active = list(self.active())
        if not active:
            return {}
        if full:
            groups = [self.general, *active]
            pairs = {p.infotext: show(getattr(g, p.name)) for g in groups for p in g.params()}
            # The host's parser takes no empty value.
            return {key: value for key, value in pairs.items() if value} | {note_key(g): g.note for g in active if g.note}
        general = {p.infotext: show(getattr(self.general, p.name)) for p in General.params()[1:]
                   if getattr(self.general, p.name) != p.default}  # fmt: skip
        return {RELEASE_KEY: __version__} | general | {unit_key(g): write_unit(g) for g in active}

    @classmethod
    def from_infotext(cls, pairs: Mapping[str, Any]) -> tuple[Settings, list[str]]:
        """Read infotext pairs of either form back. What has no key is at its default, so a picture without our keys
        is all off."""
        return cls.read({p.key: value for p in all_params() if (value := infotext_value(p, pairs)) is not None})


#: Infotext key of the master switch. Long form: True. Short form: the release whose defaults are meant.
RELEASE_KEY = General.params()[0].infotext


def unit_key(group: Group | type[Group]) -> str:
    """Infotext key that holds all of a technique in the short form: ``Attn near-sighted``."""
    return f"Attn {group.name.replace('_', '-')}"


def write_unit(group: Group) -> str:
    """A technique's values that are not at their defaults, ``tile: 8, blocks: d0;out6``; ``on`` without any."""
    changed = [p for p in group.params() if p.name != "enabled" and getattr(group, p.name) != p.default]
    parts = []
    for p in changed:
        value = show(getattr(group, p.name))
        # Block selectors take semicolons as well, and are easier to read with them.
        parts.append(f"{p.name.replace('_', ' ')}: {_guard(value.replace(',', ';') if p.kind == 'blocks' else value)}")
    return ", ".join([*parts, *([f"needs: {_guard(group.note)}"] if group.note else [])]) or "on"


def _guard(text: str) -> str:
    """`text` without the commas and colons that hold a unit together."""
    return text.replace("%", "%25").replace(",", "%2C").replace(":", "%3A")


@lru_cache(maxsize=64)
def _read_unit(text: str) -> dict[str, str]:
    parts = (part.partition(":") for part in text.split(","))
    return {name.strip().replace(" ", "_"): value.strip().replace("%2C", ",").replace("%3A", ":").replace("%25", "%")
            for name, colon, value in parts if colon}  # fmt: skip


def infotext_value(param: Param, pairs: Mapping[str, Any]) -> Any:
    """What a picture's pairs say of a parameter, in either form; None where they say nothing.

    In the short form a parameter without a word is at the default of the release that the picture names.
    """
    release = pairs.get(RELEASE_KEY)
    named = isinstance(release, str) and bool(read_release(release))
    if param.technique == General.name:
        if param.infotext == RELEASE_KEY:
            return True if named else release
        return pairs.get(param.infotext, param.default_of(release) if named else None)
    unit = pairs.get(f"Attn {param.technique.replace('_', '-')}")
    if not isinstance(unit, str) or len(unit) > MAX_UNIT:
        return pairs.get(param.infotext)
    if param.name == "enabled":
        return True
    return _read_unit(unit).get(param.name, param.default_of(release) if named else None)


def note_key(group: Group | type[Group]) -> str:
    """Infotext key of what else it takes to make a picture again; it is never read back."""
    return f"Attn {group.name.replace('_', '-')} needs"


def show(value: Any) -> str:
    """A value as infotext and command line show it; numbers so that reading them back gives the same number."""
    if isinstance(value, float):
        return repr(int(value)) if value == int(value) else repr(value)
    return str(value)



def __getattr__(name: str) -> type[Group]:
    """The settings class of a technique by its name."""
    for technique in TECHNIQUES:
        if technique.__name__ == name:
            return technique
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
