"""Pictures that follow something along a gradient through the whole U-Net, against which guides are measured whose
gradient spares the U-Net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import TRAINED_STEPS, Request, make_scheduler, sample
from lib_attn.lab.shared.errors import LabError

#: How far the largest places of a prediction move in a step, in its own spreads, and for which share of the steps.
#: Chosen by eye: a little less moves as much, twice as much makes pictures rough.
REACH, UNTIL = 3.0, 0.8
#: Slopes below this are not stretched to full steps, which would only be grain.
FLOOR = 3.0


class Steered(nn.Module):
    """A U-Net whose predictions move along the gradient of an error of the predicted picture with respect to the noisy
    one, through the U-Net (Universal Guidance, 2302.07121, equation 6; Readout Guidance, 2312.02150).

    Args:
        miss: predicted latents ``[B, C, h, w]`` -> error of each ``[B]``. left: share of the picture in the noisy one,
            squared, at each step (1000,). cfg: guidance scale. reach, until: see `REACH`.
    """

    def __init__(self, unet: nn.Module, miss, left: torch.Tensor, cfg: float, reach: float, until: float):
        super().__init__()
        self.unet, self.miss, self.left, self.in_channels = unet, miss, left, unet.in_channels
        self.cfg, self.reach, self.until = cfg, reach, until

    def forward(self, x, timesteps, context):
        step = int(timesteps[0])
        if step < (1 - self.until) * TRAINED_STEPS:
            return self.unet(x, timesteps, context=context)
        keep, noise = self.left[step].sqrt().item(), (1 - self.left[step]).sqrt().item()
        with torch.inference_mode(False), torch.enable_grad():
            start = x[: len(x) // 2].clone().requires_grad_(True)
            rows = self.unet(start.repeat(2, 1, 1, 1), timesteps.clone(), context=context.clone())
            positive, negative = rows.chunk(2)
            clean = (start - noise * (negative + self.cfg * (positive - negative))) / keep
            (slope,) = torch.autograd.grad(self.miss(clean).sum(), start)
        size = slope.abs().flatten(1).quantile(0.99, dim=1)[:, None, None, None].clamp_min(FLOOR)
        spread = clean.detach().std((1, 2, 3), keepdim=True)
        change = -self.reach * spread * (slope / size).clamp(-1, 1)
        return rows.detach() - (change * keep / noise).repeat(2, 1, 1, 1)


def steered(
    model: LabModel,
    request: Request,
    miss: Callable[[torch.Tensor], torch.Tensor],
    reach: float = REACH,
    until: float = UNTIL,
) -> torch.Tensor:
    """Final latents of pictures that are drawn towards less of `miss`, see `Steered`.

    Raises:
        LabError: without guidance, and for a model that does not predict noise.
    """
    if model.prediction != "epsilon" or request.cfg == 1:
        raise LabError("The gradient through the U-Net is for guided pictures of a model that predicts noise.")
    left = make_scheduler(model, request.sampler).alphas_cumprod.double()
    return sample(replace(model, unet=Steered(model.unet, miss, left, request.cfg, reach, until)), request)
