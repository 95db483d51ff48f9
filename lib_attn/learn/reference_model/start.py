"""Start a run from a finished single-file checkpoint instead of from nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from lib_attn.lab.drawing import beside

from . import state
from .models import Autoencoder, TextToNoise

#: U-Net and text encoder of the checkpoint, in the work folder; the first phase begins with them.
WEIGHTS = "start.safetensors"
_PARTS = {"model.diffusion_model.": "unet.", "cond_stage_model.transformer.": "text."}
_VAE = "first_stage_model."


def _fitting(found: dict[str, torch.Tensor], module: torch.nn.Module, what: str, name: str) -> dict:
    """The tensors `module` wants, as float32. Raises ValueError when one is missing or has another shape."""
    out = {}
    for key, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        if key not in found or found[key].shape != value.shape:
            has = f"has shape {list(found[key].shape)}" if key in found else "is missing"
            raise ValueError(f"{name} does not fit the recipe's {what}: {key} {has}, wanted is {list(value.shape)}.")
        out[key] = found[key].float()
    return out


def _recipe_of(path: Path) -> str:
    """What a checkpoint of this trainer says about its own recipe; empty for any other."""
    return beside.metadata_of(path).get("attention_lab.recipe", "")


def earlier_recipe(work: Path) -> str:
    """JSON of the recipe of the checkpoint that the run in `work` started from; empty when there is none."""
    with contextlib.suppress(OSError):
        return beside.metadata_of(work / WEIGHTS).get("recipe", "")
    return ""


def start_from(run, path: Path) -> None:
    """Fill the work folder of `run` from the checkpoint at `path`, unless it was started before.

    The autoencoder is taken as finished, so the stage `vae` has nothing to do, and `polish` only where the recipe says
    that it polishes `again`.

    Raises StateError when the file is missing or damaged, ValueError when it is another architecture or when the
    folder holds a run that was started otherwise.
    """
    from accelerate import PartialState

    place = PartialState(cpu=not torch.cuda.is_available())
    target, vae = run.work / WEIGHTS, run.work / "vae.safetensors"
    if place.is_main_process and not (target.exists() and vae.exists()):
        if vae.exists() or (run.work / "vae").exists():
            raise ValueError(f"{run.work} holds a run that was started from nothing; choose another folder.")
        weights = beside.completed(path, state.load_tensors(path))
        networks = {
            new + key.removeprefix(old): value
            for key, value in weights.items()
            for old, new in _PARTS.items()
            if key.startswith(old)
        }
        model = run.seeded(
            lambda: TextToNoise(run.recipe.phases[0].model_of(run.recipe), run.recipe.text_model), "unet weights"
        )
        networks = _fitting(networks, model, "U-Net and text encoder", path.name)
        autoencoder = _fitting(
            {k.removeprefix(_VAE): v for k, v in weights.items() if k.startswith(_VAE)},
            Autoencoder(run.recipe.vae_model),
            "autoencoder",
            path.name,
        )
        decoder = {k: v for k, v in autoencoder.items() if k.startswith(("decoder.", "post_quant_conv."))}
        if not run.recipe.polish.again:
            state.save_tensors(run.work / "decoder.safetensors", decoder)
        state.save_tensors(target, networks, {"recipe": _recipe_of(path)})
        state.save_tensors(vae, autoencoder)  # last: the stage `vae` goes by it
    place.wait_for_everyone()
