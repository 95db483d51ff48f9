"""What a drawn map of depth or normals shows: outlines, which things stand where, and how far it is from a render's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib_attn.lab.judging.judge import SHAPES
from lib_attn.learn.scenes import layout
from lib_attn.learn.scenes.guides import FARTHEST, depth_of, depth_picture, normal_picture, normals_of
from lib_attn.learn.scenes.layout import Scene
from lib_attn.learn.scenes.vocabulary import Thing

#: Edge of the cut-outs in which shapes are compared.
EDGE = 24
#: A normal that looks less at the viewer than this, as the cosine of the angle, is of a thing: 15 degrees.
FACING = 0.966
#: Smallest share of a map that is a thing and no speck.
SMALLEST = 0.002
#: Renders of each shape that a cut-out is compared with, and of each prompt that a map is.
BANK, RENDERS = 32, 24


def outline(picture: np.ndarray, kind: str = "depth") -> np.ndarray:
    """Where something stands: maps uint8 (..., H, W, 3) -> bool (..., H, W)."""
    if kind == "normal":
        return normals_of(picture)[..., 2] < FACING
    return depth_of(picture) > FARTHEST / 2


def standing(picture: np.ndarray, kind: str = "depth") -> np.ndarray:
    """Whole things: `outline` with what a map of normals cannot tell from the ground, bool (H, W)."""
    from scipy import ndimage

    found = outline(picture, kind)
    # A face that looks at the viewer is as the ground is: it is part of what surrounds it.
    return ndimage.binary_fill_holes(ndimage.binary_closing(found, iterations=2)) if kind == "normal" else found


def cut_outs(picture: np.ndarray, kind: str = "depth") -> list[np.ndarray]:
    """The things of a map from left to right, 0 around them: float (EDGE, EDGE) each, of normals (EDGE, EDGE, 3)."""
    from scipy import ndimage

    numbers, count = ndimage.label(standing(picture, kind))
    values, found = (depth_of if kind == "depth" else normals_of)(picture), []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers, count), start=1):
        mask = numbers[rows, columns] == number
        if mask.sum() >= SMALLEST * numbers.size:
            part = np.where(mask if kind == "depth" else mask[..., None], values[rows, columns], 0.0)
            found.append((columns.start + columns.stop, _levelled(_fitted(part)) if kind == "depth" else _fitted(part)))
    return [cut for _, cut in sorted(found, key=lambda f: f[0])]


def _fitted(part: np.ndarray) -> np.ndarray:
    """A cut-out in a square of its longer side, at EDGE."""
    height, width = part.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, *part.shape[2:]))
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = part
    places = ((np.arange(EDGE) + 0.5) * side / EDGE).astype(int)
    return square[np.ix_(places, places)]


def _levelled(cut: np.ndarray) -> np.ndarray:
    """A cut-out of depth from 0.25 to 1."""
    seen, out = cut > 0, cut.copy()
    if seen.any():
        low, high = cut[seen].min(), cut[seen].max()
        out[seen] = 0.25 + 0.75 * (cut[seen] - low) / max(high - low, 1e-6)
    return out


@dataclass(frozen=True)
class MapScore:
    """Shares of maps: right number of things; of the right shapes, in any order; of the right shapes and order."""

    maps: int
    count: float
    shape: float
    relation: float


@dataclass
class MapJudge:
    """Names the shapes of a map by the nearest of rendered ones, and finds the render that it is nearest to. Needs no
    training; renders are made once.

    renderer: of `lib_attn.learn.scenes.renderers`. kind: of the maps, "depth" or "normal".
    """

    renderer: Any
    kind: str = "depth"
    seed: int = 77
    _names: list[str] = field(default_factory=list, init=False)
    _bank: np.ndarray | None = field(default=None, init=False)
    _drawn: dict[tuple, list[np.ndarray]] = field(default_factory=dict, init=False)

    def picture(self, scene: Scene) -> np.ndarray:
        """The map of a scene, uint8 (H, W, 3)."""
        maps = self.renderer.render(scene)
        if self.kind == "normal":
            return normal_picture(maps.normals, maps.mask)
        return depth_picture(maps.inverse_depth, maps.mask)

    def bank(self) -> np.ndarray:
        """Cut-outs of rendered things, one a row; their shapes are `_names`."""
        if self._bank is None:
            cuts = []
            for index in range(BANK):
                for shape in SHAPES:
                    scene = layout.scene_of([Thing(shape, "red")], seed=self.seed, index=index)
                    cuts.append(max(cut_outs(self.picture(scene), self.kind), key=lambda cut: np.abs(cut).sum()))
                    self._names.append(shape)
            self._bank = np.stack(cuts).reshape(len(cuts), -1)
        return self._bank

    def look(self, picture: np.ndarray) -> tuple[str, ...]:
        """Shapes of a map uint8 (H, W, 3) from left to right."""
        bank = self.bank()
        return tuple(
            self._names[int(((bank - cut.reshape(-1)) ** 2).sum(1).argmin())] for cut in cut_outs(picture, self.kind)
        )

    def renders(self, scene: Scene) -> list[np.ndarray]:
        """Maps of the same words as `scene`."""
        words = scene.things, scene.count, scene.relation
        if words not in self._drawn:
            self._drawn[words] = [
                self.picture(layout.scene_of(*words, seed=991, index=index)) for index in range(RENDERS)
            ]
        return self._drawn[words]

    def nearest(self, picture: np.ndarray, scene: Scene) -> tuple[float, float]:
        """The render of the same words whose outline is nearest to the map's: (overlap, distance).

        The distance is AbsRel of depth, degrees between normals, over what both show.
        """
        mine = outline(picture, self.kind)
        shares = [overlap(mine, outline(truth, self.kind)) for truth in self.renders(scene)]
        best = int(np.argmax(shares))
        truth = self.renders(scene)[best]
        both = mine & outline(truth, self.kind)
        if self.kind == "normal":
            return shares[best], angle(normals_of(picture), normals_of(truth), both)
        return shares[best], abs_rel(depth_of(picture), depth_of(truth), both)


def score_maps(judge: MapJudge, pictures: Sequence[np.ndarray], scenes: Sequence[Scene]) -> MapScore:
    """Compare maps with the prompts they were drawn for."""
    rows = []
    for picture, scene in zip(pictures, scenes, strict=True):
        seen, want = judge.look(picture), shapes_of(scene)
        rows.append((len(seen) == len(want), sorted(seen) == sorted(want), seen == want))
    return MapScore(len(rows), *(float(v) for v in np.mean(rows, axis=0)))


def shapes_of(scene: Scene) -> tuple[str, ...]:
    """What a right map shows, from left to right."""
    names = [t.name for t in (scene.things if len(scene.things) == 2 else scene.things * scene.count)]
    return tuple(names[::-1] if scene.relation == "right of" else names)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; two empty ones agree."""
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 1.0


def abs_rel(depth: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Mean |d - d*| / d* after least squares for scale and shift (Marigold, src/util/metric.py); nan where nothing is
    compared. Here of inverse depth in the map's own range."""
    d, t = depth[where], truth[where]
    if len(d) < 2:
        return float("nan")
    fit = np.stack([d, np.ones_like(d)], 1)
    solution, *_ = np.linalg.lstsq(fit, t, rcond=None)
    return float(np.mean(np.abs(fit @ solution - t) / t))


def angle(normals: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Mean angle in degrees between unit vectors (H, W, 3); nan where nothing is compared."""
    if not where.any():
        return float("nan")
    cosine = (normals[where] * truth[where]).sum(-1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
