"""Checkpoints that hold only what differs from another one in their folder, which most of a small model does not.

Such a file names the other one and its hash in its metadata. It can be read here and nowhere else: for a webui it is
written whole (`lib_attn.lab.drawing.install`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import file_hash

#: Metadata: name of the other file, how its SHA-256 begins, and the names of the weights that are taken from it.
BASE, HASH, LEFT = "attention_lab.base", "attention_lab.base_hash", "attention_lab.left"


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself."""
    with safe_open(str(path), "pt") as file:
        return file.metadata() or {}


def base_of(path: Path) -> Path | None:
    """The file in the same folder that `path` is to be completed from; None where it is whole.

    Raises:
        LabError: when that file is not there, or is another one.
    """
    told = metadata_of(path)
    name = told.get(BASE)
    if name is None:
        return None
    base = path.with_name(Path(name).name)
    if not base.is_file() or base == path:
        raise LabError(f"{path.name} holds only what differs from {base.name}, which is not beside it.")
    if file_hash(base) != told.get(HASH):
        raise LabError(f"{path.name} was made beside another {base.name} than the one that lies there.")
    return base


def completed(path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`weights` of `path`, with what it leaves to the file beside it.

    Raises:
        LabError: as `base_of`.
    """
    base = base_of(path)
    if base is None:
        return dict(weights)
    with safe_open(str(base), "pt") as file:
        return {name: file.get_tensor(name) for name in metadata_of(path)[LEFT].split()} | dict(weights)


def write_beside(whole: Path, base: Path, out: Path) -> None:
    """Write to `out` what `whole` has otherwise than `base`, in whose folder `out` is going to lie."""
    own, other = load_file(whole), load_file(base)
    left = sorted(name for name, value in own.items() if name in other and torch.equal(value, other[name]))
    told = {BASE: base.name, HASH: file_hash(base), LEFT: " ".join(left)}
    kept = {name: value for name, value in own.items() if name not in set(left)}
    save_file(kept, out, metadata_of(whole) | told)


def write_whole(path: Path, out: Path) -> None:
    """Write to `out` the checkpoint `path` with all its weights, as others read it."""
    told = {key: value for key, value in metadata_of(path).items() if key not in (BASE, HASH, LEFT)}
    save_file(completed(path, load_file(path)), out, told)
