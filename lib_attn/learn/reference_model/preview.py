"""Fixed-seed validation pictures, written beside TensorBoard's log at every save."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from . import diffusion, tokenizer, unet
from .loop import draw
from .models import SCALE_FACTOR, TextToNoise

#: Half of them hold combinations that are kept out of training (vocabulary.pair_is_held_out).
PROMPTS = (
    "a red cube, grey background",
    "a blue sphere, white background",
    "a yellow cone, black background",
    "a green star, brown background",
    "a red sphere, grey background",
    "a green cube, white background",
    "a blue cone, brown background",
    "a yellow cylinder, black background",
    "a purple torus, white background",
    "an orange star, grey background",
    "a red cube left of a blue cone, grey background",
    "a large green cylinder, white background",
    "a yellow sphere right of a purple star, black background",
    "two pink cones, white background",
    "a cyan torus left of an orange cube, brown background",
    "three blue spheres, grey background",
)


def to_pictures(decoded: torch.Tensor) -> np.ndarray:
    """Pictures (B, 3, H, W) in about -1..1 -> uint8 (B, H, W, 3)."""
    return ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def grid(pictures: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (N, H, W, 3) -> one picture of N / columns rows; N must be a multiple of columns."""
    n, h, w, c = pictures.shape
    return pictures.reshape(n // columns, columns, h, w, c).swapaxes(1, 2).reshape(n // columns * h, columns * w, c)


@torch.no_grad()
def sample(
    model: TextToNoise,
    autoencoder,
    words,
    prompts,
    size: int,
    seed: int = 0,
    steps: int = 20,
    scale: float = 5.0,
    precision: str = "bf16",
    batch: int = 8,
    signal: float = 1.0,
) -> np.ndarray:
    """Draw prompts with DDIM and classifier-free guidance -> uint8 (N, size, size, 3).

    Picture k starts from its own noise, which depends on (seed, k) alone.
    """
    device = next(model.parameters()).device
    empty = tokenizer.encode(words, [""]).to(device)
    out = []
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for first in range(0, len(prompts), batch):
            part = list(prompts[first : first + batch])
            noise = torch.stack(
                [
                    torch.randn(4, size // 8, size // 8, generator=draw(seed, "preview", first + k))
                    for k in range(len(part))
                ]
            ).to(device)
            predict = diffusion.guided(model, tokenizer.encode(words, part).to(device), empty, scale)
            out.append(to_pictures(autoencoder.decode(diffusion.ddim(predict, noise, steps, signal) / SCALE_FACTOR)))
    return np.concatenate(out)


class Preview:
    """Called by the training loop with the step and the averaged weights."""

    def __init__(self, run, folder: Path, phase, words):
        self.run, self.folder, self.phase, self.words = run, folder, phase, words

    def __call__(self, step: int, weights: dict[str, torch.Tensor]) -> None:
        from PIL import Image

        recipe = self.run.recipe
        model = self.run.seeded(lambda: TextToNoise(self.phase.model_of(recipe), recipe.text_model), "unet weights")
        model.load_state_dict(weights, strict=False)
        unet.use_fast_attention(model)
        pictures = sample(
            model.eval(),
            self.run.autoencoder(),
            self.words,
            PROMPTS[: recipe.preview],
            self.phase.size,
            steps=12,
            precision=recipe.precision,
            signal=self.phase.noise.signal,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grid(pictures, 4)).save(self.folder / f"preview-{step:08d}.png")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        with SummaryWriter(str(self.folder)) as writer:
            writer.add_image("preview", grid(pictures, 4), step, dataformats="HWC")
