"""The first of two passes: the map, drawn by the checkpoint with other blocks, or by another U-Net in its place.

Whoever hosts the model draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lib_attn.learned.files import LearnedFile, Loader
from lib_attn.learned.foreign import VAE
from lib_attn.learned.header import Refused
from lib_attn.store import Store
from lib_attn.techniques.base import Context
from lib_attn.techniques.depth_guide.given import given
from lib_attn.techniques.depth_guide.head import PREFIX, head_of
from lib_attn.techniques.depth_guide.layout import quieted
from lib_attn.techniques.depth_guide.maps import Map, Maps, levelled, maps_in
from lib_attn.techniques.depth_guide.settings import KIND, DepthGuide
from lib_attn.unet.families import find_layers, find_unet
from lib_attn.unet.replace import DECODER, FREE, Unfitting, replaced
from lib_attn.unet.standalone import is_whole, stood_in

#: What a host makes of prompts: latents ``[B, C, h, w]``, None when it was stopped; and of these: uint8 ``[H, W, 3]``,
#: or as many channels as the file's own decoder draws.
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
    size: tuple[int, int] | None = None,
    noise: torch.Tensor | None = None,
    decoder: Any = None,
    prediction: str = "epsilon",
) -> tuple[Map, ...]:
    """Lay the maps of the pass to come ready in `store`: those kept there, or new ones. Empty when there are none.

    Args:
        pictures: gives for each picture everything its map depends on beside the file with the blocks.
        draw, decode: draw all maps by `model`, which has the other blocks on while they run.
        encode: gives the latents ``[C, h, w]`` of a map uint8 ``[H, W, 3]`` of the picture's size, from elsewhere.
        size: width and height of the pictures in pixels.
        noise: ``[B, C, h, w]`` that the pictures are going to begin with; changed in place where they follow a map.
        decoder: the module by which it decodes them, with ``decoder`` and ``post_quant_conv`` in it.
        prediction: what the model predicts, ``epsilon`` or ``v``.
    """
    maps = maps_in(store)
    maps.current = ()
    if not settings.strength:
        say("The strength is 0: no map is drawn.")
        return ()
    context = Context(say=say, layers=tuple(find_layers(model)), files=files)
    if settings.own_map or settings.map_hash:
        # A map that nothing can read is not shown either, as if the picture followed it.
        read = settings.guide != "predicted picture" or head_of(settings, context) is not None
        maps.current = given(settings, maps, say, encode, size) * len(pictures()) if read else ()
    else:
        maps.current = _drawn(
            settings, maps, find_unet(model), pictures, (draw, decode), (decoder, prediction), context
        )
    if maps.current:
        maps.latest = maps.current[-1].hash
    from_noise = settings.guide == "predicted picture" and settings.start == 0 < min(settings.end, settings.until)
    if maps.current and noise is not None and from_noise and head_of(settings, context) is not None:
        noise.copy_(quieted(noise, settings.strength))
    return maps.current


def _drawn(
    settings: DepthGuide,
    maps: Maps,
    unet: Any,
    pictures: Callable[[], Sequence[Hashable]],
    by: tuple[Draw, Decode],
    about: tuple[Any, str],
    context: Context,
) -> tuple[Map, ...]:
    """Maps that are kept, or drawn now and kept from now on; see `underdraw`. about: decoder and prediction."""
    draw, decode = by
    if not settings.file:
        context.say("The picture is drawn without a map: choose a file with map blocks.")
        return ()
    try:
        file = context.learned(KIND, settings.file)
        keys = [(file.hash, picture) for picture in pictures()]
        found = {key: maps.get(key) for key in keys}
        if None in found.values():
            with drawing(file, unet, *about):
                latents = draw()
                if latents is None:
                    return ()
                decoded = decode(_smaller(latents))
            for key, latent, small in zip(keys, latents, decoded, strict=True):
                kind, picture = file.about.get("map", "depth"), _enlarged(_chosen(small, file), latent)
                # Latents of a decoder of its own are none of the model's.
                latent = None if "channels" in file.about else latent
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
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


@contextlib.contextmanager
def drawing(file: LearnedFile, unet: Any, decoder: Any, prediction: str) -> Iterator[None]:
    """Have a model draw what `file` draws. Raises `Unfitting` when it cannot."""
    blocks = {name: value for name, value in file.tensors.items() if not name.startswith((PREFIX, VAE))}
    own = {name.removeprefix(VAE): value for name, value in file.tensors.items() if name.startswith(VAE)}
    whole = is_whole(blocks)
    if whole and not file.family and prediction != "epsilon":
        raise Unfitting("the U-Net in the file predicts noise, and this model is sampled by its velocity")
    with contextlib.ExitStack() as stack:
        if whole and blocks.keys() != unet.state_dict().keys():
            stack.enter_context(stood_in(unet, blocks))
        else:
            stack.enter_context(replaced(unet, blocks))
        if own:
            stack.enter_context(replaced(decoder, own, DECODER, FREE, called=False))
        yield


def _chosen(picture: np.ndarray, file: LearnedFile) -> np.ndarray:
    """Of the channels that were drawn those of the map, uint8 ``[H, W, 3]``."""
    channels = file.about.get("channels", [0, 1, 2])
    if picture.shape[-1] <= max(channels):
        raise Unfitting("the file needs its own decoder, and the VAE type for decoding is not Full")
    return np.ascontiguousarray(picture[..., channels if len(channels) == 3 else channels * 3])
