"""Pictures that follow a map along a gradient through the whole U-Net: what the guide by the predicted picture alone is
measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import TRAINED_STEPS, Request, make_scheduler, sample
from lib_attn.lab.shared.errors import LabError
from lib_attn.techniques.depth_guide.head import FLOOR, REACH, Head, error
from lib_attn.techniques.depth_guide.maps import Map

#: Tried on twelve pictures: 0.3, 0.5, and 0.6; more makes pictures rough, less moves nothing.
AMOUNT, UNTIL = 0.5, 0.8


class Steered(nn.Module):
    """A U-Net whose predictions move along the gradient of a map's error with respect to the noisy picture, through the
    U-Net (Universal Guidance, 2302.07121, equation 6; Readout Guidance, 2312.02150).

    Each step goes as far as those of `lib_attn.techniques.depth_guide.head.towards` go together, once: the U-Net's
    gradient costs too much to be taken again.

    Args:
        maps: one for each image. left: share of the noise after `s` of 1000 steps, float64 (1000,), squared. until:
            share of the steps after which the picture is left to itself.
    """

    def __init__(self, unet: nn.Module, head: Head, maps: Sequence[Map], left: torch.Tensor, cfg: float, amount: float,
                 until: float):  # fmt: skip
        super().__init__()
        self.unet, self.head, self.maps, self.left = unet, head, maps, left
        self.cfg, self.amount, self.until, self.in_channels = cfg, amount, until, unet.in_channels

    def forward(self, x, timesteps, context):
        step = int(timesteps[0])
        if step < (1 - self.until) * TRAINED_STEPS:
            return self.unet(x, timesteps, context=context)
        images = len(self.maps)
        keep, noise = self.left[step].sqrt().item(), (1 - self.left[step]).sqrt().item()
        wanted = torch.stack([m.wanted(tuple(x.shape[-2:])) for m in self.maps])
        with torch.inference_mode(False), torch.enable_grad():
            start = x[:images].clone().requires_grad_(True)
            rows = self.unet(start.repeat(2, 1, 1, 1), timesteps.clone(), context=context.clone())
            positive, negative = rows.chunk(2)
            clean = (start - noise * (negative + self.cfg * (positive - negative))) / keep
            loss = wanted[0].numel() * error(self.head(clean), wanted.clone()).sum()
            (slope,) = torch.autograd.grad(loss, start)
        size = slope.abs().flatten(1).quantile(0.99, dim=1)[:, None, None, None].clamp_min(FLOOR)
        spread = clean.detach().std((1, 2, 3), keepdim=True)
        change = -REACH * self.amount * spread * (slope / size).clamp(-1, 1)
        return rows.detach() - (change * keep / noise).repeat(2, 1, 1, 1)


def steered(model: LabModel, request: Request, head: Head, maps: Sequence[Map], amount=AMOUNT, until=UNTIL):
    """Final latents of pictures that follow `maps` through the U-Net of a model that predicts noise.

    Args:
        amount: how far predictions move, in shares of what `REACH` says. until: share of the steps that follow.
    """
    if model.prediction != "epsilon" or request.cfg == 1:
        raise LabError("The gradient through the U-Net is for guided pictures of a model that predicts noise.")
    left = make_scheduler(model, request.sampler).alphas_cumprod.double()
    unet = Steered(model.unet, head, maps, left, request.cfg, amount, until)
    return sample(replace(model, unet=unet), request)
