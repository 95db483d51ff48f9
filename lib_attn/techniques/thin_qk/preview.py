"""What the panel says on thin QK before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lib_attn.learned.header import Refused
from lib_attn.techniques.facts import NOTHING_TO_GAIN, Facts, Pass, Said
from lib_attn.techniques.thin_qk.ranks import ALL_KEPT, LEAST_POINTS, Curve, curves_of, ranks
from lib_attn.techniques.thin_qk.settings import ThinQk
from lib_attn.unet.layers import Layer, layer_keys, parse_selector


def tell(s: ThinQk, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    if (s.choose == "kept energy" and s.energy >= 1.0) or (s.choose == "budget" and s.budget >= 1.0):
        said.warn(ALL_KEPT, idle=True)
        return
    if facts.profile is not None and _is_small(s, facts.profile.layers, passes):
        said.warn(NOTHING_TO_GAIN, idle=True)
        return
    if not s.values:
        said.line("With values as wide as before, most devices gain nothing.")
    if not s.file:
        said.line("Without a file the maps follow from the model's weights; what they keep is not known before.")
        return
    if facts.profile is None:
        return
    try:
        file = facts.files.load(s.name, s.file)
    except Refused:
        return  # said by whoever asked for this
    places = dict(zip(layer_keys(facts.profile.layers), facts.profile.layers, strict=True))
    chosen = parse_selector(s.blocks)
    acts = {
        key: curve
        for key, curve in curves_of(file.about).items()
        if key in places and (chosen.auto or chosen.matches(places[key]))
    }
    if s.maps == "pair" and acts:
        _tell_kept(s, acts, places, said)


def _is_small(s: ThinQk, layers: Iterable[Layer], passes: list[Pass]) -> bool:
    """Whether no layer of any pass has enough points where the choice of layers is left to us."""
    finest = 8 << min((layer.depth for layer in layers), default=0)
    points = max(-(-p.width // finest) * -(-p.height // finest) for p in passes)
    return parse_selector(s.blocks).auto and points < LEAST_POINTS


def _tell_kept(s: ThinQk, curves: dict[str, Curve], places: dict[str, Layer], said: Said) -> None:
    found = ranks(s, curves, {key: places[key].depth for key in curves})
    if all(rank == curves[key].width for key, rank in found.items()):
        said.warn(ALL_KEPT, idle=True)
        return
    for depth in sorted({places[key].depth for key in found}):
        own = [key for key in found if places[key].depth == depth]
        numbers, width = sorted(found[key] for key in own), max(curves[key].width for key in own)
        lost = sum(max(0.0, 1.0 - curves[key].mean[found[key] - 1]) for key in own) / len(own)
        values = {"level": f"d{depth}", "width": width, "error": f"{100 * lost**0.5:.1f}"}
        if numbers[0] == numbers[-1]:
            said.line(
                "{level}: {channels} of {width} channels, logits off by {error} %.", channels=numbers[0], **values
            )
        else:
            said.line(
                "{level}: {least} to {most} of {width} channels, logits off by {error} %.",
                least=numbers[0], most=numbers[-1], **values,
            )  # fmt: skip
