"""What we need to know of the host, read when it is needed and never written."""

from __future__ import annotations

import logging
import os
import weakref
from typing import Any

import numpy as np
import torch
from modules import paths, sd_models, sd_samplers_common, sd_unet, shared
from modules.hypernetworks import hypernetwork
from PIL import Image

from lib_attn.learned.files import Loader
from lib_attn.learned.folders import SHIPPED, Folders
from lib_attn.techniques.base import Context
from lib_attn.unet.families import UnsupportedModel, find_layers
from lib_attn.unet.profile import Profile, profile_of
from lib_attn.unet.rows import Row, plan_rows
from lib_attn.webui import infotext, options

TITLE = "Attention Lab"  # of our script, by which the host's lists of scripts have it
MAP_SCALE = 8  # gallery pixels per place of a map

log = logging.getLogger("attention_lab")


def current_model() -> Any:
    """The model that samples now; the refiner and the hires checkpoint take the place of the first one."""
    return shared.sd_model


def encoded(model: Any, picture: np.ndarray, seed: int = 0) -> torch.Tensor:
    """Latents ``[1, C, h, w]``, as the U-Net takes them, of a picture uint8 ``[8h, 8w, 3]``.

    Args:
        seed: of what the host's VAE draws from what it finds likely, for which it takes the global generator.
    """
    values = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return sd_samplers_common.images_tensor_to_samples(values, model=model).float()


def model_state(model: Any) -> tuple:
    """Something that changes when another checkpoint is used, even when its weights went into the same modules."""
    return id(model), id(getattr(model, "sd_checkpoint_info", None))


def checkpoint(model: Any) -> tuple[str, str]:
    """Name and hash of the checkpoint that `model` was loaded from; the hash is empty where the host has none."""
    info = getattr(model, "sd_checkpoint_info", None)
    return str(getattr(info, "name_for_extra", "")), str(getattr(info, "shorthash", None) or "")


def apply_hypernetworks(context: Any) -> tuple[Any, Any]:
    """Contexts for K and for V after the hypernetworks that the prompt switched on."""
    return hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, context)


def upcasts_attention() -> bool:
    """Whether the user wants attention in float32."""
    return bool(shared.opts.upcast_attn)


def is_idle_wrapper(module: Any) -> bool:
    """True for an attention module that Hypertile has wrapped but does not tile at present.

    Once used, Hypertile leaves its wrapper on the model for ever and only switches it off.
    """
    params = getattr(module, "__webui_hypertile_params", None)
    return params is not None and not getattr(params, "enabled", True)


def refusal() -> str | None:
    """One sentence on why nothing can be done in this host's present state, or None."""
    if sd_unet.current_unet is not None:
        return "Attention Lab did nothing: the SD Unet setting replaces the model's own U-Net."
    return None


def predicts(model: Any) -> str:
    """``v`` or ``epsilon``: what the model's U-Net predicts."""
    return "v" if getattr(model, "parameterization", "eps") == "v" else "epsilon"


def own_folder() -> str:
    """Where learned files are written: a folder among the host's models."""
    return os.path.join(paths.models_path, "attention-lab")


def lora_folder() -> str:
    """Where the host's LoRAs are; empty where it has none."""
    return str(getattr(getattr(shared, "cmd_opts", None), "lora_dir", None) or "")


#: Learned files of the folders that are looked at: the host's, the one the user has set, those of the project; and the
#: host's LoRAs, of which some draw maps.
files = Loader(lambda: Folders([own_folder(), options.files_folder(), SHIPPED], [lora_folder()]))


def fitting(kind: str) -> list[str]:
    """Names of the learned files of a kind that fit the model by what they say of themselves; none for a model of an
    unsupported kind."""
    try:
        return Context(layers=tuple(find_layers(current_model())), files=files).fitting(kind)
    except UnsupportedModel:
        return []


def treats_rows_alike(module: Any) -> bool:
    """Whether what replaced this attention module's ``forward`` is known to compute each row by itself: Hypertile."""
    return hasattr(module, "__webui_hypertile_params")


def picture(values: Any) -> Any:
    """A grey picture for the gallery from a map ``[h, w]`` with values 0 … 1."""
    grey = Image.fromarray((values.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
    return grey.resize((grey.width * MAP_SCALE, grey.height * MAP_SCALE), Image.Resampling.BICUBIC)


def handed_to_others(p: Any) -> list[tuple[str, Any]]:
    """What scripts beside ours are handed by job `p`, with their titles."""
    if not getattr(p, "scripts", None):
        return []
    given = p.script_args
    chosen = [("", given[0])] if given else []  # which of the host's list is at work
    own = [s for s in p.scripts.scripts if s.title() != TITLE]
    return chosen + [(s.title(), list(given[s.args_from : s.args_to])) for s in own if s.args_from is not None]


def is_inner_pass(p: Any) -> bool:
    """True for the small img2img jobs that ADetailer runs inside a job."""
    return bool(getattr(p, "_ad_inner", False))


def comment(p: Any, text: str) -> None:
    """Show one sentence below the picture, in its text (all that clients of the API get) and in the log."""
    log.warning(text)
    if hasattr(p, "extra_generation_params"):
        infotext.tell(p.extra_generation_params, text)
    if hasattr(p, "comment"):
        p.comment(text)


def rows_of(denoiser: Any, count: int) -> list[Row] | None:
    """The rows of the evaluation that `denoiser` (a CFGDenoiser) is about to make, in batch order.

    Args:
        count: rows the host has put together, the negatives included.

    Returns:
        None when the prompts do not explain that number of rows, so that nobody can say what is what.
    """
    cond = (getattr(denoiser.sampler, "sampler_extra_args", None) or {}).get("cond")
    batch = getattr(cond, "batch", None)
    if not batch:
        return None
    weights = [[float(part.weight) for part in parts] for parts in batch]
    rows = plan_rows(weights, edit=is_edit(denoiser))
    return rows if len(rows) == count else None


def is_edit(denoiser: Any) -> bool:
    """Whether the host lays out three rows per image, as InstructPix2Pix models need it."""
    edits = getattr(shared.sd_model, "cond_stage_key", None) == "edit"
    return edits and denoiser.image_cfg_scale is not None and denoiser.image_cfg_scale != 1.0


def steps_by_itself(denoiser: Any) -> bool:
    """Whether the sampler of a denoiser or a job chooses its steps by comparing predictions (DPM adaptive)."""
    return "adaptive" in str(getattr(denoiser.sampler, "funcname", ""))


class ProfileNote:
    """The profile of the loaded model, worked out once for each. Never makes the host load one."""

    def __init__(self) -> None:
        self._model: Any = None
        self._profile: Profile | None = None

    def now(self) -> Profile | None:
        """None without a model, or for one of an unsupported kind."""
        model = getattr(sd_models.model_data, "sd_model", None)
        if model is None:
            return None
        if self._model is None or self._model() is not model:
            try:
                self._model, self._profile = weakref.ref(model), profile_of(model)
            except TypeError:
                self._profile = None
        return self._profile


_profile = ProfileNote()


def profile() -> Profile | None:
    """The profile of the model that is loaded now, see `ProfileNote`."""
    return _profile.now()


class ModelNote:
    """What was found out when a model was loaded. Holds it weakly: we must not keep a dropped model in memory."""

    def __init__(self) -> None:
        self._model: Any = None
        self._levels: tuple[int, ...] = ()

    def take(self, model: Any) -> None:
        """Note `model` (None: unloaded) and say in the log what can be done with it."""
        try:
            self._model, self._levels = weakref.ref(model), levels(model)
        except TypeError:
            self._model, self._levels = None, ()
        if self._levels:
            log.info("Attention Lab: attention at %s.", ", ".join(f"d{level}" for level in self._levels))
        elif model is not None:
            log.info("Attention Lab has nothing to attach to in a %s.", type(model).__name__)

    def levels_of(self, model: Any) -> tuple[int, ...]:
        """Levels with attention in `model`; empty when it is of an unsupported kind."""
        if self._model is None or self._model() is not model:
            self.take(model)
        return self._levels


def levels(model: Any) -> tuple[int, ...]:
    """Depths (0: full latent) at which the U-Net of `model` has attention; empty without such a U-Net."""
    try:
        return tuple(sorted({layer.depth for layer in find_layers(model)}))
    except UnsupportedModel:
        return ()
    except Exception:
        # Somebody's wrappers; this is only for the log and the live text.
        log.exception("Attention Lab could not look into this model")
        return ()
