"""U-Nets of the `ldm` package as the lab runs them: exact attention by the fused kernel, half precision by autocast.

Source of the layout: CompVis/stable-diffusion, v1-inference.yaml.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lib_attn.lab.shared.errors import LabError
from lib_attn.unet.families import find_layers

#: Stable Diffusion 1.5's U-Net, 860 million parameters.
SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 768,
    "use_checkpoint": False,
    "legacy": False,
}

#: Stable Diffusion XL's U-Net, 2.6 billion parameters, without what it is told of sizes (a vector added to the
#: embedding of time, which costs nothing). Blocks of a transformer by level. Source: Stability-AI/generative-models,
#: sd_xl_base.yaml.
SDXL = SD15 | {
    "attention_resolutions": [4, 2],
    "channel_mult": [1, 2, 4],
    "num_heads": -1,
    "num_head_channels": 64,
    "transformer_depth": [1, 2, 10],
    "context_dim": 2048,
    "use_linear_in_transformer": True,
}

#: The same shape in small, for tests and quick looks.
TOY = SD15 | {"model_channels": 32, "num_res_blocks": 1, "context_dim": 32, "num_heads": 4, "channel_mult": [1, 2, 2]}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_unet(params: Mapping[str, Any], *, meta: bool = False) -> nn.Module:
    """ldm's ``UNetModel`` with exact attention by `torch.nn.functional.scaled_dot_product_attention`.

    Args:
        params: constructor arguments as in a checkpoint's yaml.
        meta: leave the weights unallocated.

    Raises:
        LabError: when the arguments do not describe a U-Net, or `ldm` is not installed.
    """
    UNetModel = _unet_class()
    if params.get("num_classes") is not None:
        raise LabError("The lab draws with U-Nets that take a prompt, not with those that take classes too.")
    params = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in params.items()} | {"use_checkpoint": False}
    depths = params.get("transformer_depth")
    if isinstance(depths, list):
        params["transformer_depth"] = 1
    try:
        # Initial weights are drawn from the global generator: keep that where it is.
        with torch.random.fork_rng(devices=[]), torch.device("meta") if meta else contextlib.nullcontext():
            unet = UNetModel(**params)
            if isinstance(depths, list):
                deepen(unet, depths)
    except (TypeError, AssertionError, ValueError, IndexError) as error:
        raise LabError(f"The configuration does not describe a U-Net that this lab can build: {error}.") from None
    for module in unet.modules():
        if hasattr(module, "checkpoint"):
            module.checkpoint = False  # recomputing activations only makes sense in training
    use_sdpa(unet)
    return unet.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def _unet_class():
    try:
        # The package says on the standard output that it does without xformers.
        with contextlib.redirect_stdout(io.StringIO()):
            from ldm.modules.diffusionmodules.openaimodel import UNetModel
            from ldm.modules.diffusionmodules.util import timestep_embedding
    except ImportError as error:
        raise LabError(f"The package `ldm` (stable-diffusion-sdkit) is missing or incomplete: {error}.") from None

    class AnySizeUNet(UNetModel):
        """``UNetModel`` that also takes latents its levels do not halve evenly, as the webui's does."""

        def forward(self, x, timesteps=None, context=None, **others):
            embedding = self.time_embed(timestep_embedding(timesteps, self.model_channels))
            h, skips = x.type(self.dtype), []
            for block in self.input_blocks:
                h = block(h, embedding, context)
                skips.append(h)
            h = self.middle_block(h, embedding, context)
            for block in self.output_blocks:
                skip = skips.pop()
                if h.shape[-2:] != skip.shape[-2:]:
                    h = F.interpolate(h, skip.shape[-2:], mode="nearest")
                h = block(torch.cat([h, skip], 1), embedding, context)
            return self.out(h.type(x.dtype))

    return AnySizeUNet


def deepen(unet: nn.Module, depths: Sequence[int]) -> None:
    """Give each transformer as many blocks as its level has in `depths`; the package builds them all alike."""
    made: dict[type, type] = {}
    for layer in find_layers(unet):
        transformer, base = layer.transformer, type(layer.transformer)
        more = [copy.deepcopy(layer.block) for _ in range(depths[layer.depth] - 1)]
        transformer.transformer_blocks.extend(more)
        if base not in made:
            # It wants a text for each of its blocks.
            def forward(self, x, context=None, base=base):
                return base.forward(self, x, [context] * len(self.transformer_blocks))

            made[base] = type(f"Deep{base.__name__}", (base,), {"forward": forward})
        transformer.__class__ = made[base]


def use_sdpa(unet: nn.Module) -> None:
    """Give every attention layer a class whose forward is the fused kernel; the package's own class is not touched."""
    made: dict[type, type] = {}
    for module in unet.modules():
        if hasattr(module, "to_q") and hasattr(module, "heads") and not getattr(module, "lab_sdpa", False):
            base = type(module)
            if base not in made:
                made[base] = type(f"Sdpa{base.__name__}", (base,), {"forward": sdpa_forward, "lab_sdpa": True})
            module.__class__ = made[base]


def sdpa_forward(self, x, context=None, mask=None):
    """Exact attention. x ``[B, N, C]``, context ``[B, M, C']`` or None for self-attention; ``[B, N, C]`` out."""
    context = x if context is None else context
    return project_back(self, attend(self.heads, self.to_q(x), self.to_k(context), self.to_v(context), mask))


def attend(heads: int, q, k, v, mask=None):
    """Split ``[B, N, H*d]`` into heads, attend, and put them together again."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def project_back(module, x):
    return module.to_out(x)


def random_unet(params: Mapping[str, Any] = SD15, *, precision: str = "bf16", device: str = "cpu", seed: int = 0):
    """A U-Net with random weights, scaled so that activations stay tame; for timing.

    Weights of linear and convolution layers are kept in the precision that autocast would cast them to at every
    call, which is how the webui keeps a half-precision checkpoint. Results are those of autocast on float32 weights.
    """
    unet = build_unet(params, meta=True)
    to_precision(unet, precision)
    unet.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for module in unet.modules():
            for name, weight in module.named_parameters(recurse=False):
                if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
                    weight.fill_(1.0 if name == "weight" else 0.0)
                elif name == "bias":
                    weight.zero_()
                else:
                    reach = (3.0 / weight[0].numel()) ** 0.5
                    weight.uniform_(-reach, reach, generator=generator)
    return unet


def to_precision(unet: nn.Module, precision: str) -> None:
    """Cast the weights that autocast casts at every call, once; norms stay in float32."""
    dtype = DTYPES[precision]
    for module in unet.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)


def autocast(device: str, precision: str):
    """The context a U-Net with weights of `precision` runs in."""
    return torch.autocast(device, DTYPES[precision], enabled=precision != "fp32")
