"""Compute the negative as little as possible.

Most of what guidance costs is a second row per image. Here the row is left out in some steps, and what it would have
predicted is filled in:

- *estimate*: the positive's prediction less the guidance (positive - negative) of the image's last full step, its
  change since the one before continued. The idea of FasterCache (arXiv 2410.19355), with its weights for coarse and
  fine parts and a line instead of a constant; guidance scale keeps its meaning.
- *copy*: the positive's prediction, as the webui's NGMS does. Guidance scale does nothing in such a step.
- *zeros*: nothing was predicted. By itself u + s (c - u) would then be s times the positive's prediction; the result is
  brought back to the positive's size, so that guidance scale does not amplify.

Full steps: a first share, every n-th (closer together at first), or whenever the two predictions disagree (Adaptive
Guidance, arXiv 2312.12487).
After a share of the steps the negative may stop for good; what stands for it then is the estimate, the positive's
prediction, or that and what `lib_attn.techniques.negative_skip.gate` keeps of cross-attention.
At guidance scale 1 the negative drops out of the formula and is never computed. What keeps the negative prompt alive
in the meantime is in `lib_attn.techniques.negative_skip.penalty`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.negative_skip.gate import Gate
from lib_attn.techniques.negative_skip.penalty import NegativeText, penalise
from lib_attn.techniques.spacing import ENOUGH_STEPS, RISE, is_due, key_interval
from lib_attn.unet.batch import has_mean, weighted_mean
from lib_attn.unet.layers import parse_selector
from lib_attn.unet.rows import NEGATIVE, POSITIVE

COARSE = 0.25  # share of each axis' frequencies that counts as coarse


def weigh_frequencies(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Multiply coarse parts of ``[C, h, w]`` by `low` and fine ones by `high`; (1, 1) is the identity."""
    if low == high:
        return x if low == 1.0 else x * low
    h, w = x.shape[-2:]
    rows = torch.fft.fftfreq(h, device=x.device).abs()[:, None] <= COARSE / 2
    columns = torch.fft.rfftfreq(w, device=x.device)[None] <= COARSE / 2
    weights = torch.where(rows & columns, low, high)
    return torch.fft.irfft2(torch.fft.rfft2(x.float()) * weights, s=(h, w)).to(x.dtype)


def guidance_ratio(now: float, then: float, power: float, prediction: str = "epsilon") -> float:
    """By how much the difference of two predictions changes between two noise levels (sigma: noise over signal).

    The noise predictions' difference is taken to go with sigma to the `power`: 0 keeps it, -1 keeps the difference of
    the predicted pictures. For v-prediction the same is said of the noise predictions that follow from it.
    """
    ratio = (now / then) ** power
    return ratio * math.sqrt((1 + now**2) / (1 + then**2)) if prediction == "v" else ratio


def continue_trend(last: tuple, before: tuple | None, sigma: float, trend: float) -> torch.Tensor:
    """The guidance at noise level `sigma`, continued in a straight line over log sigma from two full steps.

    Args:
        last, before: (sigma, guidance) of the last full step and the one before it, if there was one.
        trend: 0: as at the last, 1: the whole line.
    """
    if before is None or not trend or before[0] <= last[0] * RISE or sigma > last[0] * RISE:
        return last[1]
    share = math.log(last[0] / sigma) / math.log(before[0] / last[0])
    # Steps grow towards the end of many schedules; the line is not followed further than it was known.
    return last[1] + trend * min(share, 1.0) * (last[1] - before[1])


def level_negative(positive: torch.Tensor, negative: torch.Tensor, scale: float | None) -> torch.Tensor:
    """A negative u' for which u' + s (c - u') is u + s (c - u) brought to the norm of c (``[C, h, w]`` each).

    For u = 0 that is u' = c: zeros with a levelled result are the same as a copy of the positive.

    Args:
        positive: c, for several prompts their weighted mean. scale: s, the guidance scale times the sum of the weights.
    """
    if scale is None or abs(1.0 - scale) < 1e-3:
        return negative
    c, u = positive.float(), negative.float()
    combined = u + scale * (c - u)
    size, wanted = combined.norm(), c.norm()
    # Nothing cannot be brought to a size; what u = 0 comes to at every other scale stands in.
    combined = torch.where(size > 1e-6 * wanted, combined * (wanted / size.clamp_min(1e-12)), c)
    return ((combined - scale * c) / (1.0 - scale)).to(negative.dtype)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two tensors of one shape, over everything."""
    a, b = a.float().flatten(), b.float().flatten()
    return float(torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12))


ONE = "One step is always computed in full: more steps are needed."
FEW = "With so few steps all of them are computed in full (Full steps early): more steps are needed."
NOT_GUIDED = "At CFG 1 no step needs the negative, so there is nothing to skip: it works above CFG 1."


@dataclass
class Track:
    """What is known of one image. since: steps skipped after its last full one, None before the first.

    sigma, guidance: of that step. before: the same of the full step before it. agrees: whether its two predictions
    were alike enough to go on without the negative. edition: which of the image's prompts all this holds for.
    """

    since: int | None = None
    sigma: float = 0.0
    guidance: torch.Tensor | None = None
    before: tuple[float, torch.Tensor] | None = None
    features: torch.Tensor | None = None
    agrees: bool = False
    edition: object = None

    def learn(self, agreement: float, threshold: float, hysteresis: float) -> None:
        """Note the cosine of a full step: from the threshold on the negative may go, well below it is back."""
        if agreement >= threshold:
            self.agrees = True
        elif agreement < threshold - hysteresis:
            self.agrees = False


def has_stopped(settings, share: float) -> bool:
    """Whether the negative has stopped for good at a share of the steps."""
    return settings.until < 1.0 and share >= settings.until


def may_skip(settings, track: Track, share: float, sigma: float, steps: int | None = None) -> bool:
    """Whether an image's negative may be left out of an evaluation.

    Args:
        settings: `lib_attn.settings.NegativeSkip`. share: of the steps, 0 … 1. sigma: noise over signal now.
        steps: number of all steps, None when unknown.
    """
    s = settings
    if share < s.keep_first or s.key_every == 1:
        return False
    if track.since is None:
        return not (s.key_every or s.adaptive or s.fill == "estimate")
    if sigma > track.sigma * RISE and (s.fill == "estimate" or s.adaptive):
        return False
    if s.key_every and is_due(track.since, key_interval(s.key_every, s.early, share, steps)):
        return False
    return track.agrees if s.adaptive else True


class NegativeSkipRuntime(Runtime):
    """Skipped negatives over one sampling pass: which steps, what is filled in, and the penalty meanwhile."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        self._selector = parse_selector(settings.blocks)
        self._tracks: dict[int, Track] = {}
        self._text = NegativeText()
        self._evaluation = None
        self._skipped: frozenset[int] = frozenset()
        self._evaluations = 0
        self._wordless = self._unscaled = self._few = self._guided = False
        self._stopped, self._step = False, None
        self._gate = Gate() if settings.until < 1 and settings.stopped == "T-GATE" else None
        self.through = settings.through
        self.reads_text = settings.penalty != "off" and settings.strength > 0 and settings.blend > 0

    def wants_cross(self, layer) -> bool:
        return self._gate is not None or self._penalises(layer)

    def _penalises(self, layer) -> bool:
        return self.reads_text and (self._selector.auto or self._selector.matches(layer))

    @property
    def _estimates(self) -> bool:
        """Whether the guidance of full steps is wanted later."""
        s = self._settings
        return s.fill == "estimate" or (s.until < 1 and s.stopped == "estimate")

    @property
    def _fill(self) -> str:
        """What stands for a negative that is left out of the evaluation in flight."""
        s = self._settings
        return s.fill if not self._stopped else "estimate" if s.stopped == "estimate" else "copy"

    def enter(self, call):
        """Indices of the rows to compute, None for all."""
        s, evaluation = self._settings, call.evaluation
        if not evaluation.guided or not call.moment.within(s.start, s.end):
            self._skipped = frozenset()
            return None
        if evaluation is not self._evaluation:
            self._evaluation = evaluation
            self._evaluations += 1
            self._few = (call.moment.steps or ENOUGH_STEPS) < ENOUGH_STEPS
            self._stopped = has_stopped(s, call.moment.share)
            self._count_forecast(call.moment.step)
            self._skipped = self._plan(call)
        if self.reads_text:
            self._see_text(call)
        left_out = [i for i, row in enumerate(call.rows) if row.sign == NEGATIVE and row.image in self._skipped]
        left_out += self._alike(call)
        if not left_out:
            return None
        kept = [i for i in range(len(call.rows)) if i not in left_out]
        if self.through and not self._stopped and not all(evaluation.unguided(call.rows[i].image) for i in left_out):
            return self._partly(call, kept, left_out)
        return kept

    def _count_forecast(self, step: int) -> None:
        """Count evaluations that were forecast as a whole since the last one: nobody is asked about those."""
        for track in self._tracks.values():
            if track.since is not None and self._step is not None:
                track.since += max(0, step - self._step - 1)
        self._step = step

    def _alike(self, call) -> list[int]:
        """Rows of AND prompts that come out as the first of their image does, since the gate gives them its result."""
        if self._gate is None or not self._stopped:
            return []
        first = {row.image for row in call.rows if row.sign == POSITIVE and row.part == 0} | set(call.predictions)
        return [
            i
            for i, row in enumerate(call.rows)
            if row.sign == POSITIVE and row.part and row.image in first & self._skipped and self._gate.shut(row.image)
        ]

    def _partly(self, call, kept, left_out):
        """The form in which the rows pass the outer blocks, where it can be had."""
        if call.whole:
            self._say("Negative skip: ControlNet is at work, so the negative is left out of all blocks.")
            return kept
        here = {call.rows[i].image for i in kept if call.rows[i].sign == POSITIVE}
        if not {call.rows[i].image for i in left_out} <= here:
            self._say("Negative skip: Keep In blocks needs positive and negative in one batch, so nothing is left out.")
            self._skipped = frozenset()
            return None
        call.through = self.through
        return kept

    def _plan(self, call) -> frozenset[int]:
        """Images whose negative is left out of the evaluation that begins with this call."""
        evaluation, images = call.evaluation, {row.image for row in call.evaluation.rows}
        unguided = {i for i in images if evaluation.unguided(i)}
        self._guided = self._guided or len(unguided) < len(images)
        if call.fixed:
            wanted = self._settings.key_every != 1 or self._stopped or any(map(evaluation.drops_out, images))
            why = call.fixed
            if wanted and not call.told:
                self._say(f"Negative skip computes the negative in every step: {why}.")
            return frozenset()
        if evaluation.positive_only:
            for track in self._tracks.values():
                track.since = None if track.since is None else track.since + 1
            return frozenset(images)
        if evaluation.negative_read and self._fill != "estimate":
            read = evaluation.negative_read
            why = f"{read}, so only an estimate could stand in"
            self._say(f"Negative skip computes the negative in every step: {why}.")
            return frozenset()
        skipped = set()
        for image in images - unguided:
            edition = evaluation.edition(image)
            track = self._tracks.setdefault(image, Track(edition=edition))
            resized = track.guidance is not None and track.guidance.shape[-2:] != call.x.shape[-2:]
            if resized or track.edition != edition:
                self._tracks[image] = track = Track(edition=edition)
                if self._gate is not None:
                    self._gate.open(image)
            if self._stopped:
                may = self._may_stop(image, call)
            else:
                may = may_skip(self._settings, track, call.moment.share, call.sigma, call.moment.steps)
            if may:
                skipped.add(image)
        if self._gate is not None and self._stopped:
            self._gate.begin(evaluation, images - unguided - skipped)
        if skipped and evaluation.negative_read:
            why = evaluation.negative_read
            self._say(
                f"Negative skip: {why}, and gets an estimate where it is left out. That may shift "
                "colours; with Full step every 1 it is never left out."
            )
        return frozenset(unguided | skipped)

    def _may_stop(self, image: int, call) -> bool:
        """Whether all is known that stands for the negative of `image` from now on; else this step is a full one."""
        s, track = self._settings, self._tracks[image]
        if s.stopped == "estimate":
            return track.guidance is not None and call.sigma <= track.sigma * RISE
        return self._gate is None or self._gate.shut(image)

    def _see_text(self, call) -> None:
        evaluation = call.evaluation
        if evaluation.negative is not None:
            self._text.take(evaluation.negative, evaluation.words)
            return
        rows = [i for i, row in enumerate(call.rows) if row.sign == NEGATIVE]
        if call.context is not None and rows and len(rows) == sum(row.sign == NEGATIVE for row in evaluation.rows):
            self._text.take(call.context[rows], evaluation.words)

    def fill(self, call, row):
        """What a left-out row would have predicted, ``[C, h, w]``."""
        s, track = self._settings, self._tracks.get(row.image)
        positive = call.positive(row.image)
        if positive is None:
            return 0.0
        if row.sign == POSITIVE:
            return positive
        if self._fill == "zeros":
            return self._level(call, row, positive, torch.zeros_like(positive))
        if self._fill == "copy" or track is None or track.guidance is None:
            return positive
        power, kind = s.sigma_power, self._context.prediction
        before = track.before
        if before is not None:
            before = before[0], before[1] * guidance_ratio(track.sigma, before[0], power, kind)
        guidance = continue_trend((track.sigma, track.guidance), before, call.sigma, s.trend)
        guidance = weigh_frequencies(guidance, s.low_weight, s.high_weight)
        return positive - guidance_ratio(call.sigma, track.sigma, power, kind) * guidance.to(positive.dtype)

    def _level(self, call, row, positive, negative):
        """`level_negative`, or the positive itself where AND weights cancel: no scale makes a picture of that."""
        if not has_mean(call.evaluation.weights(row.image)):
            self._say("Negative skip: the weights of AND cancel each other, so zeros become a copy of the positive.")
            return positive
        return level_negative(positive, negative, call.evaluation.scale(row.image))

    def take_back(self):
        """The rows left out of the call in flight are computed after all."""
        self._skipped = frozenset()

    def why_idle(self):
        """Why neither rows were left out nor a penalty acted, None when there is no special reason."""
        s = self._settings
        if self._evaluations and not self._guided and not self.reads_text:
            return NOT_GUIDED
        if self._evaluations == 1 and s.key_every != 1 and s.keep_first < 1:
            return ONE
        if s.early > 0 and s.key_every != 1 and self._few:
            return FEW
        if self.reads_text and self._unscaled and s.key_every == 1 and s.until == 1:
            return "The penalty acts only where CFG scale times the prompt's weight is 1 (Penalty when)."
        return None

    def refill(self, call, h):
        """Features ``[B, C, h, w]`` of all rows behind the inner blocks, given those of the rows computed."""
        if not call.evaluation.guided:
            return None
        at = {index: place for place, index in enumerate(call.kept)}
        parts: dict[int, list] = {row.image: [] for row in call.rows}
        for index, row in enumerate(call.rows):
            if row.sign == POSITIVE:
                parts[row.image].append((row.weight, h[at[index]]))
        means = {image: weighted_mean(found) for image, found in parts.items()}
        out = h.new_empty((len(call.rows), *h.shape[1:])) if call.dropped else None
        if out is not None:
            out[list(call.kept)] = h
        for index, row in enumerate(call.rows):
            if row.sign != NEGATIVE or means[row.image] is None:
                continue
            track = self._tracks.setdefault(row.image, Track())
            if index in at:
                if self._settings.fill == "estimate":
                    track.features = means[row.image] - h[at[index]]
            else:
                out[index] = self._features(means[row.image], track)
        return out

    def _features(self, positive, track):
        if self._settings.fill == "zeros":
            return torch.zeros_like(positive)
        known = self._settings.fill == "estimate" and track.features is not None
        return positive - track.features if known and track.features.shape == positive.shape else positive

    def leave(self, call, output):
        """Learn from the negatives that were computed, count those that were not."""
        s = self._settings
        if not call.evaluation.guided or self._evaluation is not call.evaluation:
            return output
        changed = output
        for index, row in enumerate(call.rows):
            positive = call.positive(row.image)
            if row.sign != NEGATIVE or positive is None:
                continue
            track = self._tracks.setdefault(row.image, Track())
            if row.image in self._skipped:
                track.since = (track.since or 0) + 1
                if call.through and s.fill == "zeros":
                    changed = changed.clone() if changed is output else changed
                    changed[index] = self._level(call, row, positive, output[index])
                continue
            if self._gate is not None:
                self._gate.end(row.image)
            if self._estimates:
                track.before = None if track.guidance is None else (track.sigma, track.guidance)
                track.guidance = positive - output[index]
            track.since, track.sigma = 0, call.sigma
            if s.adaptive:
                track.learn(cosine(positive, output[index]), s.adaptive, s.hysteresis)
        return changed

    def cross(self, call):
        """Cross-attention's result with the penalty on the positive rows, None where there is none."""
        s, evaluation = self._settings, call.evaluation
        if evaluation is not self._evaluation:
            return None
        if self._gate is not None:
            self._gate.learn(call)
            held = self._gate.replace(call, self._skipped) if self._stopped else None
            if held is not None:
                return held
        if not self._penalises(call.layer):
            return None
        if not call.moment.within(s.penalty_start, s.penalty_end):
            return None

        def due(row):
            if row.sign != POSITIVE or row.weight < 0:
                return False
            if s.penalty_when == "all steps":
                return True
            return row.image in self._skipped if s.penalty_when == "skipped steps" else evaluation.drops_out(row.image)

        wanted = [i for i, row in enumerate(call.rows) if due(row)]
        rows = [i for i in wanted if self._text.has(call.rows[i].image)]
        self._unscaled |= not wanted and s.penalty_when == "at CFG 1"
        if wanted and not rows and not self._wordless:
            self._wordless = True
            self._say("Negative skip: its penalty did nothing, because the negative prompt has no words.")
        return penalise(call, self._text, rows, s) if rows else None


RUNTIME = NegativeSkipRuntime
