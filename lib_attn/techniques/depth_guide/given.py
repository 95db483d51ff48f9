"""Maps that are given in place of drawn ones: uploaded, or named by the hash that stands in a picture's text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from lib_attn.techniques.depth_guide.maps import Map, Maps, read_map
from lib_attn.techniques.depth_guide.settings import DepthGuide

Encode = Callable[[np.ndarray], torch.Tensor]


def given(
    settings: DepthGuide, maps: Maps, say: Callable[[str], None], encode: Encode | None = None
) -> tuple[Map, ...]:
    """The map that `settings` give, kept in `maps` under its hash; empty, and a sentence, when there is none.

    Args:
        encode: gives latents of a map, for the way of following that needs them.
    """
    found = _given(settings, maps, say)
    if found is not None and found.latent is None and settings.guide == "first steps" and encode is not None:
        found = replace(found, latent=encode(found.picture))
    return (found,) if found is not None else ()


def _given(settings: DepthGuide, maps: Maps, say: Callable[[str], None]) -> Map | None:
    wanted = settings.map_hash
    if not settings.own_map:
        found = maps.named(wanted)
        if found is None:
            say(f"The picture is drawn without its map {wanted}, which is not here: give it under Your own map.")
        return found
    try:
        found = read_map(settings.own_map)
    except ValueError as error:
        say(f"The picture is drawn without your own map: {error}.")
        return None
    if not np.ptp(found.picture):
        say("The picture is drawn without your own map: it is of one grey.")
        return None
    if wanted and wanted != found.hash:
        say(f"Your own map is another one than {wanted}: the picture will be another one.")
    maps.keep(found.hash, found)
    return found


def stamped(settings: DepthGuide) -> DepthGuide:
    """`settings` with the hash of the map that is uploaded, as a picture's text has it."""
    if not settings.own_map:
        return settings
    try:
        return replace(settings, map_hash=read_map(settings.own_map).hash)
    except ValueError:
        return settings
