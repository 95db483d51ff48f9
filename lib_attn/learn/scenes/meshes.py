"""Triangle meshes: primitives made here, and a user's own files read with trimesh.

All meshes are in the same frame: y up, standing on y = 0, centred on x = z = 0, the largest extent about 2.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".stl", ".ply", ".off")


class MeshError(ValueError):
    """A mesh that cannot be used; the message is one sentence that names the file and the reason."""


@dataclass(frozen=True)
class Mesh:
    """Unindexed triangles: `positions` and `normals` are float32 (3 F, 3), three rows a face."""

    name: str
    positions: np.ndarray
    normals: np.ndarray

    @property
    def faces(self) -> int:
        return len(self.positions) // 3

    @property
    def height(self) -> float:
        return float(self.positions[:, 1].max())

    @property
    def radius(self) -> float:
        """Largest distance from the vertical axis."""
        return float(np.hypot(self.positions[:, 0], self.positions[:, 2]).max())


def shade_corners(vertices: np.ndarray, faces: np.ndarray, crease_degrees: float = 40.0) -> np.ndarray:
    """Normals for every face corner, smooth across edges flatter than the crease angle.

    vertices float (V, 3), faces int (F, 3) -> float32 (3 F, 3). A corner averages the area-weighted normals
    of the faces around its vertex that lie within `crease_degrees` of its own face.
    """
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area_normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(area_normals, axis=1, keepdims=True)
    unit = area_normals / np.maximum(lengths, 1e-12)

    corner_vertex = faces.reshape(-1)
    corner_face = np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(corner_vertex, kind="stable")
    counts = np.bincount(corner_vertex, minlength=len(vertices))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    degree = counts[corner_vertex]
    rows = np.repeat(np.arange(len(corner_vertex)), degree)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(degree) - degree, degree)
    others = corner_face[order[starts[corner_vertex[rows]] + offsets]]
    near = np.einsum("ij,ij->i", unit[corner_face[rows]], unit[others]) > math.cos(math.radians(crease_degrees))
    out = np.zeros((len(corner_vertex), 3))
    np.add.at(out, rows[near], area_normals[others[near]])
    size = np.linalg.norm(out, axis=1, keepdims=True)
    return np.where(size > 1e-12, out / np.maximum(size, 1e-12), unit[corner_face]).astype(np.float32)


def from_indexed(name: str, vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Stand the mesh on the ground plane, centre it and compute corner normals."""
    vertices = np.asarray(vertices, dtype=np.float64).copy()
    low, high = vertices.min(0), vertices.max(0)
    vertices -= [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]
    faces = np.asarray(faces, dtype=np.int64)
    normals = shade_corners(vertices, faces)
    return Mesh(name, vertices[faces.reshape(-1)].astype(np.float32), normals)


def revolve(profile: list[tuple[float, float]], segments: int = 40, closed: bool = False):
    """Surface of revolution about y. profile: (radius, y) from the bottom to the top, or a closed loop."""
    ring = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    points = np.array(profile)
    vertices = np.stack(
        [
            np.outer(points[:, 0], np.sin(ring)),
            np.repeat(points[:, 1:], segments, axis=1),
            np.outer(points[:, 0], np.cos(ring)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    faces = []
    rows = len(points) if closed else len(points) - 1
    for i in range(rows):
        j = (i + 1) % len(points)
        for k in range(segments):
            n = (k + 1) % segments
            a, b = i * segments + k, i * segments + n
            c, d = j * segments + k, j * segments + n
            # A ring of radius 0 is a point, so half of its quads would have no area.
            if points[i, 0] > 1e-9:
                faces.append((a, b, d))
            if points[j, 0] > 1e-9:
                faces.append((a, d, c))
    return _weld(vertices, np.array(faces))


def prism(outline: np.ndarray, depth: float):
    """Extrude a star-shaped outline (K, 2) in x, y, counter-clockwise about its mean, along z."""
    k = len(outline)
    centre = outline.mean(0)
    front = np.column_stack([outline, np.full(k, depth / 2)])
    back = np.column_stack([outline, np.full(k, -depth / 2)])
    vertices = np.vstack([front, back, [[*centre, depth / 2]], [[*centre, -depth / 2]]])
    faces = []
    for i in range(k):
        j = (i + 1) % k
        faces += [(2 * k, i, j), (2 * k + 1, k + j, k + i), (i, k + i, k + j), (i, k + j, j)]
    return vertices, np.array(faces)


def _weld(vertices: np.ndarray, faces: np.ndarray):
    keys = np.round(vertices * 1e6).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return vertices[first], faces[keep]


def _sphere():
    angles = np.linspace(-np.pi / 2, np.pi / 2, 22)
    return revolve([(max(math.cos(a), 0.0) if abs(a) < 1.57 else 0.0, math.sin(a)) for a in angles])


def _cube():
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.8
    return prism(square, 1.6)


def _cone():
    return revolve([(0, 0), (0.95, 0), (0, 2.0)])


def _cylinder():
    return revolve([(0, 0), (0.68, 0), (0.68, 2.0), (0, 2.0)])


def _pyramid():
    return revolve([(0, 0), (1.1, 0), (0, 1.7)], segments=4)


def _capsule():
    ends = np.linspace(0, np.pi / 2, 9)
    low = [(0.55 * math.sin(a), 0.55 - 0.55 * math.cos(a)) for a in ends]
    return revolve(low + [(r, 2.0 - y) for r, y in reversed(low)])


def _torus():
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    vertices, faces = revolve([(0.7 + 0.3 * math.cos(a), 0.3 * math.sin(a)) for a in angles], closed=True)
    # Upright, so that the hole is seen from the front.
    return vertices[:, [0, 2, 1]] * [1, 1, -1], faces


def _star():
    angles = np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.45)
    return prism(np.column_stack([radii * np.cos(angles), radii * np.sin(angles)]), 0.55)


_MAKERS = {
    "sphere": _sphere,
    "cube": _cube,
    "cone": _cone,
    "cylinder": _cylinder,
    "torus": _torus,
    "star": _star,
    "pyramid": _pyramid,
    "capsule": _capsule,
}
PRIMITIVES = tuple(_MAKERS)


@functools.cache
def primitive(name: str) -> Mesh:
    """One of PRIMITIVES. Raises MeshError for another name."""
    if name not in _MAKERS:
        raise MeshError(f"There is no primitive called '{name}'; known are {', '.join(PRIMITIVES)}.")
    return from_indexed(name, *_MAKERS[name]())


def load_mesh(path: Path, name: str | None = None, max_faces: int = 400_000) -> Mesh:
    """Read a mesh file (glTF, OBJ, STL, PLY, OFF) as one mesh, scaled to a largest extent of 2.

    Raises MeshError with one sentence when trimesh is missing, or the file is unreadable, empty, flat, too
    large, or holds numbers that are not finite.
    """
    try:
        import trimesh
    except ImportError:
        raise MeshError("Reading mesh files needs the package trimesh: pip install trimesh.") from None
    try:
        loaded = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices, faces = np.asarray(loaded.vertices), np.asarray(loaded.faces)
    except Exception as error:  # every loader of trimesh raises errors of its own
        raise MeshError(f"{path.name} cannot be read as a mesh ({type(error).__name__}: {error}).") from None
    if len(faces) == 0:
        raise MeshError(f"{path.name} holds no triangles.")
    if len(faces) > max_faces:
        raise MeshError(f"{path.name} has {len(faces)} triangles, more than the limit of {max_faces}.")
    used = vertices[np.unique(faces)]
    if not np.isfinite(used).all():
        raise MeshError(f"{path.name} holds coordinates that are not finite numbers.")
    extent = float((used.max(0) - used.min(0)).max())
    if extent <= 0:
        raise MeshError(f"{path.name} has no size: all its points are the same.")
    vertices = (vertices - used.mean(0)) * (2.0 / extent)
    return from_indexed(name or path.stem, *_weld(vertices, faces))
