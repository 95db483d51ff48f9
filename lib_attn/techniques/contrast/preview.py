"""What the panel says on contrast before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.contrast.runtime import AUTO, LEFT_OUT
from lib_attn.techniques.contrast.settings import Contrast
from lib_attn.techniques.facts import Facts, Pass, Said, chosen_by, negative_left_out


def tell(s: Contrast, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    pushes = bool(s.keys or (s.blend and (s.feature or s.orthogonal)))
    if not (pushes or s.map_strength or s.show_map):
        said.warn("All strengths are 0: nothing is changed.", idle=True)
        return
    unguided = all(p.cfg == 1 for p in passes)
    if unguided and (pushes or s.show_map):
        if negative_left_out(settings):
            said.warn(LEFT_OUT, idle=True)
            return
        said.warn("At CFG 1 the negative is computed for it, which doubles the work.")
    if unguided and s.map_strength:
        said.warn("The difference map works above CFG 1 only.", idle=not (pushes or s.show_map))
    if facts.profile is not None:
        said.count(facts.profile.blocks, chosen_by(s.blocks, AUTO))
