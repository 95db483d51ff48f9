"""Steps left out of a sampling pass: every n-th evaluation is computed, in between its predictions are forecast.

An image's forecast comes from its own last two computed evaluations, and each of its rows (conditions and negative) has
one of its own; so guidance, AND and whatever else a host makes of the rows stay as they are. What is forecast is the
U-Net's whole prediction. Keeping deep features and computing the outer blocks (DeepCache, arXiv 2312.00858) or fitting
curves to many earlier steps (Spectrum, arXiv 2603.01623) came out behind it at equal work: docs/step-skip.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.spacing import ENOUGH_STEPS, RISE, is_due, key_interval
from lib_attn.techniques.step_skip.forecast import Line, has_fresh_noise, noise_of, prediction_of, unscaled
from lib_attn.unet.rows import LATENT_CHANNELS, NEGATIVE, Row

TWO = "The first two steps are always computed: more steps are needed."
FEW = "With so few steps all of them are computed (Computed steps early): more steps are needed."


@dataclass
class Track:
    """What is known of one image. since: evaluations left out after the last computed one. sigma: of that one.

    steps: how many have been computed. lines: by sign and part of its rows. past: latent, and noises by row, of the
    last two evaluations, whether computed or forecast. edition, shape: of its prompts and latents that this is for.
    """

    since: int = 0
    sigma: float = 0.0
    steps: int = 0
    lines: dict[tuple[str, int], Line] = field(default_factory=dict)
    past: list[tuple[torch.Tensor, dict]] = field(default_factory=list)
    edition: object = None
    shape: object = None


def may_skip(settings, track: Track, step: int, share: float, steps: int | None) -> bool:
    """Whether an image's evaluation may be left out.

    Args:
        settings: `StepSkip`. step: running number. share: of the steps, 0 … 1. steps: number of all, None if unknown.
    """
    s = settings
    if s.key_every == 1 or share < s.keep_first or track.steps < 2:
        return False
    if step >= steps * (1.0 - s.keep_last) - 1e-6 if steps else s.keep_last == 1.0:
        return False
    return not is_due(track.since, key_interval(s.key_every, s.early, share, steps))


class StepSkipRuntime(Runtime):
    """Which evaluations of a sampling pass are computed, and what stands for the others."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        self._tracks: dict[int, Track] = {}
        self._evaluation = None
        self._skipped: frozenset[int] = frozenset()
        self._evaluations, self._sigma, self._few = 0, 0.0, False
        self._fresh: dict[int, bool] = {}
        self._noted: set[int] = set()

    def enter(self, call):
        """Indices of the rows to compute; of images that are forecast there are none."""
        if call.evaluation is not self._evaluation:
            self._evaluation = call.evaluation
            self._evaluations, self._sigma = self._evaluations + 1, call.sigma
            self._few = self._settings.early > 0 and (call.moment.steps or ENOUGH_STEPS) < ENOUGH_STEPS
            self._fresh, self._noted = {}, set()
            self._skipped = self._plan(call)
        return [i for i, row in enumerate(call.rows) if row.image not in self._skipped] if self._skipped else None

    def _plan(self, call) -> frozenset[int]:
        """Images that are forecast in the evaluation that begins with this call; counts it for all of them."""
        s, evaluation, skipped = self._settings, call.evaluation, set()
        fixed = call.fixed
        if evaluation.adaptive:
            fixed = "this sampler chooses its steps by what the model predicts, so nothing may be forecast"
        for image in {row.image for row in evaluation.rows}:
            edition, track = evaluation.edition(image), self._tracks.get(image)
            if track is None or track.edition != edition or track.shape != call.x.shape[2:]:
                track = self._tracks[image] = Track(edition=edition, shape=call.x.shape[2:])
            rows = [
                r for r in evaluation.rows if r.image == image and not (evaluation.positive_only and r.sign == NEGATIVE)
            ]
            if call.moment.within(s.start, s.end) and not fixed and self._may(track, rows, call):
                skipped.add(image)
                track.since += 1
            else:
                track.since, track.sigma, track.steps = 0, call.sigma, track.steps + 1
        if fixed and s.key_every > 1 and not call.told:
            self._say(f"Step skip computes every step: {fixed}.")
        return frozenset(skipped)

    def _may(self, track: Track, rows: list[Row], call) -> bool:
        """Whether an image may be forecast now."""
        if call.sigma > track.sigma * RISE or any((row.sign, row.part) not in track.lines for row in rows):
            return False
        moment = call.moment
        return may_skip(self._settings, track, moment.step, moment.share, moment.steps)

    def fill(self, call, row):
        """What the model would have predicted for `row`, ``[C, h, w]``."""
        track, kind = self._tracks[row.image], self._context.prediction
        x = call.x[call.rows.index(row), :LATENT_CHANNELS]
        z = unscaled(x, call.sigma)
        if row.image not in self._fresh:
            past = [(latent, list(noises.values())) for latent, noises in track.past]
            self._fresh[row.image] = has_fresh_noise(z, call.sigma, past)
        noise = track.lines[row.sign, row.part].at(call.sigma, z, self._settings.trend, self._fresh[row.image])
        return prediction_of(x, noise, call.sigma, kind)

    def take_back(self):
        """What was to be forecast is computed after all."""
        for image in self._skipped:
            track = self._tracks[image]
            track.since, track.sigma, track.steps = 0, self._sigma, track.steps + 1
        self._skipped = frozenset()

    def learn(self, call, output):
        """Take the noise that the predictions of an evaluation stand for."""
        if call.evaluation is not self._evaluation:
            return
        for index, row in enumerate(call.rows):
            track, key, x = self._tracks[row.image], (row.sign, row.part), call.x[index, :LATENT_CHANNELS]
            z, noise = unscaled(x, call.sigma), noise_of(x, output[index], call.sigma, self._context.prediction)
            if row.image not in self._noted:
                self._noted.add(row.image)
                track.past = [*track.past[-1:], (z, {})]
            track.past[-1][1][key] = noise
            if row.image not in self._skipped:
                track.lines.setdefault(key, Line()).learn(call.sigma, z, noise)

    def why_idle(self):
        """Why no step was left out, None when there is no special reason."""
        if self._settings.key_every > 1 and self._evaluations <= 2:
            return TWO
        return FEW if self._settings.key_every > 1 and self._few else None


RUNTIME = StepSkipRuntime
