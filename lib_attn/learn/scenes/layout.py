"""From a seed to a scene: which things, where they stand, and what the caption says.

World frame: x right, y up, z towards the viewer, ground at y = 0. Scene `index` of a set depends on
(seed, index) alone, so sets can be cut, continued and made in parallel and stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from . import texture
from . import vocabulary as words
from .texture import Floor, Texture
from .vocabulary import Thing


@dataclass(frozen=True)
class Placed:
    """One object as drawn: mesh name, albedo, scale, position on the ground, turn about y in radians, pattern."""

    mesh: str
    albedo: tuple[float, float, float]
    scale: float
    x: float
    z: float
    yaw: float
    texture: Texture | None = None


@dataclass(frozen=True)
class Shared:
    """Objects, by their numbers in the mask, that have a colour or a pattern in common; named: the caption says it."""

    what: str
    objects: tuple[int, ...]
    named: bool


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
    order: str = ""
    floor: Floor | None = None
    shared: tuple[Shared, ...] = ()
    symmetric: tuple[int, ...] = ()

    def attributes(self) -> dict:
        """JSON-ready description, kept beside every picture.

        shared: what must agree (see Shared); symmetric: numbers of the objects whose outline is its own mirror image;
        floor: the pattern on the floor, how its places are found, and where it ends, None without one.
        """
        return {
            "caption": self.caption,
            "things": [asdict(t) for t in self.things],
            "count": self.count,
            "relation": self.relation,
            "background": self.background,
            "held_out": self.held_out,
            "order": self.order,
            "shared": [asdict(s) for s in self.shared],
            "symmetric": list(self.symmetric),
            "floor": asdict(self.floor) if self.floor else None,
        }


@dataclass(frozen=True)
class Mix:
    """What a set of scenes is made of.

    kinds: shares of single objects, pairs, several of one kind and, as a fourth that may be missing, rows and grids of
    equal things; textured: share of scenes with patterns, a floor, and parts the caption leaves open; sized: share of
    things that carry a size word; names, colours, backgrounds: the words to draw from; coloured: whether meshes are
    painted in a named colour; split: "train" leaves the held-out combinations out, "held-out" has nothing else,
    "all" does not care.
    """

    kinds: tuple[float, ...] = (0.50, 0.40, 0.10)
    textured: float = 0.0
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
            things, extras = drawn[0], Extras()
            if mix.textured and rng.random() < mix.textured:
                things, extras = _draw_extras(rng, mix, things)
            return _place(rng, mix, things, *drawn[1:], held_out, extras)
    raise ValueError(f"No scene of split '{mix.split}' can be made from these names and colours.")


def scene_of(
    things: Sequence[Thing],
    count: int = 1,
    relation: str = "",
    background: str = "grey",
    seed: int = 0,
    index: int = 0,
    order: str = "",
    extras: Extras | None = None,
) -> Scene:
    """A scene with given words and random placement: the ground truth of a prompt."""
    rng = generator(seed, index)
    return _place(
        rng,
        Mix(split="all"),
        tuple(things),
        count,
        relation,
        background,
        0,
        order,
        words.is_held_out(things),
        extras or Extras(),
    )


def _draw_words(rng: np.random.Generator, mix: Mix):
    kind = rng.choice(len(mix.kinds), p=np.array(mix.kinds) / sum(mix.kinds))

    def thing() -> Thing:
        colour = str(rng.choice(mix.colours)) if mix.colours else ""
        size = str(rng.choice(["small", "large"])) if rng.random() < mix.sized else ""
        return Thing(str(rng.choice(mix.names)), colour, size)

    things, count, relation, order = [thing()], 1, "", ""
    if kind == 1:
        things.append(thing())
        relation = str(rng.choice(["left of", "right of"]))
        if (things[0].name, things[0].colour) == (things[1].name, things[1].colour):
            things, relation, count = [things[0]], "", 2
    elif kind == 2:
        count = int(rng.choice([2, 3]))
    elif kind == 3:
        order = str(rng.choice(["row", "grid"]))
        count = int(rng.choice([4, 5] if order == "row" else [4, 6, 9]))
    background = str(rng.choice(mix.backgrounds))
    style = int(rng.choice([0, 1, 2], p=[0.6, 0.25, 0.15])) if mix.free_styles else 0
    return tuple(things), count, relation, background, style, order


@dataclass(frozen=True)
class Extras:
    """What a textured scene adds: a pattern for each of the things, what the caption leaves open, what a pair has in
    common without its being named, the pattern of the floor."""

    patterns: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    floor: str = ""


def _draw_extras(rng: np.random.Generator, mix: Mix, things: tuple[Thing, ...]) -> tuple[tuple[Thing, ...], Extras]:
    """-> the things, of which the second may take the first one's colour, and what is added to them."""

    def pattern() -> str:
        return str(rng.choice(texture.PATTERNS)) if rng.random() < 0.7 else ""

    patterns, same = tuple(pattern() for _ in things), ()
    unnamed = tuple(part for part in words.OPEN if rng.random() < 0.35 and (part != "colour" or mix.colours))
    if len(things) == 2 and rng.random() < 0.6:
        same = tuple(part for part in words.OPEN if part in unnamed and (part == "colour" or patterns[0]))
        if "pattern" in same:
            patterns = (patterns[0], patterns[0])
        if "colour" in same:
            alike = (things[0], replace(things[1], colour=things[0].colour))
            # Painted alike, the pair must stay on its side of the split.
            same = same if words.is_held_out(alike) == words.is_held_out(things) else tuple(set(same) - {"colour"})
            things = alike if "colour" in same else things
    floor = str(rng.choice(texture.PATTERNS)) if rng.random() < 0.6 else ""
    return things, Extras(patterns, unnamed, same, floor)


#: Places on the ground for one, two and three objects, and how much smaller they are drawn for it.
_SPOTS = {1: ((0.0,), 1.0), 2: ((-1.02, 1.02), 0.82), 3: ((-1.38, 0.0, 1.38), 0.62)}


def _stands(rng: np.random.Generator, count: int, order: str) -> tuple[list[tuple[float, float]], float, float]:
    """Places (x, z) on the ground, how much smaller things are drawn for it, how far from their place they may be."""
    if order == "row":
        apart = 4.0 / count
        return [((i - (count - 1) / 2) * apart, 0.0) for i in range(count)], 0.50 * apart, 0.02
    if order == "grid":
        rows = 3 if count == 9 else 2
        columns, apart = count // rows, 1.5 if count == 4 else 1.15
        places = [
            ((i - (columns - 1) / 2) * apart, (-0.3 if count == 9 else 0.1) + ((rows - 1) / 2 - j) * 1.3 * apart)
            for j in reversed(range(rows))
            for i in range(columns)
        ]
        return places, 0.38 * apart, 0.02
    spots, shrink = _SPOTS[count]
    return [(x, 0.0) for x in spots], shrink, 0.30 if count == 1 else 0.10


def _texture(rng: np.random.Generator, pattern: str, mesh: str) -> Texture:
    """A pattern for a mesh at random size, phase and direction, beside white or black."""
    second = words.BACKGROUNDS[str(rng.choice(["white", "black"]))]
    phase = tuple(float(v) for v in rng.uniform(0, 1, 2))
    if texture.mapping_of(mesh) == texture.AROUND:
        # Bricks are drawn every second column shifted, so that only whole pairs close around an axis.
        repeats, turn = float(rng.choice([6, 8, 10])), float(rng.choice([0.0, np.pi / 2])) * (pattern == "striped")
        return Texture(pattern, second, repeats, phase, turn)
    turn = float(rng.choice([0.0, np.pi / 4, np.pi / 2])) * (pattern != "brick")
    return Texture(pattern, second, float(rng.uniform(1.2, 2.4)), phase, turn)


def _alike(pattern: Texture, mesh: str, rng: np.random.Generator) -> Texture:
    """The same pattern and colours on another mesh, at a size and direction that fit it."""
    return replace(_texture(rng, pattern.pattern, mesh), second=pattern.second)


def _floor(rng: np.random.Generator, pattern: str) -> Floor:
    """A floor of two pale or dark tones of one hue; it ends behind the longest shadow."""
    tint = 1 + rng.uniform(-0.12, 0.12, 3)
    light, dark = rng.uniform(0.68, 0.85), rng.uniform(0.34, 0.52)
    pair = [tuple(float(v) for v in np.clip(tone * tint, 0, 1)) for tone in (light, dark)]
    if rng.random() < 0.5:
        pair.reverse()
    turn = 0.0 if pattern == "brick" else float(rng.choice([0.0, np.pi / 4, np.pi / 2]))
    phase = tuple(float(v) for v in rng.uniform(0, 1, 2))
    return Floor(
        pair[0],
        Texture(pattern, pair[1], float(rng.uniform(0.6, 1.1)), phase, turn),
        edge=float(rng.uniform(-5.5, -3.6)),
    )


def _shared(things: Sequence[Thing], drawn: Sequence[Thing], extras: Extras) -> tuple[Shared, ...]:
    everyone, out = tuple(range(1, len(drawn) + 1)), []
    if len(drawn) < 2:
        return ()
    for part in words.OPEN:
        values = {getattr(thing, part) for thing in drawn}
        # A pair agrees by chance as well; only what is said, or comes with being of a kind, has to.
        if len(values) == 1 and values != {""} and (len(things) == 1 or part in extras.same):
            out.append(Shared(part, everyone, part not in extras.unnamed))
    return tuple(out)


def _place(rng, mix: Mix, things, count, relation, background, style, order, held_out, extras: Extras) -> Scene:
    if extras.patterns:
        things = tuple(replace(t, pattern=p) for t, p in zip(things, extras.patterns, strict=True))
    drawn = list(things) if len(things) == 2 else list(things) * count
    if relation == "right of":
        drawn.reverse()
    stands, shrink, loose = _stands(rng, len(drawn), order)
    alike = len(things) == 1 and len(drawn) > 1 and (order or extras.patterns)
    straight = bool(extras.patterns) and len(drawn) == 1 and rng.random() < 0.5
    placed: list[Placed] = []
    for thing, spot in zip(drawn, stands, strict=True):
        base = np.array(words.COLOURS.get(thing.colour, (0.7, 0.7, 0.7)))
        albedo = np.clip(base + rng.uniform(-0.025, 0.025, 3), 0, 1)
        one = Placed(
            mesh=thing.name,
            albedo=tuple(float(v) for v in albedo),
            scale=float(words.SIZES[thing.size] * shrink * rng.uniform(0.95, 1.05)),
            x=float(spot[0] + rng.uniform(-loose, loose)),
            z=float(spot[1] + rng.uniform(-loose, loose)),
            yaw=float(rng.uniform(-mix.yaw, mix.yaw)),
        )
        if placed and alike:
            one = replace(one, albedo=placed[0].albedo, yaw=placed[0].yaw, scale=placed[0].scale)
        if straight:
            one = replace(one, x=0.0, yaw=0.0)
        if thing.pattern:
            first = next((p.texture for p in placed if p.texture), None)
            same = first and (alike or "pattern" in extras.same)
            dress = _alike(first, thing.name, rng) if same else _texture(rng, thing.pattern, thing.name)
            one = replace(one, texture=first if same and alike else dress)
        placed.append(one)
    if "colour" in extras.same:
        placed = [replace(p, albedo=placed[0].albedo) for p in placed]
    light = np.array([-0.55 + rng.uniform(-0.15, 0.15), 1.0, 0.75 + rng.uniform(-0.15, 0.15)])
    light /= np.linalg.norm(light)
    backdrop = np.clip(np.array(words.BACKGROUNDS[background]) + rng.uniform(-0.015, 0.015), 0, 1)
    return Scene(
        things=tuple(things),
        count=count if len(things) == 1 else 1,
        relation=relation,
        background=background,
        caption=words.caption(
            things, count, relation, background, style, order, extras.floor, extras.unnamed, extras.same
        ),
        held_out=held_out,
        placed=tuple(placed),
        backdrop=tuple(float(v) for v in backdrop),
        light=tuple(float(v) for v in light),
        ambient=0.42,
        order=order,
        floor=_floor(rng, extras.floor) if extras.floor else None,
        shared=_shared(things, drawn, extras),
        symmetric=tuple(i for i, p in enumerate(placed, 1) if p.mesh in texture.ROUND or (p.x == 0.0 and p.yaw == 0.0)),
    )
