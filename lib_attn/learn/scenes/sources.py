"""Where meshes come from: primitives, a user's folder, or Debian's sweethome3d-furniture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import vocabulary
from .meshes import Mesh, primitive


@dataclass(frozen=True)
class Library:
    """Named meshes to draw scenes from. `colours` is empty when meshes are not painted in named colours."""

    title: str
    licence: str
    all_names: Sequence[str]
    colours: Sequence[str]
    mesh: Callable[[str], Mesh]

    def names(self, split: str) -> list[str]:
        """The meshes of a split; painted libraries share their meshes and split by colour instead."""
        return list(self.all_names)


def primitives() -> Library:
    """The six built-in shapes in eight named colours."""
    return Library("procedural", "CC0-1.0", vocabulary.SHAPES, tuple(vocabulary.COLOURS), primitive)
