"""What the settings are going to do in a job, and what stands in their way, said before anything is drawn.

Pure Python from settings and facts: the panel shows it while one chooses, an X/Y/Z grid before its first cell, and a
program of any kind can ask. A sentence is a template with values, so that it can be translated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lib_attn.schema import Technique
from lib_attn.settings import Settings
from lib_attn.techniques import teller_of
from lib_attn.techniques.facts import Facts, Pass, Said, Sentence
from lib_attn.unet.layers import parse_selector
from lib_attn.unet.profile import Profile


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
            names = group.fitting_files(facts.fitting)
            if len(names) == 1:
                group = replace(group, file=names[0])
                said.line("You have chosen no file: {name} is used, which fits this model.", name=names[0])
            elif names:
                said.line("Several files fit this model, and you have chosen none: {names}.", names=", ".join(names))
            passes = _passes(group, facts, said)
            for kind, value in group.files():
                for text in facts.files.check(kind, value):
                    said.warn(text)
            tell = teller_of(group.name)
            if passes and tell is not None:
                tell(group, settings, facts, passes, said)
    return Preview(general, techniques)


def _passes(group: Technique, facts: Facts, said: Said) -> list[Pass]:
    """The passes in which a technique may act; says so when there is none."""
    wanted = [p for p in facts.passes if group.hires == "same" or (group.hires == "only") == p.hires]
    if not wanted:
        said.warn("Acts in the hires pass only, and this picture has none.", idle=True)
    elif group.start >= group.end or not any(p.steps_of(group) for p in wanted):
        said.warn("No step lies between Start and End.", idle=True)
        return []
    if facts.profile is not None and wanted and not _present(group, facts.profile):
        idle = group.only_in_blocks
        said.warn("This model has no attention in the blocks {blocks}.", idle=idle, blocks=group.blocks)
        return [] if idle else wanted
    return wanted


def _present(group: Technique, profile: Profile) -> bool:
    selector = parse_selector(group.blocks)
    # What gains by size acts in self-attention, the others behind blocks without any as well.
    places = profile.layers if group.by_size else (*profile.layers, *profile.blocks)
    return selector.auto or any(map(selector.matches, places))


def warnings_of(settings: Settings, facts: Facts, idle: bool = False) -> Iterator[tuple[str, Sentence]]:
    """(label, sentence) of everything that limits an active technique; labels as the user reads them.

    Args:
        idle: only what keeps it from changing anything.
    """
    said = preview(settings, facts)
    for group in settings.active():
        found = said.techniques[group.name]
        for warning in found.reasons if idle else found.warnings:
            yield group.label, warning


def told_after(
    settings: Settings, facts: Facts, changed: Callable[[Technique], bool], why: Callable[[Technique], str | None]
) -> Iterator[str]:
    """What is said of the active techniques once the picture is there: which did nothing or too little, and why.

    A reason that was known before is the one given after.

    Args:
        facts: as they were before the picture. changed: whether a technique changed something. why: whole sentences on
            why it did not, where that was not known before; None when it cannot be said, or was said already.
    """
    told = preview(settings, facts).techniques
    for group in settings.active():
        technique, said = group.label, told[group.name]
        if changed(group):
            reason = " ".join(map(str, said.slight))
            if reason:
                yield f"{technique} did less than it could. {reason}"
            continue
        reason = " ".join(map(str, said.reasons)) or why(group)
        if reason:
            yield f"{technique} changed nothing. {reason}"


def steps_made(steps: int, denoising: float | None) -> int:
    """How many of `steps` the host makes when it starts from a picture, with a denoising strength."""
    return steps if denoising is None else min(steps, int(min(denoising, 0.999) * steps) + 1)


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
