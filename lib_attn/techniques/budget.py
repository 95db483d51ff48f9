"""Memory that a technique may take, accounted by place: the index of a layer or the name of a block."""

from __future__ import annotations

from collections import Counter


class Budget:
    """Counts bytes by place. A place that finds no room is closed: it is to drop what it holds, and gets no more.

    All of a place or nothing: half a layer's tensors would be of no use in later steps.

    Args:
        limit: most bytes of all places together.
    """

    def __init__(self, limit: int):
        self._limit, self._used = limit, Counter()
        self._closed: set[int | str] = set()

    @property
    def bytes(self) -> int:
        """Bytes taken by all places."""
        return self._used.total()

    def closed(self, place: int | str) -> bool:
        """Whether `place` once found no room."""
        return place in self._closed

    def take(self, place: int | str, size: int) -> bool:
        """Take `size` bytes for `place`; False when there is no room, and then its earlier bytes are free again."""
        if place not in self._closed and self.bytes + size > self._limit:
            self._closed.add(place)
            del self._used[place]
        if place in self._closed:
            return False
        self._used[place] += size
        return True
