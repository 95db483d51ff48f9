"""What the panel says on key mix before anything is drawn."""

from __future__ import annotations

from typing import Any

from lib_attn.techniques.facts import Facts, Pass, Said, chosen_by, negative_left_out
from lib_attn.techniques.key_mix.runtime import AUTO, LEFT_OUT, compares_with_negative, mixes, mixes_features
from lib_attn.techniques.key_mix.settings import KeyMix
from lib_attn.techniques.key_mix.sources import FOLLOWS_ITSELF, NOT_RECORDED


def tell(s: KeyMix, settings: Any, facts: Facts, passes: list[Pass], said: Said) -> None:
    """Lines and warnings on the passes in which it may act; see `lib_attn.preview`."""
    compares = compares_with_negative(s)
    if s.record:
        said.line("This run is recorded for later pictures.")
    if not (mixes(s) or mixes_features(s)):
        if not s.record:
            said.warn("All amounts are 0: nothing is mixed.", idle=True)
        return
    if s.source in ("first image", "batch mean") and facts.batch < 2:
        said.warn("Needs batch size 2 or more.", idle=True)
    if s.source == "recorded run":
        if s.record:
            said.warn(FOLLOWS_ITSELF, idle=True)
        elif not facts.recorded:
            said.warn(NOT_RECORDED, idle=True)
    unguided = all(p.cfg == 1 for p in passes)
    if unguided and compares:
        if negative_left_out(settings):
            said.warn(LEFT_OUT, idle=True)
        else:
            said.warn("At CFG 1 the negative is computed for it, which doubles the work.")
    elif unguided and s.side == "negative" and settings.general.skip_cfg1:
        said.warn("At CFG 1 there is no negative to mix.", idle=True)
    if facts.profile is not None and not said.idle:
        said.count(facts.profile.layers, chosen_by(s.blocks, AUTO))
