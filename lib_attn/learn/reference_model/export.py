"""One safetensors file in Stable Diffusion 1.x layout, and the yaml with which a webui loads it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from . import start, tokenizer
from .models import SCALE_FACTOR, Autoencoder, TextToNoise
from .state import save_tensors

CLIP_FOLDER = "models/reference-clip"
LIMIT = 64 * 1024 * 1024
TITLE = "Attention Lab reference model"


def checkpoint_tensors(model: TextToNoise, autoencoder: Autoencoder) -> dict[str, torch.Tensor]:
    """All weights under their Stable Diffusion 1.x names, float16."""
    parts = {
        "model.diffusion_model.": model.unet.state_dict(),
        "first_stage_model.": autoencoder.state_dict(),
        "cond_stage_model.transformer.": model.text.state_dict(),
    }
    tensors = {prefix + key: value for prefix, weights in parts.items() for key, value in weights.items()}
    return {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}


def host_config(recipe, clip_folder: str) -> dict:
    """The yaml's content: latent diffusion with these networks.

    clip_folder: where the host finds tokenizer and configuration of the text encoder. A relative path is taken
    from the webui's working folder and, by the lab, from the folder of the checkpoint and those above it.
    """
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.00085,
                "linear_end": 0.0120,
                "num_timesteps_cond": 1,
                "log_every_t": 200,
                "timesteps": 1000,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "channels": 4,
                "image_size": recipe.phases[-1].size // 8,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "monitor": "val/loss_simple_ema",
                "scale_factor": SCALE_FACTOR,
                "use_ema": False,
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                    "params": recipe.unet_model.params(),
                },
                "first_stage_config": {
                    "target": "ldm.models.autoencoder.AutoencoderKL",
                    "params": {
                        "embed_dim": 4,
                        "monitor": "val/rec_loss",
                        "ddconfig": recipe.vae_model.ddconfig(),
                        "lossconfig": {"target": "torch.nn.Identity"},
                    },
                },
                "cond_stage_config": {
                    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                    "params": {"version": clip_folder},
                },
            },
        }
    }


def metadata(recipe, progress: str, earlier: str = "") -> dict[str, str]:
    """What the file says about itself (Stability-AI/ModelSpec keys, and the recipe).

    earlier: JSON of the recipe that made the checkpoint this run started from, empty when it started from nothing.
    """
    size = recipe.phases[-1].size
    return {
        **({"attention_lab.started_from": earlier} if earlier else {}),
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": TITLE,
        "modelspec.description": "Coloured primitives on plain backgrounds, trained from nothing on renders "
        "made by lib_attn.learn.scenes. For tests and demonstrations.",
        "modelspec.license": "CC0-1.0 (weights and training data)",
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.prediction_type": "epsilon",
        "attention_lab.progress": progress,
        "attention_lab.recipe": json.dumps(recipe.to_json()),
        "attention_lab.data": "procedural primitives only, CC0-1.0",
    }


def export(run, folder: Path, clip_folder: str = CLIP_FOLDER) -> Path:
    """Write reference.safetensors, reference.yaml and models/reference-clip/ into `folder`; returns the first.

    In a webui the first two belong into models/Stable-diffusion, the third into models.

    Raises StateError when nothing is trained yet or the disk is full, ValueError above 64 MB.
    """
    import yaml

    recipe = run.recipe
    progress, weights = run.newest_weights()
    model = run.seeded(lambda: TextToNoise(recipe.unet_model, recipe.text_model), "unet weights")
    model.load_state_dict(weights, strict=False)
    tensors = checkpoint_tensors(model, run.autoencoder())
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > LIMIT:
        raise ValueError(f"The checkpoint would have {size / 2**20:.0f} MB, more than the 64 MB it may have.")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.write_folder(folder / clip_folder, recipe.text_model)
    config = host_config(recipe, clip_folder)
    (folder / "reference.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    path = folder / "reference.safetensors"
    save_tensors(path, tensors, metadata(recipe, progress, start.earlier_recipe(run.work)))
    return path
