"""Names of weights as diffusers and kohya-ss write them, in the names of ldm (CompVis' latent-diffusion).

Both code bases build the same U-Net and the same autoencoder of SD 1.x and 2.x; only the names differ. diffusers counts
stages and parts inside a stage, ldm counts all blocks of a side in one row. Sources of the two ways of naming:
huggingface/diffusers, models/unets/unet_2d_condition.py and models/autoencoders/autoencoder_kl.py; CompVis/
latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py and model.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Parts of a residual block of the U-Net.
_RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
#: Of the decoder's one attention; diffusers has two ways of naming it, before and since 0.17.
_ATTENTION = {
    "group_norm": "norm", "query": "q", "to_q": "q", "key": "k", "to_k": "k", "value": "v", "to_v": "v",
    "proj_attn": "proj_out", "to_out.0": "proj_out",
}  # fmt: skip
_STAGE = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_DECODER = re.compile(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)")


class Unnamed(ValueError):
    """A name that stands for nothing in a U-Net or autoencoder of SD 1.x; the text is the name."""


def unet_names(names: Iterable[str], depth: int | None = None) -> dict[str, str]:
    """diffusers' names of a U-Net's weights -> ldm's.

    Args:
        names: of all weights of the U-Net, or of those of its layers that are wanted where `depth` is given.
        depth: residual blocks in each stage on the way in; counted in `names` where it is None.

    Raises:
        Unnamed: when one is no weight of such a U-Net.
    """
    names = list(names)
    found = [m for m in map(_STAGE.fullmatch, names) if m]
    if depth is None:
        depth = 1 + max((int(m[4]) for m in found if m[1] == "down" and m[3] == "resnets"), default=0)
    attends = {m[2] for m in found if m[1] == "up" and m[3] == "attentions"}
    return {name: _unet_name(name, depth, attends) for name in names}


def _unet_name(name: str, depth: int, attends: set[str]) -> str:
    module, _, weight = name.rpartition(".")
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{weight}"
    if found := _MIDDLE.fullmatch(name):
        kind, number, rest = found.groups()
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{_inside(kind, rest, name)}"
    if (found := _STAGE.fullmatch(name)) is None:
        raise Unnamed(name[:80])
    side, stage, kind, number, rest = found.groups()
    place = int(stage) * (depth + 1) + int(number)
    if kind == "downsamplers":
        return f"input_blocks.{(int(stage) + 1) * (depth + 1)}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        return f"output_blocks.{int(stage) * (depth + 1) + depth}.{2 if stage in attends else 1}.{rest}"
    block = f"input_blocks.{1 + place}" if side == "down" else f"output_blocks.{place}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_inside(kind, rest, name)}"


def _inside(kind: str, rest: str, name: str) -> str:
    """What a weight inside a residual block or a transformer, which both name alike, is called."""
    if kind == "attentions":
        return rest
    part, _, weight = rest.rpartition(".")
    if part not in _RESIDUAL:
        raise Unnamed(name[:80])
    return f"{_RESIDUAL[part]}.{weight}"


def decoder_names(names: Iterable[str]) -> dict[str, str]:
    """diffusers' names of the weights of an autoencoder's decoding half -> ldm's; those of the other half left out.

    Raises:
        Unnamed: when one is no weight of such an autoencoder.
    """
    wanted = [name for name in names if name.startswith(("decoder.", "post_quant_conv."))]
    stages = 1 + max((int(m[1]) for m in map(_DECODER.fullmatch, wanted) if m), default=0)
    return {name: _decoder_name(name, stages) for name in wanted}


def _decoder_name(name: str, stages: int) -> str:
    if found := _DECODER.fullmatch(name):
        stage, kind, number, rest = found.groups()
        # ldm counts the stages from the full size down.
        level = f"decoder.up.{stages - 1 - int(stage)}"
        if kind == "upsamplers":
            return f"{level}.upsample.{rest}"
        return f"{level}.block.{number}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    inner = name.removeprefix("decoder.")
    if found := _MIDDLE.fullmatch(inner):
        kind, number, rest = found.groups()
        if kind == "resnets":
            return f"decoder.mid.block_{int(number) + 1}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        part, _, weight = rest.rpartition(".")
        if part in _ATTENTION:
            return f"decoder.mid.attn_1.{_ATTENTION[part]}.{weight}"
    elif inner.startswith(("conv_in.", "conv_out.", "post_quant_conv.")):
        return name
    elif inner.startswith("conv_norm_out."):
        return name.replace("conv_norm_out", "norm_out")
    raise Unnamed(name[:80])


def decoder_weight(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A decoder's weight as ldm keeps it: its attention is made of 1 x 1 convolutions, diffusers' of linear layers."""
    return weight[..., None, None] if ".attn_1." in name and weight.ndim == 2 else weight


def joined(depth: int, stages: int = 4) -> dict[str, str]:
    """Names of layers with ``_`` for ``.``, as kohya-ss' LoRA files have them -> ldm's names, those with ``_`` of ldm
    included.

    Args:
        depth: residual blocks in each stage on the way in. stages: of the U-Net.
    """
    residual = [f"{part}.weight" for part in _RESIDUAL]
    projections = ("to_q", "to_k", "to_v", "to_out.0")
    inner = [f"transformer_blocks.0.{a}.{p}" for a in ("attn1", "attn2") for p in projections]
    inner += ["transformer_blocks.0.ff.net.0.proj", "transformer_blocks.0.ff.net.2", "proj_in", "proj_out"]
    transformer = [f"{part}.weight" for part in inner]
    names = [f"{end}.weight" for end in _UNET_ENDS]
    for stage in range(stages):
        names += [f"down_blocks.{stage}.downsamplers.0.conv.weight", f"up_blocks.{stage}.upsamplers.0.conv.weight"]
        for side, count in (("down", depth), ("up", depth + 1)):
            for number in range(count):
                block = f"{side}_blocks.{stage}"
                names += [f"{block}.resnets.{number}.{part}" for part in residual]
                # The innermost stage of SD 1.x and 2.x has no attention.
                if stage != (stages - 1 if side == "down" else 0):
                    names += [f"{block}.attentions.{number}.{part}" for part in transformer]
    names += [f"mid_block.resnets.{number}.{part}" for number in (0, 1) for part in residual]
    names += [f"mid_block.attentions.0.{part}" for part in transformer]
    own = {name.removesuffix(".weight"): own.removesuffix(".weight") for name, own in unet_names(names, depth).items()}
    return {name.replace(".", "_"): name for name in own.values()} | {k.replace(".", "_"): v for k, v in own.items()}
