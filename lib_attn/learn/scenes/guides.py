"""Rendered geometry as the pictures that ControlNet reads: inverse depth, and normals in NormalBae's frame.

Depth is near = white, as MiDaS gives it to ControlNet (Mikubill/sd-webui-controlnet, annotator/midas). Normals are
(n + 1) / 2 with x to the left, y up and z to the viewer: red is left, green is up, blue is front (annotator/normalbae).
"""

from __future__ import annotations

import numpy as np

#: Share of the far and the near end that is cut off (Marigold, 2312.02145, src/util/depth_transform.py).
QUANTILES = (0.02, 0.98)
#: The grey of the farthest part of an object. Nothing stands at 0, so outlines stay where depth hardly changes.
FARTHEST = 0.25


def depth_picture(inverse_depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Inverse depth float (H, W) and mask (H, W), 0 where nothing stands -> uint8 (H, W, 3)."""
    seen = mask > 0
    if not seen.any():
        return np.zeros((*mask.shape, 3), np.uint8)
    far, near = np.quantile(inverse_depth[seen], QUANTILES)
    share = np.clip((inverse_depth - far) / max(near - far, 1e-6), 0, 1)
    grey = np.where(seen, FARTHEST + (1 - FARTHEST) * share, 0.0)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, -1)


def normal_picture(normals: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """View normals float (H, W, 3) with x to the right, and mask (H, W) -> uint8 (H, W, 3).

    Where nothing stands the picture faces the viewer.
    """
    facing = np.where((mask > 0)[..., None], normals * (-1.0, 1.0, 1.0), (0.0, 0.0, 1.0))
    return np.rint((facing + 1) * 127.5).astype(np.uint8)


def depth_of(picture: np.ndarray) -> np.ndarray:
    """A drawn depth map uint8 (..., H, W, 3) -> float (..., H, W), 0 … 1, near = 1: the mean of its channels."""
    return picture.astype(np.float32).mean(-1) / 255


def normals_of(picture: np.ndarray) -> np.ndarray:
    """A drawn normal map uint8 (..., H, W, 3) -> unit vectors (..., H, W, 3), x to the right."""
    n = (picture.astype(np.float32) / 127.5 - 1) * (-1.0, 1.0, 1.0)
    return n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-6)


#: By the kind of map: from a sample of `shards.read_set` to a picture.
PICTURES = {
    "depth": lambda sample: depth_picture(sample["depth"], sample["mask"]),
    "normal": lambda sample: normal_picture(sample["normal"], sample["mask"]),
}
