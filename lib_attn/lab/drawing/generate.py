"""Pictures from a prompt, written with infotext as the webui writes it."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.pictures import infotext, save
from lib_attn.lab.drawing.sampling import Request, decode, evaluations, sample
from lib_attn.lab.drawing.variants import ours
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.sizes import check_size
from lib_attn.settings import Settings
from lib_attn.store import Store
from lib_attn.techniques import stamped

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class GenerateSpec:
    """Pictures to draw and keep. out: the folder they go to."""

    model: ModelSpec
    request: Request
    settings: Settings
    out: Path


def picture_request(
    prompt: str,
    *,
    negative: str = "",
    seed: int = 1,
    width: int = 256,
    height: int = 256,
    steps: int = 20,
    sampler: str = "Euler a",
    cfg: float = 5.0,
    batch: int = 1,
) -> Request:
    """`batch` pictures of one prompt, their seeds counting up from `seed` (-1: drawn here).

    Raises:
        LabError: when a value makes no sense.
    """
    check_size(height, width)
    if not 1 <= batch <= 64:
        raise LabError(f"--batch is 1 … 64, not {batch}.")
    if not math.isfinite(cfg) or not 0 <= cfg <= 100:
        raise LabError(f"--cfg is 0 … 100, not {cfg}.")
    seed = random.Random().randint(0, MAX_SEED) if seed == -1 else seed
    if not 0 <= seed <= MAX_SEED:
        raise LabError(f"--seed is 0 … {MAX_SEED}, or -1 to draw one, not {seed}.")
    return Request((prompt,), tuple(seed + i for i in range(batch)), negative, height, width, steps, sampler, cfg)


def generate(spec: GenerateSpec) -> Iterator[Path]:
    """Draw and save; yields each file as it is written. What a technique has to say is printed."""
    model, store = spec.model.load(), Store()
    settings, _ = spec.settings.completed(model.fitting)
    with tqdm(total=evaluations(model, spec.request), desc="steps", file=sys.stderr) as bar:
        variant = ours("", "", spec.settings)
        latents = sample(model, spec.request, variant, say=print, progress=bar.update, store=store)
    settings = stamped(settings.with_files(model.files.stamped), store)
    for index, picture in enumerate(decode(model, latents)):
        path = free_name(spec.out, spec.request.seeds[index])
        yield save(picture, path, infotext(spec.request, index, settings, model.name))


def free_name(folder: Path, seed: int) -> Path:
    """``00003-seed.png`` with the first number that is free."""
    taken = {file.name.partition("-")[0] for file in folder.glob("*.png")} if folder.is_dir() else set()
    number = next(n for n in itertools.count() if f"{n:05d}" not in taken)
    return folder / f"{number:05d}-{seed}.png"
