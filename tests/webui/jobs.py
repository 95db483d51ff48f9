"""Jobs, samplers and denoisers like the host's, reduced to what an extension can see of them."""

import copy
import random
from types import SimpleNamespace

import numpy
import torch

from tests.unets import probe, snapshot, tiny_unet

#: Changes to `tiny_unet` that make it a small one with attention on both of its levels.
FLAT = {"channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2, 1]}


class Model:
    """Stands for shared.sd_model: a U-Net inside (`changes`: see `tiny_unet`), and the name of its checkpoint."""

    cond_stage_key = "txt"

    def __init__(self, seed=0, **changes):
        self.model = SimpleNamespace(diffusion_model=tiny_unet(seed, **changes))
        self.sd_checkpoint_info = object()

    @property
    def unet(self):
        return self.model.diffusion_model


class Interrupted(BaseException):
    """What the host throws into a denoiser when the user presses Interrupt."""


class Conditions:
    """``MulticondLearnedConditioning``: per image its AND parts with their weights."""

    def __init__(self, weights):
        self.batch = [[SimpleNamespace(weight=w, schedules=[]) for w in parts] for parts in weights]


class Sampler:
    """Runs `steps` evaluations; `event(step)` may raise or change the host in between.

    weights: for each image those of its prompts. images: which of a batch are drawn, each as if in the whole batch.
    chunks: rows in each call of the model, all of them when None. denoiser: attributes that others put on the denoiser.
    """

    TEXT = 8, 16

    def __init__(
        self,
        host,
        callbacks,
        weights=((1.0,),),
        size=(16, 16),
        steps=2,
        event=None,
        images=None,
        chunks=None,
        **denoiser,
    ):
        self.host, self.callbacks, self.steps, self.event = host, callbacks, steps, event
        self.weights, self.size, self.chunks, self.denoiser = weights, size, chunks, denoiser
        self.images = tuple(range(len(weights))) if images is None else images
        cond, uncond = Conditions(weights), []
        for image, parts in zip(self.images, cond.batch, strict=True):
            for number, part in enumerate(parts):
                part.schedules = self._schedule(100 + 10 * image + number)
            uncond.append(self._schedule(200))
        self.sampler_extra_args = {"cond": cond, "uncond": uncond}
        self.seen = []

    def _schedule(self, seed):
        text = torch.randn(*self.TEXT, generator=torch.Generator().manual_seed(seed))
        return [SimpleNamespace(end_at_step=10**6, cond=text)]

    def launch_sampling(self, steps, func):
        try:
            return func()
        except Interrupted:
            return "interrupted"

    def sample(self, p):
        denoiser = SimpleNamespace(
            p=p, sampler=self, step=0, steps=self.steps, total_steps=self.steps, image_cfg_scale=None,
            inner_model=self, **self.denoiser,
        )  # fmt: skip
        return self.launch_sampling(self.steps, lambda: [self._step(denoiser, i) for i in range(self.steps)])

    def latents(self):
        """One for each image, `images` of a batch of three."""
        all_of_them = torch.randn(3, 4, *self.size, generator=torch.Generator().manual_seed(1))
        return all_of_them[list(self.images)]

    def _step(self, denoiser, i):
        denoiser.step = i
        if self.event:
            self.event(i)
        unet = self.host.shared.sd_model.unet
        order = range(len(self.weights))
        places = [image for image in order for _ in self.weights[image]] + [*order]
        x, sigma = self.latents()[places], torch.full((len(places),), 14.0 / (1 + i))
        parts = [part for image in self.sampler_extra_args["cond"].batch for part in image]
        params = SimpleNamespace(
            x=x, denoiser=denoiser, sigma=sigma,
            text_cond=torch.stack([part.schedules[0].cond for part in parts]),
            text_uncond=torch.stack([schedule[0].cond for schedule in self.sampler_extra_args["uncond"]]),
        )  # fmt: skip
        self._call("on_cfg_denoiser", params)
        self.seen.append(patched(unet))
        # As samplers do, the model gets the latents at a scale of its own.
        x, context = 0.7 * params.x, torch.cat([params.text_cond, params.text_uncond])
        times = torch.full((len(places),), 900.0 - 300 * i)
        pieces = [t.split(self.chunks or len(places)) for t in (x, times, context)]
        out = torch.cat([unet(x, times, context=context) for x, times, context in zip(*pieces, strict=True)])
        self._call("on_cfg_denoised", SimpleNamespace(x=out, inner_model=denoiser.inner_model))
        return out

    def _call(self, name, params):
        for function in list(self.callbacks.registered.get(name, [])):
            function(params)


def patched(unet):
    """Whether any module of `unet` has a forward or a hook of its own."""
    return any("forward" in vars(m) or m._forward_pre_hooks or m._forward_hooks for m in unet.modules())


class Job:
    """``StableDiffusionProcessing`` as scripts see it."""

    def __init__(self, sampler=None, **fields):
        self.extra_generation_params, self.comments = {}, {}
        self.sampler, self.seeds, self.is_hr_pass = sampler, [1], False
        vars(self).update(fields)

    def comment(self, text):
        self.comments[text] = 1


def run(script, p, *args, passes=1):
    """One job in the host's order of hooks; returns what the sampler gave in its last pass."""
    script.before_process(p, *args)
    script.process(p, *args)
    out = None
    for number in range(passes):
        p.is_hr_pass = number > 0
        script.process_before_every_sampling(p, *args, x=None, noise=None, c=None, uc=None)
        out = p.sampler.sample(p)
    script.postprocess_batch(p, *args, batch_number=0)
    script.postprocess(p, None, *args)
    return out


class Edited(Sampler):
    """Two images; the second has another prompt from the third step on. Errors in callbacks are caught, as by the host.

    `inside` is called in the middle of the U-Net with the number of rows there.
    """

    def __init__(self, host, inside=None, steps=4, **others):
        super().__init__(host, host.script_callbacks, weights=((1.0,), (1.0,)), steps=steps, **others)
        self.sampler_extra_args["cond_scale"] = 7.0
        first, later = self.sampler_extra_args["cond"].batch[1][0].schedules[0], self._schedule(130)[0]
        first.end_at_step = 1
        self.sampler_extra_args["cond"].batch[1][0].schedules = [first, later]
        self.inside = inside

    def sample(self, p):
        middle = self.host.shared.sd_model.unet.middle_block
        handle = middle.register_forward_pre_hook(probe(lambda module, args: self._inside(len(args[0]))))
        try:
            return super().sample(p)
        finally:
            handle.remove()

    def _inside(self, rows):
        if self.inside is not None:
            self.inside(rows)

    def _call(self, name, params):
        caught(lambda: super(Edited, self)._call(name, params))


def caught(function, *args, **kwargs):
    """Call as the host does: errors of extensions end in its log, what interrupts does not."""
    try:
        return function(*args, **kwargs)
    except Exception:
        return None


def draw(script, sampler, settings):
    """A job in the host's order of hooks. Returns what the sampler gave, None after a fault, and the job."""
    p, out = Job(sampler, seeds=[1, 2]), None
    try:
        caught(script.before_process, p, settings)
        caught(script.process, p, settings)
        caught(script.process_before_every_sampling, p, settings)
        out = p.sampler.sample(p)
        caught(script.postprocess_batch, p, settings, batch_number=0)
        caught(script.postprocess, p, None, settings)
    except (Interrupted, RuntimeError):
        out = None
    return None if out == "interrupted" else out, p


class Belongings:
    """What no job may change: the model's weights and everything on its modules, options, random generators."""

    def __init__(self, host):
        unet = host.shared.sd_model.unet
        self._weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
        self._rest = self._look(host)

    def _look(self, host):
        options = {name: value for name, value in vars(host.shared.opts).items() if not callable(value)}
        return {
            "patches": snapshot(host.shared.sd_model.unet), "options": copy.deepcopy(options),
            "torch": torch.random.get_rng_state().numpy().tobytes(), "python": random.getstate(),
            "numpy": numpy.random.get_state()[1].tobytes(),
        }  # fmt: skip

    def changed(self, host):
        """Names of what is not as it was."""
        now = self._look(host)
        weights = host.shared.sd_model.unet.state_dict()
        kept = all(torch.equal(weights[name], tensor) for name, tensor in self._weights.items())
        return [name for name in now if now[name] != self._rest[name]] + ([] if kept else ["weights"])


def same(a, b):
    return a is not None and len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
