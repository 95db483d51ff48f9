"""What a drawn depth map shows: outlines, which things stand where, and how far its depth is from a render's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib_attn.lab.judging.judge import SHAPES
from lib_attn.learn.scenes import layout, renderers
from lib_attn.learn.scenes.guides import FARTHEST, depth_of, depth_picture
from lib_attn.learn.scenes.layout import Scene
from lib_attn.learn.scenes.vocabulary import Thing

#: Edge of the cut-outs in which shapes are compared.
EDGE = 24
#: Smallest share of a map that is a thing and no speck.
SMALLEST = 0.002
#: Renders of each shape that a cut-out is compared with, and of each prompt that a map is.
BANK, RENDERS = 32, 24


def outline(picture: np.ndarray) -> np.ndarray:
    """Where something stands: maps uint8 (..., H, W, 3) -> bool (..., H, W)."""
    return depth_of(picture) > FARTHEST / 2


def cut_outs(picture: np.ndarray) -> list[np.ndarray]:
    """The things of a depth map from left to right: float (EDGE, EDGE) each, 0 around them."""
    from scipy import ndimage

    numbers, count = ndimage.label(outline(picture))
    depth, found = depth_of(picture), []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers, count), start=1):
        mask = numbers[rows, columns] == number
        if mask.sum() >= SMALLEST * numbers.size:
            found.append((columns.start + columns.stop, _fitted(np.where(mask, depth[rows, columns], 0.0))))
    return [cut for _, cut in sorted(found, key=lambda f: f[0])]


def _fitted(part: np.ndarray) -> np.ndarray:
    """A cut-out in a square of its longer side, at EDGE; its depth from 0.25 to 1."""
    side = max(part.shape)
    square = np.zeros((side, side))
    top, left = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
    square[top : top + part.shape[0], left : left + part.shape[1]] = part
    places = (np.arange(EDGE) + 0.5) * side / EDGE
    out = square[np.ix_(places.astype(int), places.astype(int))]
    seen = out > 0
    if seen.any():
        low, high = out[seen].min(), out[seen].max()
        out[seen] = 0.25 + 0.75 * (out[seen] - low) / max(high - low, 1e-6)
    return out


@dataclass(frozen=True)
class MapScore:
    """Shares of maps: right number of things; of the right shapes, in any order; of the right shapes and order."""

    maps: int
    count: float
    shape: float
    relation: float


class MapJudge:
    """Names the shapes of a depth map by the nearest of rendered ones. Needs no training."""

    def __init__(self, renderer, seed: int = 77):
        self._names, cuts = [], []
        for index in range(BANK):
            for shape in SHAPES:
                scene = layout.scene_of([Thing(shape, "red")], seed=seed, index=index)
                maps = renderer.render(scene)
                cuts.append(cut_outs(depth_picture(maps.inverse_depth, maps.mask))[0])
                self._names.append(shape)
        self._bank = np.stack(cuts).reshape(len(cuts), -1)

    def look(self, picture: np.ndarray) -> tuple[str, ...]:
        """Shapes of a map uint8 (H, W, 3) from left to right."""
        return tuple(
            self._names[int(((self._bank - cut.reshape(-1)) ** 2).sum(1).argmin())] for cut in cut_outs(picture)
        )


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


def nearest(picture: np.ndarray, scene: Scene, renderer) -> tuple[float, float]:
    """The render of the same words whose outline is nearest to the map's: (overlap, AbsRel).

    AbsRel: mean |d - d*| / d* over what both show, after the best scale and shift (Marigold, src/util/metric.py), here
    of inverse depth in the map's own range.
    """
    mine, best = outline(picture), (-1.0, None)
    for index in range(RENDERS):
        drawn = layout.scene_of(scene.things, scene.count, scene.relation, seed=991, index=index)
        maps = renderer.render(drawn)
        truth = depth_picture(maps.inverse_depth, maps.mask)
        share = overlap(mine, outline(truth))
        if share > best[0]:
            best = share, truth
    return best[0], abs_rel(depth_of(picture), depth_of(best[1]), mine & outline(best[1]))


def abs_rel(depth: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """Mean |d - d*| / d* after least squares for scale and shift; nan where nothing is compared."""
    d, t = depth[where], truth[where]
    if len(d) < 2:
        return float("nan")
    fit = np.stack([d, np.ones_like(d)], 1)
    solution, *_ = np.linalg.lstsq(fit, t, rcond=None)
    return float(np.mean(np.abs(fit @ solution - t) / t))


def open_judge(size: int):
    """A renderer of `size` and a judge of maps made with it."""
    renderer = renderers.open_renderer(size)
    return renderer, MapJudge(renderer)
