"""Do places far apart agree: open colours and patterns that objects share, outlines, a floor on both sides of a thing.

What a prompt names, cross-attention can bring to every place by itself. What it leaves open has to be agreed on, and
that is what self-attention is for and what its shortcuts break first. All figures are 0 … 1, 1 for full agreement; nan
where a picture cannot say.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.learn.scenes import render, texture, vocabulary
from lib_attn.learn.scenes.layout import Scene
from lib_attn.learn.scenes.texture import FLOOR, Texture

#: What `agreement` tells.
PARTS = ("colour", "pattern", "symmetry", "floor")
#: Objects smaller than this share of the picture are specks.
SPECK = 0.004
#: Patterns are compared on a square of this many places cut from the middle of an object.
_PATCH = 24
_NAN = float("nan")


def objects(mask: np.ndarray) -> np.ndarray:
    """A mask bool (h, w) -> its connected parts uint8 (h, w), numbered from left to right, 0 elsewhere.

    Parts touch along an edge, not at a corner; specks are left out.
    """
    h, w = mask.shape
    labels = np.where(mask, np.arange(1, h * w + 1).reshape(h, w), 0)
    while True:
        padded = np.pad(labels, 1)
        near = np.max([labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
        near = np.where(mask, near, 0)
        if np.array_equal(near, labels):
            break
        labels = near
    parts = [labels == value for value in np.unique(labels[labels > 0])]
    parts = sorted((p for p in parts if p.mean() >= SPECK), key=lambda p: np.nonzero(p)[1].mean())
    return sum((np.uint8(i) * p for i, p in enumerate(parts, 1)), np.zeros(mask.shape, np.uint8))


def enlarge(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Labels (h, w) of cells -> (height, width) of pixels."""
    rows, columns = (np.arange(n) * cells // n for n, cells in zip((height, width), labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Common part of two distributions that each sum to 1."""
    return float(np.minimum(a, b).sum())


def _inside(part: np.ndarray) -> np.ndarray:
    """A mask less its rim, the whole where nothing else is left."""
    rim = max(1, min(part.shape) // 64)
    inner = part.copy()
    for _ in range(rim):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner if inner.any() else part


def paint(picture: np.ndarray, part: np.ndarray) -> np.ndarray:
    """What an object is painted with: its shares of the named colours, of light and of dark without a colour.

    picture uint8 (H, W, 3), part bool (H, W) -> float (colours + 2,), sums to 1. The nearest colour is that of the
    least angle in RGB, which light and shade leave as it is.
    """
    pixels = picture[_inside(part)].astype(float)
    names = np.array(list(vocabulary.COLOURS.values()))
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    bright = pixels.max(1)
    coloured = (bright >= 32) & (bright - pixels.min(1) >= 0.25 * bright)
    kind = np.where(coloured, (pixels @ names.T).argmax(1), len(names) + (bright < 110))
    return np.bincount(kind, minlength=len(names) + 2) / max(len(kind), 1)


def colour_agreement(picture: np.ndarray, labels: np.ndarray) -> float:
    """Mean common part of the colours of every two objects. picture uint8 (H, W, 3), labels (H, W)."""
    paints = [paint(picture, labels == k)[: len(vocabulary.COLOURS)] for k in range(1, int(labels.max()) + 1)]
    # How much of an object has no colour at all is a matter of its pattern and of its shadow, not of its colour.
    paints = [p / p.sum() for p in paints if p.sum() > 0.05]
    if len(paints) < 2:
        return _NAN
    return float(np.mean([overlap(a, b) for a, b in combinations(paints, 2)]))


def _patch(picture: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Brightness of the middle of an object, float (_PATCH, _PATCH), by whole places, its slope taken off."""
    rows, columns = (np.nonzero(part.any(axis))[0] for axis in (1, 0))
    quarter = (rows[-1] - rows[0]) // 4, (columns[-1] - columns[0]) // 4
    spots = [
        np.linspace(line[0] + q, line[-1] - q, _PATCH).astype(int)
        for line, q in zip((rows, columns), quarter, strict=True)
    ]
    grey = picture[np.ix_(*spots)].astype(float).mean(-1)
    y, x = np.mgrid[:_PATCH, :_PATCH] - (_PATCH - 1) / 2
    plane = np.stack([np.ones(grey.size), x.ravel(), y.ravel()], 1)
    return grey - (plane @ np.linalg.lstsq(plane, grey.ravel(), rcond=None)[0]).reshape(grey.shape)


def pattern(picture: np.ndarray, part: np.ndarray) -> np.ndarray:
    """How an object is patterned, wherever the pattern begins: float (16,), sums to 1.

    Shares of the brightness' variance by wavelength (four) and direction (three), and in the last four places how
    strong it is; an object without a pattern has nearly all in the first of these.
    """
    patch = _patch(picture, part)
    power = np.abs(np.fft.fft2(patch * np.outer(np.hanning(_PATCH), np.hanning(_PATCH)))) ** 2
    fy, fx = np.meshgrid(np.fft.fftfreq(_PATCH) * _PATCH, np.fft.fftfreq(_PATCH) * _PATCH, indexing="ij")
    length, angle = np.hypot(fx, fy), np.abs(np.arctan2(fy, fx)) % np.pi
    ring = np.digitize(length, [1.5, 2.5, 4.0])
    side = np.digitize(np.minimum(angle, np.pi - angle), [np.pi / 6, np.pi / 3])
    found = np.bincount((ring * 3 + side)[length > 0], power[length > 0], minlength=12)
    strength = np.bincount([int(np.digitize(patch.std(), [10, 25, 45]))], minlength=4)
    return np.concatenate([found / max(found.sum(), 1e-9), strength]) / 2


def pattern_agreement(picture: np.ndarray, labels: np.ndarray) -> float:
    """Mean common part of the patterns of every two objects."""
    found = [pattern(picture, labels == k) for k in range(1, int(labels.max()) + 1)]
    return float(np.mean([overlap(a, b) for a, b in combinations(found, 2)])) if len(found) > 1 else _NAN


def symmetry(part: np.ndarray) -> float:
    """Overlap of an outline, bool (H, W), with its mirror image about its own middle column."""
    columns = np.nonzero(part.any(0))[0]
    if not len(columns):
        return _NAN
    own = part[:, columns[0] : columns[-1] + 1]
    return float((own & own[:, ::-1]).sum() / (own | own[:, ::-1]).sum())


def ground(height: int, width: int) -> np.ndarray:
    """World (x, z) where the ray through each pixel meets the floor: float (H, W, 2), nan above the horizon."""
    reach = np.tan(render.FIELD_OF_VIEW / 2)
    x = ((np.arange(width) + 0.5) / width * 2 - 1) * reach
    y = (1 - (np.arange(height) + 0.5) / height * 2) * reach
    rays = np.stack([*np.meshgrid(x, y), -np.ones((height, width))], -1) @ render.view_matrix()[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.where(rays[..., 1] < -1e-6, -render.EYE[1] / rays[..., 1], np.nan)
    return (render.EYE + rays * away[..., None])[..., [0, 2]]


def floor_candidates(name: str) -> list[Texture]:
    """The floors of one pattern that scenes may have: directions, sizes and phases in steps."""
    turns = (0.0,) if name == "brick" else (0.0, np.pi / 4, np.pi / 2)
    phases = [(u, v) for u in np.arange(0, 1, 0.125) for v in ((0.0,) if name == "striped" else np.arange(0, 1, 0.125))]
    return [
        Texture(name, (0, 0, 0), float(r), phase, turn)
        for turn in turns
        for r in np.linspace(0.6, 1.1, 26)
        for phase in phases
    ]


def floor_agreement(picture: np.ndarray, labels: np.ndarray, name: str, seed: int = 0) -> float:
    """Does a floor's pattern go on behind what stands on it: fitted on the left, looked for on the right.

    picture uint8 (H, W, 3); labels (H, W), 0 where nothing stands; name: the pattern. The floor that fits the left best
    is compared with the brightness right of the objects' middle: its correlation there, 0 where there is none.
    """
    h, w = labels.shape
    places = ground(h, w)
    seen = labels > 0
    middle = np.nonzero(seen.any(0))[0].mean() if seen.any() else w / 2
    near = np.isfinite(places).all(-1) & (places[..., 1] > -2.5) & (places[..., 1] < 2.5) & ~seen
    columns = np.broadcast_to(np.arange(w), (h, w))
    grey = picture.astype(float).mean(-1)
    rng = np.random.default_rng(seed)
    sides = []
    for part in (near & (columns < middle - 1), near & (columns > middle + 1)):
        spots = np.flatnonzero(part)
        if len(spots) < 200:
            return _NAN
        spots = rng.choice(spots, 400, replace=len(spots) < 400)
        xz = places.reshape(-1, 2)[spots]
        points = np.stack([xz[:, 0], np.zeros(len(xz)), xz[:, 1]], -1)
        sides.append((points, grey.ravel()[spots]))

    def fit(candidate: Texture, side: int) -> float:
        points, values = sides[side]
        tone = texture.share(name, texture.coordinates(candidate, FLOOR, points, points)).astype(float)
        if values.std() < 1 or tone.std() < 0.05:
            return 0.0
        return float(np.corrcoef(tone, values)[0, 1])

    best = max(floor_candidates(name), key=lambda candidate: abs(fit(candidate, 0)))
    sign = np.sign(fit(best, 0))
    return max(0.0, float(sign * fit(best, 1)))


def agreement(picture: np.ndarray, labels: np.ndarray, record: dict) -> dict[str, float]:
    """All that a scene's record asks for. labels: (h, w), the objects numbered from left to right, of any size.

    "colour": shared without its being named; "pattern": shared; "symmetry": of the objects that should be; "floor": its
    pattern on both sides. nan where the record asks for nothing or the picture shows too few objects.
    """
    labels = enlarge(labels, *picture.shape[:2])
    # A pattern that is named still has its size and second colour open; a colour that is named has nothing.
    shared = {s["what"] for s in record["shared"] if s["what"] == "pattern" or not s["named"]}
    seen = int(labels.max())
    return {
        "colour": colour_agreement(picture, labels) if "colour" in shared else _NAN,
        "pattern": pattern_agreement(picture, labels) if "pattern" in shared else _NAN,
        "symmetry": float(np.mean([symmetry(labels == k) for k in range(1, seen + 1)]))
        if seen and record["symmetric"] and len(record["symmetric"]) == _count(record)
        else _NAN,
        "floor": floor_agreement(picture, labels, record["floor"]["texture"]["pattern"]) if record["floor"] else _NAN,
    }


def judged(pictures: np.ndarray, masks: np.ndarray, scenes: Sequence[Scene]) -> list[dict[str, float]]:
    """`agreement` of each picture, uint8 (N, H, W, 3), with its prompt's scene. masks: the judge's, bool (N, h, w)."""
    return [agreement(picture, objects(mask), scene.attributes())
            for picture, mask, scene in zip(pictures, masks, scenes, strict=True)]  # fmt: skip


def wholes(found: Sequence[dict[str, float]]) -> list[float]:
    """Each picture's mean over its parts; those that say nothing are left out."""
    means = [mean_and_error(list(one.values()))[0] for one in found]
    return [value for value in means if value == value]


def figures(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """ "all" with its standard error and the number of pictures that can say, and the same of every part there is."""
    whole = wholes(found)
    named = {"pictures": len(whole), **dict(zip(("all", "all_error"), mean_and_error(whole), strict=True))}
    for part in found[0] if found else ():
        known = [one[part] for one in found if one[part] == one[part]]
        named |= zip((part, f"{part}_error"), mean_and_error(known), strict=True)
        named |= {f"{part}_pictures": len(known)} if known else {}
    return {name: value for name, value in named.items() if value == value}


def _count(record: dict) -> int:
    return len(record["things"]) if len(record["things"]) > 1 else record["count"]
