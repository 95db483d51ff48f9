"""The words a scene is described with, and the one place that turns attributes into a caption."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

#: Linear-ish RGB albedo of each named colour, 0..1. Chosen far apart so that a shaded face of one is
#: never a lit face of another.
COLOURS = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.24, 0.88),
    "yellow": (0.95, 0.85, 0.12),
    "purple": (0.50, 0.14, 0.66),
    "orange": (0.96, 0.48, 0.06),
    "cyan": (0.16, 0.80, 0.86),
    "pink": (0.98, 0.52, 0.72),
}
SHAPES = ("sphere", "cube", "cone", "cylinder", "torus", "star")
SIZES = {"small": 0.62, "": 0.86, "large": 1.10}
BACKGROUNDS = {
    "grey": (0.52, 0.52, 0.52),
    "white": (0.94, 0.94, 0.94),
    "black": (0.07, 0.07, 0.07),
    "brown": (0.45, 0.31, 0.20),
}
COUNT_WORDS = {1: "a", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
#: How several of a kind stand; "" is side by side, up to three.
ORDERS = ("", "row", "grid")
#: What a caption may leave open.
OPEN = ("colour", "pattern")
#: What a caption says of a part it leaves open. A thing without a word for a pattern is plain: were nothing said, plain
#: prompts would be answered with patterns as often as captions leave them open.
_OPEN_WORD = {"colour": "", "pattern": "patterned"}
OPPOSITE = {"left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class Thing:
    """What the caption says about one kind of object: `name` is a shape or the name of a user's mesh."""

    name: str
    colour: str = ""
    size: str = ""
    pattern: str = ""

    def words(self) -> str:
        return " ".join(w for w in (self.size, self.colour, self.pattern, self.name) if w)


def article(words: str) -> str:
    return ("an " if words[:1].lower() in "aeiou" else "a ") + words


def plural(words: str) -> str:
    if words.endswith(("s", "x", "ch", "sh")):
        return words + "es"
    return words + "s"


def caption(
    things: Sequence[Thing],
    count: int,
    relation: str,
    background: str,
    style: int = 0,
    order: str = "",
    floor: str = "",
    unnamed: Sequence[str] = (),
    same: Sequence[str] = (),
) -> str:
    """Describe a scene.

    things: one entry for one kind of object, two for a pair; count: how many of a single kind (1..3);
    relation: "left of" or "right of" for pairs, read as "things[0] <relation> things[1]";
    style: 0 names the background after a comma, 1 says "on a ... background", 2 leaves it out; order: "row" or "grid"
    of several of a kind; floor: the pattern of the floor; unnamed: which of OPEN the things' words leave open: a colour
    is not mentioned, of a pattern only that there is one; same: which of OPEN a pair has in common, said without naming
    it.
    """
    things = [replace(t, **{part: _OPEN_WORD[part] if getattr(t, part) else "" for part in unnamed}) for t in things]
    if len(things) == 2:
        text = f"{article(things[0].words())} {relation} {article(things[1].words())}"
    elif count == 1:
        text = article(things[0].words())
    else:
        text = f"{COUNT_WORDS[count]} {plural(things[0].words())}"
        text = f"{article(order)} of {text}" if order else text
    if same:
        text += f" of the same {' and '.join(same)}"
    if floor:
        text += f" on {article(floor)} floor"
        style = 0 if style == 1 else style
    if background and style == 0:
        return f"{text}, {background} background"
    if background and style == 1:
        return f"{text} on a {background} background"
    return text


def without_colours(text: str) -> str:
    """A caption with the objects' colour words left out ("an orange cube, grey background" -> "a cube, grey
    background"); the backgrounds' colours are other words and stay."""
    kept = [word for word in text.split(" ") if word not in COLOURS]
    for i, word in enumerate(kept[:-1]):
        if word in ("a", "an"):
            kept[i] = article(kept[i + 1]).split(" ")[0]
    return " ".join(kept)


def _share(text: str) -> float:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def pair_is_held_out(colour: str, name: str) -> bool:
    """Whether "colour name" is kept out of training, so that a benchmark asks for a new combination.

    For the built-in words a Latin pattern holds out exactly one colour of every shape (and no colour
    twice), so every colour and every shape is still seen in many other combinations. For other names the
    choice is by hash, one in ten.
    """
    if name in SHAPES and colour in COLOURS:
        return list(COLOURS).index(colour) == SHAPES.index(name)
    return bool(colour) and _share(f"pair {colour} {name}") < 0.1


def mesh_is_held_out(name: str) -> bool:
    """Whether a mesh that is not painted in named colours belongs to the held-out tenth."""
    return _share(f"mesh {name}") < 0.1


def is_held_out(things: Sequence[Thing]) -> bool:
    """Whether a scene belongs to the held-out split.

    It does when one of its objects is a held-out colour and name pair, or, for two objects, when the
    unordered four-fold combination falls in the held-out tenth.
    """
    if any(pair_is_held_out(t.colour, t.name) for t in things):
        return True
    if len(things) == 2:
        key = " + ".join(sorted(f"{t.colour} {t.name}" for t in things))
        return _share(f"scene {key}") < 0.1
    return False
