"""Maps that are given in place of drawn ones: uploaded, or named by the hash that stands in a picture's text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from lib_attn.store import Store
from lib_attn.techniques.depth_guide.maps import Map, Maps, maps_in, read_map
from lib_attn.techniques.depth_guide.proportions import TALLER, WIDER, left_out
from lib_attn.techniques.depth_guide.settings import DepthGuide

Encode = Callable[[np.ndarray], torch.Tensor]


def given(
    settings: DepthGuide,
    maps: Maps,
    say: Callable[[str], None],
    encode: Encode | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Map, ...]:
    """The map that `settings` give, kept in `maps` under its hash; empty, and a sentence, when there is none.

    Args:
        encode: gives latents of a map at the size of the picture, for the way of following that needs them.
        size: width and height of the picture in pixels.
    """
    found = _given(settings, maps, say)
    if found is None:
        return ()
    if size is not None:
        _tell_crop(found, size, say)
    if found.latent is None and settings.guide == "first steps" and encode is not None and size is not None:
        found = replace(found, latent=encode(found.at(*size)))
    return (found,)


def _given(settings: DepthGuide, maps: Maps, say: Callable[[str], None]) -> Map | None:
    wanted = settings.map_hash
    if not settings.own_map:
        found = maps.named(wanted)
        if found is None:
            say(f"The picture is drawn without its map {wanted}, which is not here: give it under Your own map.")
        return found
    try:
        found = _own(settings, maps)
    except ValueError as error:
        say(f"The picture is drawn without your own map: {error}.")
        return None
    if not np.ptp(found.picture):
        say("The picture is drawn without your own map: it is of one grey.")
        return None
    if wanted and wanted != found.hash:
        say(f"Your own map was used, which is not the map {wanted} that Use this map names.")
    return found


def _tell_crop(found: Map, size: tuple[int, int], say: Callable[[str], None]) -> None:
    above, beside = left_out(found.picture.shape[:2], size[::-1])
    if above:
        say(TALLER.format(above=above))
    if beside:
        say(WIDER.format(beside=beside))


def _own(settings: DepthGuide, maps: Maps) -> Map:
    """The map that is uploaded, read once while `maps` keep it. Raises ValueError, see `read_map`."""
    uploaded = "own", hashlib.sha256(settings.own_map.encode(errors="replace")).digest()
    found = maps.get(uploaded)
    if found is None:
        found = read_map(settings.own_map)
        maps.keep(uploaded, found)
    return found


def stamped(settings: DepthGuide, store: Store) -> DepthGuide:
    """`settings` with the hash of the map that is uploaded, as a picture's text has it; the map is kept in `store`."""
    if not settings.own_map:
        return settings
    try:
        return replace(settings, map_hash=_own(settings, maps_in(store)).hash)
    except ValueError:
        return settings
