"""Teach a checkpoint to draw depth or normal maps: python -m lib_attn.learn depth WORK.

Its In blocks and middle stay as they are unless told otherwise; what is learned is written as a blocks file. Stop it
with Ctrl-C at any time; the same command goes on from the last save.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch

from lib_attn.lab.drawing.embedded import checkpoint_file, default_checkpoint
from lib_attn.lab.measuring.maps import MapsSpec
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.results import command_line, read_result, write_json
from lib_attn.learn.stopping import carried_out

from ..reference_model.state import StateError
from ..scenes.guides import PICTURES
from ..scenes.render import RenderError
from ..scenes.shards import ShardError
from . import ablation
from .base import Base
from .choices import CHOICES, RATES
from .recipe import Recipe
from .run import Run


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m lib_attn.learn depth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("work", type=Path, help="folder for data and states; an unfinished run is continued")
    p.add_argument(
        "--checkpoint", type=checkpoint_file, help="the base, of SD 1.x or 2.x (default: the embedded model)"
    )
    p.add_argument("--map", choices=tuple(PICTURES), help="what is drawn (default depth)")
    p.add_argument("--train", choices=CHOICES, help="which weights learn (default out)")
    p.add_argument("--out", type=Path, help="the blocks file, .safetensors (default WORK/MAP-TRAIN.safetensors)")
    p.add_argument(
        "--ablation",
        type=float,
        metavar="SECONDS",
        help="train every choice for this processor time, judge their maps, write no blocks but a result "
        "file (--out, default WORK/choices.json)",
    )
    p.add_argument("--judged", type=int, default=12, help="with --ablation: maps of one thing and of two (default 12)")
    p.add_argument("--scenes-from", type=Path, help="a set of lib_attn.learn.scenes with depth, normal and mask")
    p.add_argument("--zero-snr", action="store_true", help="the base's schedule ends in noise alone")
    for name, what in (
        ("scenes", "how many maps are learned from"),
        ("size", "edge of the maps in pixels"),
        ("steps", "length of the training"),
        ("batch", "maps a step, over all processes"),
        ("rank", "of the deltas of lora"),
        ("seed", "of everything drawn at random"),
        ("head_scenes", "pictures that the network which reads maps learns from"),
        ("head_steps", "length of its training"),
        ("decoder_steps", "0, or length of the training of a decoder of its own, where the VAE cannot show the map"),
    ):
        default = getattr(Recipe(), name)
        p.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{what} (default {default})")
    rates = ", ".join(f"{rate:g} for {choice}" for choice, rate in RATES.items())
    p.add_argument("--lr", type=float, help=f"highest learning rate (default {rates})")
    p.add_argument(
        "--pooled",
        type=float,
        help="share of the steps, from the first on, in which attention of more than 1,024 tokens reads averages of "
        "keys over 2 x 2 places (default 0)",
    )
    p.add_argument(
        "--offset",
        type=float,
        help="noise that is constant over a map, against that of a place; 0.1 keeps a model of 512 px or more from "
        "reading the ground's tone out of the noise (default 0)",
    )
    p.add_argument("--precision", choices=("no", "bf16", "fp16"), help="accelerate's mixed precision (default no)")
    p.add_argument("--threads", type=int, default=0, help="torch threads of each process, 0 for torch's choice")
    return p


def choose_recipe(args: argparse.Namespace, base: Base) -> Recipe:
    """The recipe of an unfinished run in the folder, or the default, with what is asked for."""
    kept = args.work / f"{args.map or Recipe().map}-{args.train or Recipe().train}.json"
    recipe = Recipe.load(kept) if kept.exists() else Recipe()
    named = ("map", "train", "scenes", "size", "steps", "batch", "rank", "seed", "lr", "precision", "pooled",
             "head_scenes", "head_steps", "decoder_steps")  # fmt: skip
    asked = {name: getattr(args, name) for name in named if getattr(args, name) is not None}
    checkpoint = f"{base.path.stem} {base.digest}"
    if recipe.checkpoint not in ("", checkpoint):
        raise ValueError(f"{args.work} holds a run of another checkpoint, {recipe.checkpoint}; choose another folder.")
    if args.offset is not None:
        asked["noise"] = dataclasses.replace(recipe.noise, offset=args.offset)
    recipe = dataclasses.replace(recipe, checkpoint=checkpoint, zero_snr=args.zero_snr or recipe.zero_snr, **asked)
    args.work.mkdir(parents=True, exist_ok=True)
    recipe.save(kept)
    return recipe


def load_base(args: argparse.Namespace) -> Base:
    return Base.load(args.checkpoint or default_checkpoint(), "cuda" if torch.cuda.is_available() else "cpu")


def compare(args: argparse.Namespace) -> None:
    """Train and judge every choice; the result file grows by a row with each, and the same command goes on with it."""
    base = load_base(args)
    recipe = choose_recipe(args, base)
    out, spec = args.out or args.work / "choices.json", MapsSpec(args.judged, args.judged, recipe.size)
    told = {"kind": "choices", "command": command_line("lib_attn.learn"), "checkpoint": base.path.stem,
            "sha256": base.digest, "machine": machine(base.model.device), "asked": args.ablation,
            "judged": dataclasses.asdict(spec), "recipe": dataclasses.asdict(recipe), "rows": []}  # fmt: skip
    if out.exists():
        before = read_result(out, "choices")
        if any(before.get(key) != json.loads(json.dumps(told[key])) for key in ("sha256", "asked", "recipe", "judged")):
            raise ValueError(f"{out.name} holds rows that were measured with other values; choose another file.")
        told["rows"] = before["rows"]
    known = [row["train"] for row in told["rows"]]
    for row in ablation.rows(args.work, recipe, lambda: load_base(args), args.ablation, spec, args.scenes_from, known):
        told["rows"].append(row)
        write_json(out, told)
        print(row["train"], row["steps"], row["maps"]["all"], row["maps"]["outline"])


def learn(args: argparse.Namespace) -> None:
    base = load_base(args)
    run = Run(args.work, choose_recipe(args, base), base, args.scenes_from)
    run.render()
    loop = run.train()
    if loop.accelerator.is_main_process:
        print(run.export(loop, args.out or args.work / f"{run.recipe.map}-{run.recipe.train}.safetensors"))


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    faults = (LabError, StateError, ShardError, RenderError, FloatingPointError, ValueError)
    return carried_out(lambda: compare(args) if args.ablation else learn(args), faults)


if __name__ == "__main__":
    sys.exit(main())
