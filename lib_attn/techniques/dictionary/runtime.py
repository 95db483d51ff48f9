"""The dictionary on a U-Net: which layers see atoms in which steps, whose clusters are kept, and the style bank."""

from __future__ import annotations

import torch

from lib_attn.learned.header import Refused
from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.dictionary.attention import Keys, full_attention, live_attention, tiled_attention
from lib_attn.techniques.dictionary.bank import matched, weight_bias
from lib_attn.techniques.dictionary.clusters import lloyd, means, strided, sums
from lib_attn.techniques.dictionary.content import Content, read
from lib_attn.techniques.dictionary.plan import NO_FILE, plan_clusters, tile_plan
from lib_attn.techniques.dictionary.static import Static
from lib_attn.techniques.near_sighted.kernel import EXCLUDED
from lib_attn.techniques.near_sighted.plan import shift_point
from lib_attn.unet.layers import layer_keys, parse_selector
from lib_attn.unet.rows import NEGATIVE, Row


class DictionaryRuntime(Runtime):
    """Atoms and style bank over one sampling pass. Nothing of it outlives the pass, so that prompt, LoRA and checkpoint
    may change between passes; what is kept of the file is as it was learned."""

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        self._selector, self._style = parse_selector(settings.blocks), parse_selector(settings.style_blocks)
        self._keys = layer_keys(context.layers)
        self._content = Content()
        self._idle = self._load()
        self.extends = bool(self._content.bank and settings.strength)
        self._labels: dict[tuple[int, Row], tuple[int, torch.Tensor]] = {}
        self._static = Static(settings)

    def _load(self) -> str | None:
        """Take what is needed of the file; returns why there is nothing to do, None if there is."""
        s = self._settings
        if not s.file:
            return NO_FILE if s.mode in ("static", "full") else None
        try:
            self._content = read(self._context.learned(s.name, s.file))
        except Refused as refused:
            self._say(str(refused))
            return "Its file is not used."
        if s.strength and not self._content.bank:
            self._say("Dictionary: this file has no style bank.")
        return None

    def why_idle(self):
        return self._idle

    def wants_self(self, layer) -> bool:
        return not self._idle and (self._may_act(layer) or self._has_style(layer))

    def _may_act(self, layer) -> bool:
        s = self._settings
        chosen = self._selector.auto or self._selector.matches(layer)
        # What is put together from atoms looks nothing up, so layers with the style bank are computed in full for it.
        possible = s.mode != "static" or (self._keys[layer.index] in self._content.atoms and not self._has_style(layer))
        return chosen and possible and s.mode != "full" and s.blend > 0

    def _has_style(self, layer) -> bool:
        known = self.extends and self._keys[layer.index] in self._content.bank
        return known and (self._style.auto or self._style.matches(layer))

    def _acts(self, call) -> bool:
        """Whether the call is computed against atoms."""
        s, moment = self._settings, call.moment
        if not (self._may_act(call.layer) and moment.within(s.start, s.end) and moment.share >= s.full_first):
            return False
        return not self._selector.auto or plan_clusters(*call.grid, s, depth=call.layer.depth).worthwhile

    def _sees_style(self, call) -> bool:
        s = self._settings
        rows = any(self._styled(row) for row in call.rows)
        return rows and self._has_style(call.layer) and call.moment.within(s.start, s.end)

    def _styled(self, row: Row) -> bool:
        wanted = self._settings.style_rows
        return wanted == "both" or (wanted == "negative") == (row.sign == NEGATIVE)

    # Full attention, and what was rebuilt from it, with the style bank's keys behind the picture's own

    def edits(self, call) -> bool:
        return self._sees_style(call)

    def edit(self, call, q, k, v):
        if self._settings.mode in ("live", "global") and any(e.extends and e is not self for e in call.edits):
            self._say("Dictionary: where keys of another technique are added, layers are computed in full.")
        more = self._style_keys(call, v)
        bias = torch.cat([more.bias.new_zeros(len(k), k.shape[1]), more.bias[:, 0]], 1)[:, None, None]
        return q, torch.cat([k, more.k.transpose(1, 2)], 1), torch.cat([v, more.v.transpose(1, 2)], 1), bias

    def _style_keys(self, call, v: torch.Tensor) -> Keys:
        """The bank's keys for each row of a call with values ``[B, N, H, d]``."""
        s = self._settings
        x, count = (t.to(call.x.device) for t in self._content.bank[self._keys[call.layer.index]].at(call.moment.time))
        _, k, values = call.project_input(x[None].to(call.x.dtype))
        values = matched(values, count.float(), v, s.style_match)
        bias = weight_bias(count.float(), v.shape[1], s.strength).expand(len(v), v.shape[2], -1).clone()
        bias[[not self._styled(row) for row in call.rows]] = EXCLUDED
        return Keys(k.to(v.dtype).expand(len(v), -1, -1, -1).transpose(1, 2), values.transpose(1, 2), bias)

    # Attention to atoms

    def attend(self, call):
        if not self._acts(call):
            return None
        s = self._settings
        if s.mode == "static":
            key = self._keys[call.layer.index]
            out = self._static.attention(
                call, *(t[key].to(call.x.device) for t in (self._content.atoms, self._content.counts))
            )
            return out if s.blend == 1 else torch.lerp(call.exact(), out, s.blend)
        return call.attend(lambda q, k, v: self._clustered(call, q, k, v))

    def _clustered(self, call, q, k, v):
        s = self._settings
        more, n = None, q.shape[1]
        if k.shape[1] > n:  # the style bank's keys, which `edit` has put behind the picture's own
            bias = call.bias[:, :, 0, n:].expand(len(k), k.shape[2], -1)
            more = Keys(k[:, n:].transpose(1, 2), v[:, n:].transpose(1, 2), bias)
            k, v = k[:, :n], v[:, :n]
        atoms = plan_clusters(*call.grid, s, depth=call.layer.depth).atoms
        labels = self._clusters(call, k, atoms)
        if s.mode == "live":
            out = live_attention(q, k, v, labels, atoms, more, call.scale)
        else:
            out = self._tiled(call, q, k, v, labels, atoms, more)
        return out if s.blend == 1 else torch.lerp(full_attention(q, k, v, more, call.scale), out, s.blend)

    def _tiled(self, call, q, k, v, labels, atoms: int, more: Keys | None):
        out = torch.empty_like(q)
        plans = [self._tiles(call, row) for row in call.rows]
        for plan in dict.fromkeys(plans):
            index = [i for i, p in enumerate(plans) if p == plan]
            own = None if more is None else more[index]
            out[index] = tiled_attention(q[index], k[index], v[index], labels[index], atoms, plan, own, call.scale)
        return out

    def _tiles(self, call, row: Row):
        """Rows of one image share their tile borders, so that it comes out as if it were drawn alone."""
        seeds, layer = self._context.seeds, call.layer
        seed = seeds[row.image] if row.image < len(seeds) else 0
        shift = shift_point(call.moment.step, layer.index, seed)
        return tile_plan(*call.grid, self._settings, depth=layer.depth, shift=shift)

    def _clusters(self, call, k: torch.Tensor, atoms: int) -> torch.Tensor:
        """Cluster of each key of ``[B, N, H, d]``: ``[B, H, N]``, decided anew where what is kept is too old."""
        s, step, layer = self._settings, call.moment.step, call.layer.index
        none = step - s.keep, None
        kept = [self._labels.get((layer, row), none) for row in call.rows]
        # Another extension may change the picture's size on the way.
        kept = [none if own is None or own.shape[-1] != k.shape[1] else (since, own) for since, own in kept]
        due = [i for i, (since, _) in enumerate(kept) if step - since >= s.keep]
        if due:
            keys = k[due].transpose(1, 2)
            starts = torch.cat([self._start(call, keys[i : i + 1], kept[j][1], atoms) for i, j in enumerate(due)])
            new = kept[due[0]][1] is None
            labels, _ = lloyd(keys, starts, s.iterations + new)
            for i, own in zip(due, labels, strict=True):
                kept[i] = self._labels[layer, call.rows[i]] = (step, own)
        return torch.stack([own for _, own in kept])

    def _start(self, call, keys: torch.Tensor, labels: torch.Tensor | None, atoms: int) -> torch.Tensor:
        """Centres ``[1, H, M, d]``: the clusters as they were, else the file's atoms, else tokens of the map."""
        learned = self._content.atoms.get(self._keys[call.layer.index])
        if labels is not None:
            # A cluster that has lost all members starts anew from a token of the map.
            total, number = sums(keys, labels[None], atoms)
            return torch.where(number[..., None] > 0, means(total, number).to(keys.dtype), strided(keys, atoms))
        if learned is None:
            return strided(keys, atoms)
        _, k, _ = call.project_input(learned[None, :atoms].to(call.x))
        k = k.transpose(1, 2).to(keys.dtype)
        return torch.cat([k, strided(keys, atoms - k.shape[2])], 2) if k.shape[2] < atoms else k

    # The static dictionary beyond self-attention

    def wants_skip(self, layer) -> bool:
        return self.wants_cross(layer)

    def wants_cross(self, layer) -> bool:
        return not self._idle and self._static.crosses and self._may_act(layer)

    def cross(self, call):
        out, blend = self._static.cross(call), self._settings.blend
        return out if out is None or blend == 1 else torch.lerp(call.z, out, blend)


RUNTIME = DictionaryRuntime
