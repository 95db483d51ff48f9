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

All tensors are ``[B, N, H, d]``: rows, tokens, heads, width.
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
        self.extends = settings.operator == "concatenate"
        self.compares = settings.source == "negative" and self._mixes

    def bind(self, references=None, layout=(), **_):
        self._store, self._layout = references, layout

    def wants(self, layer) -> bool:
        return self._selector.matches(layer)

    @property
    def _mixes(self) -> bool:
        s = self._settings
        follows = s.operator != "concatenate" and (s.query_amount or (s.values != "own" and s.value_amount))
        return bool(s.amount or follows)

    def edits(self, call) -> bool:
        """Whether something is mixed into this call; takes notes for later calls on the way."""
        s = self._settings
        if s.record:
            self._record(call)
        if s.source == "previous step":
            self._remember(call)
        return call.moment.within(s.start, s.end) and self._mixes and bool(self._chosen(call))

    def _wanted(self, row) -> bool:
        side = self._settings.side
        return side == "both" or (side == "positive") == (row.sign == POSITIVE)

    def _chosen(self, call) -> dict[int, object]:
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
            if any(other is None and rows[i].image != 0 for i, other in at.items()):
                self._say(
                    "Key mix did nothing where the first image is computed apart from the others: switch on 'Batch "
                    "cond/uncond' in the webui's settings."
                )
            return {i: other for i, other in at.items() if other is not None and rows[i].image != 0}
        if s.source == "batch mean":
            groups = {i: [j for j, row in enumerate(rows) if row.sign == rows[i].sign] for i in mine}
            return {i: group for i, group in groups.items() if len({rows[j].image for j in group}) > 1}
        found = {i: self._recorded(call, rows[i]) for i in mine}
        return {i: item for i, item in found.items() if item is not None}

    def _recorded(self, call, row):
        if self._settings.source == "previous step":
            return self._before.get_row(call.layer.index, row)
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
        sign = NEGATIVE if row.sign == NEGATIVE else POSITIVE
        return recording.get(call.layer.index, sign, call.moment.time)

    def _record(self, call) -> None:
        if self._store is None:
            return
        if self._recording is None:
            self._recording = self._store.recording = Recording(self._limit, layout=self._layout)
            self._say("Key mix: this run is recorded for later pictures.")
        for row, x in zip(call.rows, call.x, strict=True):
            if row.image == 0 and row.part == 0:
                sign = NEGATIVE if row.sign == NEGATIVE else POSITIVE
                if not self._recording.store(call.layer.index, sign, call.moment.time, x, call.grid):
                    self._say("Key mix: Mix memory is too small for the recording; some layers are left out.")

    def _remember(self, call) -> None:
        """Keep this evaluation's inputs; those of the one before become the source."""
        if call.moment.step != self._now[0]:
            self._before, self._now = self._now[1], (call.moment.step, Recording(self._limit // 2, None))
        for row, x in zip(call.rows, call.x, strict=True):
            if self._wanted(row) and not self._now[1].store_row(call.layer.index, row, x, call.grid):
                self._say("Key mix: Mix memory is too small for the previous step; some layers are not mixed.")

    def _sources(self, call, q, k, v, chosen):
        """q, k, v ``[n, M, H, d]`` of the sources of the chosen rows, and their grid."""
        s, places = self._settings, list(chosen)
        if s.source in ("recorded run", "previous step"):
            # Converted one by one: autocast's own types of stack do not include all that may be stored.
            inputs = torch.stack([x.to(call.x.device, call.x.dtype) for x, _ in chosen.values()])
            return (*call.project_input(inputs), next(iter(chosen.values()))[1])
        if s.source == "blurred":
            sigma = s.blur / 2**call.layer.depth
            return (*(blur(t[places], call.grid, sigma) for t in (q, k, v)), call.grid)
        if s.source == "shifted":
            down, right = (round(d / 2**call.layer.depth) for d in (s.shift_y, s.shift_x))
            return (*(shift(t[places], call.grid, down, right) for t in (q, k, v)), call.grid)
        if s.source == "batch mean":
            return (*(torch.stack([t[group].mean(0) for group in chosen.values()]) for t in (q, k, v)), call.grid)
        return (*(t[list(chosen.values())] for t in (q, k, v)), call.grid)

    def leave(self, call, output):
        """Say why there was no negative to mix with, where there was none."""
        missing = why_alone(call) if self.compares else ""
        if missing:
            self._say(f"Key mix did nothing where {missing}")
        return output

    def edit(self, call, q, k, v):
        """q, k, v with the source mixed in, and the bias ``[B, 1, 1, keys]`` of the keys where some were added."""
        s, chosen = self._settings, self._chosen(call)
        if s.source in ("first image", "batch mean"):
            self._say(f"Key mix: with the {s.source} as source, a picture needs its batch to be made again.")
        places = list(chosen)
        sq, sk, sv, grid = self._sources(call, q, k, v, chosen)
        q, k, v = q.clone(), k.clone(), v.clone()
        if s.match_queries:
            amount = min(s.amount, 1.0)
            q[places] = mix(q[places], adain(q[places], sq), amount, "blend")
            k[places] = mix(k[places], adain(k[places], sk), amount, "blend")
        if s.operator != "concatenate":
            sk, sv = resize(sk, grid, call.grid), resize(sv, grid, call.grid)
            if s.query_amount:
                q[places] = mix(q[places], resize(sq, grid, call.grid), s.query_amount, s.operator)
            k[places] = mix(k[places], sk, s.amount, s.operator)
            v[places] = mix_values(v[places], sv, s)
            return q, k, v, None
        if not s.amount:
            return q, k, v, None
        more_k, more_v = (t.new_zeros(len(t), sk.shape[1], *t.shape[2:]) for t in (k, v))
        more_k[places], more_v[places] = sk, appended_values(v[places], sv, s)
        bias = q.new_full((len(q), 1, 1, k.shape[1] + sk.shape[1]), float("-inf"))
        bias[..., : k.shape[1]] = 0.0
        bias[places, ..., k.shape[1] :] = s.bias + math.log(s.amount)
        return q, torch.cat([k, more_k], 1), torch.cat([v, more_v], 1), bias
