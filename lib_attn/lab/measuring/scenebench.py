"""A model and setting judged by prompts: colour, shape, count, relation, negatives, silhouettes, distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, Variant, ours
from lib_attn.lab.judging.agreement import figures, judged
from lib_attn.lab.judging.judge import BACKGROUNDS, SHAPES, Judge
from lib_attn.lab.judging.metrics import appearance, distance, score
from lib_attn.lab.judging.prompts import agreement_prompts, count_prompts, pair_prompts, single_prompts
from lib_attn.lab.measuring.autoencoder import round_trips
from lib_attn.lab.shared.results import to_json
from lib_attn.settings import Settings

#: generate(prompts, negative prompts, seeds) -> uint8 pictures (N, H, W, 3) and final latents (N, 4, H/8, W/8)
Generate = Callable[[list[str], list[str], list[int]], tuple[np.ndarray, torch.Tensor]]


@dataclass(frozen=True)
class PromptCounts:
    """How many prompts of each part, and the seed they and the pictures start from."""

    singles: int = 48
    pairs: int = 48
    counts: int = 24
    negatives: int = 24
    agreements: int = 24
    seed: int = 0


@dataclass(frozen=True)
class ScenebenchSpec:
    """What is drawn on which model, and the judge's file. batch: pictures at once. decoded: how
    many held-out renders of each surface go through the autoencoder.
    """

    model: ModelSpec
    judge: Path
    settings: Settings
    prompts: PromptCounts
    height: int = 256
    width: int = 256
    steps: int = 30
    sampler: str = "DDIM"
    cfg: float = 5.0
    batch: int = 8
    decoded: int = 0


def run_spec(spec: ScenebenchSpec) -> dict[str, dict]:
    """`run` on the lab's model; with a technique, beside the same model without.

    The part "autoencoder", where it is asked for, is of the model's autoencoder alone.

    Raises:
        LabError: when the model or the judge cannot be loaded, or nothing can be drawn as asked.
    """
    judge, on = Judge.load(spec.judge), bool(list(spec.settings.active()))
    model = spec.model.load()
    # First: where it fails, nothing is lost.
    trips = round_trips(model, spec.model, spec.decoded, min(spec.height, spec.width)) if spec.decoded else {}
    plain = generator(model, spec, FULL)
    drawn = run(generator(model, spec, ours("", "", spec.settings)) if on else plain, judge, spec.prompts,
                plain if on else None)  # fmt: skip
    if trips:
        drawn["autoencoder"] = {surface: asdict(trip) for surface, trip in trips.items()}
    return drawn


def run(
    generate: Generate, judge: Judge, prompts: PromptCounts, plain: Generate | None = None
) -> dict[str, dict[str, float]]:
    """The whole benchmark of one model and setting; seeds are the same for every setting.

    The part "negative" asks for shapes without a colour, with and without the negative prompt "red", and
    says how often red is seen. The part "agreement" says whether what the prompt leaves open agrees with itself (see
    `lib_attn.lab.judging.agreement`). plain: the same model without a technique; the part "distance" then says how
    far the pictures of the first three parts are from its pictures of the same prompts and seeds.
    """
    out, seed, negatives = {"judge": dict(judge.accuracy)}, prompts.seed, prompts.negatives
    sets = {"single": single_prompts(prompts.singles, seed), "pair": pair_prompts(prompts.pairs, seed),
            "several": count_prompts(prompts.counts, seed)}  # fmt: skip
    drawn, full = [], []
    for name, scenes in sets.items():
        if scenes:
            asked = ([s.caption for s in scenes], [""] * len(scenes), [seed + 1000 + i for i in range(len(scenes))])
            drawn.append(generate(*asked))
            out[name] = asdict(score(judge.look(drawn[-1][0])[0], scenes))
            if plain:
                full.append(plain(*asked))
    if full:
        pictures, of_full = (np.concatenate([p for p, _ in part]) for part in (drawn, full))
        latents, of_full_latents = (torch.cat([x for _, x in part]) for part in (drawn, full))
        out["distance"] = to_json(distance(judge, pictures, of_full, latents, of_full_latents))
    if prompts.agreements:
        scenes = agreement_prompts(prompts.agreements, seed)
        seeds = [seed + 7000 + i for i in range(len(scenes))]
        pictures, _ = generate([s.caption for s in scenes], [""] * len(scenes), seeds)
        out["agreement"] = figures(judged(pictures, judge.look(pictures)[1], scenes))
    if negatives:
        asked = [f"a {SHAPES[i % len(SHAPES)]}, {BACKGROUNDS[i % len(BACKGROUNDS)]} background"
                 for i in range(negatives)]  # fmt: skip
        seeds = [seed + 5000 + i for i in range(negatives)]
        out["negative"] = {
            "pictures": negatives,
            "red_without": appearance(judge.look(generate(asked, [""] * negatives, seeds)[0])[0], "red"),
            "red_with": appearance(judge.look(generate(asked, ["red"] * negatives, seeds)[0])[0], "red"),
        }
    return out


def generator(model: LabModel, spec: ScenebenchSpec, variant: Variant) -> Generate:
    """A `Generate` from the lab's own sampler."""

    def generate(prompts: list[str], negatives: list[str], seeds: list[int]) -> tuple[np.ndarray, torch.Tensor]:
        pictures, latents = [], []
        for first in tqdm(range(0, len(prompts), spec.batch), desc="pictures", unit="batch", mininterval=2.0):
            part = slice(first, first + spec.batch)
            # Within one call all negatives are the same, which is what the lab's request can hold.
            request = Request(tuple(prompts[part]), tuple(seeds[part]), negatives[first], spec.height, spec.width,
                              spec.steps, spec.sampler, spec.cfg)  # fmt: skip
            latents.append(sample(model, request, variant))
            pictures += [np.asarray(p) for p in decode(model, latents[-1])]
        return np.stack(pictures), torch.cat(latents)

    return generate
