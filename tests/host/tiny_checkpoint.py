"""Write a small checkpoint of random weights in SD 1.x's layout.

``python tiny_checkpoint.py WEBUI OUT.safetensors SEED``, with the host's own Python. The text encoder is an OpenCLIP
one, because its tokenizer comes with the package and nothing has to be downloaded; the U-Net has SD 1.x's blocks and
heads, 32 channels wide.
"""

import sys
from pathlib import Path

WIDTH = 256  # of the text encoder

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": WIDTH, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
TEXT = {"arch": "ViT-S-32-alt", "version": "none", "freeze": True, "layer": "last"}


def config():
    """The yaml that the host reads beside the checkpoint."""
    nothing = {"target": "torch.nn.Identity"}
    autoencoder = {"embed_dim": 4, "monitor": "val/rec_loss", "ddconfig": VAE, "lossconfig": nothing}
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.00085, "linear_end": 0.012, "num_timesteps_cond": 1, "timesteps": 1000,
                "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 64, "channels": 4,
                "cond_stage_trainable": False, "conditioning_key": "crossattn", "scale_factor": 0.18215,
                "use_ema": False, "monitor": "val/loss_simple_ema",
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET},
                "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": autoencoder},
                "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", "params": TEXT},
            },
        }
    }  # fmt: skip


def fill_zeros(module):
    """Zero-initialised layers would make the picture independent of attention."""
    import torch

    for parameter in module.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def main(webui, out, seed):
    sys.path.insert(0, str(Path(webui, "repositories", "stable-diffusion-stability-ai")))
    sys.modules["xformers"] = None
    import open_clip
    import torch
    import yaml
    from ldm.models.autoencoder import AutoencoderKL
    from ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    torch.manual_seed(int(seed))
    unet, vae = UNetModel(**UNET), AutoencoderKL(ddconfig=VAE, lossconfig={"target": "torch.nn.Identity"}, embed_dim=4)
    fill_zeros(unet)
    fill_zeros(vae)
    text, _, _ = open_clip.create_model_and_transforms(TEXT["arch"], pretrained=None)
    del text.visual
    with torch.no_grad():
        text.ln_final.bias.add_(0.3)  # the host divides by the mean of the text, which must not be about zero
    parts = {"model.diffusion_model": unet, "first_stage_model": vae, "cond_stage_model.model": text}
    weights = {f"{p}.{k}": v.contiguous().clone() for p, m in parts.items() for k, v in m.state_dict().items()}
    save_file(weights, out, metadata={"format": "pt"})
    Path(out).with_suffix(".yaml").write_text(yaml.safe_dump(config(), sort_keys=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
