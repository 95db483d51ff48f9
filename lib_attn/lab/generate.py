"""``python -m lib_attn.lab generate``: pictures from a prompt, with infotext as the webui writes it."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from pathlib import Path

from lib_attn.lab.errors import LabError
from lib_attn.lab.options import add_settings_options, settings_of
from lib_attn.lab.sampling import SAMPLERS, Request, decode, evaluations, sample
from lib_attn.lab.variants import ours

MAX_SEED = 2**32 - 1


def add_commands(commands) -> None:
    """Add ``generate``."""
    options = commands.add_parser("generate", help="draw pictures")
    add_picture_options(options)
    options.add_argument("--batch", type=int, default=1, help="pictures at once, seeds count up (default 1)")
    options.add_argument("--out", type=Path, default=Path("out"), help="folder (default out)")
    add_settings_options(options)
    options.set_defaults(run=run)


def add_picture_options(options: argparse.ArgumentParser) -> None:
    """Prompt, seed, size and so on."""
    options.add_argument("--prompt", default="a large red sphere left of a small blue cube")
    options.add_argument("--negative", default="", help="negative prompt")
    options.add_argument("--seed", type=int, default=1, help="-1 draws one (default 1)")
    options.add_argument("--width", type=int, default=256, help="pixels, a multiple of 8 (default 256)")
    options.add_argument("--height", type=int, default=256, help="pixels, a multiple of 8 (default 256)")
    options.add_argument("--steps", type=int, default=20, help="(default 20)")
    options.add_argument("--sampler", default="Euler a", help=f"{', '.join(SAMPLERS)} (default Euler a)")
    options.add_argument("--cfg", type=float, default=5.0, help="strength of the prompt; 1: no negative (default 5)")
    add_model_options(options)


def add_model_options(options: argparse.ArgumentParser) -> None:
    """Checkpoint, precision and device."""
    options.add_argument("--checkpoint", type=Path, default=None, help="safetensors file, its yaml beside it")
    options.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default fp32)")
    options.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")


def request_of(args: argparse.Namespace, batch: int) -> Request:
    """The request that the options describe.

    Raises:
        LabError: when an option makes no sense.
    """
    import math

    from lib_attn.lab.bench import check_size

    check_size(args.height, args.width)
    if not 1 <= batch <= 64:
        raise LabError(f"--batch is 1 … 64, not {batch}.")
    if not math.isfinite(args.cfg) or not 0 <= args.cfg <= 100:
        raise LabError(f"--cfg is 0 … 100, not {args.cfg}.")
    seed = random.Random().randint(0, MAX_SEED) if args.seed == -1 else args.seed
    if not 0 <= seed <= MAX_SEED:
        raise LabError(f"--seed is 0 … {MAX_SEED}, or -1 to draw one, not {args.seed}.")
    seeds = tuple(seed + i for i in range(batch))
    return Request((args.prompt,), seeds, args.negative, args.height, args.width, args.steps, args.sampler, args.cfg)


def run(args: argparse.Namespace) -> int:
    """Draw, save, and say where."""
    from tqdm import tqdm

    from lib_attn.lab.deviation import load_model
    from lib_attn.lab.pictures import infotext, save

    request, settings = request_of(args, args.batch), settings_of(args)
    model = load_model(args)
    with tqdm(total=evaluations(model, request), desc="steps", file=sys.stderr) as bar:
        latents = sample(model, request, ours("", "", settings), say=print, progress=bar.update)
    for index, picture in enumerate(decode(model, latents)):
        path = free_name(args.out, request.seeds[index])
        save(picture, path, infotext(request, index, settings, model.name))
        print(f"Written: {path}")
    return 0


def free_name(folder: Path, seed: int) -> Path:
    """``00003-seed.png`` with the first number that is free."""
    taken = {file.name.partition("-")[0] for file in folder.glob("*.png")} if folder.is_dir() else set()
    number = next(n for n in itertools.count() if f"{n:05d}" not in taken)
    return folder / f"{number:05d}-{seed}.png"
