"""Self-attention with keys, values and queries mixed in from another source.

With K and V of a source S, of the same size as the picture's own:

- *blend* K' = (1 - m) K + m S_K: the attention is that of the picture to the power 1 - m times that of the source to
  the power m. With own values the result stays made of the picture's own colours: layout moves, the look does not.
  Queries that follow too bring the source's whole attention map: structure from there, appearance from here, as in
  Plug-and-Play (arXiv 2211.12572).
- *contrast* K' = (1 + m) K - m S_K: away from the source. A blurred self as source sharpens what attends to what; it
  is to keys what smoothed energy guidance (SEG, arXiv 2408.00760) is to predictions.
- *concatenate* [K; S_K]: each place weighs picture and source for itself; a bias b multiplies the source's odds by
  e^b. With matched queries and keys this is StyleAligned (arXiv 2312.02133); keys and values replaced are MasaCtrl
  (arXiv 2304.08465).

Attention decides what looks alike; where things stand is also in what a block hands to the next. So the output of
chosen blocks may follow the source, as Plug-and-Play has it for one block, or take its mean and spread.

Tensors of attention are ``[B, N, H, d]``: rows, tokens, heads, width; features are treated as one head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lib_attn.layers import parse_selector
from lib_attn.rows import NEGATIVE, POSITIVE
from lib_attn.techniques.contrast import partners, why_alone
from lib_attn.techniques.reference import Recording

AUTO = parse_selector("out")
#: Sources whose tensors come from an earlier call.
RECORDED = ("recorded run", "previous step")


def adain(x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """`x` with the mean and spread of `to` over the tokens, channel by channel."""
    own, other = x.float(), to.float()
    spread, wanted = (t.std(1, keepdim=True, unbiased=False).clamp_min(1e-5) for t in (own, other))
    out = (own - own.mean(1, keepdim=True)) * (wanted / spread) + other.mean(1, keepdim=True)
    return out.to(x.dtype)


def blur(x: torch.Tensor, grid: tuple[int, int], sigma: float) -> torch.Tensor:
    """Gaussian blur over the grid, `sigma` in tokens; weights at the border sum to 1, so a constant stays one."""
    if sigma <= 0:
        return x
    out = x.float().unflatten(1, grid)
    with torch.autocast(x.device.type, enabled=False):
        for axis, size in ((1, grid[0]), (2, grid[1])):
            at = torch.arange(size, device=x.device)
            weights = torch.softmax(-((at[:, None] - at) ** 2) / (2 * sigma**2), -1)
            out = torch.tensordot(weights, out, dims=([1], [axis])).movedim(0, axis)
    return out.flatten(1, 2).to(x.dtype)


def shift(x: torch.Tensor, grid: tuple[int, int], down: int, right: int) -> torch.Tensor:
    """The picture moved; what leaves on one side comes in on the other."""
    return x.unflatten(1, grid).roll((down, right), (1, 2)).flatten(1, 2)


def resize(x: torch.Tensor, before: tuple[int, int], after: tuple[int, int]) -> torch.Tensor:
    """Another grid's tokens at this grid's places."""
    if before == after:
        return x
    picture = x.float().flatten(-2).unflatten(1, before).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=after, mode="bilinear", align_corners=False)
    return picture.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, x.shape[-2:]).to(x.dtype)


def mix(own: torch.Tensor, source: torch.Tensor, amount: float, operator: str) -> torch.Tensor:
    """Blend towards or contrast away from the source; amount 0 is the identity."""
    step = amount * (source - own)
    return own - step if operator == "contrast" else own + step


def mix_values(own: torch.Tensor, source: torch.Tensor, settings) -> torch.Tensor:
    """Values for blended or contrasted keys."""
    s = settings
    if s.values == "own" or not s.value_amount:
        return own
    if s.values == "AdaIN":
        return mix(own, adain(own, source), s.value_amount, "blend")
    return mix(own, source, s.value_amount, s.operator)


def appended_values(own: torch.Tensor, source: torch.Tensor, settings) -> torch.Tensor:
    """Values for the source's keys where they are concatenated.

    Own: those of the picture at the same places, for a source of another size the source's in the own statistics.
    Follow: from there to the source's by the value amount. AdaIN: the source's in the own statistics.
    """
    if settings.values == "follow" and settings.value_amount == 1.0:
        return source
    if settings.values == "AdaIN" or own.shape != source.shape:
        kept = adain(source, own)
    else:
        kept = own
    return mix(kept, source, settings.value_amount, "blend") if settings.values == "follow" else kept


def layout_block(blocks) -> str | None:
    """Name of the block that Plug-and-Play takes features of, found by where it stands: the middle one of the second
    level from below on the way out (OUT04 of SD 1.x, which the paper names, and of SDXL). None without blocks."""
    out = [block for block in blocks if block.section == "out"]
    deepest = max((block.depth for block in out), default=0)
    level = [block for block in out if block.depth == deepest - 1] or out
    return level[(len(level) - 1) // 2].name if level else None


def tokens(h: torch.Tensor) -> torch.Tensor:
    """Features ``[B, C, h, w]`` as ``[B, N, 1, C]``."""
    return h.flatten(2).transpose(1, 2).unsqueeze(2)


class KeyMixRuntime:
    """Mixed keys over one sampling pass; remembers the step before where that is the source."""

    def __init__(self, settings, seeds, say):
        self._settings, self._say = settings, say
        chosen = parse_selector(settings.blocks)
        self._selector = AUTO if chosen.auto else chosen
        self._limit = settings.memory << 20
        self._now, self._before = (-1, Recording(0)), Recording(0)
        self._store, self._layout = None, ()
        self._recording: Recording | None = None
        self._feature_blocks: frozenset[str] = frozenset()
        self.extends = settings.operator == "concatenate"
        positives = settings.source == "negative" and settings.side != "negative"
        self.compares = positives and (self._mixes or self._mixes_features)

    def bind(self, references=None, layout=(), blocks=(), **_):
        self._store, self._layout = references, layout
        chosen = parse_selector(self._settings.feature_blocks)
        if chosen.auto:
            self._feature_blocks = frozenset({layout_block(blocks)})
        else:
            self._feature_blocks = frozenset(block.name for block in blocks if chosen.matches(block))
            if self._mixes_features and not self._feature_blocks:
                self._say(f"Key mix left features alone: this model has no blocks {chosen.text}.")

    def wants(self, layer) -> bool:
        return self._selector.matches(layer)

    @property
    def _mixes(self) -> bool:
        s = self._settings
        follows = s.operator != "concatenate" and (s.query_amount or (s.values != "own" and s.value_amount))
        return bool(s.amount or follows)

    @property
    def mixes(self) -> bool:
        """Whether these settings mix anything at all."""
        return self._mixes or self._mixes_features

    @property
    def _mixes_features(self) -> bool:
        return self._settings.features != "own" and bool(self._settings.feature_amount)

    def edits(self, call) -> bool:
        """Whether something is mixed into this call; takes notes for later calls on the way."""
        s = self._settings
        self._note(call, call.layer.index, call.x, call.grid, self._mixes)
        return call.moment.within(s.start, s.end) and self._mixes and bool(self._chosen(call, call.layer.index))

    def wants_features(self, block) -> bool:
        return block.name in self._feature_blocks and (self._mixes_features or self._settings.record)

    def features(self, call):
        """The block's output ``[B, C, h, w]`` with the source's mixed in, None when there is nothing to do."""
        s, own, grid = self._settings, tokens(call.h), tuple(call.h.shape[-2:])
        self._note(call, call.block.name, own[:, :, 0], grid, self._mixes_features)
        if not (self._mixes_features and call.moment.within(s.start, s.end)):
            return None
        chosen = self._chosen(call, call.block.name)
        if not chosen:
            return None
        self._tell_of_batch()
        mixed = list(chosen)
        if s.source in RECORDED:
            found = torch.stack([x.to(own.device, own.dtype) for x, _ in chosen.values()]).unsqueeze(2)
            source = resize(found, next(iter(chosen.values()))[1], grid)
        else:
            source = self._elsewhere(own, chosen, grid, call.block.handed)
        if s.features == "AdaIN":
            source = adain(own[mixed], source)
        operator = "contrast" if s.operator == "contrast" else "blend"
        out = call.h.clone()
        out[mixed] = mix(own[mixed], source, s.feature_amount, operator)[:, :, 0].transpose(1, 2).unflatten(2, grid)
        return out

    def _note(self, call, place, x, grid, mixes: bool) -> None:
        """Keep what this call saw for later: x ``[B, N, C]`` of a layer (its index) or behind a block (its name)."""
        if self._settings.record:
            self._record(call, place, x, grid)
        if mixes and self._settings.source == "previous step":
            self._remember(call, place, x, grid)

    def _wanted(self, row) -> bool:
        side = self._settings.side
        return side == "both" or (side == "positive") == (row.sign == POSITIVE)

    def _chosen(self, call, place) -> dict[int, object]:
        """Rows to be mixed, each with where its source is found: a row, a list of rows, a recorded input, or None."""
        s, rows = self._settings, call.rows
        mine = [i for i, row in enumerate(rows) if self._wanted(row)]
        if s.source in ("blurred", "shifted"):
            return dict.fromkeys(mine)
        if s.source == "negative":
            return {i: other for i, other in partners(rows).items() if i in mine}
        if s.source == "first image":
            first = {(row.sign, row.part): i for i, row in enumerate(rows) if row.image == 0}
            at = {i: first.get((rows[i].sign, rows[i].part), first.get((rows[i].sign, 0))) for i in mine}
            # Where a single row of the first image is missing, its negative is left out in this step.
            if mine and not any(row.image == 0 for row in rows):
                self._say(
                    "Key mix did nothing where the first image is computed apart from the others: switch on 'Batch "
                    "cond/uncond' in the webui's settings."
                )
            return {i: other for i, other in at.items() if other is not None and rows[i].image != 0}
        if s.source == "batch mean":
            groups = {i: [j for j, row in enumerate(rows) if row.sign == rows[i].sign] for i in mine}
            return {i: group for i, group in groups.items() if len({rows[j].image for j in group}) > 1}
        found = {i: self._recorded(call, place, rows[i]) for i in mine}
        return {i: item for i, item in found.items() if item is not None}

    def _recorded(self, call, place, row):
        if self._settings.source == "previous step":
            return self._before.get_row(place, row)
        if self._settings.record:
            self._say("Key mix did nothing: a run that is being recorded cannot follow a recorded run.")
            return None
        recording = self._store.recording if self._store is not None else None
        if recording is None:
            self._say("Key mix did nothing: there is no recorded run yet. Make one picture with Record this run.")
            return None
        if recording.layout != self._layout:
            self._say("Key mix did nothing: the recorded run is of another kind of model.")
            return None
        found = recording.get(place, NEGATIVE if row.sign == NEGATIVE else POSITIVE, call.moment.time)
        if found is None and place in self._feature_blocks:
            self._say(
                f"Key mix left features behind {place} alone: the recorded run has none of them (Feature blocks, Mix "
                "memory)."
            )
        return found

    def _record(self, call, place, inputs, grid) -> None:
        if self._store is None:
            return
        if self._recording is None:
            self._recording = self._store.recording = Recording(self._limit, layout=self._layout)
            self._say("Key mix: this run is recorded for later pictures.")
        for row, x in zip(call.rows, inputs, strict=True):
            if row.image == 0 and row.part == 0:
                sign = NEGATIVE if row.sign == NEGATIVE else POSITIVE
                if not self._recording.store(place, sign, call.moment.time, x, grid):
                    self._say("Key mix: Mix memory is too small for the recording; some of it is left out.")

    def _remember(self, call, place, inputs, grid) -> None:
        """Keep this evaluation's inputs; those of the one before become the source."""
        if call.moment.step != self._now[0]:
            self._before, self._now = self._now[1], (call.moment.step, Recording(self._limit // 2, None))
        for row, x in zip(call.rows, inputs, strict=True):
            if self._wanted(row) and not self._now[1].store_row(place, row, x, grid):
                self._say("Key mix: Mix memory is too small for the previous step; some of it is not mixed.")

    def _sources(self, call, q, k, v, chosen):
        """q, k, v ``[n, M, H, d]`` of the sources of the chosen rows, and their grid."""
        if self._settings.source in RECORDED:
            # Converted one by one: autocast's own types of stack do not include all that may be stored.
            inputs = torch.stack([x.to(call.x.device, call.x.dtype) for x, _ in chosen.values()])
            return (*call.project_input(inputs), next(iter(chosen.values()))[1])
        return (*(self._elsewhere(t, chosen, call.grid, call.layer.depth) for t in (q, k, v)), call.grid)

    def _elsewhere(self, x, chosen, grid, depth):
        """What a source inside this call has in place of the chosen rows of x ``[B, N, H, d]``."""
        s, mixed = self._settings, list(chosen)
        if s.source == "blurred":
            return blur(x[mixed], grid, s.blur / 2**depth)
        if s.source == "shifted":
            return shift(x[mixed], grid, *(round(d / 2**depth) for d in (s.shift_y, s.shift_x)))
        if s.source == "batch mean":
            return torch.stack([x[group].mean(0) for group in chosen.values()])
        return x[list(chosen.values())]

    def _tell_of_batch(self) -> None:
        source = self._settings.source
        if source in ("first image", "batch mean"):
            self._say(f"Key mix: with the {source} as source, a picture needs its batch to be made again.")

    def leave(self, call, output):
        """Say why there was no negative to mix with, where there was none."""
        missing = why_alone(call) if self.compares else ""
        if missing:
            self._say(f"Key mix did nothing where {missing}")
        return output

    def edit(self, call, q, k, v):
        """q, k, v with the source mixed in, and the bias ``[B, 1, 1, keys]`` of the keys where some were added."""
        s, chosen = self._settings, self._chosen(call, call.layer.index)
        self._tell_of_batch()
        mixed = list(chosen)
        sq, sk, sv, grid = self._sources(call, q, k, v, chosen)
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
