"""The stages of a run, each of which goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..scenes import layout, renderers, shards
from . import data, export, grow, preview, reach, start, state, text, tokenizer, unet, vae
from .loop import LoopConfig, draw
from .models import SCALE_FACTOR, Autoencoder, TextToNoise
from .recipe import Recipe, UNetPhase

STAGES = ("scenes", "vae", "latents", "unet", "polish", "export")


class Run:
    """A work folder and its recipe. Every stage reads what the one before it left in the folder."""

    def __init__(self, work: Path, recipe: Recipe):
        self.work, self.recipe = work, recipe
        self.scenes = work / "scenes"
        self.clip = work / "clip"
        head = work / "recipe.json"
        work.mkdir(parents=True, exist_ok=True)
        head.write_text(json.dumps(recipe.to_json(), indent=1))

    def seeded(self, build, purpose: str) -> torch.nn.Module:
        # Weights are drawn from the global generator by the layers themselves; it is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw(self.recipe.seed, purpose, 0).initial_seed() % 2**31))
            return build()

    def run(self, stage: str) -> None:
        getattr(self, f"stage_{stage}")()

    def stage_scenes(self) -> None:
        from accelerate import PartialState
        from tqdm import tqdm

        place = PartialState(cpu=not torch.cuda.is_available())
        if place.is_main_process:
            mix = layout.Mix(kinds=self.recipe.kinds, textured=self.recipe.textured)
            spec = shards.SetSpec(
                seed=self.recipe.seed,
                scenes=self.recipe.scenes,
                size=self.recipe.size,
                mix=mix,
                maps=("rgb",),
                shard_scenes=min(1000, max(1, self.recipe.scenes // 2)),
            )
            with (
                renderers.open_renderer(self.recipe.size) as renderer,
                tqdm(total=spec.scenes, unit="scene", desc="scenes") as bar,
            ):
                shards.write_set(self.scenes, spec, lambda scene: renderer.render(scene, False), bar.update)
        place.wait_for_everyone()

    def stage_vae(self) -> None:
        target = self.work / "vae.safetensors"
        if target.exists():
            return
        recipe, plan = self.recipe, self.recipe.vae
        pictures, _ = data.load_pictures(self.scenes, 0, plan.scenes)
        model = self.seeded(lambda: Autoencoder(recipe.vae_model), "vae weights")
        config = self._loop_config(plan, plan.phases[0][2])
        loop = vae.train(self.work / "vae", pictures, model, config, plan.phases, recipe.vae_loss)
        if loop.accelerator.is_main_process:
            model.load_state_dict(loop.ema.shadow)
            model.eval()
            means = torch.cat(
                [vae.encode(model, pictures[i : i + 8], recipe.precision) for i in range(0, min(256, len(pictures)), 8)]
            )
            vae.fold_statistics(model, means)
            state.save_tensors(target, model.state_dict())
        loop.accelerator.wait_for_everyone()

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, with the polished decoder where there is one."""
        model = Autoencoder(self.recipe.vae_model)
        model.load_state_dict(state.load_tensors(self.work / "vae.safetensors"))
        polished = self.work / "decoder.safetensors"
        if polished.exists():
            model.load_state_dict(state.load_tensors(polished), strict=False)
        return model.eval()

    def stage_polish(self) -> None:
        target = self.work / "decoder.safetensors"
        if target.exists():
            return
        plan, sizes, sets = self.recipe.polish, [], []
        for _, size, _ in plan.phases:
            if size not in sizes:
                latents, _ = data.load_latents(self.latents_folder(size), plan.scenes)
                sets.append((latents, data.load_pictures(self.scenes, 0, len(latents), size)[0]))
                sizes.append(size)
        phases = [(first, sizes.index(size), batch) for first, size, batch in plan.phases]
        decoder = vae.DecoderOnly(self.autoencoder().train())
        loop = vae.polish(
            self.work / "polish", sets, decoder, self._loop_config(plan, plan.phases[0][2]), phases, crop=plan.crop
        )
        if loop.accelerator.is_main_process:
            state.save_tensors(target, loop.ema.shadow)
        loop.accelerator.wait_for_everyone()

    def _loop_config(self, plan, batch: int) -> LoopConfig:
        return LoopConfig(
            steps=plan.steps,
            batch=batch,
            lr=plan.lr,
            warmup=plan.warmup,
            decay=plan.decay,
            ema=plan.ema,
            precision=self.recipe.precision,
            seed=self.recipe.seed,
            save_seconds=self.recipe.save_seconds,
        )

    def stage_latents(self) -> None:
        from accelerate import PartialState
        from tqdm import tqdm

        place = PartialState(cpu=not torch.cuda.is_available())
        model = self.autoencoder().to(place.device, memory_format=torch.channels_last)

        def encode(pictures):
            return (vae.encode(model, pictures, self.recipe.precision) * SCALE_FACTOR).cpu()

        left = [p for p in self.recipe.phases if not self.phase_file(p).exists()]
        for size in sorted({p.size for p in left}):
            count = max(p.scenes for p in left if p.size == size)
            with tqdm(
                total=count // place.num_processes,
                unit="picture",
                desc=f"latents of {size} px",
                disable=not place.is_main_process,
            ) as bar:
                data.cache_latents(
                    self.latents_folder(size),
                    self.scenes,
                    encode,
                    size,
                    count,
                    place.process_index,
                    place.num_processes,
                    # One picture of many channels fills a CPU's cache: eight at once are a third slower.
                    batch=8 if place.device.type == "cuda" else 1,
                    progress=bar.update,
                )
        place.wait_for_everyone()

    def latents_folder(self, size: int) -> Path:
        return self.work / f"latents-{size}"

    def tokenizer(self):
        return tokenizer.load(self.clip, self.recipe.text_model)

    def stage_unet(self) -> None:
        before = None
        for phase in self.recipe.phases:
            self._phase(phase, before)
            before = phase

    def _phase(self, phase: UNetPhase, before: UNetPhase | None) -> None:
        target = self.phase_file(phase)
        if target.exists():
            return
        recipe = self.recipe
        model = self.seeded(lambda: TextToNoise(phase.model_of(recipe), recipe.text_model), "unet weights")
        start_file = self.phase_file(before) if before else self.work / start.WEIGHTS
        if before or start_file.exists():
            weights = state.load_tensors(start_file)
            if before and before.levels != phase.levels:
                weights = self._grown(weights, phase, model)
            model.load_state_dict(weights, strict=False)
        if phase.blend:
            self._blend(model.unet, phase)
        unet.use_fast_attention(model)
        words = self.tokenizer()
        if phase.text.steps:
            self._teach_text(phase, model.text, words)
        model.text.requires_grad_(phase.train_text)
        model.text.text_model.embeddings.token_embedding.requires_grad_(False)
        rows = data.prepare(*data.load_latents(self.latents_folder(phase.size), phase.scenes), words)
        config = self._loop_config(phase, phase.batch)
        folder = self.work / f"unet-{phase.name}"
        pictures = preview.Preview(self, folder / "log", phase, words) if recipe.preview else None
        narrow = reach.Narrow(phase.model_of(recipe), phase.narrow, phase.fade) if phase.narrow else None
        loop = unet.train(
            folder,
            rows,
            model,
            config,
            phase.noise,
            recipe.caption_dropout,
            pictures,
            f"unet {phase.name}",
            phase.focus,
            phase.focus_on,
            phase.gaze,
            narrow,
            phase.pooled,
        )
        if loop.accelerator.is_main_process:
            model.load_state_dict(loop.ema.shadow, strict=False)
            if narrow:  # the average still remembers a little of what has faded
                narrow.scale(model.unet, 0.0)
            state.save_tensors(target, {k: v for k, v in model.state_dict().items() if k in loop.ema.shadow})
        loop.accelerator.wait_for_everyone()

    def _grown(self, weights: dict[str, torch.Tensor], phase: UNetPhase, model: TextToNoise) -> dict[str, torch.Tensor]:
        """Weights of a phase of fewer levels for one that has a level more."""
        small = {k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")}
        larger = grow.grown(small, phase.model_of(self.recipe), model.unet.state_dict())
        rest = {k: v for k, v in weights.items() if not k.startswith("unet.")}
        return {**rest, **{f"unet.{k}": v for k, v in larger.items()}}

    def _teach_text(self, phase: UNetPhase, encoder: torch.nn.Module, words) -> None:
        """Put the weights of the phase's text stage into `encoder`, training them first if need be."""
        target = self.text_file(phase)
        if not target.exists():
            # Rows and grids have no left, centre and right to ask about.
            mix = layout.Mix(kinds=self.recipe.kinds[:3])
            config = self._loop_config(phase.text, phase.text.batch)
            earlier = [self.text_file(p) for p in self.recipe.phases if p != phase and self.text_file(p).exists()]
            taught = state.load_tensors(earlier[-1]) if earlier else None
            loop = text.train(self.work / f"text-{phase.name}", encoder, words, config, mix, phase.text.keep, taught)
            if loop.accelerator.is_main_process:
                state.save_tensors(target, loop.ema.shadow)
            loop.accelerator.wait_for_everyone()
        weights = state.load_tensors(target)
        encoder.load_state_dict(
            {k.removeprefix("text."): v for k, v in weights.items() if k.startswith("text.")}, strict=False
        )

    def _blend(self, network: torch.nn.Module, phase: UNetPhase) -> None:
        """Move the U-Net's weights by the share `phase.blend` towards those of an earlier phase or the start."""
        names = [p.name for p in self.recipe.phases]
        if phase.blend_with and phase.blend_with not in names[: names.index(phase.name)]:
            raise ValueError(f"Phase '{phase.name}' blends with '{phase.blend_with}', which is no phase before it.")
        source = self.work / (f"unet-{phase.blend_with}.safetensors" if phase.blend_with else start.WEIGHTS)
        other = {k.removeprefix("unet."): v for k, v in state.load_tensors(source).items() if k.startswith("unet.")}
        now = network.state_dict()
        network.load_state_dict({k: torch.lerp(now[k].float(), other[k], phase.blend) for k in other})

    def text_file(self, phase: UNetPhase) -> Path:
        return self.work / f"text-{phase.name}.safetensors"

    def phase_file(self, phase: UNetPhase) -> Path:
        return self.work / f"unet-{phase.name}.safetensors"

    def newest_weights(self) -> tuple[str, dict[str, torch.Tensor]]:
        """The averaged weights furthest along: a finished phase, or the last saved state of one."""
        for phase in reversed(self.recipe.phases):
            finished, found = self.phase_file(phase).exists(), state.load_state(self.work / f"unet-{phase.name}")
            if (finished or found) and phase.levels:
                raise state.StateError(
                    f"{self.work} has trained {phase.levels} levels of the U-Net so far; the finer "
                    f"ones come in the phases after '{phase.name}'."
                )
            if finished:
                return phase.name, state.load_tensors(self.phase_file(phase))
            if found:
                return f"{phase.name} step {found[1]['step']}", state.load_tensors(found[0] / "ema.safetensors")
        raise state.StateError(f"{self.work} holds no trained U-Net yet.")

    def stage_export(self) -> None:
        from accelerate import PartialState

        if PartialState(cpu=not torch.cuda.is_available()).is_main_process:
            export.export(self, self.work / "export")
