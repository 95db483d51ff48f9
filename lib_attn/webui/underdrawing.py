"""The first of two passes in the host: maps drawn by the host's own sampler just before it samples the picture."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import torch
from modules import devices, images, processing, rng, sd_samplers, shared
from PIL import Image

from lib_attn.settings import Group
from lib_attn.store import Store
from lib_attn.techniques import first_pass_of
from lib_attn.webui import host
from lib_attn.webui.fingerprint import fingerprint

SAMPLING = ("eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "s_min_uncond")


def draw(
    p: Any,
    group: Group,
    conds: tuple[Any, Any],
    store: Store,
    say: Callable[[str], None],
    begins_with: torch.Tensor | None = None,
) -> tuple[Any, ...]:
    """Draw a map for each picture of the batch that `p` is about to sample, or take those that were kept.

    Args:
        conds: what the host made of the prompts and the negative prompts.
        begins_with: the noise of the picture, which may be changed in place; None where it begins with more.
    """
    model, asked = host.current_model(), _map_job(p, group)
    # The noise of a map is drawn from the global generator too, where the host finds noise for the picture later.
    with torch.random.fork_rng(devices=[devices.device] if devices.device.type == "cuda" else []):
        noise = asked.rng.next()
        if group.map_prompt:
            asked.prompts = [group.prompt_of(prompt) for prompt in p.prompts]
        if group.map_prompt or any(len(schedule) > 1 for schedule in _schedules(conds)):
            # Prompt editing goes by the map's own steps.
            asked.cached_c, asked.cached_uc = [None, None], [None, None]
            asked.setup_conds()
            conds = asked.c, asked.uc

        def pictures() -> list[Hashable]:
            others = fingerprint(host.handed_to_others(p))
            return [(others, _depends_on(asked, group, conds, noise, image)) for image in range(len(p.prompts))]

        return first_pass_of(group.name)(
            group, model, pictures, lambda: _sampled(asked, noise, *conds, say), _decoded, files=host.files,
            store=store, say=say, encode=_encoded, size=(p.width, p.height), noise=begins_with,
            decoder=getattr(model, "first_stage_model", None), prediction=host.predicts(model),
        )  # fmt: skip


def _schedules(conds: tuple[Any, Any]) -> Iterator[Any]:
    """Of every prompt the conditions over the steps, as the host keeps them."""
    positive, negative = conds
    for parts in positive.batch:
        yield from (part.schedules for part in parts)
    yield from negative


def _depends_on(p: Any, group: Group, conds: tuple[Any, Any], noise: torch.Tensor, image: int) -> Hashable:
    """Everything that the map of an image of job `p` depends on, beside what other scripts are handed.

    What the host makes of seeds and of prompts stands for them; of its settings any may matter.
    """
    positive, negative = conds
    digest = hashlib.sha256(_bytes(noise[image]))
    weights = [part.weight for part in positive.batch[image]]
    for schedule in (*(part.schedules for part in positive.batch[image]), negative[image]):
        for entry in schedule:
            values = entry.cond.values() if isinstance(entry.cond, dict) else [entry.cond]
            digest.update(repr(entry.end_at_step).encode() + b"".join(map(_bytes, values)))
    told = [getattr(p, name, None) for name in ("sampler_name", "scheduler", "width", "height", "tiling", *SAMPLING)]
    told += [group.map_steps, group.map_cfg, weights, p.seeds[image] + group.map_seed, p.subseed_strength]
    told += [p.subseeds[image] if p.subseed_strength else None, getattr(p, "extra_network_data", None)]
    told += [sorted(shared.opts.data.items(), key=str)]
    return host.model_state(host.current_model()), repr(told), digest.digest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().float().cpu().numpy().tobytes()


def _map_job(p: Any, group: Group) -> Any:
    """A copy of job `p` that samples the map: nothing it does changes `p`, its noise least of all."""
    asked = copy.copy(p)
    asked.steps, asked.cfg_scale, asked.is_hr_pass = group.map_steps, group.map_cfg, False
    asked.extra_generation_params = dict(p.extra_generation_params)
    asked.refiner_checkpoint_info, asked.enable_hr = None, False
    asked.mask = asked.nmask = None  # an inpainting job keeps what its mask leaves out; the map is drawn whole
    asked.attention_lab = None  # what it samples is no part of our job on `p`
    seeds = [seed + group.map_seed for seed in p.seeds]
    asked.rng = rng.ImageRNG(
        p.rng.shape, seeds, subseeds=p.subseeds, subseed_strength=p.subseed_strength,
        seed_resize_from_h=p.seed_resize_from_h, seed_resize_from_w=p.seed_resize_from_w,
    )  # fmt: skip
    return asked


def _sampled(
    asked: Any, x: torch.Tensor, conditioning: Any, unconditional: Any, say: Callable[[str], None]
) -> torch.Tensor | None:
    """Latents ``[B, C, h, w]`` of the maps; None, and a sentence, when the user has stopped them."""
    # No job of its own: of more than one the host stops only after the present picture.
    state = shared.state
    before = state.textinfo
    state.textinfo = "Drawing the map"
    try:
        asked.sampler = sd_samplers.create_sampler(asked.sampler_name, asked.sd_model)
        if host.steps_by_itself(asked):
            name = asked.sampler_name
            say(f"{name} chooses its steps by itself: Map steps does nothing, and the map takes longer.")
        conditions = asked.txt2img_image_conditioning(x)
        latents = asked.sampler.sample(asked, x, conditioning, unconditional, image_conditioning=conditions)
    finally:
        state.textinfo = before
    if state.interrupted or state.skipped:
        # The host stops the picture before its first step, as it does without us.
        if state.interrupted:
            say("Interrupted while its map was drawn: the picture has stayed the noise that it begins with.")
        else:
            say("Skipped while its map was drawn: the picture has stayed the noise that it begins with.")
        return None
    return latents.cpu()


def _decoded(latents: torch.Tensor) -> list[np.ndarray]:
    """Pictures uint8 ``[H, W, 3]`` of latents."""
    model, latents = host.current_model(), latents.to(devices.device)
    decoded = processing.decode_latent_batch(model, latents, target_device=devices.cpu, check_for_nans=True)
    pictures = ((torch.stack(list(decoded)).float() + 1) / 2).clamp(0, 1).mul(255).permute(0, 2, 3, 1)
    return list(pictures.to(torch.uint8).numpy())


def _encoded(picture: np.ndarray) -> torch.Tensor:
    """Latents ``[C, h, w]`` of a map."""
    return host.encoded(host.current_model(), picture)[0].cpu()


def shown(p: Any, group: Group, maps: tuple[Any, ...]) -> list[Any]:
    """The maps as pictures."""
    return [Image.fromarray(one.at(p.width, p.height, group.normals)) for one in maps]


def put_away(p: Any, group: Group, pictures: list[Any]) -> None:
    """Give each map of a batch that is done the text of its picture, as the host gives it to that; save the maps where
    that is wanted."""
    for index, picture in enumerate(pictures):
        text = processing.create_infotext(
            p, p.prompts, p.seeds, p.subseeds, index=index, all_negative_prompts=p.negative_prompts
        )
        if shared.opts.enable_pnginfo:
            picture.info["parameters"] = text
        if group.save and p.save_samples():
            images.save_image(
                picture, p.outpath_samples, "", p.seeds[index], p.prompts[index], shared.opts.samples_format,
                info=text, p=p, suffix="-map",
            )  # fmt: skip
