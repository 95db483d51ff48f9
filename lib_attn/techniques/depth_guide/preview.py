"""What the panel says on depth guide before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.depth_guide.proportions import TALLER, WIDER, left_out
from lib_attn.techniques.depth_guide.settings import DepthGuide
from lib_attn.techniques.facts import Facts, Pass, Said

#: Share of the steps from which on a picture that the map was mixed into has no steps left to lose its colours. A black
#: and white map was still there when it was mixed in for a fifth of them.
LONG = 0.15


def tell(s: DepthGuide, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    lacks = facts.controlnet(s) if s.guide == "ControlNet" else None
    if not s.strength:
        said.warn("The strength is 0: no map is drawn.", idle=True)
    elif lacks is not None:
        said.warn(lacks.text, idle=True, **dict(lacks.values))
    else:
        _file(s, facts, said)
        _map(s, facts, said)
    if s.strength and s.guide == "first steps" and s.until > LONG:
        said.warn(
            "The picture keeps the map's colours when first steps guide it for so long: lower Guided until or the "
            "strength."
        )
    if s.strength and s.until <= s.start:
        said.warn("The picture does not follow its map: Guided until is not after Start.", idle=True)


def _file(s: DepthGuide, facts: Facts, said: Said) -> None:
    if s.file:
        if not s.own_map and not s.map_hash and facts.files.folders().told_by(s.file).get("map") == "normal":
            said.line("These blocks draw normals.")
            if s.normals:
                said.line("The map has normals already: As normals changes nothing.")
        return
    if not s.needs_file:
        said.line("No file with map blocks is needed.")
        return
    if s.own_map or s.map_hash:
        said.warn("Guided by predicted picture, the map is read by the network of a file with map blocks: choose one.",
                  idle=True)  # fmt: skip
    else:
        said.warn("Choose a file with map blocks.", idle=True)


def _map(s: DepthGuide, facts: Facts, said: Said) -> None:
    first = facts.passes[0]
    if s.own_map:
        said.line("Your own map is used, none is drawn.")
        width, height = facts.pictures.get(f"{s.name}.own_map", (0, 0))
        above, beside = left_out((height, width), (first.height, first.width)) if width and height else (0, 0)
        if above:
            said.line(TALLER, above=above)
        if beside:
            said.line(WIDER, beside=beside)
    elif s.map_hash:
        if facts.keeps(s.name, s.map_hash):
            said.line("The map {wanted} is used, none is drawn.", wanted=s.map_hash)
        else:
            said.warn("The map {wanted} is not here: give it under Your own map, or draw another.", idle=True,
                      wanted=s.map_hash)  # fmt: skip
    else:
        said.line("Steps of the map, which is drawn first: {count}; of the picture: {steps}.", count=s.map_steps,
                  steps=first.steps)  # fmt: skip
