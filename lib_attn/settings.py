"""Every parameter of Attention Lab, once.

One dataclass per technique; each field is made by `param` and carries range, label and help. Panel, infotext keys,
X/Y/Z axes, API fields, command-line options, the tables in the docs and validation are all generated from here, so
a new parameter is one line. Adding a technique is adding its dataclass to `TECHNIQUES`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lib_attn.unet.layers import parse_selector

MAX_TEXT = 400


@dataclass(frozen=True)
class Param:
    """Description of one parameter.

    kind: ``bool``, ``int``, ``float``, ``choice``, ``blocks`` (a block selector) or ``text``.
    low, high, step: range of numbers. unit: shown behind the label in docs. advanced: folded away in the panel.
    since: positional API order; fields of a later release get a higher number and so come after all earlier ones.
    """

    technique: str
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
    advanced: bool = False
    since: int = 1

    @property
    def key(self) -> str:
        """Name in X/Y/Z, the command line and flat dictionaries: ``near_sighted.tile``."""
        return f"{self.technique}.{self.name}"

    @property
    def infotext(self) -> str:
        """Key in the infotext: ``Attn near-sighted tile`` (no dot, colon or parenthesis: the host's parser breaks there)."""
        if self.technique == General.name:
            return "Attention Lab" if self.name == "enabled" else f"Attn {self.name.replace('_', ' ')}"
        return f"Attn {self.technique.replace('_', '-')} {self.name.replace('_', ' ')}"

    def read(self, value: Any) -> Any:
        """Return `value` as this parameter's type, out-of-range numbers clamped.

        Raises:
            ValueError: with one sentence, when it cannot be understood (wrong type, NaN, infinity, unknown choice).
        """
        shown = repr(value)[:40]
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
            word = str(value).strip().lower()
            if word in ("true", "1", "yes", "on", "1.0"):
                return True
            if word in ("false", "0", "no", "off", "0.0"):
                return False
            raise ValueError(f"{self.key} is on or off, not {shown}")
        if self.kind in ("int", "float"):
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError(f"{self.key} is a number, not {shown}")
            try:
                number = float(value)
            except (ValueError, OverflowError):
                raise ValueError(f"{self.key} is a number, not {shown}") from None
            if not math.isfinite(number):
                raise ValueError(f"{self.key} has to be finite, not {shown}")
            number = min(max(number, self.low), self.high)
            return int(round(number)) if self.kind == "int" else number
        if not isinstance(value, str):
            raise ValueError(f"{self.key} is a text, not {shown}")
        if self.kind == "choice":
            for choice in self.choices:
                if choice.lower() == value.strip().lower():
                    return choice
            raise ValueError(f"{self.key} is one of {', '.join(self.choices)}, not {shown}")
        if self.kind == "blocks":
            try:
                return parse_selector(value).text
            except ValueError as error:
                raise ValueError(f"{self.key}: {error}") from None
        if len(value) > MAX_TEXT:
            raise ValueError(f"{self.key} may have {MAX_TEXT} characters at most")
        return value.strip()


def param(default, label, help, low=None, high=None, step=None, *, choices=(), blocks=False, unit="", advanced=False, since=1):
    """Make a dataclass field that carries its description; the kind follows from the default."""
    if isinstance(default, bool):
        kind = "bool"
    elif isinstance(default, int):
        kind, step = "int", step or 1
    elif isinstance(default, float):
        kind, step = "float", step or 0.01
    else:
        kind = "choice" if choices else "blocks" if blocks else "text"
    shown = {"kind": kind, "label": label, "help": help, "unit": unit, "advanced": advanced, "since": since}
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
        """Descriptions of this group's fields in panel order."""
        return tuple(Param(technique=cls.name, name=f.name, default=f.default, **f.metadata) for f in dataclasses.fields(cls))

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Build the group from named values; returns it and one sentence per value that was refused or clamped."""
        known, out, messages = {p.name: p for p in cls.params()}, {}, []
        for name, value in values.items():
            parameter = known.get(name)
            if parameter is None:
                messages.append(f"{cls.name} has no parameter {str(name)[:40]!r}: it is left out.")
                continue
            if value is None:
                continue
            try:
                out[name] = parameter.read(value)
            except ValueError as error:
                messages.append(f"{error}: the default {parameter.default} is used.")
                continue
            if parameter.kind in ("int", "float") and abs(out[name] - float(value)) > 0.5 * (parameter.kind == "int"):
                messages.append(f"{parameter.key} = {value} is outside {parameter.low:g} … {parameter.high:g}: {out[name]:g} is used.")
        return cls(**out), messages

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class General(Group):
    """What holds for all techniques."""

    name: ClassVar[str] = "general"
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


def _shared(blocks_help: str, since: int = 1):
    """The four fields that every technique has."""
    return {
        "blocks": param("auto", "Blocks", blocks_help, blocks=True, advanced=True, since=since),
        "start": param(0.0, "Start", "Share of the steps after which the technique starts.", 0.0, 1.0, 0.01, since=since),
        "end": param(1.0, "End", "Share of the steps after which the technique stops. Start = End: never active.", 0.0, 1.0, 0.01, since=since),
        "hires": param("same", "Hires pass", "What to do in the hires. fix pass.", choices=("same", "off", "only"), since=since),
    }


_NEAR = _shared(
    "Where it acts: auto (each level where it saves time at this size), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas."
)


@dataclass(frozen=True)
class NearSighted(Group):
    """Self-attention that sees its own tile in full and the rest of the picture pooled."""

    name: ClassVar[str] = "near_sighted"
    label: ClassVar[str] = "Near-sighted"
    by_size: ClassVar[bool] = True
    about: ClassVar[str] = (
        "Faster large pictures: each tile of the picture looks at itself in full and at the rest pooled. "
        "Little to gain below about 768 px, and on SDXL below about 1536 px."
    )

    enabled: bool = param(False, "Near-sighted", "Switch near-sighted attention on.")
    tile: int = param(16, "Tile size", "Side of a tile. Larger is closer to full attention and slower. 0: no tiles, only the pooled picture (with subsample: ToDo).", 0, 256, unit="latent pixels (8 px)")
    tile_count: int = param(0, "Tile count", "Instead of a tile size: how many tiles along the longer side. 0: use the tile size.", 0, 64)
    halo: int = param(0, "Halo", "How far the keys of a tile reach beyond its border.", 0, 64, unit="latent pixels (8 px)")
    shift: float = param(0.5, "Shift", "How far tile borders wander from step to step and layer to layer, so that no seam stays in one place. 0: fixed borders.", 0.0, 1.0, 0.05, unit="share of a tile")
    pool: int = param(4, "Global pooling", "Side of the square that one global key stands for. 1: every token (exact), larger: faster. 0: no global keys, tiles are blind to the rest.", 0, 32, unit="latent pixels (8 px)")
    global_keys: str = param("moving", "Global keys", "What stands for a square: one token of it, another one in each step (moving) or always the middle one (subsample), or the average of all.", choices=("moving", "subsample", "average"), advanced=True)
    global_strength: float = param(0.0, "Global strength", "Added to the logit of the global keys. 0 weighs a key by the number of tokens it stands for, which is unbiased; below, tiles grow more independent.", -8.0, 8.0, 0.1)
    exact_every: int = param(0, "Exact step every", "Every n-th step is computed in full, and the difference it makes is added in the steps between. The closest to full attention for its time; needs memory. 0: never.", 0, 50, unit="steps")
    residual_memory: int = param(2048, "Residual memory", "Most memory that the stored differences of the exact steps may take; layers beyond it do without.", 0, 65536, 64, unit="MiB", advanced=True)
    local_pool: int = param(1, "Local pooling", "Pools the keys inside the tile too: side of a square (2D) or length of a run (1D). 1: off.", 1, 8, advanced=True)
    local_shape: str = param("2D", "Local pooling shape", "Squares, or runs along a row.", choices=("2D", "1D"), advanced=True)
    local_mode: str = param("average", "Local pooling mode", "What the blends below mix in.", choices=("average", "max"), advanced=True)
    local_k_blend: float = param(0.0, "Local K blend", "0: a pooled key is one token of its square; 1: the pooled value.", 0.0, 1.0, 0.05, advanced=True)
    local_v_blend: float = param(0.0, "Local V blend", "The same for the values.", 0.0, 1.0, 0.05, advanced=True)
    tile_peak: int = param(0, "Peak tile size", "Tile size at the peak time; between, it moves from the base tile size by the time curve. 0: as the base.", 0, 256, unit="latent pixels (8 px)", advanced=True)
    pool_peak: int = param(0, "Peak global pooling", "Global pooling at the peak time. 0: as the base.", 0, 32, unit="latent pixels (8 px)", advanced=True)
    peak_time: float = param(0.4, "Peak time", "Where the time curve peaks: 0 is pure noise, 1 the finished picture.", 0.0, 1.0, 0.05, advanced=True)
    time_decay: float = param(2.0, "Time decay", "How fast the time curve falls off around the peak: exp(-((t - peak) decay)^2). 0: always at the peak.", 0.0, 20.0, 0.1, advanced=True)
    depth_scaling: float = param(1.0, "Depth scaling", "1: tile and pooling cover the same part of the picture at every level of the U-Net; 0: the same number of tokens.", 0.0, 2.0, 0.1, advanced=True)
    blocks: str = _NEAR["blocks"]
    start: float = _NEAR["start"]
    end: float = _NEAR["end"]
    hires: str = _NEAR["hires"]


_SKIP = _shared("Where the penalty acts: auto or all (every block), in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas.", since=2)


@dataclass(frozen=True)
class NegativeSkip(Group):
    """The negative row left out in some steps, and the negative prompt kept alive in cross-attention."""

    name: ClassVar[str] = "negative_skip"
    label: ClassVar[str] = "Negative skip"
    about: ClassVar[str] = (
        "The negative prompt doubles the work. Here it is computed in some steps only and estimated in between. "
        "At CFG scale 1 it is never computed; the penalty lets the negative prompt act all the same."
    )

    enabled: bool = param(False, "Negative skip", "Leave the negative out where it can be filled in.", since=2)
    key_every: int = param(3, "Full step every", "Every n-th step computes the negative, on average: Full steps early says how they are spread. Counted for each image from its last full step. 1: every step. 0: no limit.", 0, 50, unit="steps", since=2)
    early: float = param(1.0, "Full steps early", "1: full steps lie close together at first, where the negative's effect changes most, and rarer later; about as many in all. 0: evenly spread.", 0.0, 1.0, 0.05, advanced=True, since=2)
    fill: str = param("estimate", "Fill", "What stands for the negative in the other steps. Estimate: from the guidance of the last full step, so CFG scale keeps its meaning. Copy of the positive and zeros: CFG scale does nothing in these steps.", choices=("estimate", "copy", "zeros"), since=2)
    until: float = param(1.0, "Negative until", "Share of the steps after which the negative stops for good; Stopped negative says what stands for it. 1: never.", 0.0, 1.0, 0.01, since=4)
    stopped: str = param("estimate", "Stopped negative", "After Negative until. Estimate: as in skipped steps. T-GATE: no guidance, and cross-attention keeps the mean of positive and negative of the step in which the negative stopped. Plain: no guidance.", choices=("estimate", "T-GATE", "plain"), advanced=True, since=4)
    keep_first: float = param(0.0, "Full steps first", "The first steps, which decide the layout, are computed in full.", 0.0, 1.0, 0.01, unit="share of steps", advanced=True, since=2)
    adaptive: float = param(0.0, "Adaptive", "Leave the negative out only while the cosine of the two predictions of the last full step is at least this much; Full step every still holds. Try 0.99. 0: off.", 0.0, 1.0, 0.001, advanced=True, since=2)
    hysteresis: float = param(0.01, "Hysteresis", "How far the cosine has to fall below the adaptive value before every step is full again.", 0.0, 1.0, 0.001, advanced=True, since=2)
    trend: float = param(0.7, "Trend", "How far the estimate continues the change between the last two full steps. 0: the guidance of the last one as it is.", 0.0, 1.0, 0.05, advanced=True, since=2)
    sigma_power: float = param(0.0, "Sigma power", "How the estimated guidance goes with the noise level: 0 keeps the difference of the noise predictions, -1 that of the predicted pictures.", -2.0, 2.0, 0.05, advanced=True, since=2)
    low_weight: float = param(1.0, "Coarse weight", "Weight of the coarse part of the estimated guidance.", 0.0, 2.0, 0.05, advanced=True, since=2)
    high_weight: float = param(1.0, "Fine weight", "Weight of the fine part of the estimated guidance.", 0.0, 2.0, 0.05, advanced=True, since=2)
    through: int = param(0, "Keep In blocks", "The negative still passes the first In blocks and comes back for as many last Out blocks. Slower and closer to full. 0: it is left out of the whole model. Not together with ControlNet.", 0, 12, unit="blocks", advanced=True, since=2)
    penalty: str = param("NAG", "Penalty", "How the negative prompt's words act inside cross-attention: NAG (pushes away, capped), value sign flip (takes away what fits the words), NASA (subtracts).", choices=("NAG", "value sign flip", "NASA", "off"), since=2)
    penalty_when: str = param("at CFG 1", "Penalty when", "At CFG scale 1 only, in all steps without a negative, or in all steps on top of CFG.", choices=("at CFG 1", "skipped steps", "all steps"), since=2)
    strength: float = param(2.0, "Penalty strength", "How hard the negative prompt's words push. 0: no penalty. NAG: its usual scale less 1. Value sign flip and NASA: the factor of their formula.", 0.0, 20.0, 0.05, since=2)
    tau: float = param(2.5, "Penalty cap", "A token may grow to this many times its size (NAG's tau).", 1.0, 10.0, 0.1, advanced=True, since=2)
    blend: float = param(0.5, "Penalty blend", "Share of the changed result (NAG's alpha). The papers of the other two penalties have 1.", 0.0, 1.0, 0.05, advanced=True, since=2)
    flip_bias: float = param(-0.2, "Flip bias", "Value sign flip: added to the logits of the negative's words.", -8.0, 8.0, 0.1, advanced=True, since=2)
    penalty_start: float = param(0.0, "Penalty start", "Share of the steps after which the penalty starts.", 0.0, 1.0, 0.01, advanced=True, since=2)
    penalty_end: float = param(1.0, "Penalty end", "Share of the steps after which the penalty stops.", 0.0, 1.0, 0.01, advanced=True, since=2)
    blocks: str = _SKIP["blocks"]
    start: float = _SKIP["start"]
    end: float = _SKIP["end"]
    hires: str = _SKIP["hires"]


_CONTRAST = _shared("Where features and keys are compared: auto (mid,out0-3), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas.", since=2)


@dataclass(frozen=True)
class Contrast(Group):
    """Positive and negative row compared inside the U-Net."""

    name: ClassVar[str] = "contrast"
    label: ClassVar[str] = "Contrast"
    about: ClassVar[str] = (
        "Positive and negative pass the model side by side; here they are compared inside of it, at next to no cost. "
        "Each comparison has a strength of its own, 0 is off. It needs the negative, so that is computed even at CFG scale 1."
    )

    enabled: bool = param(False, "Contrast", "Compare positive and negative inside the model.", since=2)
    feature: float = param(0.3, "Feature push", "Pushes the positive's features away from the negative's. 0: off.", 0.0, 4.0, 0.05, since=2)
    keys: float = param(0.0, "Key contrast", "Self-attention of the positive less what it would be with the negative's keys: similarities typical of the negative count less. 0: off.", 0.0, 4.0, 0.05, since=2)
    orthogonal: float = param(0.0, "Orthogonal push", "Takes from the positive's features the part of the negative's that they do not share. 0: off.", 0.0, 4.0, 0.05, since=2)
    map_strength: float = param(0.0, "Difference map", "CFG acts more where positive and negative differ and less elsewhere; its mean stays. 0: everywhere alike, 1: in proportion.", 0.0, 2.0, 0.05, since=2)
    show_map: bool = param(False, "Show difference map", "Adds a picture to the gallery: where positive and negative differ, all steps together.", since=2)
    tau: float = param(1.5, "Contrast cap", "Features may grow to this many times their size.", 1.0, 10.0, 0.1, advanced=True, since=2)
    blend: float = param(0.5, "Contrast blend", "Share of the changed features.", 0.0, 1.0, 0.05, advanced=True, since=2)
    feature_start: float = param(0.0, "Feature push start", "Share of the steps after which the feature push starts.", 0.0, 1.0, 0.01, advanced=True, since=2)
    feature_end: float = param(1.0, "Feature push end", "Share of the steps after which it stops.", 0.0, 1.0, 0.01, advanced=True, since=2)
    keys_start: float = param(0.0, "Key contrast start", "Share of the steps after which the key contrast starts.", 0.0, 1.0, 0.01, advanced=True, since=2)
    keys_end: float = param(1.0, "Key contrast end", "Share of the steps after which it stops.", 0.0, 1.0, 0.01, advanced=True, since=2)
    orthogonal_start: float = param(0.0, "Orthogonal push start", "Share of the steps after which the orthogonal push starts.", 0.0, 1.0, 0.01, advanced=True, since=2)
    orthogonal_end: float = param(1.0, "Orthogonal push end", "Share of the steps after which it stops.", 0.0, 1.0, 0.01, advanced=True, since=2)
    map_start: float = param(0.0, "Difference map start", "Share of the steps after which the map scales CFG.", 0.0, 1.0, 0.01, advanced=True, since=2)
    map_end: float = param(1.0, "Difference map end", "Share of the steps after which it stops.", 0.0, 1.0, 0.01, advanced=True, since=2)
    blocks: str = _CONTRAST["blocks"]
    start: float = _CONTRAST["start"]
    end: float = _CONTRAST["end"]
    hires: str = _CONTRAST["hires"]


_MIX = _shared("Where self-attention is mixed: auto (out), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas.", since=2)


@dataclass(frozen=True)
class KeyMix(Group):
    """Keys, and if wanted values, queries and features of blocks, mixed with those of another source."""

    name: ClassVar[str] = "key_mix"
    label: ClassVar[str] = "Key mix"
    about: ClassVar[str] = (
        "Self-attention looks up its keys elsewhere too: keys alone carry layout and never colour, values carry the look. "
        "For pictures that belong together, or for one that follows itself more or less closely."
    )

    enabled: bool = param(False, "Key mix", "Mix the keys of self-attention with those of another source.", since=2)
    source: str = param("first image", "Source", "Where the other keys come from. Batch mean and first image need a batch; the recorded run is the last one made with Record this run.", choices=("first image", "batch mean", "negative", "previous step", "blurred", "shifted", "recorded run"), since=2)
    operator: str = param("blend", "Operator", "Blend goes towards the source, contrast away from it, concatenate lets each place choose between both.", choices=("blend", "contrast", "concatenate"), since=2)
    amount: float = param(0.5, "Key amount", "How much of the source is in the keys. 0: none.", 0.0, 2.0, 0.05, since=2)
    values: str = param("own", "Values", "Own: the picture keeps its colours. Follow: values are mixed as well. AdaIN: own values with the source's mean and spread.", choices=("own", "follow", "AdaIN"), since=2)
    value_amount: float = param(1.0, "Value amount", "How far values follow, where they do.", 0.0, 2.0, 0.05, since=2)
    query_amount: float = param(0.0, "Query amount", "Blend and contrast: how far queries follow. Queries and keys together bring the source's layout, own values keep the picture's look (as Plug-and-Play does).", 0.0, 2.0, 0.05, since=2)
    features: str = param("own", "Features", "What a block hands on. Follow: it becomes the source's, which brings its layout (as in Plug-and-Play). AdaIN: it takes the source's mean and spread, which brings its look.", choices=("own", "follow", "AdaIN"), since=2)
    feature_amount: float = param(1.0, "Feature amount", "How far features follow, where they do.", 0.0, 2.0, 0.05, since=2)
    feature_blocks: str = param("auto", "Feature blocks", "Behind which blocks: auto (the one that holds the layout: out4), all, in, mid, out, in4, out6-11, d0, d1-2, !mid; separated by commas. Later blocks bring colours too.", blocks=True, advanced=True, since=2)
    bias: float = param(0.0, "Source bias", "Concatenate: added to the logits of the source's keys; below 0 the source counts less.", -8.0, 8.0, 0.1, advanced=True, since=2)
    match_queries: bool = param(False, "Match queries and keys", "Gives queries and keys the source's mean and spread first (AdaIN, as StyleAligned does).", advanced=True, since=2)
    blur: float = param(8.0, "Blur", "Source blurred: spread of the blur.", 0.0, 256.0, 0.5, unit="latent pixels (8 px)", advanced=True, since=2)
    shift_x: int = param(8, "Shift to the right", "Source shifted: by how much; what leaves on one side comes in on the other.", -256, 256, unit="latent pixels (8 px)", advanced=True, since=2)
    shift_y: int = param(0, "Shift down", "Source shifted: the same downwards.", -256, 256, unit="latent pixels (8 px)", advanced=True, since=2)
    side: str = param("both", "Rows", "Whether positive, negative or both are mixed.", choices=("both", "positive", "negative"), advanced=True, since=2)
    record: bool = param(False, "Record this run", "Keeps the first image's self-attention, and what its Feature blocks hand on, in memory as the recorded run, until the next recording or until the webui ends. With hires. fix the last pass is kept.", since=2)
    memory: int = param(1024, "Mix memory", "Most memory that a recorded run or the previous step may take; what is beyond it is not mixed.", 0, 65536, 64, unit="MiB", advanced=True, since=2)
    blocks: str = _MIX["blocks"]
    start: float = _MIX["start"]
    end: float = _MIX["end"]
    hires: str = _MIX["hires"]

    @property
    def note(self) -> str:
        """What a picture's text has to say beyond the settings: what else it takes to make the picture again."""
        needs = {"first image": "its batch", "batch mean": "its batch", "recorded run": "the recorded run"}
        return needs.get(self.source, "")


_STEP = _shared("", since=4)


@dataclass(frozen=True)
class StepSkip(Group):
    """Whole steps left out, and what the model would have predicted forecast."""

    name: ClassVar[str] = "step_skip"
    label: ClassVar[str] = "Step skip"
    about: ClassVar[str] = (
        "The model is computed in some steps only; in between, the line that its predictions follow is continued. "
        "Half the work at every size; nearer to the picture of all steps than a sampler with half as many."
    )

    enabled: bool = param(False, "Step skip", "Leave whole steps out and forecast them.", since=4)
    key_every: float = param(2.0, "Computed step every", "Every n-th step is computed, on average: Computed steps early says how they are spread. Counted for each image. 1: every step.", 1.0, 10.0, 0.5, unit="steps", since=4)
    early: float = param(1.0, "Computed steps early", "1: computed steps lie close together at first, where the picture takes shape, and rarer later; about as many in all. 0: evenly spread.", 0.0, 1.0, 0.05, advanced=True, since=4)
    trend: float = param(1.0, "Forecast trend", "How far the forecast continues the change between the last two computed steps. 0: the last one as it is.", 0.0, 1.0, 0.05, advanced=True, since=4)
    keep_first: float = param(0.0, "Computed steps first", "The first steps, which decide the layout, are all computed. At least two always are.", 0.0, 1.0, 0.01, unit="share of steps", advanced=True, since=4)
    keep_last: float = param(0.0, "Computed steps last", "The last steps, which decide the details, are all computed.", 0.0, 1.0, 0.01, unit="share of steps", advanced=True, since=4)
    start: float = _STEP["start"]
    end: float = _STEP["end"]
    hires: str = _STEP["hires"]


# The order of the panel; `lib_attn.techniques.ORDER` is the one in which they act.
TECHNIQUES: tuple[type[Group], ...] = (NearSighted, NegativeSkip, Contrast, KeyMix, StepSkip)
GROUPS: tuple[type[Group], ...] = (General, *TECHNIQUES)


def all_params() -> tuple[Param, ...]:
    """All parameters of all groups in panel order."""
    return tuple(p for group in GROUPS for p in group.params())


def positional_params() -> tuple[Param, ...]:
    """All parameters in the frozen order of the positional API: by release, then by panel order."""
    return tuple(sorted(all_params(), key=lambda p: p.since))


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
        general_names = {p.name for p in General.params()}
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
                messages.append(f"{key} takes a dictionary of its parameters, not {repr(value)[:40]}: it is left out.")
            else:
                messages.append(f"There is no technique or setting {key[:40]!r}: it is left out.")
        groups = []
        for group in GROUPS:
            value, said = group.read(nested[group.name])
            groups.append(value)
            messages += said
        settings = cls(tuple(groups))
        if "enabled" not in nested[General.name] and any(g.enabled for g in settings.groups if g.name != General.name):
            settings = settings.replace(general=dataclasses.replace(settings.general, enabled=True))
        return settings, messages

    def to_infotext(self) -> dict[str, str]:
        """Infotext pairs: everything of every active technique, defaults too; empty when nothing is on."""
        active = list(self.active())
        if not active:
            return {}
        groups = [self.general, *active]
        pairs = {p.infotext: show(getattr(g, p.name)) for g in groups for p in g.params()}
        return pairs | {note_key(g): g.note for g in active if g.note}

    @classmethod
    def from_infotext(cls, pairs: Mapping[str, Any]) -> tuple[Settings, list[str]]:
        """Read infotext pairs back. What has no key is at its default, so a picture without our keys is all off."""
        return cls.read({p.key: pairs[p.infotext] for p in all_params() if p.infotext in pairs})


def note_key(group: Group | type[Group]) -> str:
    """Infotext key of what else it takes to make a picture again; it is never read back."""
    return f"Attn {group.name.replace('_', '-')} needs"


def show(value: Any) -> str:
    """A value as infotext and command line show it; numbers so that reading them back gives the same number."""
    if isinstance(value, float):
        return repr(int(value)) if value == int(value) else repr(value)
    return str(value)

