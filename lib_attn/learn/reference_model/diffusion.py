"""Stable Diffusion's noise schedule, the training target, and a small sampler for validation pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

STEPS = 1000


def alphas_cumprod(signal: float = 1.0) -> torch.Tensor:
    """SD's scaled-linear schedule, 0.00085 to 0.012 (CompVis v1-inference.yaml), float64 (1000,).

    signal: see NoiseConfig; the spread of picture and noise together stays 1.
    """
    bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64) ** 2, 0)
    return signal**2 * bar / (1 + (signal**2 - 1) * bar)


@dataclass(frozen=True)
class NoiseConfig:
    """late: share of samples whose step is drawn from `late_from` upwards instead of from all steps;
    cap: limit of the loss weight; gamma: limit of min-SNR weighting at the quiet end; signal: how many times
    stronger the picture is against the noise than in SD's schedule at the same step. 2 is what a network sees of a
    step behind an average over 2 x 2 places, which halves the noise: so a phase at half the size prepares one at
    the full size;
    offset: how loud the noise that is constant over a picture is, against the noise of a place. SD's last step still
    holds a little of the picture's mean, which a model of many places reads out of the noise instead of learning it;
    when it draws, the noise has none (Guttenberg 2023, "Diffusion with offset noise"; Lin et al. 2023, arXiv
    2305.08891)."""

    late: float = 0.5
    late_from: int = 400
    cap: float = 8.0
    gamma: float = 5.0
    signal: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        if self.offset < 0:
            raise ValueError("The offset of the noise is 0 or more.")


def loss_weights(config: NoiseConfig, prediction: str = "epsilon", bar: torch.Tensor | None = None) -> torch.Tensor:
    """Weight of the squared error of the prediction, "epsilon" or "v_prediction", per step, float32 (1000,).

    bar: the schedule, where it is not SD's.

    (min(snr, gamma) + 1) / snr, capped: the quiet end is min-SNR (Hang et al. 2023, arXiv 2303.09556), the
    loud end is what v-prediction would give (Salimans and Ho 2022, arXiv 2202.00512). What a prompt decides
    (is it a cube or a cone?) is decided under loud noise, where the plain noise error hardly counts it.
    """
    bar = alphas_cumprod(config.signal) if bar is None else bar
    snr = bar / (1 - bar)
    if prediction == "v_prediction":
        return ((snr.clamp(max=config.gamma) + 1) / (snr + 1)).float()
    return ((snr.clamp(max=config.gamma) + 1) / snr).clamp(max=config.cap).float()


def draw_steps(count: int, config: NoiseConfig, generator: torch.Generator) -> torch.Tensor:
    """Random steps, int64 (count,)."""
    uniform = torch.rand(count, generator=generator)
    start = torch.where(torch.rand(count, generator=generator) < config.late, float(config.late_from), 0.0)
    return (start + uniform * (STEPS - start)).long().clamp(max=STEPS - 1)


def with_offset(noise: torch.Tensor, config: NoiseConfig, generator: torch.Generator) -> torch.Tensor:
    """Noise (B, 4, h, w) with the part that is constant over a picture; where the recipe has none, as it is."""
    return noise + config.offset * torch.randn(*noise.shape[:2], 1, 1, generator=generator) if config.offset else noise


def add_noise(latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor, signal: float = 1.0) -> torch.Tensor:
    """Noisy latents at the given steps; all (B, 4, h, w), steps (B,)."""
    bar = alphas_cumprod(signal).to(latents)[steps][:, None, None, None]
    return bar.sqrt() * latents + (1 - bar).sqrt() * noise


@torch.no_grad()
def ddim(predict, noise: torch.Tensor, steps: int = 20, signal: float = 1.0) -> torch.Tensor:
    """DDIM without added noise (Song et al. 2021, arXiv 2010.02502).

    predict(latents, steps (B,)) -> noise; noise: starting latents (B, 4, h, w) of unit variance; signal: see
    NoiseConfig.
    """
    bar = alphas_cumprod(signal).to(noise)
    times = torch.linspace(STEPS - 1, 0, steps + 1).round().long()[:-1].tolist()
    x = noise
    for i, t in enumerate(times):
        eps = predict(x, torch.full((len(x),), t, dtype=torch.long, device=x.device)).to(x)
        clean = (x - (1 - bar[t]).sqrt() * eps) / bar[t].sqrt()
        after = bar[times[i + 1]] if i + 1 < len(times) else torch.ones_like(bar[0])
        x = after.sqrt() * clean + (1 - after).sqrt() * eps
    return x


def guided(model, tokens: torch.Tensor, empty: torch.Tensor, scale: float):
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) around a TextToNoise model.

    tokens (B, 77), empty (1, 77) -> a `predict` for `ddim`.
    """
    context = model.context(torch.cat([empty.expand_as(tokens), tokens]))

    def predict(x, t):
        without, given = model.unet(torch.cat([x, x]), torch.cat([t, t]), context=context).float().chunk(2)
        return without + scale * (given - without)

    return predict
