"""The first of two passes: the map, drawn by the checkpoint with other blocks, or by another U-Net in its place.

Whoever hosts the model draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lib_attn.learned.files import LearnedFile, Loader
from lib_attn.learned.foreign import VAE
from lib_attn.learned.header import Refused
from lib_attn.store import Store
from lib_attn.techniques.base import Context
from lib_attn.techniques.depth_guide.head import PREFIX
from lib_attn.techniques.depth_guide.maps import PLACE, Map, Maps, levelled
from lib_attn.techniques.depth_guide.settings import KIND, DepthGuide
from lib_attn.unet.families import find_layers, find_unet
from lib_attn.unet.replace import DECODER, FREE, Unfitting, replaced
from lib_attn.unet.standalone import is_whole, stood_in

#: What a host draws: latents ``[C, h, w]`` and uint8 ``[H, W, 3]`` of each picture, or as many channels as the file's
#: own decoder draws; None when it was stopped.
Drawn = Sequence[tuple[torch.Tensor, np.ndarray]]


def underdraw(
    settings: DepthGuide,
    model: Any,
    pictures: Callable[[], Sequence[Hashable]],
    draw: Callable[[], Drawn | None],
    *,
    files: Loader,
    store: Store,
    say: Callable[[str], None],
    decoder: Any = None,
    prediction: str = "epsilon",
) -> tuple[Map, ...]:
    """Lay the maps of the pass to come ready in `store`: those kept there, or new ones. Empty when there are none.

    Args:
        pictures: gives for each picture everything its map depends on beside the file with the blocks.
        draw: draws all maps by `model`, which has the other blocks on while it runs.
        decoder: the module by which it decodes them, with ``decoder`` and ``post_quant_conv`` in it.
        prediction: what the model predicts, ``epsilon`` or ``v``.
    """
    kept = store.get(PLACE)
    maps = kept if isinstance(kept, Maps) else Maps()
    maps.current = ()
    store.keep(PLACE, maps)
    if not settings.file:
        say("The picture is drawn without a map: choose a file with map blocks.")
        return ()
    try:
        file = Context(say=say, layers=tuple(find_layers(model)), files=files).learned(KIND, settings.file)
        keys = [(file.hash, picture) for picture in pictures()]
        found = {key: maps.get(key) for key in keys}
        if None in found.values():
            with _drawing(file, find_unet(model), decoder, prediction):
                drawn = draw()
            if drawn is None:
                return ()
            for key, (latent, picture) in zip(keys, drawn, strict=True):
                picture = _chosen(picture, file)
                # Latents of a decoder of its own are none of the model's.
                latent = None if "channels" in file.about else latent
                found[key] = Map(picture if file.about.get("map") == "normal" else levelled(picture), latent)
                maps.keep(key, found[key])
    except Refused as refused:
        say(str(refused))
        return ()
    except Unfitting as error:
        say(f"The picture is drawn without a map: {error}.")
        return ()
    maps.current = tuple(found[key] for key in keys)
    return maps.current


@contextlib.contextmanager
def _drawing(file: LearnedFile, unet: Any, decoder: Any, prediction: str) -> Iterator[None]:
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
            stack.enter_context(replaced(decoder, own, DECODER, FREE))
        yield


def _chosen(picture: np.ndarray, file: LearnedFile) -> np.ndarray:
    """Of the channels that were drawn those of the map, uint8 ``[H, W, 3]``."""
    channels = file.about.get("channels", [0, 1, 2])
    if picture.shape[-1] <= max(channels):
        raise Unfitting("the file needs its own decoder, and the VAE type for decoding is not Full")
    return np.ascontiguousarray(picture[..., channels if len(channels) == 3 else channels * 3])
