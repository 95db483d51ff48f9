"""Which weights should learn? Each choice trained for equal processor time on the same scenes, and its maps judged."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lib_attn.lab.drawing.sampling import decode, sample
from lib_attn.lab.judging.geometry import MapJudge
from lib_attn.lab.measuring.maps import MapsSpec, judged
from lib_attn.techniques.depth_guide.maps import levelled
from lib_attn.techniques.depth_guide.settings import DepthGuide

from ..reference_model.loop import Loop
from ..scenes import renderers
from . import choices
from .base import Base
from .recipe import Recipe
from .run import Run, averaged

#: Steps that are timed to learn how many fit into the time; the first ones are slower and not counted.
TRIAL, WARM = 8, 2


def rows(
    work: Path,
    recipe: Recipe,
    base: Callable[[], Base],
    seconds: float,
    spec: MapsSpec,
    scenes: Path | None = None,
    known: Sequence[str] = (),
) -> Iterator[dict]:
    """Figures on each of `choices.CHOICES` but those in `known`, one after the other.

    Args:
        work: where scenes and latents are, or are made; they are shared. recipe: all but ``train`` and ``steps`` holds.
        base: loads the checkpoint as it is. seconds: of processor time for the training steps of each choice.
        spec: prompts and seeds of the maps that are judged.
    """
    recipe = dataclasses.replace(recipe, preview=0, save_seconds=float("inf"))
    with renderers.open_renderer(recipe.size) as renderer:
        judge = MapJudge(renderer, recipe.map)
        for choice in (name for name in choices.CHOICES if name not in known):
            trial = dataclasses.replace(recipe, train=choice, steps=TRIAL)
            _, times = _trained(Run(work, trial, base(), scenes))
            steps = max(1, round(seconds / float(np.median(times[WARM:]))))
            run = Run(work, dataclasses.replace(trial, steps=steps), base(), scenes)
            loop, times = _trained(run)
            tensors = choices.written(run.base.model.unet, loop.ema.shadow)
            yield {
                "train": choice,
                "lr": run.recipe.rate,
                "steps": steps,
                "seconds": sum(times),
                "weights": sum(t.numel() for t in tensors.values()),
                "maps": judged(_drawn(run, loop, spec), spec, judge),
            }


def _trained(run: Run) -> tuple[Loop, list[float]]:
    """The loop at its end, and the processor time of each step but the first, before which latents are made."""
    stamps: list[float] = []
    run.render()
    with tempfile.TemporaryDirectory(dir=run.work) as folder:
        run.learned = Path(folder)
        loop = run.train(lambda module, step: stamps.append(time.process_time()))
    return loop, np.diff(stamps).tolist()


def _drawn(run: Run, loop: Loop, spec: MapsSpec) -> list[np.ndarray]:
    """Maps as a job would draw them: uint8 ``[H, W, 3]`` each."""
    usual, model, maps = DepthGuide(), run.base.model, []
    with averaged(model.unet, loop.ema.shadow):
        for request in spec.requests():
            asked = dataclasses.replace(request, steps=usual.map_steps, cfg=usual.map_cfg)
            maps += map(np.asarray, decode(model, sample(model, asked)))
    return [levelled(m) for m in maps] if run.recipe.map == "depth" else maps
