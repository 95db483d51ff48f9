"""A checkpoint of random weights small enough to draw with in a blink."""

import pytest
import torch
import yaml

pytest.importorskip("ldm", reason="the lab needs the package ldm (stable-diffusion-sdkit)")
pytest.importorskip("diffusers", reason="the lab needs the package diffusers")

WIDTH = 32
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": 1, "channel_mult": [1, 2], "num_heads": 2, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": WIDTH, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def config():
    """The yaml beside the checkpoint."""
    parts = {
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": {"embed_dim": 4, "ddconfig": VAE, "lossconfig": {"target": "torch.nn.Identity"}},
        },
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
    }
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    return {"model": {"target": target, "params": {"linear_start": 0.00085, "linear_end": 0.012, **parts}}}


def weights():
    """Random weights in Stable Diffusion 1.x's names."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from lib_attn.lab.drawing import checkpoint, unet

    text = CLIPTextConfig(hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    with torch.random.fork_rng(devices=[]):
        text = CLIPTextModel(text)
    network = unet.random_unet(UNET, precision="fp32")
    decoder = checkpoint.build_decoder({"embed_dim": 4, "ddconfig": VAE})
    parts = {checkpoint.UNET: network, checkpoint.VAE: decoder, "cond_stage_model.transformer.": text}
    return {f"{prefix}{k}": v.contiguous() for prefix, m in parts.items() for k, v in m.state_dict().items()}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Path of the checkpoint, its yaml beside it."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_file(weights(), path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config()))
    return path


@pytest.fixture(scope="session")
def model(tiny):
    from lib_attn.lab.drawing import checkpoint

    return checkpoint.load(tiny)
