"""What a dictionary file holds, by the layers' keys (`lib_attn.unet.layers.layer_keys`).

========================  ==============  ============================================================
``atoms.KEY``             ``[M, C]``      inputs of self-attention that stand for many, the commonest first
``counts.KEY``            ``[M]``         how many tokens of what was learned from each stands for
``bank.KEY``              ``[S, m, C]``   style bank: mean inputs of m clusters in S stretches of sampling time
``bank_counts.KEY``       ``[S, m]``      tokens in each
========================  ==============  ============================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lib_attn.learned.files import LearnedFile
from lib_attn.learned.header import Refused

MOST = 1 << 14  # atoms of a layer, clusters or stretches of a bank that a file may have


@dataclass(frozen=True)
class Entry:
    """The bank of one layer, as in the table above."""

    x: torch.Tensor
    count: torch.Tensor

    def at(self, time: float) -> tuple[torch.Tensor, torch.Tensor]:
        """``[m, C]`` and ``[m]`` at a time from 0, pure noise, to 1."""
        stretch = min(int(time * len(self.x)), len(self.x) - 1)
        return self.x[stretch], self.count[stretch]


@dataclass
class Content:
    """Atoms, their counts and the bank, by layer."""

    atoms: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, torch.Tensor] = field(default_factory=dict)
    bank: dict[str, Entry] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """As they stand in the file: half precision, which is finer than what they were learned from."""
        out = {f"atoms.{key}": x.half() for key, x in self.atoms.items()}
        out |= {f"counts.{key}": x.float() for key, x in self.counts.items()}
        for key, entry in self.bank.items():
            out |= {f"bank.{key}": entry.x.half(), f"bank_counts.{key}": entry.count.float()}
        return out


def read(file: LearnedFile) -> Content:
    """The content of a file.

    Raises:
        Refused: when a tensor is missing, or does not have the shape that it has to have.
    """
    content = Content()
    for key, width in file.layers.items():
        atoms, counts = (file.tensors.get(f"{kind}.{key}") for kind in ("atoms", "counts"))
        if not _fit(atoms, counts, 2, width):
            raise Refused(file.name, "its atoms do not have the shape of the model's layers")
        content.atoms[key], content.counts[key] = atoms, counts
        bank, counts = (file.tensors.get(f"{kind}.{key}") for kind in ("bank", "bank_counts"))
        if bank is None and counts is None:
            continue
        if not _fit(bank, counts, 3, width):
            raise Refused(file.name, "its style bank does not have the shape of the model's layers")
        content.bank[key] = Entry(bank, counts)
    return content


def _fit(x: torch.Tensor | None, counts: torch.Tensor | None, axes: int, width: int) -> bool:
    if x is None or counts is None or not (x.is_floating_point() and counts.is_floating_point()):
        return False
    if x.ndim != axes or x.shape[-1] != width or counts.shape != x.shape[:-1]:
        return False
    return 0 < min(x.shape) and max(x.shape[:-1]) <= MOST and bool((counts >= 0).all())
