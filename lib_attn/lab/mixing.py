"""What key mix does to pictures of a batch that take from their first one: layout, colour, and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lib_attn.lab import judged
from lib_attn.lab.cost import Case
from lib_attn.lab.errors import LabError
from lib_attn.lab.judged import How, mean_and_error, seen_colour, shows
from lib_attn.lab.scenebench import BACKGROUNDS, COLOURS, SHAPES, Verdict, silhouette_overlap
from lib_attn.lab.variants import Variant, preset, setting
from lib_attn.learn.scenes.vocabulary import article

GROUP = 4  # pictures that are mixed with each other, the first being the source
KINDS = ("coloured", "open", "shapes")


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


def draw_group(model, how: How, prompts: Sequence[str], group: int, variant: Variant):
    """Pictures uint8 ``[GROUP, H, W, 3]`` of one batch, the source first."""
    seeds = [how.seed + 9000 + 100 * group + i for i in range(len(prompts))]
    return judged.draw_batch(model, how, how.request(prompts, seeds, "", 5.0), variant)


def measure_mix(model, judge, cases: Sequence[Case], how: How, groups: int, progress: Callable[[str], None]):
    """What pictures take from the first of their batch, against the first of a batch like it.

    Returns:
        one dictionary per case: pictures (the sources not counted); of every figure the mean, and under ``all`` its
        values picture by picture (nan where the judge sees no object). Of one shape with named colours: overlap (of the
        silhouette with the source's, intersection over union), colour and shape (as asked for). Of one shape with
        colours left open: agree (the source's colour is seen), distance (of the mean colours,
        `judged.colour_distance`), open_shape. Where each has a shape of its own: other_shape, other_colour. Names that
        end in ``_control``: the same with the other batch's source, of the same shape and background, which was not
        used.

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
        out.append({"name": case.name, "pictures": groups * (GROUP - 1), **means, "all": found})
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
            own = judged.object_pixels(pictures[i], open_masks[i])
            for end, source in (("", g), ("_control", g ^ 1)):
                of_other = looks["coloured"][source][1][0]
                there = masks[i].any() and of_other.any()
                note(f"overlap{end}", silhouette_overlap(masks[i][None], of_other[None]) if there else np.nan)
                said, outline, of_source = (part[0] for part in looks["open"][source])
                note(f"agree{end}", seen_colour(open_verdicts[i], "") == seen_colour(said, "none"))
                note(f"distance{end}", judged.colour_distance(own, judged.object_pixels(of_source, outline)))
            said = looks["shapes"][g][0][i]
            note("other_shape", shows(said, other_shape))
            note("other_colour", seen_colour(said, "") == colour)
    return found
