"""Near-sighted attention on a U-Net: which layers and steps, whose seed, exact steps between."""

from __future__ import annotations

import torch

from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.near_sighted.kernel import near_sighted_attention
from lib_attn.techniques.near_sighted.plan import make_plan, shift_point, worthwhile
from lib_attn.techniques.near_sighted.residuals import Residuals
from lib_attn.unet.layers import parse_selector

SAMPLE_KEY = 0x5EED  # sets the sequence of sampled tokens apart from that of tile borders


class NearSightedRuntime(Runtime):
    """Near-sighted attention over one sampling pass: which layers, which steps, whose seed, stored differences."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        self._selector = parse_selector(settings.blocks)
        self._residuals = Residuals(settings.residual_memory << 20)
        self._first: int | None = None

    def wants_self(self, layer) -> bool:
        return self._selector.auto or self._selector.matches(layer)

    def attend(self, call):
        s, moment = self._settings, call.moment
        if not moment.within(s.start, s.end):
            return None
        plan = self._plan(call, 0)
        if plan.exact or (self._selector.auto and not worthwhile(plan)):
            return None
        if self._first is None:
            self._first = moment.step
        layer = call.layer.index
        if not s.exact_every or self._residuals.full(layer):
            return self._near(call, moment.step)
        since = (moment.step - self._first) % s.exact_every
        anchor = moment.step - since  # borders stay where they were when the difference was taken
        # Rows can be missing at an exact step (a skipped negative); twice the interval is still a fair guess.
        oldest = anchor - s.exact_every
        near = self._near(call, anchor)
        kept = None if since == 0 else self._residuals.get(layer, call.rows, oldest, near.dtype)
        if kept is not None:
            return near + kept
        exact = call.exact()
        if not self._residuals.store(layer, call.rows, moment.step, exact - near):
            self._say("Near-sighted: Residual memory is too small for all layers; some run without exact steps.")
            return near
        return exact

    def _plan(self, call, step: int, seed: int = 0):
        s, layer = self._settings, call.layer
        shift = shift_point(step, layer.index, seed) if s.shift else (0.0, 0.0)
        sample = shift_point(step, layer.index, seed ^ SAMPLE_KEY) if s.global_keys == "moving" else None
        return make_plan(*call.grid, s, depth=layer.depth, time=call.moment.time, shift=shift, sample=sample)

    def _near(self, call, step: int):
        s, seeds = self._settings, self._context.seeds
        seeds = [seeds[row.image] if row.image < len(seeds) else 0 for row in call.rows]
        plans = [self._plan(call, step, seed) for seed in seeds]
        options = {
            "scale": call.scale,
            "strength": s.global_strength,
            "average": s.global_keys == "average",
            "mode": s.local_mode,
            "k_blend": s.local_k_blend,
            "v_blend": s.local_v_blend,
        }

        def attend(q, k, v):
            if len(set(plans)) == 1:
                return near_sighted_attention(q, k, v, plans[0], **options)
            # Rows of one image share their borders, so that it comes out as if it were drawn alone.
            out = q.new_empty(*q.shape[:3], v.shape[-1])
            for plan in dict.fromkeys(plans):
                index = torch.tensor([i for i, p in enumerate(plans) if p == plan], device=q.device)
                out[index] = near_sighted_attention(q[index], k[index], v[index], plan, **options)
            return out

        return call.attend(attend)


RUNTIME = NearSightedRuntime
