"""The stages of a run: scenes, latents of their maps, training, the blocks file. Each goes on where it was stopped."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.learned.files import family_of_layers, save
from lib_attn.learned.foreign import VAE
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import layer_keys

from ..reference_model import data, preview
from ..reference_model.diffusion import alphas_cumprod, draw_steps, loss_weights, with_offset
from ..reference_model.loop import Loop, LoopConfig, draw
from ..reference_model.state import load_tensors, save_tensors
from ..reference_model.unet import pool_keys
from ..reference_model.vae import polish
from ..scenes import layout, renderers, shards
from ..scenes.guides import PICTURES
from . import choices
from .base import Base
from .head import KIND, PREFIX, Map, train_head
from .recipe import Recipe

MAPS = ("rgb", "depth", "normal", "mask")
#: What a map's values mean, by its kind.
MEANS = {
    "depth": "inverse depth, near is white: its 2 to 98 % are 64 to 255, 0 where nothing stands",
    "normal": "(n + 1) / 2: red is left, green is up, blue is front",
}

#: A decoder of a file's own learns from so many parts of maps a step, so many latents wide.
CUTS, CUT = 4, 16
DECODER_RATE = 3e-4


def schedule(recipe: Recipe) -> torch.Tensor:
    """How much of the picture is left at each step, float64 (1000,): SD's, or that with a last step of noise alone."""
    bar = alphas_cumprod()
    if not recipe.zero_snr:
        return bar
    root = bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


class Run:
    """A work folder, its recipe and the base. scenes: a set of the user's own instead of primitives."""

    def __init__(self, work: Path, recipe: Recipe, base: Base, scenes: Path | None = None):
        self.work, self.recipe, self.base = work, recipe, base
        self.scenes = scenes or work / "scenes"
        self.own = scenes is not None
        self.learned = work / f"{recipe.map}-{recipe.train}"

    def render(self) -> None:
        from accelerate import PartialState
        from tqdm import tqdm

        place = PartialState(cpu=not torch.cuda.is_available())
        if place.is_main_process and not self.own:
            recipe = self.recipe
            spec = shards.SetSpec(recipe.seed, recipe.scenes, recipe.size, layout.Mix(kinds=recipe.kinds), MAPS,
                                  min(500, recipe.scenes))  # fmt: skip
            with (
                renderers.open_renderer(recipe.size) as renderer,
                tqdm(total=spec.scenes, unit="scene", desc="scenes") as bar,
            ):
                shards.write_set(self.scenes, spec, renderer.render, bar.update)
        place.wait_for_everyone()

    def latents(self, kind: str, scenes: int) -> tuple[torch.Tensor, list[str]]:
        """Scaled latents of maps, or of the pictures ("rgb"), float16 (N, 4, h, w), and their captions."""
        from accelerate import PartialState
        from tqdm import tqdm

        place = PartialState(cpu=not torch.cuda.is_available())
        folder = self.work / f"latents-{kind}-{self.recipe.size}"
        wanted = {"picture": PICTURES[kind], "maps": (kind, "mask")} if kind in PICTURES else {}
        with tqdm(unit="map", desc=f"latents of {kind}", disable=not place.is_main_process) as bar:
            data.cache_latents(
                folder, self.scenes, functools.partial(self.base.encode, precision=self.recipe.precision),
                self.recipe.size, scenes, place.process_index, place.num_processes,
                batch=8 if place.device.type == "cuda" else 1, progress=bar.update, **wanted,
            )  # fmt: skip
        place.wait_for_everyone()
        return data.load_latents(folder, scenes)

    def head(self) -> dict[str, torch.Tensor]:
        """The network that reads maps from latents, trained on pictures and maps of the first scenes."""
        from tqdm import tqdm

        target = self.work / f"head-{self.recipe.map}-{self.recipe.size}.safetensors"
        if not target.exists():
            latents, _ = self.latents("rgb", self.recipe.head_scenes)
            picture, edge = PICTURES[self.recipe.map], self.recipe.size
            samples = itertools.islice(shards.read_set(self.scenes, (self.recipe.map, "mask")), len(latents))
            maps = [
                Map(data.reduce(picture(s), edge), kind=self.recipe.map).wanted(tuple(latents.shape[-2:]))
                for s in samples
            ]
            with tqdm(total=self.recipe.head_steps, unit="step", desc="head") as bar:
                head = train_head(
                    latents, torch.stack(maps), self.recipe.head_steps, seed=self.recipe.seed,
                    progress=lambda loss: (bar.update(), bar.set_postfix(loss=f"{loss:.3f}")),
                )  # fmt: skip
            save_tensors(target, head.state_dict())
        return {PREFIX + name: tensor for name, tensor in load_tensors(target).items()}

    def train(self, after_step: Callable[[nn.Module, int], None] | None = None) -> Loop:
        """Train to the end, or go on; ``ema.shadow`` of the loop are the averaged weights.

        Args:
            after_step: see `Loop`.
        """
        recipe, model = self.recipe, self.base.model
        latents, captions = self.latents(recipe.map, recipe.scenes)
        choices.prepare(model.unet, recipe.train, recipe.rank, recipe.seed)
        loop = Loop(self.learned, model.unet, recipe.loop(), self._preview, after_step)
        device, bar = loop.accelerator.device, schedule(recipe)
        weights = loss_weights(recipe.noise, model.prediction, bar).to(device)
        keep, spoil = bar.sqrt().float().to(device), (1 - bar).sqrt().float().to(device)
        share = slice(loop.rows.start, loop.rows.stop)

        def loss_of(network, step, rows):
            pool_keys(model.unet, step < recipe.pooled * recipe.steps)
            rng = draw(recipe.seed, "maps", step)
            picks = torch.randint(0, len(latents), (recipe.batch,), generator=rng)
            t = draw_steps(recipe.batch, recipe.noise, rng)
            noise = torch.randn(recipe.batch, *latents.shape[1:], generator=rng)
            drop = torch.rand(recipe.batch, generator=rng) < recipe.caption_dropout
            noise = with_offset(noise, recipe.noise, rng)
            asked = ["" if d else captions[i] for i, d in zip(picks[share].tolist(), drop[share].tolist(), strict=True)]
            with torch.no_grad():
                context = model.text(asked)
            clean, noise, t = latents[picks[share]].float().to(device), noise[share].to(device), t[share].to(device)
            a, s = keep[t][:, None, None, None], spoil[t][:, None, None, None]
            target = a * noise - s * clean if model.prediction == "v_prediction" else noise
            error = network(a * clean + s * noise, t, context=context).float() - target
            return (weights[t] * error.square().mean((1, 2, 3))).mean()

        loop.run(loss_of, f"{recipe.map} {recipe.train}")
        pool_keys(model.unet, False)
        return loop

    def decoder(self) -> dict[str, torch.Tensor]:
        """Decoder that shows this kind of map in its own colours, where the recipe has one: learned from the same maps.

        A VAE can only show what it was trained on, and a map of normals has colours that few pictures have; its latents
        may hold them all the same.
        """
        recipe = self.recipe
        if not recipe.decoder_steps:
            return {}
        latents, _ = self.latents(recipe.map, recipe.scenes)
        picture = PICTURES[recipe.map]
        samples = itertools.islice(shards.read_set(self.scenes, (recipe.map, "mask")), len(latents))
        maps = np.stack([data.reduce(picture(s), recipe.size) for s in samples])
        decoder = copy.deepcopy(self.base.model.decoder).train().requires_grad_(True)
        config = LoopConfig(recipe.decoder_steps, CUTS, DECODER_RATE, warmup=20, decay=0.5, ema=0.99,
                            precision=recipe.precision, save_seconds=recipe.save_seconds, seed=recipe.seed)  # fmt: skip
        folder = self.work / f"decoder-{recipe.map}-{recipe.size}"
        loop = polish(folder, [(latents, maps)], decoder, config, ((0, 0, CUTS),), crop=CUT)
        return {VAE + name: tensor.half() for name, tensor in loop.ema.shadow.items()}

    def _preview(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        """Maps of fixed prompts and seeds, beside TensorBoard's log."""
        from PIL import Image

        if not self.recipe.preview:
            return
        pool_keys(self.base.model.unet, False)
        with averaged(self.base.model.unet, weights):
            pictures = draw_maps(self.base, preview.PROMPTS[8 : 8 + self.recipe.preview], self.recipe.size, steps=8)
        (self.learned / "log").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(list(pictures), 1)).save(self.learned / "log" / f"preview-{step:08d}.png")

    def export(self, loop: Loop, path: Path) -> Path:
        """Write the averaged weights, and the network that reads maps, as a blocks file."""
        layers = find_layers(self.base.model.unet)
        keys = zip(layer_keys(layers), (layer.attn1.to_q.in_features for layer in layers), strict=True)
        about = self.about(loop) | {"family": family_of_layers(layers), "layers": dict(keys)}
        head = {name: tensor.half() for name, tensor in self.head().items()}
        blocks = choices.written(self.base.model.unet, loop.ema.shadow)
        return save(path, KIND, blocks | head | self.decoder(), about)

    def _source(self) -> str:
        """What the scenes are made of; primitives are "procedural"."""
        try:
            return json.loads((self.scenes / "set.json").read_text())["source"]
        except (OSError, ValueError, KeyError):
            return ""

    def about(self, loop: Loop) -> dict:
        """What the blocks file says of itself."""
        return {
            "checkpoint": self.recipe.checkpoint,
            "map": self.recipe.map,
            "values": MEANS[self.recipe.map],
            "learned": {
                "train": self.recipe.train,
                "steps": loop.step,
                "batch": self.recipe.batch,
                "scenes": self.recipe.scenes,
                "size": self.recipe.size,
            },
            "recipe": dataclasses.asdict(self.recipe),
            "licence": "CC0-1.0" if self._source() == "procedural" else "",
        }


@contextlib.contextmanager
def averaged(unet: nn.Module, weights: dict[str, torch.Tensor]):
    """The U-Net with other weights, for a while."""
    before = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    unet.load_state_dict(weights, strict=False)
    training = unet.training
    try:
        yield unet.eval()
    finally:
        unet.load_state_dict(before)
        unet.train(training)


def draw_maps(base: Base, prompts, size: int, seed: int = 0, steps: int = 10, cfg: float = 4.0) -> np.ndarray:
    """Maps drawn by the U-Net as it is: uint8 (N, size, size, 3)."""
    request = Request(tuple(prompts), tuple(seed + i for i in range(len(prompts))), "", size, size, steps, "DDIM", cfg)
    return np.stack([np.asarray(p) for p in decode(base.model, sample(base.model, request))])
