"""Pictures of the scene benchmark's prompts, and what they say: accuracy, agreement, distance from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.judging.agreement import PARTS, figures, judged, wholes
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.judging.metrics import score
from lib_attn.lab.judging.prompts import agreement_prompts, pair_prompts, single_prompts
from lib_attn.lab.shared.distances import mean_and_error, relative_l2
from lib_attn.learn.scenes.layout import Scene


@dataclass(frozen=True)
class Prompted:
    """What is drawn.

    singles, pairs: prompts of held-out combinations that the judge answers; agreements: prompts that leave open what
    has to agree. batch: pictures at once.
    """

    singles: int = 24
    pairs: int = 24
    agreements: int = 24
    size: int = 512
    steps: int = 30
    sampler: str = "DDIM"
    cfg: float = 5.0
    seed: int = 0
    batch: int = 4

    @property
    def asked(self) -> list[Scene]:
        """Scenes that the judge answers."""
        return [*single_prompts(self.singles, self.seed), *pair_prompts(self.pairs, self.seed)]

    @property
    def open_ones(self) -> list[Scene]:
        """Scenes whose prompts leave something open."""
        return agreement_prompts(self.agreements, self.seed)


@dataclass(frozen=True, kw_only=True)
class JudgedRow:
    """What a judge says of the pictures of one variant.

    accuracy: share of the pictures with every object's colour and shape right. agreement: mean over the pictures that
    can say; parts: the same by what has to agree. l2: relative L2 of the final latents to those undisturbed, mean over
    all pictures. Each with its standard error, None where one picture is all there is.
    """

    pictures: int
    accuracy: float
    accuracy_error: float | None
    agreement: float
    agreement_error: float | None
    agreement_pictures: int
    l2: float
    l2_error: float | None
    parts: dict[str, float] | None = None


@dataclass(frozen=True)
class Drawn:
    """Pictures uint8 (N, H, W, 3) and final latents (N, 4, H/8, W/8) of one variant."""

    pictures: np.ndarray
    latents: torch.Tensor


def draw(model: LabModel, how: Prompted, scenes: Sequence[Scene], variant: Variant = FULL) -> Drawn:
    """Draw the prompts of `scenes`; a picture's seed goes by its place."""
    pictures, latents = [], []
    for first in range(0, len(scenes), how.batch):
        part = scenes[first : first + how.batch]
        seeds = tuple(how.seed + 1000 + first + i for i in range(len(part)))
        request = Request(tuple(s.caption for s in part), seeds, "", how.size, how.size, how.steps, how.sampler,
                          how.cfg)  # fmt: skip
        latents.append(sample(model, request, variant))
        pictures += [np.asarray(picture) for picture in decode(model, latents[-1])]
    return Drawn(np.stack(pictures), torch.cat(latents))


def judge_drawn(
    judge: Judge, asked: Sequence[Scene], open_ones: Sequence[Scene], drawn: Drawn, full: Drawn
) -> dict[str, object]:
    """Fields of a `JudgedRow`.

    Args:
        drawn: pictures of both kinds of scenes in that order. full: of the same, undisturbed.
    """
    verdicts, masks = judge.look(drawn.pictures)
    right = [score([seen], [scene]).both for seen, scene in zip(verdicts, asked, strict=False)]
    found = judged(drawn.pictures[len(asked) :], masks[len(asked) :], open_ones)
    whole, parts = wholes(found), figures(found)
    l2 = [relative_l2(a, b) for a, b in zip(drawn.latents, full.latents, strict=True)]
    out = {"pictures": len(l2), "agreement_pictures": len(whole)}
    for name, values in (("accuracy", right), ("agreement", whole), ("l2", l2)):
        out[name], out[f"{name}_error"] = _known(values)
    return out | {"parts": {name: parts[name] for name in PARTS if name in parts}}


def _known(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, 0 where there is nothing, and its error, None where it cannot be known."""
    mean, error = mean_and_error(values)
    return (mean if mean == mean else 0.0), (error if error == error else None)
