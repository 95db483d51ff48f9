"""What is drawn to be judged: scenes in combinations held out of training, and prompts that leave the colour open."""

from __future__ import annotations

from lib_attn.lab.judging.judge import BACKGROUNDS, COLOURS, SHAPES
from lib_attn.learn.scenes import layout, vocabulary
from lib_attn.learn.scenes.layout import Extras, Scene
from lib_attn.learn.scenes.texture import PATTERNS
from lib_attn.learn.scenes.vocabulary import Thing, article


def single_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Single objects in combinations held out of training, all of them before any comes again."""
    pairs = [(c, s) for s in SHAPES for c in COLOURS if vocabulary.pair_is_held_out(c, s)]
    return [
        layout.scene_of(
            [Thing(pairs[i % len(pairs)][1], pairs[i % len(pairs)][0])],
            background=BACKGROUNDS[(i // len(pairs)) % len(BACKGROUNDS)],
            seed=seed,
            index=i,
        )
        for i in range(count)
    ]


def pair_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Two objects with a relation, in combinations held out of training."""
    mix = layout.Mix(kinds=(0, 1, 0), sized=0.0, split="held-out", free_styles=False)
    scenes, index = [], 0
    while len(scenes) < count:
        scene = layout.sample_scene(seed + 7919, index, mix)
        index += 1
        if len(scene.things) == 2:
            scenes.append(scene)
    return scenes


def count_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Two or three of one kind, in combinations held out of training."""
    mix = layout.Mix(kinds=(0, 0, 1), sized=0.0, split="held-out", free_styles=False)
    return [layout.sample_scene(seed + 104729, i, mix) for i in range(count)]


def open_prompts(count: int) -> list[tuple[str, str, str]]:
    """(prompt, shape, background) with the object's colour left open, all shapes and backgrounds in turn."""
    pairs = [(SHAPES[i % len(SHAPES)], BACKGROUNDS[i // len(SHAPES) % len(BACKGROUNDS)]) for i in range(count)]
    return [(f"{article(shape)}, {background} background", shape, background) for shape, background in pairs]


def agreement_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Prompts that leave open what has to agree, of held-out combinations: in turn the colour of several things of a
    kind, the colour a pair has in common, the colour and look of patterned things, a floor behind one thing."""
    pairs = [(c, s) for s in SHAPES for c in COLOURS if vocabulary.pair_is_held_out(c, s)]
    scenes = []
    for i in range(count):
        turn, kind = divmod(i, 4)
        colour, shape = pairs[turn % len(pairs)]
        things, pattern = [Thing(shape, colour)], PATTERNS[turn % len(PATTERNS)]
        if kind == 1:
            things.append(Thing(SHAPES[(turn + 1 + turn // 6) % len(SHAPES)], colour))
        extras = (
            Extras(unnamed=("colour",)),
            Extras(unnamed=("colour",), same=("colour",)),
            Extras((pattern,), unnamed=("colour",)),
            Extras(floor=pattern),
        )[kind]
        scenes.append(
            layout.scene_of(
                things,
                2 + turn % 2 if kind in (0, 2) else 1,
                "left of" if kind == 1 else "",
                BACKGROUNDS[turn % len(BACKGROUNDS)],
                seed,
                i,
                extras=extras,
            )
        )
    return scenes
