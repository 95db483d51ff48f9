"""Everything that a run depends on, as one JSON-ready value."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ..reference_model.diffusion import NoiseConfig
from ..reference_model.loop import LoopConfig
from ..reference_model.recipe import LARGE
from ..scenes.guides import PICTURES
from .choices import CHOICES, RATES


@dataclass(frozen=True)
class Recipe:
    """checkpoint: name and first digits of the sha256 of the base. map: "depth" or "normal". train: one of
    `CHOICES`. rank: of the deltas of "lora". size: edge of the maps in pixels. kinds: see `scenes.layout.Mix`.
    zero_snr: the base was trained with a schedule that ends in noise alone (Lin et al. 2023, arXiv 2305.08891).
    pooled: share of the steps, from the first on, with averaged keys on fine levels, see `unet.pool_keys`.
    head_scenes, head_steps: for the network that reads maps. decoder_steps: for a decoder of the file's own; 0: it
    has none. lr: highest learning rate; None: that of the choice, see `choices.RATES`."""

    checkpoint: str = ""
    map: str = "depth"
    train: str = "out"
    rank: int = 16
    scenes: int = 3000
    size: int = 256
    kinds: tuple[float, ...] = (0.45, 0.45, 0.10)
    steps: int = 1000
    batch: int = 16
    lr: float | None = None
    warmup: int = 30
    decay: float = 0.4
    ema: float = 0.99
    noise: NoiseConfig = LARGE
    zero_snr: bool = False
    caption_dropout: float = 0.1
    precision: str = "no"
    pooled: float = 0.0
    head_scenes: int = 1000
    head_steps: int = 500
    decoder_steps: int = 0
    seed: int = 11
    save_seconds: float = 300.0
    preview: int = 6

    def __post_init__(self):
        if self.map not in PICTURES:
            raise ValueError(f"A map is {' or '.join(PICTURES)}, not '{self.map}'.")
        if self.train not in CHOICES:
            raise ValueError(f"What is trained is one of {', '.join(CHOICES)}, not '{self.train}'.")
        if min(self.scenes, self.steps, self.batch, self.rank) < 1 or self.size < 64 or self.size % 64:
            raise ValueError("Scenes, steps, batch and rank are 1 or more, and the size is a multiple of 64.")
        if not 0 <= self.pooled <= 1:
            raise ValueError("The share of steps with averaged keys is from 0 to 1.")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return RATES[self.train] if self.lr is None else self.lr

    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.steps, batch=self.batch, lr=self.rate, warmup=self.warmup, decay=self.decay, ema=self.ema,
            precision=self.precision, save_seconds=self.save_seconds, seed=self.seed,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @staticmethod
    def load(path: Path) -> Recipe:
        """Raises ValueError when the file is no recipe."""
        try:
            value = json.loads(path.read_text())
            return Recipe(**value | {"noise": NoiseConfig(**value["noise"]), "kinds": tuple(value["kinds"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no recipe of this training ({error}).") from None
