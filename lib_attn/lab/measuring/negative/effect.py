"""What a negative does: prompts leave the colour open, and the negative names the colour that is seen without one.

How many pictures keep it, on how much of the object, and how many still show what the prompt asks for?
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.variants import FULL, Variant, setting
from lib_attn.lab.judging.judge import COLOURS, Judge
from lib_attn.lab.judging.metrics import colour_shares, object_pixels, seen_colour, shows
from lib_attn.lab.judging.prompts import open_prompts
from lib_attn.lab.measuring.negative.cases import OPERATORS, PENALTIES, STRONGER, compared_by, every, penalty
from lib_attn.lab.measuring.negative.drawn import DrawSpec, draw
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.progress import Progress


@dataclass(frozen=True)
class Effect:
    """A way to make a negative act. base: guidance scale of the pictures without one that it is compared with."""

    name: str
    variant: Variant = FULL
    cfg: float = 5.0
    base: float = 5.0


@dataclass(frozen=True)
class EffectRow:
    """One case, or a guidance scale without a negative.

    Shares of pictures: named (the named colour is seen), control (the same colour, the negative naming another one),
    shape (one object of the right shape), background, prompt (both). area and area_control: mean share of the object's
    pixels that have that colour, see `judging.metrics.colour_shares`; areas: picture by picture. seen: what the judge
    says. plain: no technique.
    """

    name: str
    base: float
    cfg: float
    pictures: int
    named: float
    control: float
    area: float
    area_control: float
    areas: list[float]
    shape: float
    background: float
    prompt: float
    plain: bool
    settings: dict
    seen: list[str] | None = None


def effect_cases() -> list[Effect]:
    """The first of each base is without any technique."""
    one = {"cfg": 1.0, "base": 1.0}
    cases = [Effect("CFG 5"), Effect("CFG 3", cfg=3.0), Effect("CFG 8", cfg=8.0)]
    cases += [Effect("CFG 5, every 3: copy", setting("", every(3, "fill=copy")))]
    cases += [Effect("CFG 5, every 3: estimate", setting("", every(3)))]
    for short in PENALTIES:
        variant = penalty(short, penalty_when="skipped steps")
        cases.append(Effect(f"CFG 5, every 3: estimate, {short} between", variant))
    cases += [Effect(f"CFG 5, contrast: {operator}", compared_by(operator)) for operator in OPERATORS]
    cases += [Effect(f"CFG 1, {short}", penalty(short), **one) for short in PENALTIES]
    cases += [Effect(f"CFG 1, {short} {s:g}", penalty(short, strength=s), **one) for short, s in STRONGER.items()]
    return cases


def weak_guidance_cases() -> list[Effect]:
    """Contrast under weak guidance, which leaves it something to add, beside a little more guidance."""
    weak = {"cfg": 2.0, "base": 2.0}
    cases = [Effect("CFG 2", **weak), Effect("CFG 2.5", cfg=2.5, base=2.0)]
    cases += [Effect(f"CFG 2, contrast: {operator}", compared_by(operator), **weak) for operator in OPERATORS]
    return [*cases, Effect("CFG 2, contrast: keys at 1", setting("", "feature=0; keys=1"), **weak)]


def measure_effect(
    model: LabModel, judge: Judge, cases: Sequence[Effect], how: DrawSpec, images: int, progress: Progress
) -> list[EffectRow]:
    """How much of what the negative names is seen, and how often what the prompt asks for.

    Returns:
        one row per case; before those of a base, one of its pictures without a negative.
    """
    asked = open_prompts(images)
    prompts, seeds = [a[0] for a in asked], [how.seed + 5000 + i for i in range(images)]
    out = []

    def look(words, cfg, variant=FULL):
        pictures = draw(model, how, prompts, words, seeds, cfg, variant)
        return (*judge.look(pictures), pictures)

    for base in dict.fromkeys(case.base for case in cases):
        progress(f"CFG {base:g}, no negative")
        plain = look([""] * images, base)
        common = Counter(o[0] for v in plain[0] for o in v.objects).most_common(1)
        names = [seen_colour(v, common[0][0] if common else COLOURS[0]) for v in plain[0]]
        row = _figures(plain, names, asked)
        out.append(EffectRow(f"CFG {base:g}, no negative", base, base, control=row["named"], area_control=row["area"],
                             plain=True, settings={}, **row))  # fmt: skip
        others = [COLOURS[(COLOURS.index(name) + 3) % len(COLOURS)] for name in names]
        for case in (c for c in cases if c.base == base):
            progress(case.name)
            named, control = (look(words, case.cfg, case.variant) for words in (names, others))
            row, other = _figures(named, names, asked), _figures(control, names, asked)
            out.append(EffectRow(case.name, base, case.cfg, control=other["named"], area_control=other["area"],
                                 plain=case.variant is FULL, settings=case.variant.changed or {}, **row))  # fmt: skip
    return out


def _figures(looks, names, asked) -> dict:
    verdicts, masks, pictures = looks
    area = [float(colour_shares(object_pixels(picture, mask))[COLOURS.index(name)])
            for picture, mask, name in zip(pictures, masks, names, strict=True)]  # fmt: skip
    shape = [shows(v, a[1]) for v, a in zip(verdicts, asked, strict=True)]
    ground = [v.background == a[2] for v, a in zip(verdicts, asked, strict=True)]
    named = [word in [o[0] for o in v.objects] for v, word in zip(verdicts, names, strict=True)]
    mean = {"named": named, "shape": shape, "background": ground, "prompt": np.logical_and(shape, ground)}
    seen = [" + ".join(" ".join(o) for o in v.objects) + f", {v.background}" for v in verdicts]
    return {"pictures": len(verdicts), "seen": seen, "areas": area, "area": mean_and_error(area)[0],
            **{key: float(np.mean(values)) for key, values in mean.items()}}  # fmt: skip
