"""What the panel says on near sighted before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.facts import EQUALS_FULL, NOTHING_TO_GAIN, Facts, Pass, Said
from lib_attn.techniques.near_sighted.estimate import estimate
from lib_attn.techniques.near_sighted.settings import NearSighted
from lib_attn.unet.layers import parse_selector

LITTLE = 1.05  # a speed-up below this is lost in the noise


def tell(s: NearSighted, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    if 0 < s.tile < 8 and not s.tile_count:
        said.warn("The least tile is 8: smaller ones are the same.")
    if facts.profile is None:
        return
    gains = []
    for p in passes:
        e = estimate(p.width, p.height, s, facts.profile, len(p.steps_of(s)) / p.steps)
        gains.append(e)
        if not e.layers:
            said.line("{size}: full attention, nothing to gain.", size=p.size)
        elif e.speed < LITTLE:
            said.line("{size}: little to gain (less than 1.05x).", size=p.size)
        else:
            tiled = bool(s.tile or s.tile_count)
            text = (
                "{size}: about {factor}x faster steps, {tiles} tiles."
                if tiled
                else "{size}: about {factor}x faster steps."
            )
            values = {"tiles": e.tiles} if tiled else {}
            said.line(text, size=p.size, factor=f"{e.speed:.1f}", **values)
    if not any(e.layers for e in gains):
        if parse_selector(s.blocks).auto:
            said.warn(NOTHING_TO_GAIN, idle=True)
        else:
            said.warn(EQUALS_FULL, idle=True)
