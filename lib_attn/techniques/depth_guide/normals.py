"""Normals worked out from a depth map by geometry, in the frame that ControlNet's NormalBae models read."""

from __future__ import annotations

import numpy as np
import torch

from lib_attn.techniques.depth_guide.head import blurred

#: Height of the relief between black and white, in shares of the map's longer side. Depth maps have no unit: this is
#: where normals of rendered scenes come nearest to the rendered ones.
HEIGHT = 0.23
#: Brightness below which nothing stands.
NOTHING = 0.125
#: Spread of the blur before slopes are taken, in shares of the longer side: eight bits are steps.
SMOOTH = 1 / 256


def normals_of_depth(depth: np.ndarray) -> np.ndarray:
    """A depth map uint8 ``[H, W, 3]``, near is white -> unit normals ``[H, W, 3]``: x right, y up, z to the viewer.

    Where nothing stands they face the viewer. What lies behind an edge does not bend the normals in front of it.
    """
    grey = torch.from_numpy(depth.astype(np.float32)).mean(-1)[None, None] / 255
    there = (grey > NOTHING).float()
    spread = SMOOTH * max(depth.shape[:2])
    # Means over what stands there alone; beside it they go on, so that its edge is no slope.
    near, wide = (blurred(grey * there, s) / blurred(there, s).clamp_min(1e-6) for s in (spread, 4 * spread))
    filled = torch.where(blurred(there, spread) > 1e-3, near, wide)[0, 0].numpy()
    down, right = np.gradient(filled * HEIGHT * max(depth.shape[:2]))
    normals = np.stack([-right, down, np.ones_like(right)], -1)
    normals[there[0, 0].numpy() == 0] = 0.0, 0.0, 1.0
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def normal_map(depth: np.ndarray) -> np.ndarray:
    """The same as a picture uint8 ``[H, W, 3]``: red is left, green is up, blue is front."""
    return np.rint((normals_of_depth(depth) * (-1.0, 1.0, 1.0) + 1) * 127.5).astype(np.uint8)
