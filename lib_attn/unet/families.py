"""How a code base builds its U-Nets: what is assumed of one stands here and nowhere else.

`Ldm` is the U-Net of CompVis' latent-diffusion and of Stability's ldm and sgm (SD 1.x, 2.x, XL), which
stable-diffusion-webui runs. Another code base gets a class of its own in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lib_attn.unet.layers import Block, Layer
from lib_attn.unet.rows import Row, plan_rows


class UnsupportedModel(TypeError):
    """A model without a U-Net of the supported kind; its text is a sentence's end that a user may read."""


class Ldm:
    """CompVis' latent-diffusion and Stability's ldm and sgm."""

    #: Arguments of a U-Net call, in order.
    ARGUMENTS = ("x", "timesteps", "context")
    #: Timesteps of the noise schedule, which is scaled linear from 0.00085 to 0.012.
    STEPS = 1000

    def unet(self, model: Any) -> Any | None:
        """The U-Net inside a U-Net, a LatentDiffusion or a DiffusionEngine; None when there is none of this kind."""
        for path in ((), ("diffusion_model",), ("model", "diffusion_model")):
            candidate = model
            for name in path:
                candidate = getattr(candidate, name, None)
            if hasattr(candidate, "input_blocks") and hasattr(candidate, "output_blocks"):
                return candidate
        return None

    def argument(self, args: tuple, kwargs: dict, name: str) -> Any:
        """An argument of a U-Net call that may have been given by position or by name, else None."""
        place = self.ARGUMENTS.index(name)
        return args[place] if len(args) > place else kwargs.get(name)

    def projections(self, attention: Any) -> tuple[Any, Any, Any, Any]:
        """The modules that make q, k and v of an attention module's input, and the one behind the attention."""
        return attention.to_q, attention.to_k, attention.to_v, attention.to_out

    def norms(self, block: Any) -> tuple[Any, Any]:
        """The norms in front of a transformer block's self-attention and of its cross-attention."""
        return block.norm1, block.norm2

    def heads(self, attention: Any) -> int:
        return attention.heads

    def scale(self, attention: Any) -> float | None:
        """Factor of the logits, None for 1 / sqrt(width of a head)."""
        return getattr(attention, "scale", None)

    def rows(self, weights: Sequence[Sequence[float]], *, negatives: bool = True, edit: bool = False) -> list[Row]:
        """The rows of one evaluation in the order in which they pass the U-Net, see `lib_attn.unet.rows.plan_rows`."""
        return plan_rows(weights, negatives=negatives, edit=edit)

    def blocks(self, unet: Any) -> list[Block]:
        """The blocks of `unet` in forward order, with and without attention.

        A block that another extension has put a wrapper around is the one inside the wrapper: that is what computes,
        and what is left when the wrapper goes.
        """
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
                "M00" if section == "mid" else f"{section.upper()}{number:02d}",
                section,
                number,
                depth,
                block,
                depth - any(map(_doubles, _parts(block))),
            )
            for section, number, block, depth in sections
        ]

    def layers(self, unet: Any) -> list[Layer]:
        """The attention layers of `unet` in forward order.

        Everything is found by shape and attribute, never by exact class: token merging swaps block classes, and
        ``ldm`` and ``sgm`` have classes of their own.
        """
        found: list[Layer] = []
        for block in self.blocks(unet):
            for part in _parts(block.module):
                for inner in getattr(part, "transformer_blocks", ()):
                    if hasattr(inner, "attn1"):
                        place = block.name, block.section, block.number, block.depth
                        found.append(Layer(*place, len(found), part, inner, self))
        return found


FAMILIES = (Ldm(),)


def family_of(model: Any) -> Ldm:
    """The family that knows the U-Net of `model`.

    Raises:
        UnsupportedModel: when none does (SD3, FLUX, diffusers models).
    """
    for family in FAMILIES:
        if family.unet(model) is not None:
            return family
    raise UnsupportedModel("this model has no U-Net with input_blocks and output_blocks (SD 1.x, 2.x and XL have)")


def find_unet(model: Any) -> Any:
    """The U-Net of `model`; raises `UnsupportedModel` as `family_of` does."""
    return family_of(model).unet(model)


def find_blocks(model: Any) -> list[Block]:
    """The blocks of the U-Net of `model` in forward order, with and without attention."""
    return family_of(model).blocks(find_unet(model))


def find_layers(model: Any) -> list[Layer]:
    """The attention layers of the U-Net of `model` in forward order."""
    return family_of(model).layers(find_unet(model))


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
