"""Positive and negative compared inside the U-Net, while both pass it anyway.

Ordinary guidance compares the two predictions at the end. Here h+ and h- are the features of the positive and the
negative row behind a block, K+ and K- their keys in self-attention:

- *feature*: h+ + g (h+ - h-), guidance before the end of the model;
- *orthogonal*: h+ - g (h- less its part along h+), the way Perp-Neg (arXiv 2304.04968) treats predictions;
- *keys*: K+' = (1 + g) K+ - g K- with V+. The logits are then (1 + g) q k+ - g q k-, so the attention is that of the
  positive to the power 1 + g over that of the negative to the power g: a quotient of two maps of one picture;
- *map*: ||h+ - h-|| of each place as a spatial guidance scale, as S-CFG (arXiv 2404.05384) has it for segments.

Both pushes are capped and blended like NAG (`lib_attn.techniques.penalty.cap`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_attn.layers import parse_selector
from lib_attn.rows import IMAGE_ONLY, NEGATIVE, POSITIVE
from lib_attn.techniques.penalty import cap

AUTO = parse_selector("mid,out0-3")
# Of the guidance, where the two rows agree: with none at all, plain areas keep the noise of guidance scale 1.
FLOOR = 0.5


def orthogonal_part(x: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """`x` less its projection on `along`, token by token over the last dimension."""
    share = (x * along).sum(-1, keepdim=True) / (along * along).sum(-1, keepdim=True).clamp_min(1e-12)
    return x - share * along


def push(positive, negative, feature: float, orthogonal: float, tau: float, blend: float):
    """Features ``[B, C, h, w]`` of the positives moved away from the negatives'; (0, 0) or blend 0 is the identity."""
    if not blend or not (feature or orthogonal):
        return positive
    # Token by token: channels last.
    before = positive.permute(0, 2, 3, 1)
    own, other = before.float(), negative.permute(0, 2, 3, 1).float()
    changed = own + feature * (own - other)
    if orthogonal:
        changed = changed - orthogonal * orthogonal_part(other, own)
    return cap(changed, before, tau, blend).permute(0, 3, 1, 2)


def contrast_keys(positive: torch.Tensor, negative: torch.Tensor, gain: float) -> torch.Tensor:
    """(1 + g) K+ - g K-."""
    return positive + gain * (positive - negative)


def difference_map(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Length of the difference of two features ``[C, h, w]`` at each place, smoothed, with mean 1: ``[h, w]``."""
    length = (positive.float() - negative.float()).norm(dim=0)
    smooth = F.avg_pool2d(length[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
    mean = smooth.mean()
    return smooth / mean if mean > 0 else torch.ones_like(smooth)


def spatial_scale(difference: torch.Tensor, strength: float, size) -> torch.Tensor:
    """Factor ``[h, w]`` of the guidance for latents of `size`: 1 + strength (map - 1), at least `FLOOR`, to mean 1."""
    grown = F.interpolate(difference[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
    scale = (1.0 + strength * (grown - 1.0)).clamp_min(FLOOR)
    return scale / scale.mean().clamp_min(1e-6)


def scale_guidance(positive: torch.Tensor, negative: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The negative that makes guidance `scale` times as strong at each place: c - scale (c - u).

    u' + s (c - u') is then c + (s - 1) scale (c - u).
    """
    return positive - scale.to(positive.dtype) * (positive - negative)


def partners(rows) -> dict[int, int]:
    """Index of each positive row with its image's negative row in the same call, where there is one."""
    if any(row.sign == IMAGE_ONLY for row in rows):
        return {}
    negatives = {row.image: i for i, row in enumerate(rows) if row.sign == NEGATIVE}
    return {i: negatives[row.image] for i, row in enumerate(rows) if row.sign == POSITIVE and row.image in negatives}


def why_alone(call) -> str:
    """How a sentence ends on why the negatives of a `lib_attn.boundary.UnetCall` have no partner; empty if they have.

    Negatives left out in some steps only are no news: what acts in the others acts.
    """
    negatives = [i for i, row in enumerate(call.rows) if row.sign == NEGATIVE]
    if not call.evaluation.guided or not negatives:
        return ""
    if all(call.evaluation.unguided(call.rows[i].image) and i not in call.kept for i in negatives):
        return "Negative skip leaves the negative out at CFG scale 1."
    if all(call.rows[i].image not in {r.image for r in call.rows if r.sign == POSITIVE} for i in negatives):
        return (
            "positive and negative are computed apart: switch on 'Batch cond/uncond' and 'Pad prompt/negative prompt "
            "to be same length' in the webui's settings."
        )
    return ""


class ContrastRuntime:
    """Comparisons over one sampling pass; holds the last difference map of each image."""

    extends = False

    def __init__(self, settings, seeds, say):
        self._settings, self._say = settings, say
        self._pushes = bool(settings.keys or (settings.blend and (settings.feature or settings.orthogonal)))
        # The map as a guidance scale needs none of its own: where the negative drops out there is no guidance.
        self.compares = self._pushes or settings.show_map
        chosen = parse_selector(settings.blocks)
        self._selector = AUTO if chosen.auto else chosen
        self._last: str | None = None  # the last chosen block in forward order gives the map
        self._positives: dict[int, torch.Tensor] = {}
        self._maps: dict[int, torch.Tensor] = {}
        self._sums: dict[int, tuple[torch.Tensor, int]] = {}
        self._evaluation = None

    def _active(self, name: str, strength: str, moment) -> bool:
        s = self._settings
        if not getattr(s, strength) or not moment.within(s.start, s.end):
            return False
        return moment.within(getattr(s, f"{name}_start"), getattr(s, f"{name}_end"))

    @property
    def _maps_wanted(self) -> bool:
        return bool(self._settings.map_strength or self._settings.show_map)

    def wants(self, layer) -> bool:
        return bool(self._settings.keys) and self._selector.matches(layer)

    def edits(self, call) -> bool:
        return self._active("keys", "keys", call.moment) and bool(partners(call.rows))

    def edit(self, call, q, k, v):
        pairs = partners(call.rows)
        own, other = list(pairs), list(pairs.values())
        k = k.index_copy(0, torch.tensor(own, device=k.device), contrast_keys(k[own], k[other], self._settings.keys))
        return q, k, v, None

    def wants_features(self, block) -> bool:
        s = self._settings
        if not (s.feature or s.orthogonal or self._maps_wanted) or not self._selector.matches(block):
            return False
        self._last = block.name
        return True

    def features(self, call):
        """The block's output with the positives pushed, None when there is nothing to do."""
        s = self._settings
        if self._maps_wanted and call.block.name == self._last:
            self._see(call)
        feature = s.feature if self._active("feature", "feature", call.moment) else 0.0
        orthogonal = s.orthogonal if self._active("orthogonal", "orthogonal", call.moment) else 0.0
        pairs = partners(call.rows)
        if not pairs or not s.blend or not (feature or orthogonal):
            return None
        own, other = list(pairs), list(pairs.values())
        out = call.h.clone()
        out[own] = push(call.h[own], call.h[other], feature, orthogonal, s.tau, s.blend)
        return out

    def _see(self, call) -> None:
        """Take the difference maps; the negative's features may come in a later call than the positive's."""
        if call.evaluation is not self._evaluation:
            self._evaluation = call.evaluation
            self._positives.clear()
        for row, h in zip(call.rows, call.h, strict=True):
            if row.sign == POSITIVE and row.part == 0:
                self._positives[row.image] = h
        for row, h in zip(call.rows, call.h, strict=True):
            positive = self._positives.get(row.image)
            if row.sign == NEGATIVE and positive is not None and positive.shape == h.shape:
                new = self._maps[row.image] = difference_map(positive, h)
                total, count = self._sums.get(row.image, (0.0, 0))
                self._sums[row.image] = (total + new, count + 1)

    def leave(self, call, output):
        """Scale the guidance by the map, in the negative's prediction."""
        s = self._settings
        if self._pushes:
            missing = why_alone(call)
            if missing:
                self._say(f"Contrast did nothing where {missing}")
        if not call.evaluation.guided or not self._active("map", "map_strength", call.moment):
            return output
        changed = output
        for index, row in enumerate(call.rows):
            positive, difference = call.positive(row.image), self._maps.get(row.image)
            if row.sign == NEGATIVE and positive is not None and difference is not None:
                changed = output.clone() if changed is output else changed
                scale = spatial_scale(difference, s.map_strength, output.shape[-2:])
                changed[index] = scale_guidance(positive, output[index], scale)
        return changed

    def pictures(self):
        """The mean map of each image, ``[h, w]`` with values 0 … 1; empty unless they are to be shown."""
        if not self._settings.show_map:
            return {}
        return {
            image: total / count / (total / count).max().clamp_min(1e-6) for image, (total, count) in self._sums.items()
        }
