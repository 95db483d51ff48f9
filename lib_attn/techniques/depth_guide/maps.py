"""Maps that were drawn for pictures, kept while prompt and seed stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

#: Where they are in a `lib_attn.store.Store`; under a technique's name there are runs that the user has recorded.
PLACE = "maps"
#: Most maps kept.
LIMIT = 64
#: Shares of a map's brightness that become black and white.
QUANTILES = (0.1, 0.98)


@dataclass(frozen=True)
class Map:
    """picture: uint8 ``[H, W, 3]``. latent: ``[C, h, w]`` of which it was decoded, None for a map from elsewhere."""

    picture: np.ndarray
    latent: torch.Tensor | None = None

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.picture.tobytes()).hexdigest()[:10]

    def wanted(self, size: tuple[int, int]) -> torch.Tensor:
        """Its brightness ``[h, w]``, 0 … 1, averaged over areas."""
        grey = torch.from_numpy(np.ascontiguousarray(self.picture)).float().mean(-1)[None, None] / 255
        return F.interpolate(grey, size, mode="area")[0, 0]


def levelled(picture: np.ndarray) -> np.ndarray:
    """A drawn depth map uint8 ``[H, W, 3]`` in grey and from black to white: depth is known up to scale and shift."""
    grey = picture.astype(np.float32).mean(-1)
    low, high = np.quantile(grey, QUANTILES)
    grey = np.clip((grey - low) / max(high - low, 1.0), 0, 1) * 255
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, -1)


class Maps:
    """Maps by what they were drawn of, and those of the pass to come.

    Attributes:
        current: one for each image of the pass to come; None for an image without one.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Map] = {}
        self.current: tuple[Map | None, ...] = ()
        self.about: dict[str, Any] = {}

    def get(self, drawn_of: Hashable) -> Map | None:
        return self._kept.get(drawn_of)

    def swap(self) -> None:
        """Give everything the map of another: what a picture that follows its map is held against."""
        maps = list(self._kept.values())
        self._kept = dict(zip(self._kept, maps[1:] + maps[:1], strict=True))

    def keep(self, drawn_of: Hashable, drawn: Map) -> None:
        """Keep a map; the oldest go when there are too many."""
        self._kept[drawn_of] = drawn
        while len(self._kept) > LIMIT:
            del self._kept[next(iter(self._kept))]

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        latents = (m.latent for m in self._kept.values() if m.latent is not None)
        return sum(m.picture.nbytes for m in self._kept.values()) + sum(x.numel() * x.element_size() for x in latents)
