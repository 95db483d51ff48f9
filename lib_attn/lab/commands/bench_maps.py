"""``bench maps``: what drawn maps show, whether pictures follow them, and what the first pass costs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.drawing.variants import preset
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.measuring.maps import MapsSpec, measure
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, file_hash, write_json
from lib_attn.lab.shared.sizes import check_size


def add_commands(inner) -> None:
    """Add ``maps`` to the subcommands of ``bench``."""
    options = inner.add_parser("maps", help="maps drawn before the picture, and pictures that follow them")
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    options.add_argument("--preset", default="Underdrawing", help="what draws a map first (default Underdrawing)")
    for name in ("singles", "pairs", "size", "steps", "batch", "seed"):
        value = getattr(MapsSpec(), name)
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--file", help="other map blocks than the preset's")
    options.add_argument("--beside", default="", help="maps of normals: file of depth whose maps they are held against")
    options.add_argument("--guide", help="another way of following than the preset's")
    options.add_argument("--strength", type=float, help="another strength than the preset's")
    options.add_argument("--until", type=float, help="another end of following than the preset's")
    options.add_argument("--keys", action="store_true", help="also pictures that follow the map's own pass by key mix")
    options.add_argument("--gradient", action="store_true", help="also pictures moved by a gradient through the U-Net")
    add_model_options(options)
    options.add_argument("--out", type=Path, default=Path("maps.json"), help="(default maps.json)")
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print the figures, write the result file."""
    check_size(args.size, args.size)
    if min(args.singles, args.pairs) < 0 or args.singles + args.pairs < 3 or args.batch < 2:
        raise LabError("There have to be three prompts, in batches of two: maps are held against other maps.")
    spec = MapsSpec(args.singles, args.pairs, args.size, args.steps, seed=args.seed, batch=args.batch)
    variant = preset(args.preset)
    first = next((g.name for g in variant.settings.active() if g.draws_first), None)
    if first is None:
        raise LabError(f"The preset {args.preset} draws no map first.")
    asked = {
        name: getattr(args, name) for name in ("file", "guide", "strength", "until") if getattr(args, name) is not None
    }
    variant = preset(args.preset, **{f"{first}.{name}": value for name, value in asked.items()})
    judge, chosen = Judge.load(args.judge), model_of(args)
    model = chosen.load()
    variant = variant.completed(model.fitting)
    if next(group.lacks_file for group in variant.settings.active() if group.draws_first):
        raise LabError(f"Name a file that draws maps with {model.name} (--file): there is none that fits, or several.")
    with progress_bar((4 + 2 * args.keys + 3 * args.gradient) * len(spec.requests())) as step:
        result = measure(model, judge, spec, variant, step, args.keys, args.gradient, args.beside)
    told = {"kind": "maps", "command": command_line(), "checkpoint": model.name, "sha256": file_hash(chosen.file)}
    told |= {"machine": machine(chosen.device), "settings": variant.changed, "spec": asdict(spec)}
    result = told | result
    write_json(args.out, result)
    print(json.dumps({name: result[name] for name in ("maps", "pictures", "cost")}, indent=1))
    return 0
