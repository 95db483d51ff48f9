"""Write a small checkpoint of random weights in SD 1.x's, its inpainting model's or SDXL's layout.

``python tiny_checkpoint.py WEBUI OUT.safetensors SEED [xl | inpaint]``, with the host's own Python. The text encoder is
an OpenCLIP one, because its tokenizer comes with the package and nothing has to be downloaded; the U-Net has SD 1.x's
blocks and heads, 32 channels wide. The one of SDXL's layout has a single text encoder, as SDXL's refiner has.
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
INPAINT_CHANNELS = 9  # latents, mask, latents of the masked picture
TEXT_KEYS = ("cond_stage_model.model", "conditioner.embedders.0.model")  # SD 1.x, SDXL
TEXT = {"arch": "ViT-S-32-alt", "version": "none", "freeze": True, "layer": "last"}

XL_SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
XL_SIZE_WIDTH = 8  # of each of a size's two numbers
XL_UNET = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2], "num_res_blocks": 2,
    "channel_mult": [1, 2, 4], "num_head_channels": 16, "use_spatial_transformer": True, "transformer_depth": [1, 2, 3],
    "context_dim": WIDTH, "use_linear_in_transformer": True, "num_classes": "sequential", "legacy": False,
    "adm_in_channels": WIDTH + len(XL_SIZES) * 2 * XL_SIZE_WIDTH, "spatial_transformer_attn_type": "softmax",
}  # fmt: skip


def unet(inpaint=False):
    return UNET | ({"in_channels": INPAINT_CHANNELS} if inpaint else {})


def config(inpaint=False):
    """The yaml that the host reads beside the checkpoint."""
    nothing = {"target": "torch.nn.Identity"}
    autoencoder = {"embed_dim": 4, "monitor": "val/rec_loss", "ddconfig": VAE, "lossconfig": nothing}
    kind, key, more = ("LatentDiffusion", "crossattn", {})
    if inpaint:
        kind, key, more = ("LatentInpaintDiffusion", "hybrid", {"finetune_keys": None})
    return {
        "model": {
            "target": f"ldm.models.diffusion.ddpm.{kind}",
            "params": {
                **more,
                "linear_start": 0.00085, "linear_end": 0.012, "num_timesteps_cond": 1, "timesteps": 1000,
                "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": 64, "channels": 4,
                "cond_stage_trainable": False, "conditioning_key": key, "scale_factor": 0.18215,
                "use_ema": False, "monitor": "val/loss_simple_ema",
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet(inpaint),
                },
                "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": autoencoder},
                "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", "params": TEXT},
            },
        }
    }  # fmt: skip


def xl_config():
    """The same for SDXL's layout."""
    sgm, parts = "sgm.modules", "sgm.modules.diffusionmodules"
    text = {"arch": TEXT["arch"], "version": "none", "freeze": True, "layer": "penultimate"}
    embedders = [
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{sgm}.encoders.modules.FrozenOpenCLIPEmbedder2",
            "params": {**text, "always_return_pooled": True, "legacy": False},
        }
    ]
    embedders += [
        {
            "is_trainable": False,
            "input_key": name,
            "params": {"outdim": XL_SIZE_WIDTH},
            "target": f"{sgm}.encoders.modules.ConcatTimestepEmbedderND",
        }
        for name in XL_SIZES
    ]
    autoencoder = {
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "ddconfig": {**VAE, "attn_type": "vanilla"},
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    return {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "scale_factor": 0.13025, "disable_first_stage_autocast": True,
                "denoiser_config": {
                    "target": f"{parts}.denoiser.DiscreteDenoiser",
                    "params": {
                        "num_idx": 1000,
                        "weighting_config": {"target": f"{parts}.denoiser_weighting.EpsWeighting"},
                        "scaling_config": {"target": f"{parts}.denoiser_scaling.EpsScaling"},
                        "discretization_config": {"target": f"{parts}.discretizer.LegacyDDPMDiscretization"},
                    },
                },
                "network_config": {"target": f"{parts}.openaimodel.UNetModel", "params": XL_UNET},
                "conditioner_config": {"target": f"{sgm}.GeneralConditioner", "params": {"emb_models": embedders}},
                "first_stage_config": {
                    "target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper", "params": autoencoder,
                },
            },
        }
    }  # fmt: skip


def fill_zeros(module):
    """Zero-initialised layers would make the picture independent of attention."""
    import torch

    for parameter in module.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def main(webui, out, seed, layout=""):
    xl, inpaint = layout == "xl", layout == "inpaint"
    for repository in ("generative-models", "stable-diffusion-stability-ai"):
        sys.path.insert(0, str(Path(webui, "repositories", repository)))
    sys.modules["xformers"] = None
    import open_clip
    import torch
    import yaml
    from ldm.models.autoencoder import AutoencoderKL
    from safetensors.torch import save_file

    if xl:
        from sgm.modules.diffusionmodules.openaimodel import UNetModel
    else:
        from ldm.modules.diffusionmodules.openaimodel import UNetModel

    torch.manual_seed(int(seed))
    noise = UNetModel(**(XL_UNET if xl else unet(inpaint)))
    vae = AutoencoderKL(ddconfig=VAE, lossconfig={"target": "torch.nn.Identity"}, embed_dim=4)
    fill_zeros(noise)
    fill_zeros(vae)
    text, _, _ = open_clip.create_model_and_transforms(TEXT["arch"], pretrained=None)
    del text.visual
    with torch.no_grad():
        text.ln_final.bias.add_(0.3)  # the host divides by the mean of the text, which must not be about zero
    parts = {"model.diffusion_model": noise, "first_stage_model": vae, TEXT_KEYS[xl]: text}
    weights = {f"{p}.{k}": v.contiguous().clone() for p, m in parts.items() for k, v in m.state_dict().items()}
    save_file(weights, out, metadata={"format": "pt"})
    Path(out).with_suffix(".yaml").write_text(yaml.safe_dump(xl_config() if xl else config(inpaint), sort_keys=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
