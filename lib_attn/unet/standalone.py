"""A whole U-Net of another layout that computes in place of the loaded one's blocks, for a while.

What computes is the loaded U-Net's own ``forward``, with other modules in its five sections: a distilled U-Net with
fewer blocks, fewer stages or no middle (BK-SDM, arXiv 2305.15798) is one of the same code base with other numbers. So
whatever a host has put around the U-Net stays, and taking off puts the sections themselves back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from lib_attn.unet.families import find_layers
from lib_attn.unet.replace import Unfitting, put_in_when_called

SECTIONS = ("time_embed", "input_blocks", "middle_block", "output_blocks", "out")
_INPUT = re.compile(r"input_blocks\.(\d+)\.0\.(op|in_layers\.2|out_layers\.3)\.weight")


def is_whole(names: Any) -> bool:
    """Whether weights of these names are those of a whole U-Net."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.2.weight",
            "out.2.weight"} <= set(names)  # fmt: skip


def arguments(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What ldm's ``UNetModel`` has to be made with to have weights of these names and shapes, but for its heads.

    Raises:
        Unfitting: when no such U-Net has them.
    """
    first, last = tensors["input_blocks.0.0.weight"], tensors["out.2.weight"]
    if first.ndim != 4 or last.ndim != 4:
        raise Unfitting("the U-Net in the file is of another kind")
    channels = first.shape[0]
    stages: list[list[int]] = [[]]
    attends: list[set[bool]] = [set()]
    for number in range(1, 1000):
        if f"input_blocks.{number}.0.op.weight" in tensors:
            stages.append([])
            attends.append(set())
        elif (found := tensors.get(f"input_blocks.{number}.0.out_layers.3.weight")) is not None:
            stages[-1].append(found.shape[0])
            attends[-1].add(f"input_blocks.{number}.1.proj_in.weight" in tensors)
        else:
            break
    depths, texts = {len(stage) for stage in stages}, {t.shape[1] for n, t in tensors.items() if _reads_text(n)}
    blocks = 1 + max((int(n.split(".transformer_blocks.")[1].split(".")[0]) for n in tensors if _reads_text(n)),
                     default=0)  # fmt: skip
    regular = all(len(set(stage)) == 1 and stage[0] % channels == 0 for stage in stages if stage)
    if len(depths) != 1 or not regular or 0 in depths or len(texts) != 1 or any(len(a) != 1 for a in attends):
        raise Unfitting("the U-Net in the file is of another kind")
    return {
        "image_size": 32,
        "in_channels": first.shape[1],
        "out_channels": last.shape[0],
        "model_channels": channels,
        "num_res_blocks": depths.pop(),
        "channel_mult": [stage[0] // channels for stage in stages],
        "attention_resolutions": [2**level for level, attended in enumerate(attends) if attended == {True}],
        "use_spatial_transformer": True,
        "transformer_depth": blocks,
        "use_linear_in_transformer": any(t.ndim == 2 for n, t in tensors.items() if n.endswith(".proj_in.weight")),
        "context_dim": texts.pop(),
        "use_checkpoint": False,
        "legacy": False,
    }


def _reads_text(name: str) -> bool:
    return name.endswith(".attn2.to_k.weight")


def build(unet: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, nn.Module]:
    """The sections of a U-Net of the same code base as `unet` with these weights.

    Numbers are of the types and on the device of those of `unet`, so that the host's precision is kept.

    Raises:
        Unfitting: when they are not those of a U-Net that understands the same text and latents.
    """
    layers, told = find_layers(unet), arguments(tensors)
    own = arguments(unet.state_dict())
    if told["context_dim"] != own["context_dim"]:
        raise Unfitting("the U-Net in the file reads other text than this model's")
    if any(told[part] != own[part] for part in ("in_channels", "out_channels")):
        raise Unfitting("the U-Net in the file reads other latents than this model's")
    if told["model_channels"] != own["model_channels"]:
        raise Unfitting("the U-Net in the file is of another width than this model's")
    heads = [layer.family.heads(layer.attn1) for layer in layers]
    # SD 1.x has as many heads everywhere, SD 2.x heads of one width.
    split = {"num_heads": heads[0]}
    if len(set(heads)) > 1:
        split = {"num_heads": -1, "num_head_channels": layers[0].attn1.to_q.out_features // heads[0]}
    made_by = next(kind for kind in type(unet).__mro__ if kind.__module__.endswith("openaimodel"))
    try:
        # Initial weights would be drawn from the global generator.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            made = made_by(**told, **split)
    except (TypeError, ValueError, AssertionError, IndexError):
        raise Unfitting("the U-Net in the file is of another kind") from None
    sections = {name: getattr(made, name) for name in SECTIONS}
    if not any(name.startswith("middle_block.") for name in tensors):
        sections["middle_block"] = type(made.middle_block)()  # hands on what it gets
    _fill(sections, tensors, _types(unet), next(unet.parameters()).device)
    for name, module in sections.items():
        _hook(module, getattr(unet, name))
    return sections


def _types(unet: nn.Module) -> dict[str, torch.dtype]:
    """Types of numbers by kind of module and name of the weight."""
    found = {}
    for module in unet.modules():
        for name, value in module.named_parameters(recurse=False):
            found.setdefault((_kind(module), name), value.dtype)
    return found


def _kind(module: nn.Module) -> str:
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    return next((kind.__name__ for kind in kinds if isinstance(module, kind)), type(module).__name__)


def _fill(sections: dict[str, nn.Module], tensors: Mapping[str, torch.Tensor], types: dict, device) -> None:
    left = dict(tensors)
    for section, whole in sections.items():
        whole.eval()
        for path, module in whole.named_modules(prefix=section):
            for name, value in list(module._parameters.items()):
                if value is None:
                    continue
                found = left.pop(f"{path}.{name}", None)
                if found is None or found.shape != value.shape:
                    why = "is missing" if found is None else f"has shape {list(found.shape)}, not {list(value.shape)}"
                    raise Unfitting(f"{path}.{name} of the U-Net in the file {why}"[:160])
                dtype = types.get((_kind(module), name), found.dtype)
                module._parameters[name] = nn.Parameter(found.to(device, dtype), requires_grad=False)
            # Those of attention that recomputes what it needs in training.
            if hasattr(module, "checkpoint") and isinstance(module.checkpoint, bool):
                module.checkpoint = False
    if left:
        raise Unfitting(f"the U-Net in the file has {next(iter(left))[:80]}, which is no part of one")


def _hook(module: nn.Module, own: nn.Module) -> None:
    """Give the parts of a section the hooks by which a host (lowvram) brings the loaded ones to the device."""
    pairs = [(module, own)]
    if isinstance(own, nn.ModuleList) and len(own):
        pairs += [(part, own[0]) for part in module]
    for new, old in pairs:
        new._forward_pre_hooks.update(old._forward_pre_hooks)
        if hasattr(old, "_forward_pre_hooks_with_kwargs"):
            new._forward_pre_hooks_with_kwargs.update(old._forward_pre_hooks_with_kwargs)


@contextlib.contextmanager
def stood_in(unet: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Have `unet` compute as the U-Net with these weights, by ldm's names, does.

    Raises:
        Unfitting: when they are not those of a U-Net that understands the same text and latents.
    """
    sections = build(unet, tensors)
    with put_in_when_called(unet, [(unet, name, module) for name, module in sections.items()]):
        yield
