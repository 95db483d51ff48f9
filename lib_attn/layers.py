"""Names, depth and order of a U-Net's attention layers, and the selector users pick them with.

Block names are those of the LoRA block-weight community: ``IN00`` … ``IN11``, ``M00``, ``OUT00`` … ``OUT11``,
numbered as in ``input_blocks``/``output_blocks`` of CompVis' ``UNetModel``. Depth counts halvings of the
latent: ``d0`` is the full latent, ``d1`` half of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_SELECTOR_LENGTH = 200
_TOKEN = re.compile(r"(!?)(all|in|mid|m|out|d)(?:(\d{1,2})(?:-(\d{1,2}))?)?")


@dataclass(frozen=True)
class Layer:
    """One transformer block of the U-Net with its self-attention and cross-attention.

    name: user-facing block name, e.g. ``IN01``. section: ``in``, ``mid`` or ``out``. number: index in that section.
    depth: how often the latent was halved. index: running number over the whole U-Net in forward order.
    transformer: the SpatialTransformer (sees ``[B, C, h, w]``). block: its transformer block.
    """

    name: str
    section: str
    number: int
    depth: int
    index: int
    transformer: Any = field(repr=False, compare=False)
    block: Any = field(repr=False, compare=False)

    @property
    def attn1(self):
        return self.block.attn1

    @property
    def attn2(self):
        return getattr(self.block, "attn2", None)


@dataclass(frozen=True)
class Block:
    """One block of the U-Net (a resolution step with its attention). Fields as in `Layer`; module: what is called.

    handed: depth of what it hands on, less than its own where it ends with an upsampling.
    """

    name: str
    section: str
    number: int
    depth: int
    module: Any = field(repr=False, compare=False)
    handed: int


@dataclass(frozen=True)
class Selector:
    """A parsed block selector. Ask it with `matches`; `auto` means the technique's own size-dependent choice."""

    text: str
    rules: tuple[tuple[bool, str, int, int], ...] = ()

    @property
    def auto(self) -> bool:
        return not self.rules

    def matches(self, layer: Layer | Block) -> bool:
        """True when the last rule that names the layer includes it."""
        chosen = self.rules and not self.rules[0][0]  # a selector that starts by excluding starts from everything
        for include, section, first, last in self.rules:
            number = layer.depth if section == "d" else layer.number
            if section == "all" or (section in ("d", layer.section) and first <= number <= last):
                chosen = include
        return bool(chosen)


def parse_selector(text: str) -> Selector:
    """Parse ``auto`` or a comma list of ``all``, ``in``, ``mid``, ``out``, ``in4``, ``out6-11``, ``d1-2``, ``!mid``.

    Names in capitals and with leading zeros (``IN04``, ``M00``) are the same. Later items win over earlier ones.

    Raises:
        ValueError: with one sentence, when an item is not understood.
    """
    text = str(text).strip()
    if len(text) > MAX_SELECTOR_LENGTH:
        raise ValueError(f"a block selector may have {MAX_SELECTOR_LENGTH} characters at most")
    items = [item for item in re.split(r"[,;\s]+", text.lower()) if item]
    if items in ([], ["auto"]):
        return Selector("auto")
    rules = []
    for item in items:
        match = _TOKEN.fullmatch(item)
        if not match:
            raise ValueError(f"'{item[:20]}' is no block: use auto, all, in, mid, out, in4, out6-11, d0, d1-2 or !mid")
        exclude, section, first, last = match.groups()
        if (section == "all" and first) or (section == "d" and not first):
            raise ValueError(f"'{item[:20]}' is no block: use 'all' without and 'd' with a number")
        section = "mid" if section == "m" else section
        low = int(first) if first else 0
        high = int(last) if last else (low if first else 99)
        if low > high:
            raise ValueError(f"'{item[:20]}' counts downwards")
        rules.append((not exclude, section, low, high))
    return Selector(",".join(items), tuple(rules))


class UnsupportedModel(TypeError):
    """A model without a U-Net of the supported kind; its text is a sentence's end that a user may read."""


def find_unet(model: Any) -> Any:
    """Return the U-Net inside a U-Net, a LatentDiffusion or a DiffusionEngine.

    Raises:
        UnsupportedModel: without ``input_blocks``/``output_blocks`` (SD3, FLUX, diffusers models).
    """
    for path in ((), ("diffusion_model",), ("model", "diffusion_model")):
        candidate = model
        for name in path:
            candidate = getattr(candidate, name, None)
        if hasattr(candidate, "input_blocks") and hasattr(candidate, "output_blocks"):
            return candidate
    raise UnsupportedModel("this model has no U-Net with input_blocks and output_blocks (SD 1.x, 2.x and XL have)")


def find_blocks(model: Any) -> list[Block]:
    """List the blocks of an ldm or sgm U-Net in forward order, with and without attention.

    A block that another extension has put a wrapper around is the one inside the wrapper: that is what computes, and
    what is left when the wrapper goes.
    """
    unet = find_unet(model)
    kinds = {type(b) for b in (*unet.input_blocks, *unet.output_blocks) if hasattr(b, "__iter__")}
    inputs, outputs = ([_held(b, kinds) for b in blocks] for blocks in (unet.input_blocks, unet.output_blocks))
    depths, depth = [], 0
    for block in inputs:
        depth += any(map(_halves, _parts(block)))
        depths.append(depth)
    sections = [("in", i, block, depths[i]) for i, block in enumerate(inputs)]
    middle = getattr(unet, "middle_block", None)
    if middle is not None:
        sections.append(("mid", 0, _held(middle, kinds), depths[-1]))
    # Output block j takes the skip of input block n-1-j, so it runs at that block's size.
    sections += [("out", j, block, depths[len(depths) - 1 - j]) for j, block in enumerate(outputs)]
    return [
        Block(
            "M00" if section == "mid" else f"{section.upper()}{number:02d}", section, number, depth, block,
            depth - any(map(_doubles, _parts(block))),
        )
        for section, number, block, depth in sections
    ]


def find_layers(model: Any) -> list[Layer]:
    """List the attention layers of an ldm or sgm U-Net in forward order.

    Everything is found by shape and attribute, never by exact class: token merging swaps block classes, and
    ``ldm`` and ``sgm`` have classes of their own.
    """
    layers: list[Layer] = []
    for block in find_blocks(model):
        for part in _parts(block.module):
            for inner in getattr(part, "transformer_blocks", ()):
                if hasattr(inner, "attn1"):
                    place = block.name, block.section, block.number, block.depth
                    layers.append(Layer(*place, len(layers), part, inner))
    return layers


def _held(block: Any, kinds: set[type]) -> Any:
    """The block of one of `kinds` that `block` is or holds, `block` itself when it holds none."""
    return next((module for module in block.modules() if type(module) in kinds), block)


def _parts(block: Any) -> Iterable[Any]:
    return block if hasattr(block, "__iter__") else [block]


def _halves(part: Any) -> bool:
    return _is(part, "Downsample")


def _doubles(part: Any) -> bool:
    return _is(part, "Upsample")


def _is(part: Any, name: str) -> bool:
    # A ResBlock built with down=True or up=True (resblock_updown) holds its own.
    return name in (type(part).__name__, type(getattr(part, "h_upd", None)).__name__)
