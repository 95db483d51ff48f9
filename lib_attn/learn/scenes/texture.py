"""Stripes, checks, dots and bricks on objects and floors: the same pattern for both renderers.

A pattern is a function of two coordinates (u, v). Bodies of revolution get theirs around the axis and upwards, so that
it closes on itself; other meshes by the axis their surface faces most; the floor from x and z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: The words of captions, in the order of the shader's numbers.
PATTERNS = ("striped", "checked", "dotted", "brick")
#: Meshes whose pattern runs around their axis.
ROUND = ("sphere", "cone", "cylinder", "capsule")
AROUND, FACING, FLOOR = range(3)
_DOT, _MORTAR = 0.34, 0.12


@dataclass(frozen=True)
class Texture:
    """pattern: one of PATTERNS; second: the colour beside the albedo; repeats: how often the pattern comes back a
    unit of length, around an axis an even number a turn; phase: where it begins, 0..1 twice; turn: its direction
    in radians, a multiple of a quarter turn around an axis."""

    pattern: str
    second: tuple[float, float, float]
    repeats: float
    phase: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0


@dataclass(frozen=True)
class Floor:
    """A floor with a pattern that ends at a wall at z = `edge`, drawn in the backdrop's colour."""

    albedo: tuple[float, float, float]
    texture: Texture
    edge: float


def mapping_of(mesh: str) -> int:
    return AROUND if mesh in ROUND else FACING


def coordinates(texture: Texture, mapping: int, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Points and normals (N, 3), in the mesh's frame or, for the floor, the world's -> (u, v) as (N, 2)."""
    x, y, z = points.T
    if mapping == AROUND:
        # A body of radius 0.8 is five units around, so upwards the pattern is about as long as around.
        uv = np.stack([np.arctan2(x, z) / (2 * np.pi), y / 5], -1)
    elif mapping == FLOOR:
        uv = np.stack([x, z], -1)
    else:
        side = np.abs(normals).argmax(-1)
        uv = np.where(
            (side == 0)[:, None],
            np.stack([z, y], -1),
            np.where((side == 1)[:, None], np.stack([x, z], -1), np.stack([x, y], -1)),
        )
    c, s = np.cos(texture.turn), np.sin(texture.turn)
    return uv @ np.array([[c, s], [-s, c]]) * texture.repeats + np.asarray(texture.phase)


def share(pattern: str, uv: np.ndarray) -> np.ndarray:
    """Which places (N, 2) have the second colour: bool (N,)."""
    cell, part = np.floor(uv), uv - np.floor(uv)
    if pattern == "striped":
        return part[:, 0] < 0.5
    if pattern == "checked":
        return (cell.sum(-1) % 2) > 0.5
    if pattern == "dotted":
        return np.linalg.norm(part - 0.5, axis=-1) < _DOT
    along = (uv[:, 0] + cell[:, 1]) / 2
    return (part[:, 1] < _MORTAR) | (along - np.floor(along) < _MORTAR / 2)


def colours(texture: Texture, mapping: int, albedo: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Albedo (3,) and points of one surface (N, 3) -> albedo of every point (N, 3)."""
    second = share(texture.pattern, coordinates(texture, mapping, points, normals))
    return np.where(second[:, None], np.asarray(texture.second), np.asarray(albedo))


#: `pattern_of(place, normal)`: 1 where the second colour is. `sample in` makes the driver ask once for every sample of
#: a pixel, so that the pattern's edges are as smooth as the objects'.
GLSL = f"""
uniform int pattern; uniform int mapping; uniform float repeats; uniform vec2 phase; uniform float turn_by;
float pattern_of(vec3 p, vec3 n) {{
    vec2 uv = vec2(p.x, p.z);
    if (mapping == {AROUND}) uv = vec2(atan(p.x, p.z) / 6.283185307179586, p.y / 5.0);
    else if (mapping == {FACING}) {{
        vec3 a = abs(n);
        if (a.x >= a.y && a.x >= a.z) uv = p.zy;
        else if (a.y >= a.z) uv = p.xz;
        else uv = p.xy;
    }}
    float c = cos(turn_by), s = sin(turn_by);
    uv = vec2(c * uv.x - s * uv.y, s * uv.x + c * uv.y) * repeats + phase;
    vec2 cell = floor(uv), part = uv - cell;
    if (pattern == 0) return part.x < 0.5 ? 1.0 : 0.0;
    if (pattern == 1) return mod(cell.x + cell.y, 2.0);
    if (pattern == 2) return length(part - 0.5) < {_DOT} ? 1.0 : 0.0;
    return part.y < {_MORTAR} || fract((uv.x + cell.y) / 2.0) < {_MORTAR / 2} ? 1.0 : 0.0;
}}
"""
