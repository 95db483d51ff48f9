"""The static dictionary over one sampling pass: what of a layer is put together from atoms that have passed it once.

- self-attention: the atoms' results depend on the model alone, so they are kept for the whole pass;
- cross-attention: they depend on the prompt too, so they are kept for each row and looked at again when the text that
  the row sees changes, and in each quarter of sampling time;
- skip connection: what both are added to. The file knows atoms behind the layer's norm only, so an atom takes the mean
  and spread that the points of the row have before it.

Shapes: B rows, N tokens of C channels, M atoms, H heads of width d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from lib_attn.techniques.dictionary.attention import Keys, attend
from lib_attn.techniques.dictionary.codes import rebuild, solver, sparse_codes
from lib_attn.unet.layers import Layer
from lib_attn.unet.precision import without_autocast
from lib_attn.unet.rows import Row

STRETCHES = 4  # of sampling time, in each of which atoms pass once
THIN = 1e-3  # weights of a norm below this cannot be undone


class Linear:
    """Tokens as sums of all atoms: one matrix for each result."""

    def __init__(self, atoms: torch.Tensor, ridge: float):
        self._solver = solver(atoms, ridge)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def fold(self, results: torch.Tensor) -> torch.Tensor:
        """What is kept of the atoms' results ``[M, D]``: ``[C, D]``."""
        with without_autocast(results.device):
            return (self._solver @ results.float()).to(results.dtype)  # kept for each layer and row

    def put(self, x: torch.Tensor, folded: torch.Tensor) -> torch.Tensor:
        """``[n, D]`` of tokens ``[n, C]``."""
        return x @ folded.to(x.dtype)


class Sparse:
    """Tokens as sums of few atoms, found by matching pursuit."""

    def __init__(self, atoms: torch.Tensor, count: int):
        self._atoms, self._count = atoms, min(count, len(atoms))

    def weights(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return sparse_codes(x, self._atoms, self._count)

    def fold(self, results: torch.Tensor) -> torch.Tensor:
        return results.float()

    def put(self, weights: tuple[torch.Tensor, torch.Tensor], folded: torch.Tensor) -> torch.Tensor:
        return rebuild(*weights, folded)


@dataclass
class _Passed:
    """Atoms behind self-attention, for one row and stretch of time: with the skip connection ``[M, C]``, and what
    cross-attention makes of them for keys ``[T, C]``, folded.

    mean, spread: of the row's tokens before the norm.
    """

    stretch: int
    mean: torch.Tensor
    spread: torch.Tensor
    atoms: torch.Tensor
    keys: torch.Tensor | None = None
    crossed: torch.Tensor | None = None


class Static:
    """See the module. Args: `Dictionary` settings in static mode."""

    def __init__(self, settings: Any):
        self._settings = settings
        self.crosses = settings.mode == "static" and settings.reach != "self-attention"
        self._layers: dict[int, tuple[Any, torch.Tensor, torch.Tensor]] = {}
        self._passed: dict[tuple[int, Row], _Passed] = {}
        self._weights: dict[int, list[Any]] = {}  # of the tokens of a layer on their way to its cross-attention

    def attention(self, call: Any, atoms: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """What a self-attention call gives, ``[B, N, C]``, rebuilt from its atoms ``[M, C]``."""
        layer, x = call.layer.index, call.x
        if layer not in self._layers:
            code, (results, own) = self._code(atoms), self._pass(call, atoms, counts)
            self._layers[layer] = code, code.fold(results), own
        code, folded, own = self._layers[layer]
        weights = [code.weights(row) for row in x]
        out = torch.stack([code.put(w, folded) for w in weights]).to(x.dtype)
        out = call.finish(out.unflatten(-1, (call.layer.family.heads(call.module), -1)))
        if not self.crosses or call.skip is None:
            return out
        passed = [self._enter(call, i, atoms, own) for i in range(len(x))]
        self._weights[layer] = weights
        if self._settings.reach == "skip connection":
            seen = code.fold(atoms)
            skips = [
                _before_norm(call.layer, code.put(w, seen).float(), p) for w, p in zip(weights, passed, strict=True)
            ]
            out = out + torch.stack(skips).to(out.dtype) - call.skip
        return out

    def cross(self, call: Any) -> torch.Tensor | None:
        """What the layer's cross-attention gives before its output projection, ``[B, N, C]``; None where the layer's
        self-attention was not rebuilt."""
        weights = self._weights.pop(call.layer.index, None)
        if weights is None:
            return None
        code, _, _ = self._layers[call.layer.index]
        out = []
        for i, (row, own) in enumerate(zip(call.rows, weights, strict=True)):
            passed = self._passed[call.layer.index, row]
            if passed.keys is None or not torch.equal(passed.keys, call.k[i]):
                passed.keys, passed.crossed = call.k[i].clone(), code.fold(self._cross_atoms(call, i, passed.atoms))
            out.append(code.put(own, passed.crossed))
        return torch.stack(out).to(call.z.dtype)

    def _code(self, atoms: torch.Tensor) -> Linear | Sparse:
        s = self._settings
        return Sparse(atoms, s.sparse) if s.codes == "sparse" else Linear(atoms, s.ridge * (s.codes == "ridge"))

    def _pass(self, call: Any, atoms: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The atoms through self-attention, each as often as it was met: ``[M, H * d]``, and projected ``[M, C]``."""
        q, k, v = call.project_input(atoms[None].to(call.x.dtype))
        bias = counts.float().clamp_min(1).log().expand(1, k.shape[2], -1)
        keys = Keys(k.transpose(1, 2), v.transpose(1, 2), bias)
        results = attend(q.transpose(1, 2), keys, call.scale).transpose(1, 2)
        return results[0].flatten(1), call.finish(results)[0].float()

    def _enter(self, call: Any, i: int, atoms: torch.Tensor, own: torch.Tensor) -> _Passed:
        """The atoms behind the self-attention of row `i`, of this stretch of time."""
        place, stretch = (call.layer.index, call.rows[i]), min(int(call.moment.time * STRETCHES), STRETCHES - 1)
        passed = self._passed.get(place)
        if passed is None or passed.stretch != stretch:
            skip = call.skip[i].float()
            passed = _Passed(stretch, skip.mean(), skip.std(1, unbiased=False).mean(), own)
            passed.atoms = own + _before_norm(call.layer, atoms.float(), passed)
            self._passed[place] = passed
        return passed

    def _cross_atoms(self, call: Any, i: int, atoms: torch.Tensor) -> torch.Tensor:
        """Atoms ``[M, C]`` through the cross-attention of row `i`, before its output projection."""
        layer = call.layer
        to_q, *_ = layer.family.projections(layer.attn2)
        q = to_q(layer.family.norms(layer.block)[1](atoms.to(call.z.dtype)))
        q, k, v = (x.unflatten(-1, (call.heads, -1)).transpose(0, 1) for x in (q, call.k[i], call.v[i]))
        if call.upcast:
            q, k, v = (x.float() for x in (q, k, v))
        return F.scaled_dot_product_attention(q[None], k[None], v[None], scale=call.scale)[0].transpose(0, 1).flatten(1)


def _before_norm(layer: Layer, x: torch.Tensor, like: _Passed) -> torch.Tensor:
    """What the norm in front of a layer's self-attention has made ``[n, C]`` of, with a mean and spread given."""
    norm = layer.family.norms(layer.block)[0]
    weight, bias = norm.weight.float(), norm.bias.float()
    weight = torch.where(weight.abs() < THIN, torch.where(weight < 0, -THIN, THIN), weight)
    return like.mean + like.spread * (x - bias) / weight
