"""What the panel says on the dictionary before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.learned.header import Refused
from lib_attn.techniques.dictionary.plan import NO_FILE, plan_clusters
from lib_attn.techniques.dictionary.settings import Dictionary
from lib_attn.techniques.facts import NOTHING_TO_GAIN, Facts, Pass, Said
from lib_attn.techniques.near_sighted.estimate import speed_up
from lib_attn.unet.layers import Layer, parse_selector

LITTLE = 1.05  # a speed-up below this is lost in the noise
#: Atoms to channels, between which the pseudo-inverse has weights of any size: pictures become rough.
SQUARE = 0.7, 1.2
#: A style bank of this strength or more leaves blotches in plain backgrounds when it acts beyond this share of steps.
STRONG, LATE = 2.0, 0.6


def tell(s: Dictionary, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    if not s.file and (s.mode == "static" or s.strength):
        said.warn(NO_FILE, idle=s.mode in ("static", "full"))
    if s.mode == "full" and not s.strength:
        said.warn("Full attention without a style strength changes nothing.", idle=True)
    elif not s.blend and not s.strength:
        said.warn("Blend 0 is full attention: nothing is changed.", idle=True)
    if s.file and s.mode != "full":  # there the style bank acts alone, which has no atoms
        _tell_file(s, facts, said)
    styled = bool(s.file and s.strength)
    if styled and s.strength >= STRONG and s.end > LATE:
        said.warn(
            "A style this strong, kept up to the last steps, can bring blotches into plain backgrounds: "
            "set End to 0.6, or lower Style strength."
        )
    if settings["near_sighted"].enabled and styled:
        said.warn("Near-sighted is on as well: it stands back where the style bank acts, and takes other layers first.")
    elif s.mode != "full" and settings["near_sighted"].enabled:
        said.warn("Near-sighted is on as well and takes its layers first.")
    adds = next((group.label for group in settings.active() if group.adds_keys), None)
    if s.mode != "full" and adds:
        said.warn(
            "Where {technique} adds keys, layers are computed in full; the style bank acts there too.", technique=adds
        )
    if facts.profile is None or s.mode in ("full", "static") or not s.blend:
        return
    gains = [_speed(s, facts, p) for p in passes]
    for p, (layers, factor) in zip(passes, gains, strict=True):
        if not layers:
            said.line("{size}: full attention, nothing to gain.", size=p.size)
        elif factor < LITTLE:
            said.line("{size}: little to gain (less than 1.05x).", size=p.size)
        else:
            said.line("{size}: about {factor}x faster steps.", size=p.size, factor=f"{factor:.1f}")
    if not any(layers for layers, _ in gains) and not styled:
        said.warn(NOTHING_TO_GAIN, idle=True)


def _tell_file(s: Dictionary, facts: Facts, said: Said) -> None:
    """The error of the file's atoms, over all layers; that a file cannot be used is said for all techniques."""
    try:
        file = facts.files.load(s.name, s.file)
    except Refused:
        return
    shapes = [tensor.shape for name, tensor in file.tensors.items() if name.startswith("atoms.") and tensor.ndim == 2]
    square = any(SQUARE[0] < count / channels < SQUARE[1] for count, channels in shapes if channels)
    if s.mode == "static" and s.codes == "pseudo-inverse" and square:
        said.warn(
            "A layer of this file has about as many atoms as channels, which makes static pictures rough: "
            "set Static codes to ridge or sparse, or learn another number of atoms."
        )
    try:
        figures = file.about.get("figures")
        found = [float(layer["nearest"]) for layer in figures["error"].values()]
        low, high = f"{100 * min(found):.0f}", f"{100 * max(found):.0f}"
    except (TypeError, KeyError, ValueError, AttributeError):
        return
    said.line(
        "The file's atoms lose {low} to {high} % of what passes a layer: the less, the better they fit.",
        low=low,
        high=high,
    )


def _speed(s: Dictionary, facts: Facts, p: Pass) -> tuple[int, float]:
    """Number of layers that are treated in a pass, and how many times as fast a step becomes."""
    selector = parse_selector(s.blocks)

    def left(layer: Layer, h: int, w: int) -> float | None:
        plan = plan_clusters(h, w, s, depth=layer.depth)
        chosen = plan.worthwhile if selector.auto else selector.matches(layer)
        return plan.cost + (s.blend < 1) if chosen else None

    acting = [step for step in p.steps_of(s) if step / p.steps >= s.full_first]
    found = speed_up(p.width, p.height, facts.profile, len(acting) / p.steps, left)
    return found.layers, found.speed
