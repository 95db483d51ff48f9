"""Jobs, samplers and denoisers like the host's, reduced to what an extension can see of them."""

from types import SimpleNamespace

import torch

from tests.unets import tiny_unet


class Model:
    """Stands for shared.sd_model: a U-Net inside, and the name of its checkpoint."""

    cond_stage_key = "txt"

    def __init__(self, seed=0):
        self.model = SimpleNamespace(diffusion_model=tiny_unet(seed))
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
    """Runs `steps` evaluations; `event(step)` may raise or change the host in between."""

    def __init__(self, host, callbacks, weights=((1.0,),), size=(16, 16), steps=2, event=None):
        self.host, self.callbacks, self.steps, self.event = host, callbacks, steps, event
        self.weights, self.size = weights, size
        self.sampler_extra_args = {"cond": Conditions(weights)}
        self.seen = []

    def launch_sampling(self, steps, func):
        try:
            return func()
        except Interrupted:
            return "interrupted"

    def sample(self, p):
        denoiser = SimpleNamespace(
            p=p, sampler=self, step=0, steps=self.steps, total_steps=self.steps, image_cfg_scale=None, inner_model=self
        )
        return self.launch_sampling(self.steps, lambda: [self._step(denoiser, i) for i in range(self.steps)])

    def _step(self, denoiser, i):
        denoiser.step = i
        if self.event:
            self.event(i)
        unet = self.host.shared.sd_model.unet
        images = len(self.weights)
        rows = sum(len(parts) for parts in self.weights) + images
        x = torch.randn(rows, 4, *self.size, generator=torch.Generator().manual_seed(1))
        sigma = torch.full((rows,), 14.0 / (1 + i))
        self._call("on_cfg_denoiser", SimpleNamespace(x=x, denoiser=denoiser, sigma=sigma))
        self.seen.append(patched(unet))
        context = torch.randn(rows, 8, 16, generator=torch.Generator().manual_seed(2))
        out = unet(x, torch.full((rows,), 900.0 - 300 * i), context=context)
        self._call("on_cfg_denoised", SimpleNamespace(x=out, inner_model=denoiser.inner_model))
        return out

    def _call(self, name, params):
        for function in self.callbacks.registered.get(name, []):
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
