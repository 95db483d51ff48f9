"""Train the reference model from nothing to a checkpoint: python -m lib_attn.learn.reference_model WORK.

Stop it with Ctrl-C at any time; the same command goes on from the last save. On several cores or GPUs start it with
python -m torch.distributed.run --standalone --nproc_per_node 2 -m lib_attn.learn.reference_model WORK.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from lib_attn.lab.drawing.beside import write_beside
from lib_attn.lab.shared.machine import keep_memory

from ..scenes.render import RenderError
from ..scenes.shards import ShardError
from ..stopping import carried_out
from . import stages, start
from .recipe import Recipe
from .state import StateError


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m lib_attn.learn.reference_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("work", type=Path, help="folder for data, states and the result; an unfinished run is continued")
    p.add_argument("--stages", default="scenes,vae,latents,unet,polish,export", help="comma separated, in order")
    p.add_argument("--recipe", type=Path, help="a recipe as JSON; without it the one in the folder, or the default")
    p.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="go on from a finished SD 1.x single file of the same architecture; its autoencoder is kept",
    )
    p.add_argument("--small", action="store_true", help="a run of seconds that shows that everything works")
    p.add_argument(
        "--large", action="store_true", help="a model whose own size is 512 px; give the embedded one with --start-from"
    )
    p.add_argument(
        "--beside",
        type=Path,
        metavar="CHECKPOINT",
        help="export also what differs from this one, as a smaller file that the lab completes from it",
    )
    p.add_argument("--show-recipe", action="store_true", help="print the default recipe as JSON and stop")
    p.add_argument("--threads", type=int, default=0, help="torch threads of each process, 0 for torch's choice")
    return p


def choose_recipe(args: argparse.Namespace) -> Recipe:
    if args.recipe:
        return Recipe.load(args.recipe)
    kept = args.work / "recipe.json"
    if kept.exists():
        return Recipe.load(kept)
    return Recipe.small() if args.small else Recipe.large() if args.large else Recipe()


def main(argv: list[str] | None = None) -> int:
    keep_memory()
    args = parser().parse_args(argv)
    if args.show_recipe:
        print(json.dumps((Recipe.large() if args.large else Recipe()).to_json(), indent=1))
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)
    faults = (StateError, ShardError, RenderError, FileNotFoundError, FloatingPointError, ValueError)
    return carried_out(lambda: train(args), faults)


def train(args: argparse.Namespace) -> None:
    """Run the stages that are asked for."""
    wanted = args.stages.split(",")
    for stage in wanted:
        if stage not in stages.STAGES:
            raise ValueError(f"There is no stage '{stage}'; the stages are {', '.join(stages.STAGES)}.")
    run = stages.Run(args.work, choose_recipe(args))
    if args.start_from:
        start.start_from(run, args.start_from)
    for stage in wanted:
        run.run(stage)
    if args.beside and "export" in wanted:
        write_beside(
            args.work / "export" / "reference.safetensors", args.beside, args.work / "export" / "beside.safetensors"
        )


if __name__ == "__main__":
    sys.exit(main())
