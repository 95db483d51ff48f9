"""The camera, the light and the maps that every renderer has in common.

OpenGL view space: x right, y up, z towards the viewer. Camera: perspective, 35 degrees, looking down slightly on the
origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .meshes import Mesh

FIELD_OF_VIEW = math.radians(35.0)
EYE = np.array([0.0, 3.1, 6.4])
TARGET = np.array([0.0, 0.62, 0.0])
NEAR, FAR = 1.0, 60.0
SHADOW = 0.72

MeshSource = Callable[[str], Mesh]


class RenderError(RuntimeError):
    """No renderer can run here; the message says what to install."""


@dataclass(frozen=True)
class Maps:
    """One rendered view of H x W pixels, first row on top.

    rgb: uint8 (H, W, 3), display values. inverse_depth: float32 (H, W), NEAR / distance along the view
    axis, 0 where there is no object. normals: float32 (H, W, 3), unit vectors facing the viewer, 0 where
    there is no object. mask: uint8 (H, W), 0 for the background, k for the k-th placed object.
    """

    rgb: np.ndarray
    inverse_depth: np.ndarray
    normals: np.ndarray
    mask: np.ndarray


def view_matrix() -> np.ndarray:
    back = EYE - TARGET
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 1.0, 0.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    matrix = np.eye(4)
    matrix[:3, :3] = [right, up, back]
    matrix[:3, 3] = -matrix[:3, :3] @ EYE
    return matrix


def projection_matrix() -> np.ndarray:
    f = 1.0 / math.tan(FIELD_OF_VIEW / 2)
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = f
    matrix[2, 2] = (FAR + NEAR) / (NEAR - FAR)
    matrix[2, 3] = 2 * FAR * NEAR / (NEAR - FAR)
    matrix[3, 2] = -1.0
    return matrix


def model_matrix(placed) -> np.ndarray:
    c, s = math.cos(placed.yaw) * placed.scale, math.sin(placed.yaw) * placed.scale
    return np.array([[c, 0, s, placed.x], [0, placed.scale, 0, 0], [-s, 0, c, placed.z], [0, 0, 0, 1.0]])


def shadow_matrix(light) -> np.ndarray:
    """Flattens the world onto y = 0 along the light: x' = x - y * lx / ly, and the same for z."""
    lx, ly, lz = light
    return np.array([[1, -lx / ly, 0, 0], [0, 0, 0, 1e-3], [0, -lz / ly, 1, 0], [0, 0, 0, 1.0]])


def shade(albedo, normals, light, ambient) -> np.ndarray:
    """Lambert shading in display space; albedo (..., 3), world normals (..., 3) -> (..., 3) in 0..1."""
    lit = np.clip(normals @ np.asarray(light), 0, 1)[..., None]
    return np.clip(albedo * (ambient + (1.12 - ambient) * lit), 0, 1)
