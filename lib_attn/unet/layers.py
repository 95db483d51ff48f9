"""Names, depth and order of a U-Net's attention layers, and the selector users pick them with.

Block names are those of the LoRA block-weight community: ``IN00`` … ``IN11``, ``M00``, ``OUT00`` … ``OUT11``,
numbered as in ``input_blocks``/``output_blocks`` of CompVis' ``UNetModel``. Depth counts halvings of the
latent: ``d0`` is the full latent, ``d1`` half of it.
"""

from __future__ import annotations

import re
from collections import Counter
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
    transformer: the SpatialTransformer (sees ``[B, C, h, w]``). block: its transformer block. family: the code base,
    see `lib_attn.unet.families.Family`.
    """

    name: str
    section: str
    number: int
    depth: int
    index: int
    transformer: Any = field(repr=False, compare=False)
    block: Any = field(repr=False, compare=False)
    family: Any = field(default=None, repr=False, compare=False)

    @property
    def attn1(self):
        return self.block.attn1

    @property
    def attn2(self):
        return getattr(self.block, "attn2", None)


def layer_keys(layers: Iterable[Layer]) -> list[str]:
    """A name of its own for each layer: the block's and its number inside that block, ``IN04.0``, ``IN04.1``."""
    met: Counter[str] = Counter()
    keys = []
    for layer in layers:
        keys.append(f"{layer.name}.{met[layer.name]}")
        met[layer.name] += 1
    return keys


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
        shown = item[:20]
        if not match:
            raise ValueError(f"'{shown}' is no block: use auto, all, in, mid, out, in4, out6-11, d0, d1-2 or !mid")
        exclude, section, first, last = match.groups()
        if (section == "all" and first) or (section == "d" and not first):
            raise ValueError(f"'{shown}' is no block: use 'all' without and 'd' with a number")
        section = "mid" if section == "m" else section
        low = int(first) if first else 0
        high = int(last) if last else (low if first else 99)
        if low > high:
            raise ValueError(f"'{shown}' counts downwards")
        rules.append((not exclude, section, low, high))
    return Selector(",".join(items), tuple(rules))
