"""Thin queries and keys on a U-Net: which layers, how many channels, and whether it saves time there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lib_attn.learned.files import LearnedFile
from lib_attn.learned.header import Refused
from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.facts import NOTHING_TO_GAIN
from lib_attn.techniques.thin_qk.maps import KeptMaps, LayerMaps, moments_of
from lib_attn.techniques.thin_qk.maths import lost, thin
from lib_attn.techniques.thin_qk.ranks import ALL_KEPT, LEAST_POINTS, ROUND, Curve, ranks
from lib_attn.techniques.thin_qk.timing import pays
from lib_attn.unet.layers import Layer, layer_keys, parse_selector
from lib_attn.unet.precision import without_autocast

ROUND_GPU = 32  # fast kernels there work in buckets of 32 or 64 channels
SAMPLE = 1024  # points whose queries and keys are held against what the file says
STRANGE = 3.0  # times what the file says is lost, in the geometric mean of layers; the noisiest step alone makes it 2
UNREADABLE = "Thin QK computes this picture in full: the model's weights are stored in a form that it cannot read."
NEGLIGIBLE = 0.002  # share of the energy below which it does not matter how much is lost


@dataclass(frozen=True)
class Thinned:
    """Maps ``[H, d, r]`` of a layer on its device; those of queries and keys may have columns of zeros beyond r.

    scale: by which that of the queries is multiplied.
    """

    rank: int
    scale: float
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor | None
    out: torch.Tensor | None


class ThinQkRuntime(Runtime):
    """Thin queries and keys over one sampling pass."""

    narrows = True

    def __init__(self, settings, context: Context):
        super().__init__(settings, context)
        self._selector = parse_selector(settings.blocks)
        self._keys = dict(zip((x.index for x in context.layers), layer_keys(context.layers), strict=True))
        self._maps = self._kept_maps()
        self._curves: dict[str, tuple[LayerMaps, Curve]] = {}
        self._budgets: dict[int, dict[str, int]] = {}
        self._plans: dict[tuple, Thinned | None] = {}
        self._losses: dict[int, tuple[float, float]] = {}
        self._why = NOTHING_TO_GAIN
        self._file: LearnedFile | None = None
        self._off = self._compared = False
        try:
            self._file = context.learned(settings.name, settings.file) if settings.file else None
        except Refused as refused:
            self._off = True
            self._say(str(refused))

    def _kept_maps(self) -> KeptMaps:
        store, place = self._context.store, f"{self._settings.name} maps"
        found = store.get(place) or KeptMaps()
        store.keep(place, found)
        return found

    def wants_self(self, layer) -> bool:
        held = self._file is None or self._keys[layer.index] in self._file.layers
        return not self._off and held and (self._selector.auto or self._selector.matches(layer))

    def edits(self, call) -> bool:
        """Whether the layer is thinned; decided at its first call, when the host has put its LoRA into the weights."""
        s, points = self._settings, call.x.shape[1]
        if self._off or self._small(points) or not call.moment.within(s.start, s.end):
            return False
        place = call.layer.index, points
        if place not in self._plans:
            self._plans[place] = self._plan(call, points)
        return self._plans[place] is not None

    def _plan(self, call, points: int) -> Thinned | None:
        s, one = self._settings, call.project_input(call.x[:1, :1])[0]
        heads, width = one.shape[2:]
        step = ROUND if one.device.type == "cpu" else ROUND_GPU
        call_projections(call.layer, call.x)
        try:
            rank = self._rank(call.layer, points, step, call.x)
            maps, _ = self._curve(call.layer)
        except LookupError:
            return self._stand_back(Refused(self._file.name, "layers are missing in it"))
        except ValueError:
            self._off = True
            self._say(UNREADABLE)
            return None
        if rank >= width:
            self._why = ALL_KEPT
            return None
        values = rank if s.values else width
        if s.when == "faster" and not pays(one.device, one.dtype, points, heads, width, rank, values):
            self._why = "On this device nothing is faster with so many channels."
            self._say(f"Thin QK computes layers of {points} points in full: {rank} of {width} channels are no faster.")
            return None
        q, k, v, out = (m[..., :rank].to(one.device, one.dtype) for m in (maps.q, maps.k, maps.v, maps.out))
        if self._file is not None and not all(torch.isfinite(m).all() for m in (q, k, v, out)):
            return self._stand_back(Refused(self._file.name, "its numbers are out of range"))
        if not s.values and one.device.type == "cpu":
            # Unequal widths would make torch hold all similarities at once there.
            q, k = (F.pad(m, (0, width - rank)) for m in (q, k))
        # Where a code base names no scale, whoever attends divides by the root of the width that he sees.
        scale = 1.0 if call.scale is not None else (q.shape[-1] / width) ** 0.5
        return Thinned(rank, scale, scale * q, k, v if s.values else None, out.mT if s.values else None)

    def _stand_back(self, refused: Refused) -> None:
        """Do without the file, and so nothing, from now on."""
        self._off = True
        self._say(str(refused))

    def _rank(self, layer, points: int, step: int, like: torch.Tensor) -> int:
        s, key = self._settings, self._keys[layer.index]
        if s.choose != "budget":
            return ranks(s, {key: self._curve(layer)[1]}, {key: layer.depth}, step)[key]
        size = points << 2 * layer.depth  # of the finest level
        if size not in self._budgets:
            layers = [x for x in self._context.layers if self.wants_self(x) and not self._small(size >> 2 * x.depth)]
            for other in layers:
                call_projections(other, like)
            curves = {self._keys[x.index]: self._curve_of(x)[1] for x in layers}
            self._budgets[size] = ranks(s, curves, {self._keys[x.index]: x.depth for x in layers}, step)
        return self._budgets[size][key]

    def _small(self, points: int) -> bool:
        """Whether a layer is not worth a thought."""
        return self._selector.auto and points < LEAST_POINTS

    def _curve(self, layer) -> tuple[LayerMaps, Curve]:
        """Maps and curve of a layer by its final weights."""
        key = self._keys[layer.index]
        if key not in self._curves:
            self._curves[key] = self._curve_of(layer)
        return self._curves[key]

    def _curve_of(self, layer) -> tuple[LayerMaps, Curve]:
        key = self._keys[layer.index]
        return self._maps.get(key, moments_of(layer, self._file and self._file.tensors, key), self._settings.maps)

    def edit(self, call, q, k, v):
        """Thin q, k and, if wanted, v ``[B, N, H, r]``."""
        maps = self._plans[call.layer.index, call.x.shape[1]]
        if self._file is not None and not self._compared:
            self._compare(call.layer, q, k, maps)
        return thin(q, maps.q), thin(k, maps.k), v if maps.v is None else thin(v, maps.v), None

    def result(self, call, out):
        """The attention's result ``[B, N, H, d]`` of thin values."""
        maps = self._plans[call.layer.index, call.x.shape[1]]
        return out if maps.out is None else thin(out, maps.out)

    def _compare(self, layer, q, k, maps: Thinned) -> None:
        """Hold what the layers lose in their first calls against what the file says, when the second calls begin."""
        if layer.index not in self._losses:
            _, curve = self._curves[self._keys[layer.index]]
            few = slice(None, None, max(1, q.shape[1] // SAMPLE))
            with without_autocast(q.device):
                measured = lost((maps.q.float() / maps.scale, maps.k.float()), q[:, few].float(), k[:, few].float())
            self._losses[layer.index] = measured, 1.0 - curve.mean[maps.rank - 1]
            return
        self._compared = True
        pairs = list(self._losses.values())
        times = sum(math.log((found + NEGLIGIBLE) / (told + NEGLIGIBLE)) for found, told in pairs) / len(pairs)
        if times > math.log(STRANGE):
            percent, expected = (f"{100 * sum(losses) / len(losses):.1f} %" for losses in zip(*pairs, strict=True))
            name = self._file.name
            self._say(
                f"Thin QK: this picture's queries and keys lose {percent} of their energy where {expected} were "
                f"expected. The file {name} was learned from another checkpoint, or a LoRA is strong: learn it anew, "
                "or choose no file."
            )

    def why_idle(self):
        """Why nothing was thinned."""
        return self._why


def call_projections(layer: Layer, like: torch.Tensor) -> None:
    """Call the projections of a layer on a row of zeros: a host puts its LoRA into their weights when they are called.

    Args:
        like: of the type and on the device that they take.
    """
    *inner, to_out = layer.family.projections(layer.attn1)
    weight = getattr(inner[0], "weight", None)
    if weight is not None and weight.device != like.device:
        return  # with --lowvram a block is brought there when it is called itself
    for module in inner:
        module(like.new_zeros(1, 1, module.in_features))
    to_out(like.new_zeros(1, 1, inner[0].out_features))


RUNTIME = ThinQkRuntime
