"""Contrast on a U-Net: what is compared in which blocks and steps, and the maps to show."""

from __future__ import annotations

import torch

from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.contrast.maths import contrast_keys, difference_map, push, scale_guidance, spatial_scale
from lib_attn.techniques.guidance import are_apart, are_left_out, partners
from lib_attn.unet.layers import parse_selector
from lib_attn.unet.rows import NEGATIVE, POSITIVE

AUTO = parse_selector("mid,out0-3")
LEFT_OUT = "Negative skip leaves the negative out at CFG 1: nothing to compare with."


class ContrastRuntime(Runtime):
    """Comparisons over one sampling pass; holds the last difference map of each image."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        self._pushes = bool(settings.keys or (settings.blend and (settings.feature or settings.orthogonal)))
        # The map as a guidance scale needs none of its own: where the negative drops out there is no guidance.
        self.compares = self._pushes or settings.show_map
        chosen = parse_selector(settings.blocks)
        self._selector = AUTO if chosen.auto else chosen
        self._last: str | None = None  # the last chosen block in forward order gives the map
        self._positives: dict[int, torch.Tensor] = {}
        self._maps: dict[int, torch.Tensor] = {}
        self._sums: dict[int, tuple[torch.Tensor, int]] = {}
        self._evaluation, self._left_out = None, False

    def _active(self, name: str, strength: str, moment) -> bool:
        s = self._settings
        if not getattr(s, strength) or not moment.within(s.start, s.end):
            return False
        return moment.within(getattr(s, f"{name}_start"), getattr(s, f"{name}_end"))

    @property
    def _maps_wanted(self) -> bool:
        return bool(self._settings.map_strength or self._settings.show_map)

    def wants_self(self, layer) -> bool:
        """Chosen blocks, if keys are contrasted at all."""
        return bool(self._settings.keys) and self._selector.matches(layer)

    def edits(self, call) -> bool:
        """Whether key contrast is on in this step and a positive has its negative beside it."""
        return self._active("keys", "keys", call.moment) and bool(partners(call.rows))

    def edit(self, call, q, k, v):
        """Keys ``[B, N, H, d]`` of the positives contrasted with their negatives'; queries and values as they are."""
        pairs = partners(call.rows)
        own, other = list(pairs), list(pairs.values())
        k = k.index_copy(0, torch.tensor(own, device=k.device), contrast_keys(k[own], k[other], self._settings.keys))
        return q, k, v, None

    def wants_features(self, block) -> bool:
        """Chosen blocks, if features are pushed or mapped at all; the last of them gives the map."""
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
            self._left_out = self._left_out or are_left_out(call)
            if are_apart(call):
                self._say(
                    "Contrast did nothing where positive and negative are computed apart: switch on 'Batch "
                    "cond/uncond' and 'Pad prompt/negative prompt to be same length' in the webui's settings."
                )
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

    def why_idle(self):
        return LEFT_OUT if self._left_out else None

    def pictures(self):
        """The mean map of each image, ``[h, w]`` with values 0 … 1; empty unless they are to be shown."""
        if not self._settings.show_map:
            return {}
        return {
            image: total / count / (total / count).max().clamp_min(1e-6) for image, (total, count) in self._sums.items()
        }


RUNTIME = ContrastRuntime
