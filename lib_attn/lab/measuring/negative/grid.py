"""The labelled grid of pictures: a row for each technique, and two for key mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.variants import FULL, Variant, setting
from lib_attn.lab.judging.judge import BACKGROUNDS, COLOURS, SHAPES, Judge
from lib_attn.lab.judging.metrics import seen_colour
from lib_attn.lab.measuring.negative.cases import OPERATORS, compared_by, every, penalty
from lib_attn.lab.measuring.negative.drawn import DrawSpec, draw_batch
from lib_attn.lab.measuring.negative.mix import draw_group, mix_presets, mix_prompts
from lib_attn.lab.shared.progress import Progress
from lib_attn.learn.scenes.vocabulary import article

#: Headings of the rows.
TITLES = ("Negative skip", "Contrast", "Key mix, colours named", "Key mix, colours open")
GROUP_SHOWN = 7  # of `mix_prompts`: one whose first two pictures stand apart
CELL = 176  # pixels of a picture in the grid


@dataclass(frozen=True)
class GridRow:
    """Pictures (PIL, of one size) below a heading, each with a caption."""

    heading: str
    pictures: Sequence[Any]
    captions: Sequence[str]


def grid_rows(model: LabModel, judge: Judge, how: DrawSpec, progress: Progress) -> list[GridRow]:
    """The rows of the grid. The negatives name the colour that is seen without one."""
    prompt, seed = f"{article(SHAPES[1])}, {BACKGROUNDS[0]} background", how.seed + 5001

    def one(negative: str, cfg: float, variant: Variant = FULL) -> np.ndarray:
        return draw_batch(model, how, how.request([prompt], [seed], negative, cfg), variant)[0]

    progress(TITLES[0])
    plain, weak = one("", 5.0), one("", 1.0)
    word, weak_word = (seen_colour(judge.look(p[None])[0][0], COLOURS[0]) for p in (plain, weak))
    skip = [("CFG 5, no negative", plain), (f"CFG 5, negative: {word}", one(word, 5.0)),
            ("the same, negative every 3rd step", one(word, 5.0, setting("", every(3)))), ("CFG 1, no negative", weak),
            (f"CFG 1, NAG, negative: {weak_word}", one(weak_word, 1.0, penalty("NAG")))]  # fmt: skip
    progress(TITLES[1])
    compared = [skip[1], *((f"contrast: {name}", one(word, 5.0, compared_by(name))) for name in OPERATORS)]
    rows, mixed_headings = [skip, compared], []
    for title, kind in zip(TITLES[2:], ("coloured", "open"), strict=True):
        progress(title)
        prompts = mix_prompts(GROUP_SHOWN + 1)[1][kind][GROUP_SHOWN][:2]
        mixed = {case.name: draw_group(model, how, prompts, GROUP_SHOWN, case.variant) for case in mix_presets()}
        rows.append([("source", mixed["off"][0]), *((name, group[1]) for name, group in mixed.items())])
        mixed_headings.append(f"{title}: {prompts[1]}; source: {prompts[0]}")
    headings = [f"{TITLES[0]}: {prompt}", f"{TITLES[1]}: {prompt}, negative: {word}", *mixed_headings]
    return [GridRow(heading, [_cell(p) for _, p in row], [name for name, _ in row])
            for heading, row in zip(headings, rows, strict=True)]  # fmt: skip


def _cell(picture: np.ndarray):
    return Image.fromarray(picture).resize((CELL, CELL), Image.LANCZOS)
