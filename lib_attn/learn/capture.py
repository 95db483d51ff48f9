"""What passes through the self-attention of a U-Net while pictures are drawn, kept in bounded memory.

    capture = Capture(find_layers(model), samples=1024)
    with attach(model, [], observers=[capture.observer()], steps=20):
        sample(model)

Of each layer are kept

- second moments ``mean x x^T`` of q, of k, of k without the mean over its row (``spread``; what all keys have in common
  drops out of a softmax) and of the attention's result, for each head, stretch of the timesteps and sign of the rows;
- a uniform sample of tokens: the layer's input x and its q, k and v.

It looks on only: the layer is computed as if nobody were there. Edits of q, k and v by techniques are not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from lib_attn.techniques.base import Context, Runtime
from lib_attn.unet.layers import Layer, layer_keys
from lib_attn.unet.precision import without_autocast
from lib_attn.unet.rows import POSITIVE
from lib_attn.unet.self_attention import Call

MOMENTS = ("q", "k", "spread", "out")
TENSORS = ("x", "q", "k", "v")
SIGNS = 2  # positive rows, all others
STRETCHES = 4
QUERIES = 256  # tokens of a row whose attention result is computed for its moments; q and k are taken of all
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Shape:
    """Of a layer: channels of its input, heads, and channels of a head."""

    channels: int
    heads: int
    width: int

    @property
    def token_bytes(self) -> int:
        """Memory of one sampled token."""
        return FLOAT * (self.channels + 3 * self.heads * self.width) + 8 + 1


class Capture:
    """Second moments and sampled tokens of attention layers.

    Args:
        layers: of the model, `lib_attn.unet.families.find_layers`; all of them.
        samples: tokens kept of each layer, drawn evenly from all that pass. moments: whether second moments are kept.
        memory: most bytes of everything together; `samples` is lowered to what fits.
        stretches: equal parts of sampling time that moments are kept apart for, noise first.
        blocks: ``blocks(layer) -> bool``: the layers wanted, None for all. seed: of what is sampled.

    Attributes:
        shapes: of the layers wanted, by key (`lib_attn.unet.layers.layer_keys`). samples: tokens kept of each.
        bytes: memory that it takes when full.

    Raises:
        ValueError: when the moments alone do not fit into `memory`.
    """

    def __init__(
        self, layers: Sequence[Layer], *, samples: int = 0, moments: bool = True, memory: int = 2 << 30,
        stretches: int = STRETCHES, blocks: Any = None, seed: int = 0,
    ):  # fmt: skip
        keys = layer_keys(layers)
        self._keys = {layer.index: key for layer, key in zip(layers, keys, strict=True) if not blocks or blocks(layer)}
        self.shapes = {self._keys[layer.index]: _shape(layer) for layer in layers if layer.index in self._keys}
        self.stretches = stretches
        kept = len(MOMENTS) * stretches * SIGNS * FLOAT if moments else 0
        fixed = sum(kept * s.heads * s.width**2 for s in self.shapes.values())
        token = sum(s.token_bytes for s in self.shapes.values())
        if fixed > memory:
            needed, most = fixed >> 20, memory >> 20
            raise ValueError(f"The second moments of this model take {needed} MiB, more than the {most} MiB allowed")
        self.samples = min(samples, (memory - fixed) // token) if token else 0
        self.bytes = fixed + self.samples * token
        self._generator = torch.Generator().manual_seed(seed)
        self._moments = {key: _Moments(shape, stretches) for key, shape in self.shapes.items() if moments}
        self._sampled = {key: _Reservoir(shape, self.samples) for key, shape in self.shapes.items() if self.samples}

    def observer(self) -> Runtime:
        """For ``attach(…, observers=[…])``; a new one for each attachment, all of them fill this capture."""
        return _Observer(self)

    def wants(self, layer: Layer) -> bool:
        """Whether anything is kept of a layer of the model that this was made for."""
        return layer.index in self._keys

    def take(self, call: Call) -> None:
        """Take note of one self-attention call."""
        key = self._keys[call.layer.index]
        with torch.inference_mode():
            q, k, v = call.project()
            with without_autocast(call.x.device):
                self._take(key, call, *(t.float() for t in (q, k, v)))

    def _take(self, key: str, call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        stretch = min(int(call.moment.time * self.stretches), self.stretches - 1)
        signs = [int(row.sign != POSITIVE) for row in call.rows]
        if key in self._moments:
            picks = torch.randint(q.shape[1], (min(QUERIES, q.shape[1]),), generator=self._generator).to(q.device)
            heads_first = [t.transpose(1, 2) for t in (q[:, picks], k, v)]
            out = F.scaled_dot_product_attention(*heads_first, scale=call.scale).transpose(1, 2)
            for sign in set(signs):
                rows = [i for i, s in enumerate(signs) if s == sign]
                tensors = q, k, k - k.mean(1, keepdim=True), out
                self._moments[key].take(stretch, sign, [t[rows] for t in tensors])
        if key in self._sampled:
            label = torch.tensor([stretch * SIGNS + sign for sign in signs], dtype=torch.uint8)
            self._sampled[key].take((call.x.float(), q, k, v), label, self._generator)

    def moment(self, key: str, name: str, stretch: int | None = None, sign: int | None = None) -> torch.Tensor:
        """Second moment ``[H, d, d]``, one of `MOMENTS`, of a layer; zeros where nothing was seen.

        Args:
            stretch, sign: of which only (sign 0: positive rows, 1: all others); None: of all.
        """
        return self._moments[key].of(name, stretch, sign)

    def tokens(self, key: str) -> dict[str, torch.Tensor]:
        """Sampled tokens of a layer in random order: x ``[n, C]``, q, k, v ``[n, H, d]``, all float32, and for each
        its ``stretch`` and ``sign`` ``[n]``; n is `samples`, or fewer while fewer have passed."""
        return self._sampled[key].tokens()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything taken so far as flat tensors, for a safetensors file."""
        out = {"generator": self._generator.get_state()}
        for kind, places in (("moments", self._moments), ("sampled", self._sampled)):
            for key, place in places.items():
                out |= {f"{kind}/{key}/{name}": value.clone() for name, value in place.state().items()}
        return out

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave for a capture made alike; what is taken then is the same as without a break.

        Raises:
            ValueError: when the capture was made for other layers or with other numbers.
        """
        mine = self.state()
        free = [f"sampled/{key}/" for key in self._sampled]  # fill up as tokens come
        if mine.keys() != state.keys() or any(
            value.dtype != state[name].dtype
            or value.shape[1:] != state[name].shape[1:]
            or (value.shape != state[name].shape and not name.startswith(tuple(free)))
            for name, value in mine.items()
        ):
            raise ValueError("This run was begun with other layers or other numbers.")
        self._generator.set_state(state["generator"])
        for kind, places in (("moments", self._moments), ("sampled", self._sampled)):
            for key, place in places.items():
                place.load({name: state[f"{kind}/{key}/{name}"].clone() for name in place.state()})


def _shape(layer: Layer) -> Shape:
    to_q, _, _, _ = layer.family.projections(layer.attn1)
    heads = layer.family.heads(layer.attn1)
    return Shape(to_q.in_features, heads, to_q.out_features // heads)


class _Observer(Runtime):
    def __init__(self, capture: Capture):
        super().__init__(None, Context())
        self._capture = capture

    def wants_self(self, layer):
        return self._capture.wants(layer)

    def edits(self, call):
        self._capture.take(call)
        return False


class _Moments:
    """Running means of one layer, ``[stretches, signs, H, d, d]`` each, and the rows that they are of."""

    def __init__(self, shape: Shape, stretches: int):
        size = stretches, SIGNS, shape.heads, shape.width, shape.width
        self._means = {name: torch.zeros(size) for name in MOMENTS}
        self._rows = torch.zeros(stretches, SIGNS)

    def take(self, stretch: int, sign: int, tensors: Sequence[torch.Tensor]) -> None:
        """Add rows of what `MOMENTS` names, ``[B, n, H, d]``; each row counts alike."""
        count = self._rows[stretch, sign]
        count += len(tensors[0])
        for name, x in zip(MOMENTS, tensors, strict=True):
            mean = self._means[name][stretch, sign]
            x = x.movedim(2, 0).flatten(1, 2)
            mean += (x.transpose(1, 2) @ x / x.shape[1]).to(mean.device).sub_(mean) * (len(tensors[0]) / count)

    def of(self, name: str, stretch: int | None, sign: int | None) -> torch.Tensor:
        where = (slice(None) if stretch is None else slice(stretch, stretch + 1),
                 slice(None) if sign is None else slice(sign, sign + 1))  # fmt: skip
        rows = self._rows[where]
        return torch.einsum("ts,tshij->hij", rows / rows.sum().clamp_min(1.0), self._means[name][where])

    def state(self) -> dict[str, torch.Tensor]:
        return self._means | {"rows": self._rows}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self._rows = state.pop("rows")
        self._means = state


class _Reservoir:
    """A uniform sample of the tokens of one layer: each gets a random number, and the smallest are kept."""

    def __init__(self, shape: Shape, limit: int):
        self._limit = limit
        head = shape.heads, shape.width
        self._kept = {"x": torch.zeros(0, shape.channels)} | {name: torch.zeros(0, *head) for name in TENSORS[1:]}
        self._kept |= {"order": torch.zeros(0, dtype=torch.float64), "label": torch.zeros(0, dtype=torch.uint8)}

    def take(self, tensors: Sequence[torch.Tensor], label: torch.Tensor, generator: torch.Generator) -> None:
        """Offer all tokens of x ``[B, N, C]`` and q, k, v ``[B, N, H, d]``; label ``[B]`` says where they are from."""
        b, n = tensors[0].shape[:2]
        order = torch.rand(b * n, generator=generator, dtype=torch.float64)
        kept = self._kept["order"]
        picks = (order < (kept[-1] if len(kept) == self._limit else 1.0)).nonzero()[:, 0]
        picks = picks[order[picks].argsort()[: self._limit]]
        new = {name: t.flatten(0, 1)[picks.to(t.device)].to("cpu") for name, t in zip(TENSORS, tensors, strict=True)}
        new |= {"order": order[picks], "label": label.repeat_interleave(n)[picks]}
        both = {name: torch.cat([self._kept[name], value]) for name, value in new.items()}
        smallest = both["order"].argsort()[: self._limit]
        self._kept = {name: value[smallest] for name, value in both.items()}

    def tokens(self) -> dict[str, torch.Tensor]:
        label = self._kept["label"].long()
        return {name: self._kept[name] for name in TENSORS} | {"stretch": label // SIGNS, "sign": label % SIGNS}

    def state(self) -> dict[str, torch.Tensor]:
        return self._kept

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self._kept = state
