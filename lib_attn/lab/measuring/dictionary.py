"""What the dictionary costs in nearness, and whether pictures under a style bank look like what it was learned from."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.encoder import encoded
from lib_attn.lab.drawing.sampling import Request, decode, predictor, sample
from lib_attn.lab.drawing.variants import FULL, Variant, setting
from lib_attn.lab.judging.agreement import enlarge, objects, overlap, paint, pattern
from lib_attn.lab.judging.judge import BACKGROUNDS, SHAPES, Judge
from lib_attn.lab.judging.metrics import score
from lib_attn.lab.judging.prompts import open_prompts, single_prompts
from lib_attn.lab.measuring.outputs import output_errors
from lib_attn.lab.measuring.scenebench import ScenebenchSpec, generator, run
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.learn.dictionary.learner import Options
from lib_attn.learn.run import Pictures, Run
from lib_attn.learn.shown import plan_of, show
from lib_attn.learned.files import Loader
from lib_attn.learned.folders import Folders
from lib_attn.unet.families import find_layers

COUNTS = (64, 256, 1024)
MODES = ("live", "global")
REACHES = ("self-attention", "cross-attention", "skip connection")


def shortcut_cases() -> list[Variant]:
    """Near-sighted attention as it is and with pooled keys alone, each mode at each number of atoms, and static, for
    self-attention alone and beyond it."""
    plain = [setting("near-sighted", "pool=4"), setting("pooled keys", "tile=0; pool=2")]
    ours = [
        setting(f"{mode} {n}", f"dictionary.mode={mode}; atoms={n}; depth_scaling=0; full_first=0")
        for n in COUNTS
        for mode in MODES
    ]
    static = [
        setting(f"static{name}", f"dictionary.mode=static; dictionary.file=embedded-warm; full_first=0{more}")
        for name, more in (
            ("", ""),
            (" and cross", "; reach=cross-attention"),
            (" and skip", "; reach=skip connection"),
        )
    ]
    return [*plain, *ours, *static]


@dataclass(frozen=True)
class ErrorRow:
    """Attention's output against full attention's: relative L2, mean over the calls in which they differ, with the
    least and the largest layer's mean; none where the variant leaves all layers exact."""

    name: str
    size: int
    layers: int
    error: float | None
    least: float | None = None
    largest: float | None = None


def measure_errors(
    model: LabModel, cases: Sequence[Variant], request: Request, progress: Progress = silent
) -> Iterator[ErrorRow]:
    """A row for each case, while the request's pictures are drawn."""
    for case in cases:
        progress(case.name)
        found = {layer: errors for layer, errors in output_errors(model, request, case).items() if errors}
        means = [statistics.mean(errors) for errors in found.values()]
        told = (statistics.mean(means), min(means), max(means)) if means else (None,)
        yield ErrorRow(case.name, request.width, len(found), *told)


@dataclass(frozen=True)
class PromptRow:
    """right: share of the pictures of one object with colour and shape right. agreement: of what prompts leave open
    (`lib_attn.lab.judging.agreement`). Each with its standard error."""

    name: str
    size: int
    pictures: int
    right: float
    right_error: float
    agreement: float
    agreement_error: float


def measure_prompts(
    model: LabModel, judge: Judge, cases: Sequence[Variant], spec: ScenebenchSpec
) -> Iterator[PromptRow]:
    """A row for full attention and each case, by the same prompts and seeds."""
    for case in [FULL, *cases]:
        found = run(generator(model, spec, case), judge, spec.prompts)
        right, agreed = found["single"]["both"], found["agreement"]
        error = (right * (1 - right) / spec.prompts.singles) ** 0.5
        yield PromptRow(case.name, spec.width, spec.prompts.singles, right, error, agreed["all"], agreed["all_error"])


#: Colours and pattern of a set of pictures to learn a look from.
SETS = {"warm": (("red", "orange", "yellow"), "striped"), "cool": (("blue", "cyan", "purple"), "checked")}


@dataclass(frozen=True)
class LookSpec:
    """What is drawn.

    shown: pictures of each set that are learned from. pictures: with a colour left open, under each dictionary and
    none; named: with a colour of their own. strengths: of the style bank. files: folder that keeps the dictionaries,
    None for none.
    """

    model: ModelSpec
    judge: Path
    shown: int = 12
    pictures: int = 24
    named: int = 24
    strengths: tuple[float, ...] = (1.0,)
    settings: str = "mode=full"
    size: int = 256
    steps: int = 15
    sampler: str = "DDIM"
    cfg: float = 5.0
    batch: int = 8
    files: Path | None = None


@dataclass(frozen=True)
class LookRow:
    """Pictures under the dictionary of a set, "none" without.

    colour, pattern: common part of an open picture's colours and patterns with those of each set, by set, mean and
    standard error over the pictures. right: share of the named pictures with colour and shape right.
    """

    learned_from: str
    strength: float
    pictures: int
    colour: dict[str, tuple[float, float]]
    pattern: dict[str, tuple[float, float]]
    named: int
    right: float
    right_error: float


def measure_look(
    judge: Judge, spec: LookSpec, progress: Progress = silent, keep: Callable[[list[LookRow]], None] = lambda rows: None
) -> list[LookRow]:
    """Learn a dictionary of each set, and draw the same prompts and seeds under each and under none.

    Args:
        keep: takes what there is after each row, so that a long run that is stopped leaves something.
    """
    model = spec.model.load()
    layers = find_layers(model.unet)
    opens = [prompt for prompt, _, _ in open_prompts(spec.pictures)]
    scenes = single_prompts(spec.named)
    rows: list[LookRow] = []
    with contextlib.ExitStack() as stack:
        folder = spec.files or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        looks = {}
        for number, name in enumerate(SETS):
            progress(f"pictures of {name}")
            pictures = _draw(model, spec, _prompts(name, spec.shown), 500 + 100 * number)
            looks[name] = [np.mean(found, 0) for found in zip(*_look_of(judge, pictures), strict=True)]
            names, size = [str(i) for i in range(len(pictures))], Pictures(width=spec.size, height=spec.size)
            plan = plan_of(Options.name, names, Options(), pictures=size)
            run = Run(plan, layers, folder / "run.safetensors")
            for _ in show(run, model.unet, predictor(model), encoded(spec.model, pictures)):
                pass
            run.finish(folder / f"{name}.safetensors")
        model = replace(model, files=Loader(lambda: Folders([folder])))
        for name, strength in [("none", 0.0), *((name, s) for s in spec.strengths for name in SETS)]:
            progress(f"{name}, strength {strength:g}")
            on = f"dictionary.file={name}; {spec.settings}; strength={strength}"
            variant = FULL if name == "none" else setting(name, on)
            drawn = _draw(model, spec, [*opens, *(s.caption for s in scenes)], 1, variant)
            seen = list(_look_of(judge, drawn[: len(opens)]))
            near = [
                {of: mean_and_error([overlap(look[part], looks[of][part]) for look in seen]) for of in SETS}
                for part in (0, 1)
            ]
            verdicts, _ = judge.look(drawn[len(opens) :])
            right = [score([verdict], [scene]).both for verdict, scene in zip(verdicts, scenes, strict=True)]
            rows.append(LookRow(name, strength, len(seen), *near, len(scenes), *mean_and_error(right)))
            keep(rows)
    return rows


def _prompts(name: str, count: int) -> list[str]:
    colours, pattern_name = SETS[name]
    return [
        f"a {colours[i % len(colours)]} {pattern_name} {SHAPES[i % len(SHAPES)]}, "
        f"{BACKGROUNDS[i // 2 % len(BACKGROUNDS)]} background"
        for i in range(count)
    ]


def _draw(model: LabModel, spec: LookSpec, prompts: Sequence[str], seed: int, variant: Variant = FULL) -> np.ndarray:
    """uint8 ``(N, H, W, 3)``."""
    pictures = []
    for first in range(0, len(prompts), spec.batch):
        part = tuple(prompts[first : first + spec.batch])
        seeds = tuple(range(seed + first, seed + first + len(part)))
        request = Request(part, seeds, "", spec.size, spec.size, spec.steps, spec.sampler, spec.cfg)
        pictures += [np.asarray(picture) for picture in decode(model, sample(model, request, variant))]
    return np.stack(pictures)


def _look_of(judge: Judge, pictures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Colours and pattern of what is seen in each picture; pictures in which nothing is seen are left out."""
    _, masks = judge.look(pictures)
    for picture, mask in zip(pictures, masks, strict=True):
        labels = enlarge(objects(mask), *picture.shape[:2])
        parts = [labels == k for k in range(1, int(labels.max()) + 1)]
        if parts:
            yield tuple(np.mean([f(picture, part) for part in parts], 0) for f in (paint, pattern))
