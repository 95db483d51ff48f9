"""The networks: VAE and U-Net blocks from the `ldm` package, the text encoder from transformers.

The layout is that of Rombach et al. 2022 (arXiv 2112.10752, CompVis/stable-diffusion, v1-inference.yaml),
only narrower and shallower, so that a checkpoint has exactly the key names of Stable Diffusion 1.x.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn

from lib_attn.lab.drawing.tokenizer import TOKENS, VOCABULARY

SCALE_FACTOR = 0.18215


@dataclass(frozen=True)
class VaeConfig:
    """KL autoencoder, f = 8, 4 latent channels. ldm hard-codes GroupNorm(32): 32 channels would be
    normalised one by one, so 64 is the narrowest useful width."""

    ch: int = 64
    ch_mult: tuple[int, ...] = (1, 1, 2, 2)
    num_res_blocks: int = 1

    def ddconfig(self) -> dict:
        return {
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": self.ch,
            "ch_mult": list(self.ch_mult),
            "num_res_blocks": self.num_res_blocks,
            "attn_resolutions": [],
            "dropout": 0.0,
        }


@dataclass(frozen=True)
class UNetConfig:
    """U-Net with a transformer block on every level."""

    model_channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    num_head_channels: int = 32
    context_dim: int = 128

    def params(self) -> dict:
        return {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": self.model_channels,
            "attention_resolutions": [2**i for i in range(len(self.channel_mult))],
            "num_res_blocks": self.num_res_blocks,
            "channel_mult": list(self.channel_mult),
            "num_head_channels": self.num_head_channels,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": self.context_dim,
            "use_checkpoint": False,
            "legacy": False,
        }


@dataclass(frozen=True)
class TextConfig:
    """CLIP text encoder layout (Radford et al. 2021, arXiv 2103.00020), standard 49408-word tokenizer."""

    width: int = 128
    layers: int = 2
    heads: int = 4

    def params(self) -> dict:
        return {
            "vocab_size": VOCABULARY,
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": TOKENS,
            "hidden_act": "quick_gelu",
            "projection_dim": self.width,
            "bos_token_id": VOCABULARY - 2,
            "eos_token_id": VOCABULARY - 1,
            "pad_token_id": VOCABULARY - 1,
        }


def config_json(config) -> dict:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


class Autoencoder(nn.Module):
    """The KL autoencoder with ldm's parameter names (encoder, decoder, quant_conv, post_quant_conv)."""

    def __init__(self, config: VaeConfig | None = None):
        from ldm.modules.diffusionmodules.model import Decoder, Encoder

        super().__init__()
        dd = (config or VaeConfig()).ddconfig()
        self.encoder, self.decoder = Encoder(**dd), Decoder(**dd)
        self.quant_conv = nn.Conv2d(8, 8, 1)
        self.post_quant_conv = nn.Conv2d(4, 4, 1)

    def moments(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (B, 3, H, W) in -1..1 -> mean and log variance, each (B, 4, H/8, W/8)."""
        mean, logvar = self.quant_conv(self.encoder(pictures)).float().chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, 4, h, w), not scaled -> pictures (B, 3, 8 h, 8 w) in about -1..1."""
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor):
        """One pass for training -> (reconstruction, mean, logvar)."""
        mean, logvar = self.moments(pictures)
        return self.decode(mean + torch.exp(0.5 * logvar) * noise), mean, logvar


def build_unet(config: UNetConfig) -> nn.Module:
    """ldm's UNetModel. Gradient checkpointing, which ldm's transformer blocks switch on by themselves, is
    taken off: it costs a third of the time and a network this small does not need the memory."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**config.params())
    for module in unet.modules():
        if hasattr(module, "checkpoint"):
            module.checkpoint = False
    return unet


def build_text_encoder(config: TextConfig) -> nn.Module:
    """transformers' CLIPTextModel with random weights.

    The host divides by the mean of the encoder's output when it weighs prompts; a final bias whose mean is
    well away from 0 keeps that division harmless. The word vectors stay as drawn: the few dozen words of the
    captions are linearly independent vectors already, and 6 million values less are averaged and sent around.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**config.params()))
    with torch.no_grad():
        model.text_model.final_layer_norm.bias.fill_(0.25)
        # CLIP's 0.02 leaves words almost alike at the start; nothing pretrained is there to be disturbed.
        model.text_model.embeddings.token_embedding.weight.mul_(10.0)
    model.text_model.embeddings.token_embedding.weight.requires_grad_(False)
    return model


class TextToNoise(nn.Module):
    """U-Net and text encoder in one module, so that one optimizer, one EMA and one DDP wrapper do."""

    def __init__(self, unet_config: UNetConfig | None = None, text_config: TextConfig | None = None):
        super().__init__()
        self.unet = build_unet(unet_config or UNetConfig())
        self.text = build_text_encoder(text_config or TextConfig())

    def context(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids (B, 77) -> (B, 77, width)."""
        return self.text(input_ids=tokens).last_hidden_state

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Noisy scaled latents (B, 4, h, w), steps (B,), token ids (B, 77) -> predicted noise."""
        return self.unet(latents, timesteps, context=self.context(tokens))
