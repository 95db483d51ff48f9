"""What a parameter is, and a group of them: range, label, help, and how a value is read from anywhere."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lib_attn.names import is_learned, split_hash
from lib_attn.unet.layers import parse_selector

MAX_TEXT = 400
GENERAL = "general"  # name of the group that holds for all techniques
MAX_UNIT = 8000  # characters of a technique's infotext that are read
MAX_PICTURE = 64 << 20  # characters of a picture
SHARED = ("blocks", "start", "end", "hires")  # fields that every technique has, and so would every label


@dataclass(frozen=True)
class Param:
    """Description of one parameter.

    technique, group: name and label of the group that it belongs to.
    kind: ``bool``, ``int``, ``float``, ``choice``, ``blocks`` (a block selector), ``file`` (a learned file: its name,
    ``name#hash`` or empty for none), ``picture`` (a picture as base64, empty for none) or ``text``. file: the kind of
    learned file.
    low, high, step: range of numbers. unit: what 1 stands for, shown in help and docs. reads: (factor, unit), how the
    panel reads the value out beside the slider: 16 times (8, "px") is 128 px. advanced: folded away in the panel.
    since: positional API order; fields of a later release get a higher number and so come after all earlier ones.
    latest: what stands on a button beside it, which fills in the latest value there is; empty for no button.
    transient: a wish for one job; not in the infotext, in presets, X/Y/Z, the command line and the docs.
    earlier: ((release, default), …), oldest first: up to and with that release another default held. Pictures name
    the release whose defaults they mean.
    """

    technique: str
    group: str
    name: str
    kind: str
    default: Any
    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    reads: tuple[float, str] | None = None
    advanced: bool = False
    since: int = 1
    transient: bool = False
    earlier: tuple[tuple[str, Any], ...] = ()
    file: str = ""
    latest: str = ""

    def default_of(self, release: str) -> Any:
        """The default that held in `release` ("0.1.0"); today's for a release that is not understood."""
        asked = read_release(release)
        return next((value for last, value in self.earlier if asked and asked <= read_release(last)), self.default)

    @property
    def title(self) -> str:
        """What the user reads at its control, unique in the panel and the same for ever: the host's ui-config.json goes
        by it."""
        return f"{self.group}: {self.label}" if self.name in SHARED else self.label

    @property
    def key(self) -> str:
        """Name in X/Y/Z, the command line and flat dictionaries: ``near_sighted.tile``."""
        return f"{self.technique}.{self.name}"

    @property
    def infotext(self) -> str:
        """Key in the infotext: ``Attn near-sighted tile`` (no dot, colon or parenthesis: the host's parser breaks there)."""
        if self.technique == GENERAL:
            return "Attention Lab" if self.name == "enabled" else f"Attn {self.name.replace('_', ' ')}"
        return f"Attn {self.technique.replace('_', '-')} {self.name.replace('_', ' ')}"

    def read(self, value: Any) -> Any:
        """Return `value` as this parameter's type, out-of-range numbers clamped.

        Raises:
            ValueError: with one sentence, when it cannot be understood (wrong type, NaN, infinity, unknown choice).
        """
        label, shown = self.title, repr(value)[:40]
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
            word = str(value).strip().lower()
            if word in ("true", "1", "yes", "on", "1.0"):
                return True
            if word in ("false", "0", "no", "off", "0.0"):
                return False
            raise ValueError(f"{label} is on or off, not {shown}")
        if self.kind in ("int", "float"):
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise self.out_of_range(value)
            try:
                number = float(value)
            except (ValueError, OverflowError):
                raise self.out_of_range(value) from None
            if not math.isfinite(number):
                raise self.out_of_range(value)
            number = min(max(number, self.low), self.high)
            return int(round(number)) if self.kind == "int" else number
        if self.kind == "picture":
            # What is none is told by who opens it: no default stands for a picture that was meant.
            return (value if isinstance(value, str) else shown).strip()[:MAX_PICTURE]
        if not isinstance(value, str):
            raise ValueError(f"{label} is a text, not {shown}")
        if self.kind == "choice":
            for choice in self.choices:
                if choice.lower() == value.strip().lower():
                    return choice
            choices = ", ".join(self.choices)
            raise ValueError(f"{label} is one of {choices}, not {shown}")
        if self.kind == "blocks":
            try:
                return parse_selector(value).text
            except ValueError as error:
                raise ValueError(f"{label} is not understood: {error}") from None
        if self.kind == "file":
            if value.strip() and not is_learned(split_hash(value.strip())[0]):
                raise ValueError(f"{label} is the name of a learned file, not {shown}")
            return value.strip()
        if len(value) > MAX_TEXT:
            raise ValueError(f"{label} may have {MAX_TEXT} characters at most")
        return value.strip()

    def out_of_range(self, value: Any) -> ValueError:
        """For a value of a parameter with a range that is not in it, or no number at all."""
        label, shown = self.title, repr(value)[:40]
        low, high = (str(end) if self.kind == "int" else f"{end:g}" for end in (self.low, self.high))
        return ValueError(f"{label} is a number from {low} to {high}, not {shown}")

    def moved(self, value: Any) -> ValueError:
        """For a number that `read` takes to the nearest one that the parameter can have."""
        if not self.low <= float(value) <= self.high:
            return self.out_of_range(value)
        label, shown = self.title, repr(value)[:40]
        return ValueError(f"{label} is a whole number, not {shown}")


def read_release(text: str) -> tuple[int, ...]:
    """``"0.1.0"`` as (0, 1, 0); empty when it is no release."""
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d{1,6}(\.\d{1,6}){0,3}", text) else ()


def param(
    default, label, help, low=None, high=None, step=None, *, choices=(), blocks=False, unit="", reads=None,
    advanced=False, since=1, transient=False, earlier=(), file="", picture=False, latest="",
):  # fmt: skip
    """Make a dataclass field that carries its description (see `Param`); the kind follows from the default."""
    if isinstance(default, bool):
        kind = "bool"
    elif isinstance(default, int):
        kind, step = "int", step or 1
    elif isinstance(default, float):
        kind, step = "float", step or 0.01
    else:
        kind = "choice" if choices else "blocks" if blocks else "file" if file else "picture" if picture else "text"
    shown = {"kind": kind, "label": label, "help": help, "unit": unit, "reads": reads, "advanced": advanced}
    shown |= {"since": since, "transient": transient, "earlier": tuple(earlier), "file": file, "latest": latest}
    limits = {"low": low, "high": high, "step": step, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=shown | limits)


class Group:
    """Shared behaviour of all settings dataclasses. `name` is the key, `label` what the user reads."""

    name: ClassVar[str]
    label: ClassVar[str]
    about: ClassVar[str] = ""
    by_size: ClassVar[bool] = False  # whether it depends on the picture's size if there is anything to gain
    note = ""

    @classmethod
    def params(cls) -> tuple[Param, ...]:
        """Descriptions of this group's fields in panel order, without wishes for one job."""
        return tuple(p for p in cls.all_params() if not p.transient)

    @classmethod
    def all_params(cls) -> tuple[Param, ...]:
        """The same with wishes for one job."""
        made = {"technique": cls.name, "group": cls.label}
        return tuple(Param(**made, name=f.name, default=f.default, **f.metadata) for f in dataclasses.fields(cls))

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Build the group from named values; returns it and one sentence per value that was refused or clamped."""
        known, out, messages = {p.name: p for p in cls.all_params()}, {}, []
        for name, value in values.items():
            parameter = known.get(name)
            if parameter is None:
                technique, shown = cls.label, repr(str(name)[:40])
                messages.append(f"{technique} has no parameter {shown}: it is left out.")
                continue
            if value is None:
                continue
            try:
                out[name] = parameter.read(value)
            except ValueError as error:
                default = {True: "on", False: "off"}[parameter.default] if parameter.kind == "bool" else parameter.default
                messages.append(f"{error}: it is left empty." if default == "" else f"{error}: the default {default} is used.")
                continue
            if parameter.kind in ("int", "float") and out[name] != float(value):
                error, used = parameter.moved(value), f"{out[name]:g}"
                messages.append(f"{error}: the nearest value {used} is used.")
        return cls(**out), messages

    def files(self) -> list[tuple[str, str]]:
        """(kind, name) of every learned file that is named."""
        return [(p.file, getattr(self, p.name)) for p in self.params() if p.file and getattr(self, p.name)]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


#: How values are read out beside the slider.
PIXELS = (8.0, "px")
OF_STEPS = (100.0, "% of the steps")


@dataclass(frozen=True)
class Technique(Group):
    """Settings of a technique: its own fields, the switch `enabled` first, and the four that every technique has.

    release: positional API order of its fields, see `Param.since`. blocks_help: what its block selector chooses.
    hires_in_sight: whether the choice for the hires pass is shown before Advanced is opened. needs_negative: whether the
    negative has to be there even where guidance has no use for it. skips_negative: whether it leaves negatives out.
    shown_by: name of the preset that shows what it does to a single picture; empty: its defaults do. draws_first: it
    has something drawn before the picture, see `lib_attn.techniques.first_pass_of`. cycle: steps after which its cost
    repeats. adds_keys: self-attention sees keys that are not the picture's own, so that fast paths stand back.
    only_in_blocks: all that it does is done in the blocks that `blocks` chooses.
    """

    release: ClassVar[int] = 1
    blocks_help: ClassVar[str] = ""
    hires_in_sight: ClassVar[bool] = False
    needs_negative: ClassVar[bool] = False
    skips_negative: ClassVar[bool] = False
    shown_by: ClassVar[str] = ""
    draws_first: ClassVar[bool] = False
    cycle = 1
    adds_keys = False
    only_in_blocks = True

    blocks: str = param("auto", "Blocks", "", blocks=True, advanced=True)
    start: float = param(0.0, "Start", "When in the course of the steps the technique starts.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    end: float = param(1.0, "End", "When it stops. Start = End: never active.", 0.0, 1.0, 0.01, unit="share of the steps", reads=OF_STEPS, advanced=True)
    hires: str = param("same", "Hires pass", "What to do in the hires. fix pass.", choices=("same", "off", "only"), advanced=True)

    @property
    def lacks_file(self) -> bool:
        """Whether it can do nothing for want of a learned file."""
        return False

    def fitting_files(self, fitting: Callable[[str], Sequence[str]]) -> Sequence[str]:
        """Names of the learned files that it may take where it lacks one, of which it takes the only one.

        Args:
            fitting: gives names of files of a kind that fit the model.
        """
        return fitting(next(p.file for p in self.params() if p.name == "file")) if self.lacks_file else ()

    @classmethod
    def all_params(cls) -> tuple[Param, ...]:
        """As for every group; the shared fields come last."""
        shared = {f.name for f in dataclasses.fields(Technique)}
        described = super().all_params()
        own = [p for p in described if p.name not in shared]
        told = {"blocks": {"help": cls.blocks_help}, "hires": {"advanced": not cls.hires_in_sight}}
        last = [dataclasses.replace(p, **told.get(p.name, {})) for p in described if p.name in shared]
        return tuple(dataclasses.replace(p, since=max(p.since, cls.release)) for p in (*own, *last))
