"""How far pictures move when whole steps are left out or thinned, against the share of the work that is done.

Compared are step skip, fewer steps, and two published methods by formulas of our own on any ldm U-Net:

- the deep features of a computed step kept, the outermost blocks computed (DeepCache, arXiv 2312.00858);
- a ridge fit of Chebyshev polynomials to all computed steps (Spectrum, arXiv 2603.01623: degree 4, lambda 0.1), of the
  prediction or of those deep features.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import FULL, SamplingPass, Variant, setting
from lib_attn.lab.measuring.cost import Arithmetic
from lib_attn.lab.measuring.negative.cases import every
from lib_attn.lab.shared.distances import mean_and_error, relative_l2
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.techniques.spacing import is_due, key_interval

DEGREE, RIDGE = 4, 0.1
FORMULA = "formula"  # source of what is written here after a paper


@dataclass(frozen=True)
class StepRow:
    """One case with one sampler.

    work: share of the multiplications of all steps. l2: relative L2 of the final latents to those of all steps, mean
    over the images. error: of that mean.
    """

    sampler: str
    name: str
    work: float
    l2: float
    error: float
    images: int
    l2_all: list[float] | None = None
    settings: dict | None = None


@dataclass(frozen=True)
class StepCase:
    """steps: fewer than all of them, None for all."""

    name: str
    variant: Variant = FULL
    steps: int | None = None


def step_cases(steps: int) -> list[StepCase]:
    """Fewer steps first, which everything else has to beat at its work."""
    cases = [StepCase(f"{k} steps", steps=k) for k in sorted({max(1, round(steps * s)) for s in (0.3, 0.4, 0.5, 0.65)})]
    cases += [StepCase(f"step skip {n}", setting("", f"step_skip.key_every={n}")) for n in (2, 2.5, 3)]
    forms = {"no trend": "trend=0", "whole trend": "trend=1", "even": "early=0"}
    cases += [StepCase(f"step skip 2, {name}", setting("", f"step_skip.key_every=2; step_skip.{text}"))
              for name, text in forms.items()]  # fmt: skip
    cases += [StepCase(f"deep features {n}", thinned(n, deep=True)) for n in (2, 3, 5)]
    cases += [StepCase("ridge fit of predictions 2", thinned(2, fit=True)),
              StepCase("ridge fit of deep features 3", thinned(3, deep=True, fit=True))]  # fmt: skip
    cases += [StepCase(f"negative until 40 %, {kind}", setting("", every(1, f"until=0.4; stopped={kind}")))
              for kind in ("estimate", "T-GATE", "plain")]  # fmt: skip
    return [*cases, StepCase("step skip 2, negative every 3rd", setting("", every(3, "step_skip.key_every=2")))]


def thinned(key_every: float, *, deep: bool = False, fit: bool = False) -> Variant:
    """A published method with computed steps spread as step skip spreads them."""

    @contextlib.contextmanager
    def put(unet: Any, ahead: SamplingPass) -> Iterator[None]:
        unet.forward = Thinned(unet, key_every, ahead.steps, deep, fit)
        try:
            yield
        finally:
            del unet.forward

    return Variant(f"thinned {key_every} {deep} {fit}", "", "peer", put, source=FORMULA)


class Thinned:
    """A U-Net's forward that computes every n-th evaluation in full.

    Args:
        deep: in the others the first In and the last Out block are computed, otherwise nothing is.
        fit: what is put in is fitted to all computed steps, otherwise it is that of the last one.
    """

    def __init__(self, unet: Any, key_every: float, steps: int, deep: bool, fit: bool):
        self._unet, self._every, self._steps, self._deep, self._fit = unet, key_every, steps, deep, fit
        self._step, self._since = 0, 0
        self._known: list[tuple[int, torch.Tensor]] = []

    def __call__(self, x, timesteps=None, context=None, **others):
        interval = key_interval(self._every, 1.0, self._step / self._steps, self._steps)
        full = self._step < 2 or is_due(self._since, interval)
        self._since = 0 if full else self._since + 1
        out = self._deeply(x, timesteps, context, full) if self._deep else self._wholly(x, timesteps, context, full)
        self._step += 1
        return out

    def _wholly(self, x, timesteps, context, full: bool):
        if not full:
            return self._put_in()
        return self._learn(type(self._unet).forward(self._unet, x, timesteps, context))

    def _deeply(self, x, timesteps, context, full: bool):
        found = {}
        last = self._unet.output_blocks[-1]
        before = self._unet.output_blocks[-2]
        if full:
            handle = before.register_forward_hook(lambda module, args, h: found.update(h=h))
            try:
                out = type(self._unet).forward(self._unet, x, timesteps, context)
            finally:
                handle.remove()
            self._learn(found["h"])
            return out
        emb = self._unet.time_embed(embedding_of(timesteps, self._unet.model_channels))
        skip = self._unet.input_blocks[0](x, emb, context)
        return self._unet.out(last(torch.cat([self._put_in(), skip], 1), emb, context))

    def _learn(self, value: torch.Tensor) -> torch.Tensor:
        self._known = [*(self._known if self._fit else ()), (self._step, value)]
        return value

    def _put_in(self) -> torch.Tensor:
        if not self._fit:
            return self._known[-1][1]
        rows = torch.tensor([_chebyshev(step / self._steps) for step, _ in self._known], dtype=torch.float64)
        now = torch.tensor(_chebyshev(self._step / self._steps), dtype=torch.float64)
        weights = rows @ torch.linalg.solve(rows.T @ rows + RIDGE * torch.eye(DEGREE + 1, dtype=torch.float64), now)
        return sum(float(w) * value for w, (_, value) in zip(weights, self._known, strict=True))


def _chebyshev(share: float) -> list[float]:
    """Chebyshev polynomials up to `DEGREE` at a share of the steps, 0 … 1."""
    angle = math.acos(min(max(2.0 * share - 1.0, -1.0), 1.0))
    return [math.cos(k * angle) for k in range(DEGREE + 1)]


def embedding_of(timesteps: torch.Tensor, channels: int) -> torch.Tensor:
    """The U-Net's sinusoidal embedding of timesteps."""
    from ldm.modules.diffusionmodules.util import timestep_embedding

    return timestep_embedding(timesteps, channels)


class Passed:
    """Counts the rows that pass a module."""

    def __init__(self, module: Any):
        self.rows = 0
        self._handle = module.register_forward_hook(self._count)

    def _count(self, module: Any, args: tuple, output: torch.Tensor) -> None:
        self.rows += len(output)

    def remove(self) -> None:
        self._handle.remove()


def outer_share(unet: Any, context: torch.Tensor, side: int = 32) -> float:
    """Share of a call's multiplications that the first In and the last Out block and what surrounds them take."""
    x, counted, forward = torch.zeros(1, unet.in_channels, side, side), [], Thinned(unet, 50, 50, True, False)
    with torch.inference_mode():
        for _ in range(3):  # the first two are full
            with Arithmetic() as arithmetic:
                forward(x, torch.zeros(1), context)
            counted.append(arithmetic.macs)
    return counted[2] / counted[0]


def measure(model: LabModel, cases: Sequence[StepCase], request: Request, progress: Progress = silent) -> list[StepRow]:
    """Draw a request with all steps and with each case."""
    outer, out = outer_share(model.unet, model.text([""])), []
    first, middle = (Passed(module) for module in (model.unet.input_blocks[0], model.unet.middle_block))
    try:
        progress(f"{request.sampler}: all steps")
        baseline, all_rows = sample(model, request), middle.rows
        for case in cases:
            progress(f"{request.sampler}: {case.name}")
            first.rows = middle.rows = 0
            latents = sample(model, replace(request, steps=case.steps or request.steps), case.variant)
            work = (outer * first.rows + (1.0 - outer) * middle.rows) / all_rows
            found = [relative_l2(a, b) for a, b in zip(latents, baseline, strict=True)]
            mean, error = mean_and_error(found)
            out.append(StepRow(request.sampler, case.name, work, mean, error, len(found), found, case.variant.changed))
    finally:
        first.remove()
        middle.remove()
    return out
