"""What the settings are going to do in a job, and what stands in their way, said before anything is drawn.

Pure Python from settings and facts: the panel shows it while one chooses, an X/Y/Z grid before its first cell, and a
program of any kind can ask. A sentence is a template with values, so that it can be translated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_attn.estimate import Profile, count_places, estimate
from lib_attn.layers import Selector, parse_selector
from lib_attn.settings import Group, Settings
from lib_attn.techniques import contrast, key_mix
from lib_attn.techniques.negative_skip import Track, may_skip

LITTLE = 1.05  # a speed-up below this is lost in the noise
FIRST_SIGMA = 14.6  # any falling sequence does: only whether the noise falls or rises counts


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


@dataclass(frozen=True)
class Facts:
    """What is known of the job.

    profile: of the loaded model, None without one. negative: whether there is a negative prompt, None if unknown.
    recorded: whether there is a recorded run to follow.
    """

    passes: tuple[Pass, ...] = (Pass(512, 512, 20, 7.0),)
    batch: int = 1
    profile: Profile | None = None
    negative: bool | None = None
    recorded: bool = False


@dataclass
class Said:
    """lines: what it does. warnings: why it does less or nothing. idle: it changes nothing at all."""

    lines: list[Sentence] = field(default_factory=list)
    warnings: list[Sentence] = field(default_factory=list)
    idle: bool = False

    def warn(self, text: str, idle: bool = False, **values: Any) -> None:
        self.warnings.append(sentence(text, **values))
        self.idle = self.idle or idle

    def line(self, text: str, **values: Any) -> None:
        self.lines.append(sentence(text, **values))


@dataclass
class Preview:
    """general: on all of it. techniques: by name, of those too that are off: what they would do."""

    general: Said
    techniques: dict[str, Said]


def preview(settings: Settings, facts: Facts) -> Preview:
    """Sentences on `settings` in the job that `facts` describe."""
    on, general = settings.general.enabled, Said()
    techniques = {}
    active = [g for g in settings.groups if g is not settings.general and g.enabled]
    if active and not on:
        general.warn("Attention Lab is switched off: nothing is changed.", idle=True)
    elif on and not active:
        general.warn("No technique is on.", idle=True)
        if settings.general.skip_cfg1 and any(p.cfg == 1 for p in facts.passes):
            general.line("At CFG 1 the negative is left out: half the work.")
    for group in settings.groups:
        if group is not settings.general:
            techniques[group.name] = said = Said()
            passes = _passes(group, facts, said)
            if passes:
                _TELLERS[group.name](group, settings, facts, passes, said)
    return Preview(general, techniques)


def _passes(group: Group, facts: Facts, said: Said) -> list[Pass]:
    """The passes in which a technique may act; says so when there is none."""
    wanted = [p for p in facts.passes if group.hires == "same" or (group.hires == "only") == p.hires]
    if not wanted:
        said.warn("Acts in the hires pass only, and this picture has none.", idle=True)
    elif group.start >= group.end or not any(_steps(group, p) for p in wanted):
        said.warn("No step lies between Start and End.", idle=True)
        return []
    if facts.profile is not None and wanted and not _present(group, facts.profile):
        said.warn("This model has no attention in the blocks {blocks}.", idle=True, blocks=group.blocks)
        return []
    return wanted


def _present(group: Group, profile: Profile) -> bool:
    selector = parse_selector(group.blocks)
    return selector.auto or any(map(selector.matches, (*profile.layers, *profile.blocks)))


def _steps(group: Group, p: Pass) -> list[int]:
    """Running numbers of the steps in which a technique acts."""
    return [i for i in range(p.steps) if group.start <= i / p.steps < group.end]


def _size(p: Pass) -> str:
    return f"{p.width} × {p.height}"


def _near_sighted(s: Any, settings: Settings, facts: Facts, passes: list[Pass], said: Said) -> None:
    if 0 < s.tile < 8 and not s.tile_count:
        said.warn("The least tile is 8: smaller ones are the same.")
    if facts.profile is None:
        return
    gains = []
    for p in passes:
        e = estimate(p.width, p.height, s, facts.profile, len(_steps(s, p)) / p.steps)
        gains.append(e)
        if not e.layers:
            said.line("{size}: full attention, nothing to gain.", size=_size(p))
        elif e.speed < LITTLE:
            said.line("{size}: little to gain (less than 1.05x).", size=_size(p))
        else:
            tiled = bool(s.tile or s.tile_count)
            text = (
                "{size}: about {factor}x faster steps, {tiles} tiles."
                if tiled
                else "{size}: about {factor}x faster steps."
            )
            values = {"tiles": e.tiles} if tiled else {}
            said.line(text, size=_size(p), factor=f"{e.speed:.1f}", **values)
    if not any(e.layers for e in gains):
        if parse_selector(s.blocks).auto:
            said.warn("At this size nothing is left to gain: larger pictures or other values are needed.", idle=True)
        else:
            said.warn("With these values it equals full attention at this size.", idle=True)


def negative_steps(s: Any, steps: int) -> list[int]:
    """Steps that compute the negative, as `NegativeSkip` settings plan them for an ordinary sampler."""
    track, full = Track(), []
    for i in range(steps):
        share = i / steps
        sigma = FIRST_SIGMA * (1 - share)
        if s.start <= share < s.end and may_skip(s, track, share, sigma):
            track.since = (track.since or 0) + 1
            continue
        full.append(i)
        if s.start <= share < s.end:
            # With Adaptive it is the pictures that decide; this is the most that can be left out.
            track.since, track.sigma, track.agrees = 0, sigma, True
    return full


def _negative_skip(s: Any, settings: Settings, facts: Facts, passes: list[Pass], said: Said) -> None:
    penalty = s.penalty != "off" and s.strength > 0 and s.blend > 0
    saves = penalised = False
    for p in passes:
        if p.cfg == 1:
            said.line("At CFG 1 the negative is never computed: half the work.")
            saves, penalised = True, penalised or penalty
            continue
        full = negative_steps(s, p.steps)
        left_out = p.steps - len(full)
        saves = saves or bool(left_out)
        penalised = (
            penalised or penalty and (s.penalty_when == "all steps" or s.penalty_when == "skipped steps" and left_out)
        )
        if not left_out:
            continue
        values = {"full": len(full), "steps": p.steps}
        if s.through:
            said.line("Negative computed in full in {full} of {steps} steps.", **values)
        elif s.adaptive:
            said.line("Negative computed in {full} of {steps} steps at least.", **values)
        else:
            percent = round(50 * left_out / p.steps)
            said.line(
                "Negative computed in {full} of {steps} steps: about {percent} % less work.", **values, percent=percent
            )
    if not saves:
        if any(p.steps == 1 for p in passes):
            said.warn("One step is always computed in full: more steps are needed.", idle=not penalised)
        else:
            said.warn("Every step computes the negative: nothing is saved.", idle=not penalised)
    if penalty and not penalised and s.penalty_when == "at CFG 1":
        if saves:
            said.warn("The penalty works at CFG 1 only; here only the negative's steps are saved.")
        else:
            said.warn("The penalty works at CFG 1 only.", idle=True)
    if penalised and facts.negative is False:
        said.warn("The penalty needs a negative prompt.")


def _contrast(s: Any, settings: Settings, facts: Facts, passes: list[Pass], said: Said) -> None:
    pushes = bool(s.keys or (s.blend and (s.feature or s.orthogonal)))
    if not (pushes or s.map_strength or s.show_map):
        said.warn("All strengths are 0: nothing is changed.", idle=True)
        return
    unguided = all(p.cfg == 1 for p in passes)
    if unguided and (pushes or s.show_map):
        if settings["negative_skip"].enabled:
            said.warn("Negative skip leaves the negative out at CFG 1: nothing to compare with.", idle=True)
            return
        said.warn("At CFG 1 the negative is computed for it, which doubles the work.")
    if unguided and s.map_strength:
        said.warn("The difference map works above CFG 1 only.", idle=not (pushes or s.show_map))
    if facts.profile is not None:
        _count(said, facts.profile.blocks, _or(s.blocks, contrast.AUTO))


def _key_mix(s: Any, settings: Settings, facts: Facts, passes: list[Pass], said: Said) -> None:
    runtime = key_mix.KeyMixRuntime(s, (), lambda text: None)
    if s.record:
        said.line("This run is recorded for later pictures.")
    if not runtime.mixes:
        if not s.record:
            said.warn("All amounts are 0: nothing is mixed.", idle=True)
        return
    if s.source in ("first image", "batch mean") and facts.batch < 2:
        said.warn("Needs batch size 2 or more.", idle=True)
    if s.source == "recorded run":
        if s.record:
            said.warn("A run that is being recorded cannot follow a recorded run.", idle=True)
        elif not facts.recorded:
            said.warn("There is no recorded run yet: make one picture with Record this run.", idle=True)
    unguided = all(p.cfg == 1 for p in passes)
    if unguided and runtime.compares:
        if settings["negative_skip"].enabled:
            said.warn("Negative skip leaves the negative out at CFG 1: nothing to mix with.", idle=True)
        else:
            said.warn("At CFG 1 the negative is computed for it, which doubles the work.")
    elif unguided and s.side == "negative" and settings.general.skip_cfg1:
        said.warn("At CFG 1 there is no negative to mix.", idle=True)
    if facts.profile is not None and not said.idle:
        _count(said, facts.profile.layers, _or(s.blocks, key_mix.AUTO))


def _or(blocks: str, auto: Selector) -> Selector:
    selector = parse_selector(blocks)
    return auto if selector.auto else selector


def _count(said: Said, places: tuple, selector: Selector) -> None:
    count = count_places(places, selector.matches)
    said.line(
        "Acts in 1 block." if count == 1 else "Acts in {count} blocks.", **({} if count == 1 else {"count": count})
    )


_TELLERS = {
    "near_sighted": _near_sighted,
    "negative_skip": _negative_skip,
    "contrast": _contrast,
    "key_mix": _key_mix,
}


def warnings_of(settings: Settings, facts: Facts, idle: bool = False) -> Iterator[tuple[str, Sentence]]:
    """(label, sentence) of everything that limits an active technique; labels as the user reads them.

    Args:
        idle: only what keeps it from changing anything.
    """
    said = preview(settings, facts)
    for group in settings.active():
        found = said.techniques[group.name]
        for warning in found.warnings if found.idle or not idle else ():
            yield group.label, warning


def passes_of(facts: Mapping[str, Any]) -> tuple[Pass, ...]:
    """Sampling passes from plain numbers: width, height, steps, cfg, and for a hires pass hires_width, hires_height,
    hires_steps, hires_cfg. What is missing or no number takes an ordinary value."""

    def number(name: str, usual: float, low: float, high: float) -> float:
        try:
            value = float(facts.get(name, usual))
        except (TypeError, ValueError):
            value = usual
        return min(max(value, low), high) if value == value else usual

    width, height = (int(number(side, 512, 8, 16384)) for side in ("width", "height"))
    steps, cfg = max(1, int(number("steps", 20, 1, 1000))), number("cfg", 7.0, 0, 1000)
    first = Pass(width, height, steps, cfg)
    if not facts.get("hires_width") or not facts.get("hires_height"):
        return (first,)
    sizes = (int(number(f"hires_{side}", 512, 8, 16384)) for side in ("width", "height"))
    again = max(1, int(number("hires_steps", steps, 1, 1000)))
    return first, Pass(*sizes, again, number("hires_cfg", cfg, 0, 1000), hires=True)
