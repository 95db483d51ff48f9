"""Maps that were drawn for pictures, kept while prompt and seed stay the same."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lib_attn.schema import MAX_PICTURE
from lib_attn.store import Store
from lib_attn.techniques.depth_guide.normals import normal_map
from lib_attn.techniques.depth_guide.proportions import middle

#: Where they are in a `lib_attn.store.Store`; under a technique's name there are runs that the user has recorded.
PLACE = "maps"
#: Most maps kept.
LIMIT = 64
#: Longest side of a map that is given, in pixels.
LARGEST = 8192
#: A larger one is made smaller to this before anything else: its picture follows it at an eighth of the picture's size.
ENOUGH = 2048
#: Sine of the angle to the viewer from which on a map of normals shows a thing for certain.
TURNED = 0.5
#: Shares of a map's brightness that become black and white.
QUANTILES = (0.1, 0.98)


@dataclass(frozen=True)
class Map:
    """picture: uint8 ``[H, W, 3]``. latent: ``[C, h, w]`` of which it was decoded, None for a map from elsewhere. kind:
    ``depth`` or ``normal``."""

    picture: np.ndarray
    latent: torch.Tensor | None = None
    kind: str = "depth"

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.picture.tobytes()).hexdigest()[:10]

    @cached_property
    def normals(self) -> np.ndarray:
        """The map as one of normals, uint8 ``[H, W, 3]``."""
        return self.picture if self.kind == "normal" else normal_map(self.picture)

    def wanted(self, size: tuple[int, int]) -> torch.Tensor:
        """How near things are ``[h, w]``, 0 … 1, averaged over areas, cropped where `size` has other proportions.

        Of normals, which do not say how near anything is: how far it turns away from the viewer, 1 from `TURNED` on.
        """
        cut = torch.from_numpy(np.ascontiguousarray(self.picture[middle(self.picture.shape[:2], size)])).float()
        if self.kind == "normal":
            near = ((cut[..., :2] / 127.5 - 1).norm(dim=-1) / TURNED).clamp(max=1)
        else:
            near = cut.mean(-1) / 255
        return F.interpolate(near[None, None], size, mode="area")[0, 0]

    def latents(self, like: torch.Tensor) -> torch.Tensor:
        """Its latents ``[1, C, h, w]`` in the size, device and type of `like` ``[B, C, h, w]``, cropped as `wanted`."""
        rows, columns = middle(tuple(self.latent.shape[-2:]), tuple(like.shape[-2:]))
        return F.interpolate(self.latent[None, :, rows, columns].to(like), like.shape[-2:], mode="bilinear")

    def at(self, width: int, height: int, normals: bool = False) -> np.ndarray:
        """The map, or its `normals`, as a picture of a size, cropped as `wanted`: uint8 ``[height, width, 3]``."""
        from PIL import Image

        picture = self.normals if normals else self.picture
        cut = Image.fromarray(np.ascontiguousarray(picture[middle(picture.shape[:2], (height, width))]))
        sized = cut if cut.size == (width, height) else cut.resize((width, height), Image.Resampling.LANCZOS)
        return np.array(sized)


def levelled(picture: np.ndarray) -> np.ndarray:
    """A drawn depth map uint8 ``[H, W, 3]`` in grey and from black to white: depth is known up to scale and shift."""
    grey = picture.astype(np.float32).mean(-1)
    low, high = np.quantile(grey, QUANTILES)
    grey = np.clip((grey - low) / max(high - low, 1.0), 0, 1) * 255
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, -1)


def read_map(text: str) -> Map:
    """A map from a picture as base64, with the head of a data URL or without; what is transparent is far.

    Raises:
        ValueError: when it is no picture that can be read; its text is the end of a sentence.
    """
    from PIL import Image, ImageOps

    if len(text) >= MAX_PICTURE:
        mib = 3 * MAX_PICTURE // 4 >> 20
        raise ValueError(f"it has more than {mib} MiB")
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))
        if max(opened.size) <= LARGEST:
            return Map(_eight_bit(ImageOps.exif_transpose(_smaller(opened))))
    except Image.DecompressionBombError:
        pass  # Pillow has seen how large it is, and opens nothing like that
    except Exception:  # damaged files make Pillow raise TypeError, struct.error, NotImplementedError and more
        raise ValueError("it is no picture that can be read") from None
    raise ValueError(f"it has more than {LARGEST} pixels on a side")


def _smaller(opened):
    """A PIL picture of any kind with `ENOUGH` pixels on a side at most; no pixel of a smaller one is changed."""
    if max(opened.size) <= ENOUGH:
        return opened
    kind = {"P": "RGBA", "1": "L"}.get(opened.mode, "I" if opened.mode.startswith("I;16") else opened.mode)
    opened = opened if kind == opened.mode else opened.convert(kind)
    opened.thumbnail((ENOUGH, ENOUGH))
    return opened


def _eight_bit(opened) -> np.ndarray:
    """uint8 ``[H, W, 3]`` of a PIL picture of any kind."""
    from PIL import Image

    if opened.mode.startswith(("I", "F")):
        values = np.asarray(opened, dtype=np.float64)
        # Pictures of whole numbers have 16 bits, whatever holds them; those of others go from 0 to 1.
        grey = np.rint(np.nan_to_num(values) * (255 if opened.mode == "F" else 1 / 257)).clip(0, 255)
        return np.repeat(grey.astype(np.uint8)[..., None], 3, -1)
    with_alpha = opened.convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", opened.size, "black"), with_alpha).convert("RGB"))


class Maps:
    """Maps by what they were drawn of, and those of the pass to come.

    Attributes:
        current: one for each image of the pass to come; None for an image without one.
        latest: hash of the last map that was laid ready for a pass; empty without one.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Map] = {}
        self.current: tuple[Map | None, ...] = ()
        self.latest = ""
        self.about: dict[str, Any] = {}

    def get(self, drawn_of: Hashable) -> Map | None:
        return self._kept.get(drawn_of)

    def named(self, wanted: str) -> Map | None:
        """The map of this hash."""
        return next((kept for kept in self._kept.values() if kept.hash == wanted), None)

    def exchange(self, maps: Sequence[Map]) -> None:
        """Give everything kept another map than its own, in order: what shows how far a picture follows one."""
        self._kept = dict(zip(self._kept, maps, strict=True))

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


def maps_in(store: Store) -> Maps:
    """The maps that `store` keeps, from now on where there were none."""
    kept = store.get(PLACE)
    maps = kept if isinstance(kept, Maps) else Maps()
    store.keep(PLACE, maps)
    return maps
