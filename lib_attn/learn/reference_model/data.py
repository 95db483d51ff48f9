"""What training reads: pictures of a set in memory, captions as token ids, latents in shards."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from ..scenes import shards
from ..scenes.vocabulary import ORDERS, without_colours
from .state import StateError, save_tensors
from .tokenizer import encode as encode_text
from .unet import Latents


def load_pictures(folder: Path, first: int = 0, count: int | None = None, size: int | None = None):
    """RGB pictures and attributes of a set -> (uint8 (N, S, S, 3), list of attribute dicts).

    size: reduce to this edge by averaging whole blocks; it must divide the rendered edge.
    """
    pictures, attributes = [], []
    for number, sample in enumerate(shards.read_set(folder)):
        if number < first:
            continue
        if count is not None and len(pictures) == count:
            break
        pictures.append(reduce(sample["rgb"], size))
        attributes.append(sample["json"])
    if not pictures:
        raise shards.ShardError(f"{folder} holds fewer than {first + 1} scenes.")
    return np.stack(pictures), attributes


def reduce(picture: np.ndarray, size: int | None) -> np.ndarray:
    """Average blocks of a uint8 (H, H, 3) picture down to (size, size, 3)."""
    if size is None or size == picture.shape[0]:
        return picture
    k, rest = divmod(picture.shape[0], size)
    if rest:
        raise ValueError(f"{size} does not divide the rendered edge of {picture.shape[0]} pixels.")
    return np.rint(picture.reshape(size, k, size, k, 3).mean((1, 3))).astype(np.uint8)


LATENTS = "latents-{:05d}.safetensors"
#: Scenes in one file: small enough that several processes share even a short set evenly.
CHUNK = 250


def cache_latents(
    folder: Path,
    scenes: Path,
    encode,
    size: int,
    count: int,
    rank: int = 0,
    world: int = 1,
    batch: int = 8,
    progress=None,
    maps: tuple[str, ...] = ("rgb",),
    picture=lambda sample: sample["rgb"],
) -> None:
    """Encode the first `count` scenes in files of CHUNK scenes; files already there are kept.

    encode: uint8 (B, S, S, 3) -> scaled latents (B, 4, S/8, S/8). Process `rank` of `world` takes every
    world-th file, so processes never write the same one. maps: what is read of a scene; picture: what of it is
    encoded, uint8 (H, H, 3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = itertools.islice(shards.read_set(scenes, (*maps, "json")), count)
    for number in itertools.count():
        chunk = list(itertools.islice(samples, CHUNK))
        if not chunk:
            return
        target = folder / LATENTS.format(number)
        if target.exists() or number % world != rank:
            continue
        latents = []
        for i in range(0, len(chunk), batch):
            latents.append(encode(np.stack([reduce(picture(s), size) for s in chunk[i : i + batch]])).half())
            if progress:
                progress(len(latents[-1]))
        save_tensors(
            target, {"latents": torch.cat(latents)}, {"captions": json.dumps([s["json"]["caption"] for s in chunk])}
        )


def load_latents(folder: Path, count: int) -> tuple[torch.Tensor, list[str]]:
    """Cached latents float16 (N, 4, h, w) and their captions, N <= count, over shards of any length."""
    parts, captions = [], []
    for path in sorted(folder.glob("latents-*.safetensors")):
        try:
            with safe_open(str(path), "pt") as file:
                parts.append(file.get_tensor("latents"))
                captions += json.loads(file.metadata()["captions"])
        except Exception as error:  # safetensors raises its own types for damaged headers
            raise StateError(
                f"{path.name} is truncated or damaged ({error}); delete it and run the stage again."
            ) from None
    if not parts:
        raise StateError(f"{folder} holds no latents.")
    return torch.cat(parts)[:count], captions[:count]


ORDERED = tuple(f"a {order} of " for order in ORDERS if order)
SEVERAL = ("two ", "three ", *ORDERED)


def prepare(latents: torch.Tensor, captions: list[str], tokenizer, colourless: int = 12) -> Latents:
    """Latents with every distinct caption tokenised once.

    Every `colourless`-th caption loses its objects' colours, so that the model has met "a cube" and can be
    asked what a negative prompt of a colour changes.
    """
    captions = [without_colours(c) if i % colourless == colourless - 1 else c for i, c in enumerate(captions)]
    kinds = {"single": [], "pair": [], "several": []}
    for i, text in enumerate(captions):
        kinds["pair" if " of a" in text else "several" if text.startswith(SEVERAL) else "single"].append(i)
    counts = torch.ones(len(captions), dtype=torch.long)
    counts[[i for i, text in enumerate(captions) if " of a" in text or text.startswith("two ")]] = 2
    counts[[i for i, text in enumerate(captions) if text.startswith("three ")]] = 3
    # Rows and grids stand in other places than one to three things do, and nobody is told where to look for them.
    counts[[i for i, text in enumerate(captions) if text.startswith(ORDERED)]] = 0
    distinct = sorted(set(captions))
    index = {text: i for i, text in enumerate(distinct)}
    return Latents(
        latents,
        encode_text(tokenizer, distinct),
        torch.tensor([index[c] for c in captions]),
        encode_text(tokenizer, [""]),
        {k: torch.tensor(v, dtype=torch.long) for k, v in kinds.items()},
        counts,
    )
