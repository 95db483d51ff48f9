"""What techniques keep from one job to the next: a recorded run, the atoms of a picture, a map."""

from __future__ import annotations

from typing import Any, Protocol


class Kept(Protocol):
    """Something kept.

    bytes: memory it takes; may grow while it is filled. about: what a host wants to tell of it, for example the prompt.
    """

    bytes: int
    about: dict[str, Any]


class Store:
    """Holds one thing for each technique, by the technique's name.

    Args:
        limit: most bytes of everything together. What was kept earliest makes room for what is new.
    """

    def __init__(self, limit: int = 8 << 30):
        self._limit, self._kept = limit, {}

    def get(self, name: str) -> Kept | None:
        """What technique `name` has kept, or None."""
        return self._kept.get(name)

    def keep(self, name: str, item: Kept) -> None:
        """Keep `item` in the place of what `name` kept before."""
        self._kept.pop(name, None)
        self._kept[name] = item
        while self.bytes > self._limit and len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]

    def clear(self, name: str | None = None) -> None:
        """Forget what `name` has kept, or everything."""
        if name is None:
            self._kept.clear()
        else:
            self._kept.pop(name, None)

    @property
    def bytes(self) -> int:
        """Memory that everything kept takes."""
        return sum(item.bytes for item in self._kept.values())
