"""What a model needs its self-attention for: pictures with the attention of a level, or of all, put out of action."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.unet import attend, project_back
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.measuring.peers import forwards, watch_grids
from lib_attn.lab.measuring.prompted import JudgedRow, Prompted, draw, judge_drawn
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import Layer

#: How attention is put out of action, by name: what the table calls it.
MODES = {
    "average": "average of all tokens",
    "alone": "each token alone",
    "tile": "its tile alone",
    "out": "left out",
}
#: Two rows to compare with: the model as it is, and the same from other noise, which says how far apart two pictures of
#: one prompt are anyway.
WHOLE = {"full": "as it is", "seed": "as it is, from other noise"}
#: Edge of a tile in tokens of the finest level; on deeper levels it covers the same part of the picture.
TILE = 16
#: Added to the seed for other noise; more than there are prompts.
OTHER_NOISE = 500_000


@dataclass(frozen=True)
class AblationSpec:
    """What is drawn on which model, and the judge's file.

    modes: of `MODES`. levels: whether every level is measured for itself as well.
    """

    model: ModelSpec
    judge: Path
    pictures: Prompted = Prompted()
    modes: tuple[str, ...] = tuple(MODES)
    levels: bool = True


@dataclass(frozen=True, kw_only=True)
class AblationRow(JudgedRow):
    """Attention of one level put out of action in one way, or none (`WHOLE`).

    level: ``d0`` (the finest) and so on, or ``all``.
    """

    mode: str
    level: str


def ablated(mode: str, level: str = "all") -> Variant:
    """Self-attention of a level, or of all, put out of action.

    Raises:
        KeyError: for a mode that is none of `MODES`.
    """
    label = MODES[mode]

    @contextlib.contextmanager
    def put(unet, ahead):
        grids: dict[int, tuple[int, int]] = {}

        def make(layer: Layer):
            return _forward(mode, layer, grids) if level in ("all", f"d{layer.depth}") else None

        with watch_grids(unet, grids), forwards(unet, make):
            yield

    return Variant(f"{mode}-{level}", f"{label}, {level}", "ablation", put)


def _forward(mode: str, layer: Layer, grids: dict[int, tuple[int, int]]):
    module = layer.attn1

    def average(x, context=None, mask=None):
        return project_back(module, module.to_v(x).mean(1, keepdim=True).expand(-1, x.shape[1], -1))

    def alone(x, context=None, mask=None):
        return project_back(module, module.to_v(x))

    def tile(x, context=None, mask=None):
        height, width = grids[id(layer.transformer)]
        edge = max(1, TILE >> layer.depth)
        found = torch.empty_like(x)
        tiles, out = x.unflatten(1, (height, width)), found.unflatten(1, (height, width))
        for top in range(0, height, edge):
            for left in range(0, width, edge):
                part = tiles[:, top : top + edge, left : left + edge]
                own = part.flatten(1, 2)
                seen = attend(module.heads, module.to_q(own), module.to_k(own), module.to_v(own))
                out[:, top : top + edge, left : left + edge] = seen.unflatten(1, part.shape[1:3])
        return project_back(module, found)

    def out(x, context=None, mask=None):
        return torch.zeros_like(x)

    return {"average": average, "alone": alone, "tile": tile, "out": out}[mode]


def variants_of(spec: AblationSpec, unet) -> list[tuple[str, str, Variant]]:
    """(mode, level, variant), the model as it is first, then the same from other noise."""
    depths = sorted({layer.depth for layer in find_layers(unet)})
    levels = ["all", *(f"d{depth}" for depth in depths)] if spec.levels else ["all"]
    found = [(mode, level, ablated(mode, level)) for level in levels for mode in spec.modes]
    whole = [(mode, "all", replace(FULL, name=mode, label=label)) for mode, label in WHOLE.items()]
    return [*whole, *found]


def measure(
    model: LabModel,
    judge: Judge,
    spec: AblationSpec,
    *,
    progress: Progress = silent,
    keep: Callable[[list[AblationRow]], None] = lambda rows: None,
) -> list[AblationRow]:
    """Draw the same prompts and seeds as the model is and with every ablation.

    Args:
        keep: takes what there is after each variant, so that a long run that is stopped leaves something.
    """
    how = spec.pictures
    asked, open_ones = how.asked, how.open_ones
    rows: list[AblationRow] = []
    full = None
    for mode, level, variant in variants_of(spec, model.unet):
        progress(variant.label)
        noise = replace(how, seed=how.seed + OTHER_NOISE) if mode == "seed" else how
        drawn = draw(model, noise, [*asked, *open_ones], variant)
        full = full or drawn
        rows.append(AblationRow(mode=mode, level=level, **judge_drawn(judge, asked, open_ones, drawn, full)))
        keep(rows)
    return rows
