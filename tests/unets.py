"""Tiny U-Nets of the real `ldm` package with weights that let attention matter."""

import torch


def tiny_unet(seed=0, **changes):
    """A UNetModel with SD 1.x's block structure, 32 channels wide, eval mode, its zero-initialised layers filled."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    options = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 4, "use_spatial_transformer": True,
        "transformer_depth": 1, "context_dim": 16, "use_checkpoint": False, "legacy": False,
    } | changes  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetModel(**options).eval()
        for parameter in unet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return unet.requires_grad_(False)


def unet_input(rows, h, w, seed=0, dtype=torch.float32, context=16):
    """(x, context) for a tiny U-Net: latents ``[rows, 4, h, w]`` and text ``[rows, 77, context]``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, h, w, generator=generator)
    return x.to(dtype), torch.randn(rows, 77, context, generator=generator).to(dtype)


def probe(function):
    """A hook that looks on as the host's own would; any other inside the model keeps all rows in the batch."""
    function.__module__ = "modules.probe"
    return function


def snapshot(unet):
    """Everything a patch could leave behind: each module's attributes and hooks, without the weights' values."""
    state = {}
    for name, module in unet.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                state[name, key] = {k: id(v) for k, v in value.items()}
            elif "hooks" in key:
                state[name, key] = list(value)
            else:
                state[name, key] = id(value)
    return state
