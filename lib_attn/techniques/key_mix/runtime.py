"""Key mix on a U-Net: which layers and blocks, in which steps."""

from __future__ import annotations

import math

import torch

from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.guidance import are_apart, are_left_out
from lib_attn.techniques.key_mix.maths import adain, appended_values, mix, mix_values, resize, tokens
from lib_attn.techniques.key_mix.sources import RECORDED, Sources
from lib_attn.unet.layers import parse_selector

AUTO = parse_selector("out")
LEFT_OUT = "Negative skip leaves the negative out at CFG 1: nothing to mix with."


def layout_block(blocks) -> str | None:
    """Name of the block that Plug-and-Play takes features of, found by where it stands: the middle one of the second
    level from below on the way out (OUT04 of SD 1.x, which the paper names, and of SDXL). None without blocks."""
    out = [block for block in blocks if block.section == "out"]
    deepest = max((block.depth for block in out), default=0)
    level = [block for block in out if block.depth == deepest - 1] or out
    return level[(len(level) - 1) // 2].name if level else None


def mixes(settings) -> bool:
    """Whether keys, values or queries are mixed at all."""
    s = settings
    follows = s.operator != "concatenate" and (s.query_amount or (s.values != "own" and s.value_amount))
    return bool(s.amount or follows)


def mixes_features(settings) -> bool:
    """Whether what blocks hand on is mixed at all."""
    return settings.features != "own" and bool(settings.feature_amount)


def compares_with_negative(settings) -> bool:
    """Whether positives are mixed with their negatives, which then have to be computed."""
    positives = settings.source == "negative" and settings.side != "negative"
    return positives and (mixes(settings) or mixes_features(settings))


class KeyMixRuntime(Runtime):
    """Mixed keys over one sampling pass."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        chosen = parse_selector(settings.blocks)
        self._selector = AUTO if chosen.auto else chosen
        self.extends = settings.adds_keys
        self.compares = compares_with_negative(settings)
        self._mixes, self._mixes_features = mixes(settings), mixes_features(settings)
        self._feature_blocks = self._find_feature_blocks()
        self._sources = Sources(settings.name, settings, context, self._feature_blocks)

    def _find_feature_blocks(self) -> frozenset[str]:
        chosen, blocks = parse_selector(self._settings.feature_blocks), self._context.blocks
        if chosen.auto:
            return frozenset({layout_block(blocks)})
        found = frozenset(block.name for block in blocks if chosen.matches(block))
        if self._mixes_features and not found:
            self._say(f"Key mix left features alone: this model has no blocks {chosen.text}.")
        return found

    def wants_self(self, layer) -> bool:
        return self._selector.matches(layer)

    def edits(self, call) -> bool:
        """Whether something is mixed into this call; takes notes for later calls on the way."""
        s = self._settings
        self._sources.note(call, call.layer.index, call.x, call.grid, self._mixes)
        return call.moment.within(s.start, s.end) and self._mixes and bool(self._sources.chosen(call, call.layer.index))

    def wants_features(self, block) -> bool:
        return block.name in self._feature_blocks and (self._mixes_features or self._settings.record)

    def features(self, call):
        """The block's output ``[B, C, h, w]`` with the source's mixed in, None when there is nothing to do."""
        s, own, grid = self._settings, tokens(call.h), tuple(call.h.shape[-2:])
        self._sources.note(call, call.block.name, own[:, :, 0], grid, self._mixes_features)
        if not (self._mixes_features and call.moment.within(s.start, s.end)):
            return None
        chosen = self._sources.chosen(call, call.block.name)
        if not chosen:
            return None
        self._tell_of_batch()
        mixed = list(chosen)
        if s.source in RECORDED:
            found = torch.stack([x.to(own.device, own.dtype) for x, _ in chosen.values()]).unsqueeze(2)
            source = resize(found, next(iter(chosen.values()))[1], grid)
        else:
            source = self._sources.elsewhere(own, chosen, grid, call.block.handed)
        if s.features == "AdaIN":
            source = adain(own[mixed], source)
        operator = "contrast" if s.operator == "contrast" else "blend"
        out = call.h.clone()
        out[mixed] = mix(own[mixed], source, s.feature_amount, operator)[:, :, 0].transpose(1, 2).unflatten(2, grid)
        return out

    def _tell_of_batch(self) -> None:
        source = self._settings.source
        if source in ("first image", "batch mean"):
            self._say(f"Key mix: with the {source} as source, a picture comes out the same only in its whole batch.")

    def leave(self, call, output):
        """Note why there was no negative to mix with, where there was none."""
        if self.compares and are_left_out(call):
            self._sources.why = LEFT_OUT
        if self.compares and are_apart(call):
            self._say(
                "Key mix did nothing where positive and negative are computed apart: switch on 'Batch cond/uncond' and "
                "'Pad prompt/negative prompt to be same length' in the webui's settings."
            )
        return output

    def why_idle(self):
        return self._sources.why

    def edit(self, call, q, k, v):
        """q, k, v with the source mixed in, and the bias ``[B, 1, 1, keys]`` of the keys where some were added."""
        s, chosen = self._settings, self._sources.chosen(call, call.layer.index)
        self._tell_of_batch()
        mixed = list(chosen)
        sq, sk, sv, grid = self._sources.projections(call, q, k, v, chosen)
        q, k, v = q.clone(), k.clone(), v.clone()
        if s.match_queries:
            amount = min(s.amount, 1.0)
            q[mixed] = mix(q[mixed], adain(q[mixed], sq), amount, "blend")
            k[mixed] = mix(k[mixed], adain(k[mixed], sk), amount, "blend")
        if s.operator != "concatenate":
            sk, sv = resize(sk, grid, call.grid), resize(sv, grid, call.grid)
            if s.query_amount:
                q[mixed] = mix(q[mixed], resize(sq, grid, call.grid), s.query_amount, s.operator)
            k[mixed] = mix(k[mixed], sk, s.amount, s.operator)
            v[mixed] = mix_values(v[mixed], sv, s)
            return q, k, v, None
        if not s.amount:
            return q, k, v, None
        more_k, more_v = (t.new_zeros(len(t), sk.shape[1], *t.shape[2:]) for t in (k, v))
        more_k[mixed], more_v[mixed] = sk, appended_values(v[mixed], sv, s)
        bias = q.new_full((len(q), 1, 1, k.shape[1] + sk.shape[1]), float("-inf"))
        bias[..., : k.shape[1]] = 0.0
        bias[mixed, ..., k.shape[1] :] = s.bias + math.log(s.amount)
        return q, torch.cat([k, more_k], 1), torch.cat([v, more_v], 1), bias


RUNTIME = KeyMixRuntime
