"""What a checkpoint's autoencoder loses: held-out renders, encoded and decoded again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.encoder import encoded
from lib_attn.lab.drawing.sampling import decode
from lib_attn.lab.shared.distances import mean_and_error, psnr
from lib_attn.lab.shared.errors import LabError
from lib_attn.learn.scenes import layout
from lib_attn.learn.scenes.render import RenderError
from lib_attn.learn.scenes.renderers import open_renderer

#: What stands in the pictures, by name: the share of them with patterns and a floor.
SURFACES = {"plain": 0.0, "patterned": 1.0}
#: A set of its own, of which no training reads.
SEED = 90_001


@dataclass(frozen=True)
class RoundTrip:
    """PSNR in dB of decoded pictures to their originals, mean over `pictures` with its standard error."""

    pictures: int
    psnr: float
    error: float


def renders(count: int, size: int, surface: str) -> list[np.ndarray]:
    """Held-out scenes as uint8 pictures ``[size, size, 3]``.

    Raises:
        LabError: when nothing can be rendered here.
    """
    mix = layout.Mix(split="held-out", textured=SURFACES[surface])
    try:
        with open_renderer(size) as renderer:
            return [renderer.render(layout.sample_scene(SEED, index, mix), False).rgb for index in range(count)]
    except RenderError as error:
        raise LabError(str(error)) from None


def round_trips(model: LabModel, spec: ModelSpec, count: int, size: int) -> dict[str, RoundTrip]:
    """By name of `SURFACES`, what is left of `count` renders after encoding and decoding.

    Raises:
        LabError: as `renders` and `lib_attn.lab.drawing.encoder.load_encoder`.
    """
    found = {}
    for surface in SURFACES:
        pictures = renders(count, size, surface)
        again = (np.asarray(decode(model, latent)[0]) for latent in encoded(spec, pictures))
        values = [psnr(a, b) for a, b in zip(pictures, again, strict=True)]
        found[surface] = RoundTrip(count, *mean_and_error(values))
    return found
