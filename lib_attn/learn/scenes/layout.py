"""From a seed to a scene: which things, where they stand, and what the caption says.

World frame: x right, y up, z towards the viewer, ground at y = 0. Scene `index` of a set depends on
(seed, index) alone, so sets can be cut, continued and made in parallel and stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from . import vocabulary as words
from .vocabulary import Thing


@dataclass(frozen=True)
class Placed:
    """One object as drawn: mesh name, albedo, scale, position on the ground, turn about y in radians."""

    mesh: str
    albedo: tuple[float, float, float]
    scale: float
    x: float
    z: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """All that is needed to draw and to describe one picture."""

    things: tuple[Thing, ...]
    count: int
    relation: str
    background: str
    caption: str
    held_out: bool
    placed: tuple[Placed, ...]
    backdrop: tuple[float, float, float]
    light: tuple[float, float, float]
    ambient: float

    def attributes(self) -> dict:
        """JSON-ready description, kept beside every picture."""
        return {
            "caption": self.caption,
            "things": [asdict(t) for t in self.things],
            "count": self.count,
            "relation": self.relation,
            "background": self.background,
            "held_out": self.held_out,
        }


@dataclass(frozen=True)
class Mix:
    """What a set of scenes is made of.

    kinds: shares of single objects, pairs, and several of one kind; sized: share of things that carry a
    size word; names, colours, backgrounds: the words to draw from; coloured: whether meshes are painted in
    a named colour; split: "train" leaves the held-out combinations out, "held-out" has nothing else,
    "all" does not care.
    """

    kinds: tuple[float, float, float] = (0.50, 0.40, 0.10)
    sized: float = 0.3
    names: Sequence[str] = words.SHAPES
    colours: Sequence[str] = field(default_factory=lambda: tuple(words.COLOURS))
    backgrounds: Sequence[str] = field(default_factory=lambda: tuple(words.BACKGROUNDS))
    split: str = "train"
    yaw: float = 0.6
    free_styles: bool = True

    def __post_init__(self):
        if self.split not in ("train", "held-out", "all"):
            raise ValueError(f"split must be train, held-out or all, not '{self.split}'.")
        if not self.names:
            raise ValueError("There is nothing to draw: the list of mesh names is empty.")


def generator(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))


def sample_scene(seed: int, index: int, mix: Mix | None = None) -> Scene:
    """Scene `index` of the set `seed`. Raises ValueError when the mix allows no scene of its split."""
    mix = mix or Mix()
    rng = generator(seed, index)
    for _ in range(4000):
        drawn = _draw_words(rng, mix)
        held_out = words.is_held_out(drawn[0])
        if mix.split == "all" or held_out == (mix.split == "held-out"):
            return _place(rng, mix, *drawn, held_out)
    raise ValueError(f"No scene of split '{mix.split}' can be made from these names and colours.")


def scene_of(things: Sequence[Thing], count: int = 1, relation: str = "", background: str = "grey",
             seed: int = 0, index: int = 0) -> Scene:
    """A scene with given words and random placement: the ground truth of a prompt."""
    rng = generator(seed, index)
    return _place(rng, Mix(split="all"), tuple(things), count, relation, background, 0,
                  words.is_held_out(things))


def _draw_words(rng: np.random.Generator, mix: Mix):
    kind = rng.choice(3, p=np.array(mix.kinds) / sum(mix.kinds))

    def thing() -> Thing:
        colour = str(rng.choice(mix.colours)) if mix.colours else ""
        size = str(rng.choice(["small", "large"])) if rng.random() < mix.sized else ""
        return Thing(str(rng.choice(mix.names)), colour, size)

    things, count, relation = [thing()], 1, ""
    if kind == 1:
        things.append(thing())
        relation = str(rng.choice(["left of", "right of"]))
        if (things[0].name, things[0].colour) == (things[1].name, things[1].colour):
            things, relation, count = [things[0]], "", 2
    elif kind == 2:
        count = int(rng.choice([2, 3]))
    background = str(rng.choice(mix.backgrounds))
    style = int(rng.choice([0, 1, 2], p=[0.6, 0.25, 0.15])) if mix.free_styles else 0
    return tuple(things), count, relation, background, style


#: Places on the ground for one, two and three objects, and how much smaller they are drawn for it.
_SPOTS = {1: ((0.0,), 1.0), 2: ((-1.02, 1.02), 0.82), 3: ((-1.38, 0.0, 1.38), 0.62)}


def _place(rng, mix: Mix, things, count, relation, background, style, held_out) -> Scene:
    drawn = list(things) if len(things) == 2 else list(things) * count
    if relation == "right of":
        drawn.reverse()
    spots, shrink = _SPOTS[len(drawn)]
    loose = 0.30 if len(drawn) == 1 else 0.10
    placed = []
    for thing, spot in zip(drawn, spots, strict=False):
        base = np.array(words.COLOURS.get(thing.colour, (0.7, 0.7, 0.7)))
        albedo = np.clip(base + rng.uniform(-0.025, 0.025, 3), 0, 1)
        placed.append(Placed(
            mesh=thing.name,
            albedo=tuple(float(v) for v in albedo),
            scale=float(words.SIZES[thing.size] * shrink * rng.uniform(0.95, 1.05)),
            x=float(spot + rng.uniform(-loose, loose)),
            z=float(rng.uniform(-loose, loose)),
            yaw=float(rng.uniform(-mix.yaw, mix.yaw)),
        ))
    light = np.array([-0.55 + rng.uniform(-0.15, 0.15), 1.0, 0.75 + rng.uniform(-0.15, 0.15)])
    light /= np.linalg.norm(light)
    backdrop = np.clip(np.array(words.BACKGROUNDS[background]) + rng.uniform(-0.015, 0.015), 0, 1)
    return Scene(
        things=tuple(things), count=count if len(things) == 1 else 1, relation=relation,
        background=background, caption=words.caption(things, count, relation, background, style),
        held_out=held_out, placed=tuple(placed), backdrop=tuple(float(v) for v in backdrop),
        light=tuple(float(v) for v in light), ambient=0.42,
    )
