"""What key mix does to pictures of a batch that take from their first one: layout, colour, and what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.variants import Variant, preset, setting
from lib_attn.lab.judging.judge import BACKGROUNDS, COLOURS, SHAPES, Judge, Verdict
from lib_attn.lab.judging.metrics import colour_distance, object_pixels, seen_colour, shows, silhouette_overlap
from lib_attn.lab.measuring.cost import Case
from lib_attn.lab.measuring.negative.drawn import DrawSpec, draw_batch
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.progress import Progress
from lib_attn.learn.scenes.vocabulary import article

GROUP = 4  # pictures that are mixed with each other, the first being the source
KINDS = ("coloured", "open", "shapes")


@dataclass(frozen=True)
class MixRow:
    """One case: the mean of every figure, and under `all` its values picture by picture (nan: no object is seen).

    pictures: the sources not counted. Of one shape with named colours: overlap (of the silhouette with the source's,
    intersection over union), colour and shape (as asked for). Of one shape with colours left open: agree (the source's
    colour is seen), distance (of the mean colours in RGB, `judging.metrics.colour_distance`), open_shape. Where each
    has a shape of its own: other_shape, other_colour. Names that end in ``_control``: the same with the other batch's
    source, of the same shape and background, which was not used.
    """

    name: str
    pictures: int
    colour: float
    shape: float
    open_shape: float
    overlap: float
    overlap_control: float
    agree: float
    agree_control: float
    distance: float
    distance_control: float
    other_shape: float
    other_colour: float
    all: dict[str, list[float]]
    settings: dict


def groups_of(images: int) -> int:
    """How many groups `images` pictures make: two at least, and an even number, as each is another's control."""
    return max(2, images // (2 * (GROUP - 1)) * 2)


def mix_presets() -> list[Case]:
    """The presets that take from the first picture of a batch, after a case without any."""
    names = ("Layout only", "Same style (StyleAligned)", "Same subject (MasaCtrl)")
    return [Case("off"), *(Case(name, preset(name)) for name in names)]


def mix_cases() -> list[Case]:
    """The presets, what each part of them does, and self-attention taken over whole: how much it carries."""
    style = "Same style (StyleAligned)"
    alone = {f"key_mix.{name}": 0.0 for name in ("amount", "query_amount")}
    adain = {"key_mix.features": "AdaIN", "key_mix.feature_blocks": "out", "key_mix.feature_amount": 0.5}
    whole = "key_mix.amount=1; query_amount=1; values=follow; key_mix.blocks=all"
    return [
        *mix_presets(),
        Case("Layout only, attention alone", preset("Layout only", **{"key_mix.features": "own"})),
        Case("Layout only, features alone", preset("Layout only", **alone)),
        Case("Layout only until 0.8", preset("Layout only", **{"key_mix.end": 0.8})),
        Case("StyleAligned without bias", preset(style, **{"key_mix.bias": 0.0})),
        Case("StyleAligned, half AdaIN of features", preset(style, **{"key_mix.bias": 0.0}, **adain)),
        Case("all of Q, K and V", setting("", whole)),
    ]


def mix_prompts(groups: int) -> tuple[list[list[Verdict]], dict[str, list[list[str]]]]:
    """What each picture of each group of `GROUP` shows, and the prompts of the groups by kind.

    Groups 2j and 2j + 1 show the same shape before the same background, so each is a control of the other: a source
    that fits as well and was not used. *coloured*: another colour each; *open*: no colour; *shapes*: another colour and
    another shape each.
    """
    wanted: list[list[Verdict]] = []
    prompts: dict[str, list[list[str]]] = {kind: [] for kind in KINDS}
    for g in range(groups):
        ground, own = BACKGROUNDS[g // 2 % len(BACKGROUNDS)], g // 2 % len(SHAPES)
        colours = [COLOURS[(3 * g + 2 * i) % len(COLOURS)] for i in range(GROUP)]
        shapes = [SHAPES[(own + i) % len(SHAPES)] for i in range(GROUP)]
        texts = {"coloured": [f"{colour} {SHAPES[own]}" for colour in colours], "open": [SHAPES[own]] * GROUP,
                 "shapes": [f"{colour} {shape}" for colour, shape in zip(colours, shapes, strict=True)]}  # fmt: skip
        for kind, things in texts.items():
            prompts[kind].append([f"{article(thing)}, {ground} background" for thing in things])
        wanted.append([Verdict(((colour, shape),), ground) for colour, shape in zip(colours, shapes, strict=True)])
    return wanted, prompts


def draw_group(model: LabModel, how: DrawSpec, prompts: Sequence[str], group: int, variant: Variant):
    """Pictures uint8 ``[GROUP, H, W, 3]`` of one batch, the source first."""
    seeds = [how.seed + 9000 + 100 * group + i for i in range(len(prompts))]
    return draw_batch(model, how, how.request(prompts, seeds, "", 5.0), variant)


def measure_mix(
    model: LabModel, judge: Judge, cases: Sequence[Case], how: DrawSpec, groups: int, progress: Progress
) -> list[MixRow]:
    """What pictures take from the first of their batch, against the first of a batch like it.

    Raises:
        LabError: when groups cannot be paired.
    """
    if groups < 2 or groups % 2:
        raise LabError("Mixed pictures need an even number of groups, each with its control.")
    wanted, prompts = mix_prompts(groups)
    out = []
    for case in cases:
        looks = {}
        for kind in KINDS:
            progress(f"{case.name}, {kind}")
            drawn = [draw_group(model, how, prompts[kind][g], g, case.variant) for g in range(groups)]
            looks[kind] = [(*judge.look(pictures), pictures) for pictures in drawn]
        found = _figures(looks, wanted)
        means = {name: mean_and_error(values)[0] for name, values in found.items()}
        settings = case.variant.changed or {}
        out.append(MixRow(case.name, groups * (GROUP - 1), **means, all=found, settings=settings))
    return out


def _figures(looks, wanted) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def note(name: str, value) -> None:
        found.setdefault(name, []).append(float(value))

    for g, asked in enumerate(wanted):
        shape = asked[0].objects[0][1]
        for i in range(1, GROUP):
            colour, other_shape = asked[i].objects[0]
            verdicts, masks, _ = looks["coloured"][g]
            note("colour", seen_colour(verdicts[i], "") == colour)
            note("shape", shows(verdicts[i], shape))
            open_verdicts, open_masks, pictures = looks["open"][g]
            note("open_shape", shows(open_verdicts[i], shape))
            own = object_pixels(pictures[i], open_masks[i])
            for end, source in (("", g), ("_control", g ^ 1)):
                of_other = looks["coloured"][source][1][0]
                there = masks[i].any() and of_other.any()
                note(f"overlap{end}", silhouette_overlap(masks[i][None], of_other[None]) if there else np.nan)
                said, outline, of_source = (part[0] for part in looks["open"][source])
                note(f"agree{end}", seen_colour(open_verdicts[i], "") == seen_colour(said, "none"))
                note(f"distance{end}", colour_distance(own, object_pixels(of_source, outline)))
            said = looks["shapes"][g][0][i]
            note("other_shape", shows(said, other_shape))
            note("other_colour", seen_colour(said, "") == colour)
    return found
