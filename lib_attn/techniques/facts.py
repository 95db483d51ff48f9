"""What is known of a job before it is drawn, and what a technique has to say on it.

A sentence is a template with values, so that it can be translated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib_attn.learned.files import Loader
from lib_attn.schema import Technique
from lib_attn.unet.layers import Selector, parse_selector
from lib_attn.unet.profile import Profile, count_places

NOTHING_TO_GAIN = "At this size nothing is left to gain: larger pictures or other values are needed."
EQUALS_FULL = "With these values it equals full attention at this size."


@dataclass(frozen=True)
class Sentence:
    """text: with names in braces for `values`."""

    text: str
    values: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.text.format(**dict(self.values))

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "values": dict(self.values)}


def sentence(text: str, **values: Any) -> Sentence:
    return Sentence(text, tuple(values.items()))


@dataclass(frozen=True)
class Pass:
    """One sampling pass: size in pixels, number of steps, guidance scale, whether it is the hires pass."""

    width: int
    height: int
    steps: int
    cfg: float
    hires: bool = False

    @property
    def size(self) -> str:
        return f"{self.width} × {self.height}"

    def steps_of(self, technique: Technique) -> list[int]:
        """Running numbers of the steps in which a technique acts."""
        return [i for i in range(self.steps) if technique.start <= i / self.steps < technique.end]


def no_controlnet(settings: Technique) -> Sentence:
    """Of every host but the webui."""
    return sentence("The picture follows no map, and none is drawn: ControlNet is an extension of the webui.")


@dataclass(frozen=True)
class Facts:
    """What is known of the job.

    profile: of the loaded model, None without one. negative: whether there is a negative prompt, None if unknown.
    recorded: whether there is a recorded run to follow. files: loads learned files. pictures: (width, height) of the
    pictures that are put into the page, by parameter key; the settings only have a word for each. controlnet: why a
    picture drawn with a technique's settings cannot be guided by ControlNet; None when it may. keeps: whether what a
    technique, by its name, has drawn first is still there under a hash. fitting: names of learned files of a kind that
    fit the model, where the host takes the only one for a technique that lacks one.
    """

    passes: tuple[Pass, ...] = (Pass(512, 512, 20, 7.0),)
    batch: int = 1
    profile: Profile | None = None
    negative: bool | None = None
    recorded: bool = False
    files: Loader = field(default_factory=Loader)
    pictures: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    controlnet: Callable[[Technique], Sentence | None] = no_controlnet
    keeps: Callable[[str, str], bool] = lambda name, wanted: True
    fitting: Callable[[str], Sequence[str]] = lambda kind: ()


@dataclass
class Said:
    """lines: what it does. warnings: why it does less or nothing; of these, reasons: why it changes nothing at all, and
    slight: why it does much less than its values ask for. Both are said under the picture as well."""

    lines: list[Sentence] = field(default_factory=list)
    warnings: list[Sentence] = field(default_factory=list)
    reasons: list[Sentence] = field(default_factory=list)
    slight: list[Sentence] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether it changes nothing at all."""
        return bool(self.reasons)

    def warn(self, text: str, idle: bool = False, slight: bool = False, **values: Any) -> None:
        warning = sentence(text, **values)
        self.warnings.append(warning)
        if idle:
            self.reasons.append(warning)
        elif slight:
            self.slight.append(warning)

    def line(self, text: str, **values: Any) -> None:
        self.lines.append(sentence(text, **values))

    def count(self, places: tuple, selector: Selector) -> None:
        """In how many blocks among `places` it acts."""
        count = count_places(places, selector.matches)
        if count == 1:
            self.line("Acts in 1 block.")
        else:
            self.line("Acts in {count} blocks.", count=count)


def chosen_by(blocks: str, auto: Selector) -> Selector:
    """The selector of `blocks`, `auto` where the choice is left to the technique."""
    selector = parse_selector(blocks)
    return auto if selector.auto else selector


def negative_left_out(settings: Any) -> bool:
    """Whether a technique among `settings` (`lib_attn.settings.Settings`) leaves negatives out."""
    return any(isinstance(g, Technique) and g.enabled and g.skips_negative for g in settings.groups)
