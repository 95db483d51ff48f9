"""From prompts and seeds to latents and pictures: diffusers' schedulers, noise as stable-diffusion-webui draws it.

Noise comes from one generator per image on the CPU (the webui's "RNG: CPU", and what it does on a CPU anyway), so
image k of a batch can be made alone. The evaluation order is the webui's: conditions first, then negatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.encoder import load_encoder
from lib_attn.lab.drawing.unet import autocast
from lib_attn.lab.drawing.variants import FULL, SamplingPass, Variant
from lib_attn.lab.shared.errors import LabError
from lib_attn.store import Store
from lib_attn.techniques import first_pass_of
from lib_attn.unet.rows import plan_rows

TRAINED_STEPS = 1000


@dataclass(frozen=True)
class Request:
    """What to draw. seeds: one per image; prompts: one per image, or one for all. Height and width in pixels."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative: str = ""
    height: int = 512
    width: int = 512
    steps: int = 20
    sampler: str = "Euler a"
    cfg: float = 7.0

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise LabError(f"There is no sampler {self.sampler!r}: there are {', '.join(SAMPLERS)}.")
        if not 1 <= self.steps <= TRAINED_STEPS:
            raise LabError(f"The number of steps is 1 … {TRAINED_STEPS}, not {self.steps}.")
        if not self.seeds or len(self.prompts) not in (1, len(self.seeds)):
            raise LabError("There has to be one prompt for all seeds, or one for each.")

    def one(self, index: int) -> Request:
        """The request for image `index` alone."""
        prompts = self.prompts if len(self.prompts) == 1 else (self.prompts[index],)
        return replace(self, prompts=prompts, seeds=(self.seeds[index],))


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler: class name, its options, and the webui's name of the schedule."""

    scheduler: str
    options: dict = field(default_factory=dict)
    schedule: str = "Automatic"


#: Names as the webui shows them.
SAMPLERS = {
    "Euler": Sampler("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "DDIM": Sampler("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "Karras"),
    "DPM++ 2M SDE": Sampler(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, "Karras"
    ),
    "Heun": Sampler("HeunDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "LMS": Sampler("LMSDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "UniPC": Sampler("UniPCMultistepScheduler", {"steps_offset": 1}),
}  # fmt: skip


def make_scheduler(model: LabModel, name: str):
    """The diffusers scheduler of sampler `name` on the noise schedule of `model`.

    Raises:
        LabError: when there is no such sampler.
    """
    import diffusers

    if name not in SAMPLERS:
        raise LabError(f"There is no sampler {name!r}: there are {', '.join(SAMPLERS)}.")
    sampler = SAMPLERS[name]
    return getattr(diffusers, sampler.scheduler)(
        num_train_timesteps=TRAINED_STEPS, beta_start=model.betas[0], beta_end=model.betas[1],
        beta_schedule="scaled_linear", prediction_type=model.prediction, **sampler.options,
    )  # fmt: skip


def sample(
    model: LabModel,
    request: Request,
    variant: Variant = FULL,
    *,
    say: Callable[[str], None] | None = None,
    progress: Callable[[], None] = lambda: None,
    store: Store | None = None,
) -> torch.Tensor:
    """Run the sampler; returns the final latents ``[images, 4, height/8, width/8]``, float32.

    Args:
        say: takes sentences for the user. progress: called after every step. store: what techniques keep from one
            picture to the next.
    """
    variant = variant.completed(model.fitting, say)
    images = len(request.seeds)
    scheduler = make_scheduler(model, request.sampler)
    scheduler.set_timesteps(request.steps)
    generators = [torch.Generator().manual_seed(seed) for seed in request.seeds]
    shape = (model.channels, request.height // 8, request.width // 8)
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
    store = _underdrawn(model, request, variant, say, store, noise)
    x = noise * scheduler.init_noise_sigma
    guided = request.cfg != 1 or variant.uses_negative
    rows = plan_rows([[1.0]] * images, negatives=guided)
    negative = bool(request.negative.strip())
    ahead = SamplingPass(request.height, request.width, request.seeds, request.steps, request.cfg, negative)
    extra = _step_options(scheduler, generators)
    total = len(scheduler.timesteps)
    kind = "v" if model.prediction == "v_prediction" else "epsilon"
    with torch.inference_mode(), variant.on(model.unet, ahead, say, kind, store, model.files) as begin:
        context = _context(model, request, guided)
        told = {"cfg": request.cfg}
        if guided:
            told |= {"negative": context[images:], "words": model.text.words([request.negative]) * images}
        for step, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, timestep)
            begin(rows, step, total, **told)
            prediction = _predict(model, scaled, timestep, context, guided)
            if guided:
                positive, negative = prediction.chunk(2)
                prediction = negative + request.cfg * (positive - negative)
            x = scheduler.step(prediction, timestep, x, **extra).prev_sample
            progress()
    return x.float().clone()


def _underdrawn(model: LabModel, request: Request, variant: Variant, say, store, noise: torch.Tensor) -> Store | None:
    """`store`, or one, with the maps that a technique of `variant` has drawn before the picture. `noise`, with which
    that begins, may be changed."""
    active = variant.settings.for_pass(hires=False) if variant.settings else ()
    # There is no ControlNet here, which the preview says.
    for group in (group for group in active if group.draws_first and group.guide != "ControlNet"):
        store = store or Store()
        asked = replace(
            request, prompts=tuple(map(group.prompt_of, request.prompts)), steps=group.map_steps,
            cfg=group.map_cfg, seeds=tuple(seed + group.map_seed for seed in request.seeds),
        )  # fmt: skip

        def draw(asked=asked):
            return sample(model, asked)

        def decoded(latents):
            return [np.asarray(picture) for picture in decode(model, latents)]

        def pictures(asked=asked):
            return [(model.name, asked.one(i)) for i in range(len(asked.seeds))]

        def encoded(picture):
            encoder = load_encoder(ModelSpec(model.file, model.device))
            values = torch.from_numpy(picture).permute(2, 0, 1)[None].to(model.device).float() / 127.5 - 1
            return encoder(values)[0].cpu()

        first_pass_of(group.name)(
            group, model.unet, pictures, draw, decoded, files=model.files, store=store, say=say or _nobody, noise=noise,
            encode=encoded if model.file else None, size=(request.width, request.height), decoder=model.decoder,
            prediction="v" if model.prediction == "v_prediction" else "epsilon",
        )  # fmt: skip
    return store


def _nobody(text: str) -> None:
    pass


def evaluations(model: LabModel, request: Request) -> int:
    """How many U-Net evaluations `sample` will make."""
    scheduler = make_scheduler(model, request.sampler)
    scheduler.set_timesteps(request.steps)
    return len(scheduler.timesteps)


def _context(model: LabModel, request: Request, guided: bool) -> torch.Tensor:
    images = len(request.seeds)
    prompts = list(request.prompts) * (images if len(request.prompts) == 1 else 1)
    return model.text(prompts + [request.negative] * images * guided)


def _predict(model: LabModel, x, timestep, context, guided: bool) -> torch.Tensor:
    x = x.to(model.device).repeat(1 + guided, 1, 1, 1)
    timesteps = timestep.to(model.device, torch.float32).expand(x.shape[0])
    with autocast(model.device, model.precision):
        return model.unet(x, timesteps, context=context).float().cpu()


def predictor(model: LabModel, caption: str = "") -> Callable[[torch.Tensor, float], torch.Tensor]:
    """``predict(x [1, 4, h, w], timestep)`` with a caption, without guidance."""
    context = model.text([caption])
    return lambda x, timestep: _predict(model, x, torch.tensor(timestep), context, guided=False)


def _step_options(scheduler, generators) -> dict:
    return {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}


def decode(model: LabModel, latents: torch.Tensor) -> list:
    """Latents -> PIL pictures, one at a time to bound memory; rounded down to 8 bits as the webui does."""
    from PIL import Image

    pictures = []
    for latent in latents:
        with torch.inference_mode():
            picture = model.decoder(latent[None].to(model.device) / model.scale_factor)[0].float().cpu()
        values = ((picture + 1) / 2).clamp(0, 1).mul(255).permute(1, 2, 0).to(torch.uint8)
        pictures.append(Image.fromarray(values.numpy()))
    return pictures
