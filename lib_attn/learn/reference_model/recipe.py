"""Everything one training run depends on, as one JSON-ready value."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from .diffusion import NoiseConfig
from .models import TextConfig, UNetConfig, VaeConfig
from .text import TextStage
from .vae import VaeLoss


@dataclass(frozen=True)
class VaeStage:
    """phases: (first step, crop edge in pixels, crops per step); scenes: how many pictures crops come from."""

    steps: int = 1250
    lr: float = 8e-4
    warmup: int = 50
    decay: float = 0.35
    ema: float = 0.99
    scenes: int = 4000
    phases: tuple[tuple[int, int, int], ...] = ((0, 32, 32), (850, 64, 12))


@dataclass(frozen=True)
class PolishStage:
    """phases: (first step, edge of the pictures in pixels, pictures per step); scenes: how many pictures of
    each size are used; the latents of those sizes must be cached by a U-Net phase; crop: edge in latents of the parts
    that are cut from them, 0 for whole pictures; again: whether the decoder of a checkpoint that the run starts from is
    polished too, for scenes it has not seen."""

    steps: int = 60
    lr: float = 4e-4
    warmup: int = 5
    decay: float = 0.5
    ema: float = 0.95
    scenes: int = 500
    phases: tuple[tuple[int, int, int], ...] = ((0, 128, 8),)
    crop: int = 0
    again: bool = False


@dataclass(frozen=True)
class UNetPhase:
    """One stretch of U-Net training, from the averaged weights of the one before it and with a fresh optimizer.

    size: edge of the pictures in pixels; scenes: the first so many of the set; focus: share of samples drawn from
    the scenes of one kind (`focus_on`: single, pair, several) on top of the mix; noise: which steps are drawn and
    how they count. Twice the edge is four times the tokens that show the same thing, so what is decided at one
    noise level at 128 px is decided at twice that level at 256 px, and a phase of larger pictures wants
    `late_from` and `cap` higher. text: before the phase the text encoder learns from captions alone (see `text`);
    train_text: whether the pictures train it too; gaze: weight of looking at the right token (see `gaze`), of use
    after such a text stage; blend: share of the U-Net's weights that comes from an earlier phase, or from the
    checkpoint the run started from, instead of the phase before (Wortsman et al. 2022, arXiv 2109.01903: weights
    between a model and its fine-tuned self keep much of both); blend_with: that phase's name, "" the checkpoint.
    levels: how many of the U-Net's levels this phase trains, counted from the deepest, 0 for all; the next phase puts
    the finer one around them (see `grow`). narrow: levels, 0 the finest of those trained, whose
    convolutions lose their reach (see `reach`) over the first `fade` steps. pooled: share of the steps, from the first
    on, in which self-attention of more than 1024 tokens reads averages over 2 x 2 places.
    """

    name: str
    size: int
    scenes: int
    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.25
    ema: float = 0.998
    focus: float = 0.0
    focus_on: str = "single"
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    text: TextStage = field(default_factory=TextStage)
    train_text: bool = True
    gaze: float = 0.0
    blend: float = 0.0
    blend_with: str = ""
    levels: int = 0
    narrow: tuple[int, ...] = ()
    fade: int = 0
    pooled: float = 0.0

    def model_of(self, recipe: Recipe) -> UNetConfig:
        """The U-Net this phase trains."""
        model = recipe.unet_model
        return dataclasses.replace(model, channel_mult=model.channel_mult[-self.levels :]) if self.levels else model


#: Noise for pictures of 256 px, see `UNetPhase.noise`; of 512 px; and of 256 px that prepare 512 px.
LARGE = NoiseConfig(late=0.8, late_from=550, cap=24.0)
LARGER = NoiseConfig(late=0.7, late_from=650, cap=48.0)
HALVED = NoiseConfig(late=0.8, late_from=650, cap=24.0, signal=2.0)


@dataclass(frozen=True)
class Recipe:
    """The two runs that made the shipped model, as one; `small()` is the same in seconds, for tests."""

    seed: int = 1
    scenes: int = 14000
    size: int = 256
    kinds: tuple[float, ...] = (0.55, 0.35, 0.10)
    textured: float = 0.0
    vae_model: VaeConfig = field(default_factory=VaeConfig)
    unet_model: UNetConfig = field(default_factory=UNetConfig)
    text_model: TextConfig = field(default_factory=TextConfig)
    vae: VaeStage = field(default_factory=VaeStage)
    vae_loss: VaeLoss = field(default_factory=VaeLoss)
    phases: tuple[UNetPhase, ...] = (
        UNetPhase("128-first", 128, 4000, 132, 32, 8e-4, decay=0.0),
        UNetPhase("128", 128, 4000, 495, 64, 1.1e-3, warmup=40, decay=0.0),
        UNetPhase("128-single", 128, 4000, 264, 64, 1e-3, warmup=15, decay=0.0, ema=0.99, focus=0.6),
        UNetPhase("128-pair", 128, 4000, 136, 64, 1e-3, warmup=15, decay=0.0, ema=0.99, focus=0.65, focus_on="pair"),
        UNetPhase("256", 256, 500, 600, 16, 8e-4, warmup=10, decay=0.35, ema=0.98, focus=0.25, noise=LARGE),
        UNetPhase(
            "128-gaze",
            128,
            6000,
            900,
            64,
            1e-3,
            warmup=30,
            decay=0.2,
            ema=0.995,
            focus=0.4,
            focus_on="pair",
            text=TextStage(steps=1500),
            train_text=False,
            gaze=0.1,
        ),
        UNetPhase(
            "256-gaze",
            256,
            3000,
            1450,
            16,
            8e-4,
            warmup=30,
            decay=0.4,
            ema=0.995,
            focus=0.4,
            focus_on="pair",
            noise=LARGE,
            train_text=False,
            gaze=0.1,
            blend=0.4,
            blend_with="256",
        ),
    )
    polish: PolishStage = field(default_factory=PolishStage)
    caption_dropout: float = 0.1
    precision: str = "bf16"
    save_seconds: float = 180.0
    preview: int = 16

    @staticmethod
    def small() -> Recipe:
        return Recipe(
            scenes=24,
            size=64,
            vae=VaeStage(steps=4, warmup=1, scenes=16, phases=((0, 32, 4),)),
            phases=(UNetPhase("64", 64, 24, 4, 4, 1e-3, warmup=1),),
            precision="no",
            polish=PolishStage(steps=2, warmup=1, scenes=8, phases=((0, 64, 2),)),
            unet_model=UNetConfig(model_channels=32, channel_mult=(1, 1, 1), context_dim=32),
            text_model=TextConfig(width=32, layers=1, heads=2),
        )

    @staticmethod
    def large() -> Recipe:
        """A model whose own size is 512 px and that needs its attention, to be started from the shipped one.

        The kernels of its two deepest levels fade at 256 px, where that is cheap; the finest level is put around them
        at the end, and its attention reads averaged keys for most of that phase.
        """
        half = {"noise": HALVED, "gaze": 0.1, "levels": 3, "narrow": (1, 2)}
        return Recipe(
            seed=5,
            scenes=8000,
            size=512,
            kinds=(0.35, 0.38, 0.14, 0.13),
            textured=0.55,
            # Every save draws the validation pictures, which at this size takes a minute of one core.
            save_seconds=900.0,
            unet_model=UNetConfig(channel_mult=(1, 1, 2, 2)),
            phases=(
                UNetPhase("256-fade", 256, 4000, 1500, 16, 8e-4, warmup=20, decay=0.0, ema=0.99, fade=500, **half),
                UNetPhase("256-long", 256, 8000, 6000, 32, 8e-4, warmup=20, decay=0.1, ema=0.995, **half),
                UNetPhase(
                    "512",
                    512,
                    8000,
                    6000,
                    16,
                    7e-4,
                    warmup=40,
                    decay=0.35,
                    ema=0.995,
                    noise=LARGER,
                    gaze=0.1,
                    narrow=(2, 3),
                    pooled=0.85,
                ),
            ),
            polish=PolishStage(
                steps=1500, warmup=20, ema=0.99, scenes=4000, phases=((0, 512, 8),), crop=24, again=True
            ),
        )

    def to_json(self) -> dict:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @staticmethod
    def from_json(value: dict) -> Recipe:
        """Inverse of to_json. Raises ValueError naming a field that does not exist."""
        return _build(Recipe, value)

    @staticmethod
    def load(path: Path) -> Recipe:
        try:
            return Recipe.from_json(json.loads(path.read_text()))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name} is not JSON ({error}).") from None


_NESTED = {
    "vae_model": VaeConfig,
    "unet_model": UNetConfig,
    "text_model": TextConfig,
    "vae": VaeStage,
    "vae_loss": VaeLoss,
    "polish": PolishStage,
}


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _build(kind, value: dict):
    known = {f.name for f in dataclasses.fields(kind)}
    for key in value:
        if key not in known:
            raise ValueError(f"A recipe has no field '{key}'; {kind.__name__} knows {', '.join(sorted(known))}.")
    parts = {}
    for key, item in value.items():
        if kind is Recipe and key in _NESTED:
            parts[key] = _build(_NESTED[key], item)
        elif kind is UNetPhase and key in ("noise", "text"):
            parts[key] = _build({"noise": NoiseConfig, "text": TextStage}[key], item)
        elif kind is Recipe and key == "phases":
            parts[key] = tuple(_build(UNetPhase, p) for p in item)
        else:
            parts[key] = _tuples(item)
    return kind(**parts)
