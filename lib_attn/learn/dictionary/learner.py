"""A dictionary from what was seen: atoms of every layer, and a style bank of the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from lib_attn.learn.capture import Capture
from lib_attn.learn.dictionary.atoms import CODE, METHODS, clusters, code_error, learn_atoms, nearest_error
from lib_attn.learn.learners import Learner
from lib_attn.schema import Group, param
from lib_attn.techniques.dictionary.content import Content, Entry
from lib_attn.techniques.dictionary.plan import LEAST_ATOMS
from lib_attn.unet.layers import Layer

STRETCHES = 4  # of sampling time that the style bank keeps apart
HELD_OUT = 8  # every so many tokens are kept from learning, to measure the error on


@dataclass(frozen=True)
class Options(Group):
    """What is learned."""

    name: ClassVar[str] = "dictionary"
    label: ClassVar[str] = "Dictionary"

    atoms: int = param(
        256,
        "Atoms",
        "How many typical points stand for all points of the pictures, in each layer of the finest "
        "level; half as many on each level below.",
        LEAST_ATOMS,
        4096,
    )
    method: str = param(
        "k-means", "Method", "How atoms are found. Sparse needs the Python package scikit-learn.", choices=METHODS
    )
    bank: int = param(
        64,
        "Style bank",
        "How many typical points hold the look of the pictures, in each layer and quarter of the steps. "
        "0: no style bank, so that the file passes on no look.",
        0,
        1024,
    )
    samples: int = param(
        8192,
        "Places to learn from",
        "How many places of the pictures are looked at in each layer. More is more exact and takes longer.",
        256,
        1 << 17,
    )


def wants(options: Options) -> dict[str, Any]:
    """See `lib_attn.learn.learners.Learner`."""
    return {"samples": options.samples, "moments": False, "stretches": STRETCHES}


def learn(
    capture: Capture, options: Options, layers: Mapping[str, Layer]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The file's tensors, and the error with which points that were not learned from are put together from atoms.

    Raises:
        ValueError: when too few points have passed, or scikit-learn is wanted and missing.
    """
    content, errors = Content(), {}
    for key in capture.shapes:
        tokens = capture.tokens(key)
        x = tokens["x"]
        if len(x) < HELD_OUT:
            raise ValueError(f"Nothing to learn from has passed {key}")
        rest = torch.arange(len(x)) % HELD_OUT != 0
        count = max(LEAST_ATOMS, options.atoms >> layers[key].depth)
        atoms, counts = learn_atoms(x[rest], count, options.method)
        content.atoms[key], content.counts[key] = atoms, counts
        told = {"nearest": nearest_error(x[~rest], atoms), f"of {CODE}": code_error(x[~rest], atoms)}
        errors[key] = {name: round(error, 4) for name, error in told.items()}
        if options.bank:
            content.bank[key] = _bank(x, tokens["stretch"], options.bank, capture.stretches)
    return content.tensors(), {"figures": {"error": errors}}


def _bank(x: torch.Tensor, stretch: torch.Tensor, count: int, stretches: int) -> Entry:
    """Clusters of tokens ``[n, C]`` by stretch ``[n]``; a stretch without tokens takes those of its neighbour."""
    seen = sorted(set(stretch.tolist()))
    found = {s: clusters(x[stretch == s], count) for s in seen}
    entry = Entry(x.new_zeros(stretches, count, x.shape[1]), x.new_zeros(stretches, count))
    for s in range(stretches):
        means, counts = found[min(seen, key=lambda other: abs(other - s))]
        entry.x[s, : len(means)], entry.count[s, : len(means)] = means, counts
    return entry


LEARNER = Learner(
    "Dictionary",
    "Typical points (atoms) that stand for all points of a picture, and the look of the pictures that it "
    "is learned from.",
    Options,
    wants,
    learn,
    look=True,
)
