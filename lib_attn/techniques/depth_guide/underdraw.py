"""The first of two passes: the map, drawn by the checkpoint with other blocks. Whoever hosts the model draws."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lib_attn.learned.files import Loader
from lib_attn.learned.header import Refused
from lib_attn.store import Store
from lib_attn.techniques.base import Context
from lib_attn.techniques.depth_guide.given import given
from lib_attn.techniques.depth_guide.head import PREFIX, head_of
from lib_attn.techniques.depth_guide.layout import quieted
from lib_attn.techniques.depth_guide.maps import PLACE, Map, Maps, levelled
from lib_attn.techniques.depth_guide.settings import KIND, DepthGuide
from lib_attn.unet.families import find_layers, find_unet
from lib_attn.unet.replace import Unfitting, replaced

#: What a host makes of prompts: latents ``[B, C, h, w]``, None when it was stopped; and of these: uint8 ``[H, W, 3]``.
Draw = Callable[[], torch.Tensor | None]
Decode = Callable[[torch.Tensor], Sequence[np.ndarray]]
#: Size at which maps are decoded, as a share of the picture's: a map has no detail that needs more, and decoding takes
#: half the time of a small map's.
DECODED = 0.7


def underdraw(
    settings: DepthGuide,
    model: Any,
    pictures: Callable[[], Sequence[Hashable]],
    draw: Draw,
    decode: Decode,
    *,
    files: Loader,
    store: Store,
    say: Callable[[str], None],
    encode: Callable[[np.ndarray], torch.Tensor] | None = None,
    noise: torch.Tensor | None = None,
) -> tuple[Map, ...]:
    """Lay the maps of the pass to come ready in `store`: those kept there, or new ones. Empty when there are none.

    Args:
        pictures: gives for each picture everything its map depends on beside the file with the blocks.
        draw, decode: draw all maps by `model`, which has the other blocks on while they run.
        encode: gives the latents ``[C, h, w]`` of a map uint8 ``[H, W, 3]`` from elsewhere, at the picture's size.
        noise: ``[B, C, h, w]`` that the pictures are going to begin with; changed in place where they follow a map.
    """
    kept = store.get(PLACE)
    maps = kept if isinstance(kept, Maps) else Maps()
    maps.current = ()
    store.keep(PLACE, maps)
    if not settings.strength:
        say("The strength is 0: no map is drawn.")
        return ()
    context = Context(say=say, layers=tuple(find_layers(model)), files=files)
    if settings.own_map or settings.map_hash:
        maps.current = given(settings, maps, say, encode) * len(pictures())
    else:
        maps.current = _drawn(settings, maps, find_unet(model), pictures, draw, decode, context)
    from_noise = settings.guide == "predicted picture" and settings.start == 0 < min(settings.end, settings.until)
    if maps.current and noise is not None and from_noise and head_of(settings, context) is not None:
        noise.copy_(quieted(noise, settings.strength))
    return maps.current


def _drawn(
    settings: DepthGuide, maps: Maps, unet: Any, pictures: Callable, draw: Draw, decode: Decode, context: Context
) -> tuple[Map, ...]:
    """Maps that are kept, or drawn now and kept from now on; see `underdraw`."""
    if not settings.file:
        context.say("The picture is drawn without a map: choose a file with map blocks.")
        return ()
    try:
        file = context.learned(KIND, settings.file)
        keys = [(file.hash, picture) for picture in pictures()]
        found = {key: maps.get(key) for key in keys}
        if None in found.values():
            blocks = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(PREFIX)}
            with replaced(unet, blocks):
                latents = draw()
                if latents is None:
                    return ()
                decoded = decode(_smaller(latents))
            for key, latent, small in zip(keys, latents, decoded, strict=True):
                kind, picture = file.about.get("map", "depth"), _enlarged(small, latent)
                found[key] = Map(picture if kind == "normal" else levelled(picture), latent, kind)
                maps.keep(key, found[key])
    except Refused as refused:
        context.say(str(refused))
        return ()
    except Unfitting as error:
        context.say(f"The picture is drawn without a map: {error}.")
        return ()
    return tuple(found[key] for key in keys)


def _smaller(latents: torch.Tensor) -> torch.Tensor:
    size = [max(1, round(DECODED * n)) for n in latents.shape[-2:]]
    return F.interpolate(latents.float(), size, mode="bicubic", antialias=True).to(latents.dtype)


def _enlarged(picture: np.ndarray, latent: torch.Tensor) -> np.ndarray:
    """A picture of `_smaller` latents at the size that those of `latent` have."""
    height, width = (n * picture.shape[0] // max(1, round(DECODED * latent.shape[-2])) for n in latent.shape[-2:])
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BICUBIC))
