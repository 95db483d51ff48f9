"""What the panel says on depth guide before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.depth_guide.settings import KIND, DepthGuide
from lib_attn.techniques.facts import Facts, Pass, Said

#: Share of the steps from which on a picture that the map was mixed into has no steps left to lose its greys.
GREYS = 0.4


def tell(s: DepthGuide, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    missing = s.needs_file and not s.file
    names = facts.files.folders().names(KIND) if missing else []
    if len(names) == 1:
        (name,) = names
        said.line("No file is chosen: {name} is used where it fits.", name=name)
    elif missing:
        said.warn("Choose a file with map blocks.", idle=True)
    if not s.strength:
        said.warn("The strength is 0: no map is drawn.", idle=True)
    elif s.map_hash:
        said.line("The map {wanted} is used, none is drawn.", wanted=s.map_hash)
    else:
        first = facts.passes[0]
        said.line("A map of {steps} steps is drawn first: {share} % of the first pass.", steps=s.map_steps,
                  share=round(100 * s.map_steps / first.steps))  # fmt: skip
    if s.strength and s.guide == "first steps" and s.until > GREYS:
        said.warn("Guided by first steps for so long, the picture keeps the map's greys: lower Guided until to 0.3.")
    if s.strength and s.until <= s.start:
        said.warn("The map is drawn, and the picture does not follow it.")
