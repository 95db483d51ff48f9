"""Depth guide on a U-Net: the predicted picture is moved towards the map."""

from __future__ import annotations

import math

import torch

from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.depth_guide.head import Head, head_of, towards
from lib_attn.techniques.depth_guide.layout import LOUD, arranged
from lib_attn.techniques.depth_guide.maps import PLACE, Maps
from lib_attn.unet.precision import without_autocast
from lib_attn.unet.rows import NEGATIVE, POSITIVE


class DepthGuideRuntime(Runtime):
    """Guidance over one sampling pass. The host has put the maps of the pass into the store before."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        kept = context.store.get(PLACE)
        self._maps = kept.current if isinstance(kept, Maps) else ()
        self._head: Head | None = None
        if any(self._maps) and settings.strength and settings.guide == "predicted picture":
            self._head = head_of(settings, context)

    @property
    def _guides(self) -> bool:
        s = self._settings
        ready = self._head is not None or s.guide == "first steps"
        return bool(s.strength) and ready and any(m is not None for m in self._maps)

    def leave(self, call, output):
        """The predictions with what moves the picture they make together towards its map."""
        s = self._settings
        if not self._guides or not call.moment.within(s.start, min(s.end, s.until)):
            return output
        changed = output
        for image in dict.fromkeys(row.image for row in call.rows):
            rows = [i for i, row in enumerate(call.rows) if row.image == image]
            if image >= len(self._maps) or self._maps[image] is None:
                continue
            together = self._together(call, output, image, rows)
            if together is None:
                continue
            prediction, share = together
            move = self._move(call, call.x[rows[0]], prediction, image)
            changed = output.clone() if changed is output else changed
            for i in rows:
                changed[i] += (move * share).to(output.dtype)
        return changed

    def _together(self, call, output, image: int, rows: list[int]):
        """What the sampler makes of an image's predictions, and how much of a change each row of the call has to take
        for that to change by it; None while rows are still to come."""
        evaluation = call.evaluation
        negative = next((i for i in rows if call.rows[i].sign == NEGATIVE), None)
        positive = call.positive(image)
        if positive is None:
            return None
        if not evaluation.guided or evaluation.cfg is None:
            return positive.float(), 1.0
        if negative is None:
            # Its negative comes in a call of its own, which then takes all of the change, or not at all.
            return (positive.float(), 1.0) if evaluation.positive_only else None
        scale = evaluation.scale(image)
        guided = output[negative].float() + scale * (positive.float() - output[negative].float())
        if any(call.rows[i].sign == POSITIVE for i in rows):
            return guided, 1.0
        return (guided, 1.0 / (1.0 - scale)) if abs(1.0 - scale) > 1e-3 else None

    def _move(self, call, x: torch.Tensor, prediction: torch.Tensor, image: int) -> torch.Tensor:
        """The change of a prediction ``[C, h, w]`` that moves the picture it stands for towards the map."""
        signal = 1.0 / math.sqrt(1.0 + call.sigma**2)
        noise = call.sigma * signal
        x = x[: prediction.shape[0]].float()
        velocity = self._context.prediction == "v"
        clean = signal * x - noise * prediction if velocity else (x - noise * prediction) / signal
        change = self._change(clean[None], image, call.sigma)[0]
        return -change / noise if velocity else -change * signal / noise

    def _change(self, clean: torch.Tensor, image: int, sigma: float) -> torch.Tensor:
        """What to add to the predicted latents ``[1, C, h, w]``."""
        s, drawn = self._settings, self._maps[image]
        if self._head is not None:
            with torch.inference_mode(False):  # or a host in inference mode would leave weights without a gradient
                head = self._head.to(clean.device)
            wanted = drawn.wanted(tuple(clean.shape[-2:])).to(clean.device)[None]
            with without_autocast(clean.device):  # slopes of a mean over all places are lost in half precision
                if sigma < LOUD:
                    return towards(clean, wanted, head, s.strength)
                return arranged(clean, head(clean).sigmoid(), wanted, s.strength) - clean
        if drawn.latent is None:
            self._say("The picture is drawn without its map: First steps needs a map that was drawn here.")
            return torch.zeros_like(clean)
        return min(s.strength, 1.0) * (drawn.latents(clean) - clean)

    def why_idle(self):
        """Why the picture was drawn as without a map."""
        return "There was no map to follow." if not any(m is not None for m in self._maps) else None


RUNTIME = DepthGuideRuntime
