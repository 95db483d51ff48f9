"""What the panel says on depth guide before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.depth_guide.settings import DepthGuide
from lib_attn.techniques.facts import Facts, Pass, Said


def tell(s: DepthGuide, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    if not s.file:
        said.warn("Choose a file with map blocks.", idle=True)
    first = facts.passes[0]
    said.line("A map of {steps} steps is drawn first: {share} % of the first pass.", steps=s.map_steps,
              share=round(100 * s.map_steps / first.steps))  # fmt: skip
    if not s.strength or s.until <= s.start:
        said.warn("The map is drawn, and the picture does not follow it.")
