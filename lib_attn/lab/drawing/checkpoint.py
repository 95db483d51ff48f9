"""Single-file checkpoints in Stable Diffusion 1.x/2.x layout: a safetensors file, with a yaml beside it or without.

Only names on a short list are built from a yaml, and every one by code of this file: a yaml can never make the lab
import or call anything else. Pickled checkpoints (.ckpt, .pt) are refused, because opening one runs what is in it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lib_attn.lab.drawing import text, unet
from lib_attn.lab.drawing.beside import completed
from lib_attn.lab.drawing.embedded import default_checkpoint
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.sizes import HIGH, LOW
from lib_attn.learned.files import Loader
from lib_attn.learned.folders import SHIPPED, Folders
from lib_attn.techniques.base import Context
from lib_attn.unet.families import find_layers

MAX_YAML_BYTES = 1 << 20
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
LATENT = 8  # picture pixels per latent pixel

#: What a checkpoint without a yaml is taken for: CompVis' v1-inference.yaml.
STANDARD = {
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "timesteps": 1000,
    "scale_factor": 0.18215,
    "image_size": 64,
    "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet.SD15},
    "first_stage_config": {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "embed_dim": 4,
            "ddconfig": {
                "double_z": True,
                "z_channels": 4,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
        },
    },
    "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder", "params": {}},
}

#: Everything a yaml may name, by the part of the model it may stand for.
ALLOWED = {
    "model": ("ldm.models.diffusion.ddpm.LatentDiffusion",),
    "unet_config": ("ldm.modules.diffusionmodules.openaimodel.UNetModel",),
    "first_stage_config": ("ldm.models.autoencoder.AutoencoderKL",),
    "cond_stage_config": (
        "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
        "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
    ),
}


class Decoder(nn.Module):
    """The decoding half of ``AutoencoderKL``: latents -> pictures."""

    def __init__(self, params: Mapping[str, Any]):
        super().__init__()
        config = dict(params["ddconfig"])
        # The package greets on the standard output and draws from the global generator.
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            from ldm.modules.diffusionmodules import model as ldm_model

            self.decoder = ldm_model.Decoder(**config)
            self.post_quant_conv = nn.Conv2d(params.get("embed_dim", 4), config["z_channels"], 1)
        made = type("SdpaAttnBlock", (ldm_model.AttnBlock,), {"forward": _vae_attention})
        for module in self.modules():
            if type(module) is ldm_model.AttnBlock:
                module.__class__ = made

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """``[B, 4, h, w]``, unscaled -> ``[B, 3, 8h, 8w]``, about -1 … 1."""
        return self.decoder(self.post_quant_conv(latents))


def _vae_attention(self, x):
    """One-head attention over all pixels ``[B, C, h, w]`` without the N x N matrix."""
    y = self.norm(x)
    q, k, v = (f(y).flatten(2).transpose(1, 2)[:, None] for f in (self.q, self.k, self.v))
    out = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
    return x + self.proj_out(out)


@dataclass
class LabModel:
    """A loaded checkpoint.

    betas: first and last of the noise schedule. prediction: ``epsilon`` or ``v_prediction``. side: of the pictures it
    was trained on, in pixels. files: loads learned files. file: it was loaded from, where that is known.
    """

    name: str
    unet: nn.Module
    decoder: nn.Module
    text: text.TextEncoder
    betas: tuple[float, float]
    scale_factor: float
    prediction: str
    device: str = "cpu"
    precision: str = "fp32"
    side: int = LATENT * STANDARD["image_size"]
    files: Loader = field(default_factory=Loader)
    file: Path | None = None

    @property
    def channels(self) -> int:
        return self.unet.in_channels

    def fitting(self, kind: str) -> list[str]:
        """Names of the learned files of a kind that fit it, see `lib_attn.techniques.base.Context.fitting`."""
        return Context(layers=tuple(find_layers(self.unet)), files=self.files).fitting(kind)


@dataclass(frozen=True)
class ModelSpec:
    """Which model is loaded, and how it runs.

    checkpoint: None for the embedded one. precision: see `load`. learned: a folder of learned files, which is looked at
    before that of the project.
    """

    checkpoint: Path | None = None
    device: str = "cpu"
    precision: str = "fp32"
    learned: Path | None = None

    @property
    def file(self) -> Path:
        """The checkpoint's file. Raises `LabError` when none is named and there is no embedded one."""
        return self.checkpoint or default_checkpoint()

    @property
    def side(self) -> int:
        """Side of the pictures that the model was trained on, in pixels, without loading it.

        Raises:
            LabError: as `file` and `read_config` do.
        """
        return _side(read_config(self.file.with_suffix(".yaml")))

    def load(self) -> LabModel:
        """The model; see `load` below for what it raises."""
        model = load(self.file, device=self.device, precision=self.precision)
        folders = [self.learned, SHIPPED] if self.learned else [SHIPPED]
        return replace(model, files=Loader(lambda: Folders(folders)), file=self.file)


def load(path: str | Path, *, device: str = "cpu", precision: str = "fp32") -> LabModel:
    """Load a checkpoint.

    Args:
        path: a ``.safetensors`` file; a ``.yaml`` of the same name beside it describes it, else it is SD 1.x.
        precision: ``fp32``, ``bf16`` or ``fp16``: the U-Net runs under autocast.

    Raises:
        LabError: with one sentence, when the file is missing, pickled, damaged, or of another layout.
    """
    path = Path(path)
    config = read_config(path.with_suffix(".yaml"))
    weights = read_weights(path)
    network = _loaded(unet.build_unet(config["unet_config"]["params"]), _below(weights, UNET), "U-Net", path)
    network = network.to(device)
    unet.to_precision(network, precision)
    vae = _below(weights, VAE)
    vae = {k: v for k, v in vae.items() if k.startswith(("decoder.", "post_quant_conv."))}
    decoder = _loaded(build_decoder(config["first_stage_config"]["params"]), vae, "VAE", path).to(device)
    build = text_builder(config["cond_stage_config"], path)
    encoder = build(_below(weights, TEXT)).to(device)
    prediction = "v_prediction" if config.get("parameterization") == "v" else "epsilon"
    return LabModel(
        path.stem, network, decoder, encoder, (config["linear_start"], config["linear_end"]),
        config["scale_factor"], prediction, device, precision, _side(config),
    )  # fmt: skip


def build_decoder(params: Mapping[str, Any]) -> Decoder:
    """Raises `LabError` when the parameters do not describe a decoder."""
    try:
        return Decoder(params)
    except ImportError as error:
        raise LabError(f"The package `ldm` (stable-diffusion-sdkit) is missing or incomplete: {error}.") from None
    except (TypeError, KeyError, AttributeError, ValueError, AssertionError) as error:
        raise LabError(f"The configuration does not describe a VAE that this lab can build: {error}.") from None


def text_builder(config: Mapping[str, Any], path: Path):
    """The function that builds the text encoder `config` names from its weights."""
    params = config.get("params") or {}
    if config["target"].endswith("FrozenOpenCLIPEmbedder"):
        return lambda weights: text.open_clip_encoder(weights, params)
    return lambda weights: text.clip_encoder(weights, params, path)


def read_config(path: Path) -> dict[str, Any]:
    """The yaml's parameters over the standard ones; the standard ones when there is no yaml.

    Raises:
        LabError: when it is no such yaml, or names anything that is not in `ALLOWED`.
    """
    if not path.is_file():
        return dict(STANDARD)
    import yaml

    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise LabError(f"{path.name} is too large to be a checkpoint's configuration.")
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        params = dict(model["params"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, LabError):
            raise
        raise LabError(f"{path.name} is no configuration of a checkpoint: it has no model with parameters.") from None
    check_target("model", model, path.name)
    config = dict(STANDARD)
    for name in ("unet_config", "first_stage_config", "cond_stage_config"):
        if name in params:
            check_target(name, params[name], path.name)
            config[name] = {"target": params[name]["target"], "params": params[name].get("params") or {}}
    for name in ("linear_start", "linear_end", "scale_factor"):
        if name in params:
            try:
                config[name] = float(params[name])
            except (TypeError, ValueError):
                raise LabError(f"{path.name}: {name} is no number.") from None
    size = params.get("image_size", config["image_size"])
    # Some yaml files have a list, one number for each side.
    size = max(size) if isinstance(size, list) and size and all(isinstance(n, int) for n in size) else size
    if isinstance(size, bool) or not isinstance(size, int) or not LOW <= LATENT * size <= HIGH:
        raise LabError(f"{path.name}: image_size is no size that a model is trained at.")
    config["image_size"] = size
    config["parameterization"] = params.get("parameterization", "eps")
    return config


def _side(config: Mapping[str, Any]) -> int:
    return LATENT * config["image_size"]


def check_target(part: str, value: Any, where: str) -> None:
    """Raises `LabError` unless `value` names a class that `part` may be."""
    target = value.get("target") if isinstance(value, Mapping) else None
    if target not in ALLOWED[part]:
        raise LabError(f"{where}: {part} may be {' or '.join(ALLOWED[part])}, not {str(target)[:80]}.")
    if not isinstance(value.get("params") or {}, Mapping):
        raise LabError(f"{where}: the parameters of {part} are no list of names and values.")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file.

    Raises:
        LabError: when it is missing, pickled, damaged, without the file that it is completed from, or no Stable
            Diffusion 1.x/2.x checkpoint.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise LabError(f"{path.name} is a pickled file, and opening one runs what is in it: convert it to safetensors.")
    if not path.is_file():
        raise LabError(f"There is no checkpoint {path}.")
    try:
        weights = completed(path, load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise LabError(f"{path.name} is damaged or no safetensors file: {error}.") from None
    if any(key.startswith("conditioner.") for key in weights):
        raise LabError(f"{path.name} is an SDXL checkpoint: the lab takes those of the SD 1.x and 2.x layout.")
    for prefix, what in ((UNET, "U-Net"), (VAE, "VAE"), (TEXT, "text encoder")):
        if not any(key.startswith(prefix) for key in weights):
            raise LabError(f"{path.name} is no Stable Diffusion 1.x checkpoint: it has no {what} ({prefix}…).")
    return weights


def _below(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _loaded(module: nn.Module, weights: Mapping[str, torch.Tensor], what: str, path: Path) -> nn.Module:
    try:
        module.load_state_dict({k: v.float() for k, v in weights.items()})
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        why = next((line for line in lines[1:] if line), lines[0])[:200]
        raise LabError(f"{path.name}: the {what} does not fit its configuration ({why}).") from None
    return module.eval().requires_grad_(False)
