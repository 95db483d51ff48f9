"""A dictionary file from what a `Capture` has kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lib_attn.learn.capture import Capture
from lib_attn.learn.dictionary.atoms import clusters, code_error, learn_atoms, nearest_error
from lib_attn.techniques.dictionary.content import Content, Entry

SAMPLES = 8192  # tokens kept of each layer
STRETCHES = 4  # of sampling time, for the style bank
HELD_OUT = 8  # every so many tokens are kept from learning, to measure the error on


@dataclass(frozen=True)
class Recipe:
    """atoms: of the finest level; those below get half as many each. method: of `lib_attn.learn.dictionary.atoms`.
    bank: clusters of the style bank in each stretch, 0 for none. halve: whether lower levels get fewer atoms."""

    atoms: int = 256
    method: str = "k-means"
    bank: int = 64
    halve: bool = True


def make_capture(layers: Any, *, memory: int = 2 << 30, seed: int = 0) -> Capture:
    """What is to be kept of a model with these attention layers to learn a dictionary of it."""
    return Capture(layers, samples=SAMPLES, moments=False, memory=memory, stretches=STRETCHES, seed=seed)


def build(
    capture: Capture,
    depths: Mapping[str, int],
    recipe: Recipe,
    style: bool = False,
    progress: Callable[[str], None] = lambda key: None,
) -> tuple[Content, dict[str, Any]]:
    """Content of the file, and what it says of its figures.

    Args:
        depths: of the layers in the U-Net, by key. style: whether a style bank is made of the tokens.
        progress: told each layer's key before it is learned.

    Raises:
        ImportError: see `learn_atoms`.
        ValueError: when nothing has passed a layer.
    """
    content, errors = Content(), {}
    for key in capture.shapes:
        progress(key)
        tokens = capture.tokens(key)
        x = tokens["x"]
        if len(x) < HELD_OUT:
            raise ValueError(f"Nothing to learn from has passed {key}.")
        rest = torch.arange(len(x)) % HELD_OUT != 0
        count = max(4, recipe.atoms >> (depths[key] * recipe.halve))
        atoms, counts = learn_atoms(x[rest], count, recipe.method)
        content.atoms[key], content.counts[key] = atoms, counts
        errors[key] = {"nearest": nearest_error(x[~rest], atoms), "of 4": code_error(x[~rest], atoms)}
        if style and recipe.bank:
            content.bank[key] = _bank(x, tokens["stretch"], recipe.bank, capture.stretches)
    return content, {"recipe": asdict(recipe), "errors": errors}


def _bank(x: torch.Tensor, stretch: torch.Tensor, count: int, stretches: int) -> Entry:
    """Clusters of a layer's tokens ``[n, C]`` by stretch ``[n]``; a stretch without tokens takes those of its
    neighbour."""
    seen = sorted(set(stretch.tolist()))
    found = {s: clusters(x[stretch == s], count) for s in seen}
    means, counts = x.new_zeros(stretches, count, x.shape[1]), x.new_zeros(stretches, count)
    for s in range(stretches):
        mean, number = found[min(seen, key=lambda other: abs(other - s))]
        means[s, : len(mean)], counts[s, : len(mean)] = mean, number
    return Entry(means, counts)
