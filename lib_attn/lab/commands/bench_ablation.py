"""``bench ablation``: what a model needs its self-attention for."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.measuring.ablation import MODES, AblationSpec, measure, variants_of
from lib_attn.lab.measuring.prompted import Prompted
from lib_attn.lab.reports.tables import ablation_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, file_hash, to_json, write_json
from lib_attn.lab.shared.sizes import check_size


def add_commands(inner) -> None:
    """Add ``ablation`` to the subcommands of ``bench``."""
    options = inner.add_parser("ablation", help="pictures with self-attention put out of action, level by level")
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    for name, what in (("singles", "one object"), ("pairs", "two objects"), ("agreements", "what has to agree")):
        options.add_argument(f"--{name}", type=int, default=24, help=f"how many prompts of {what} (default 24)")
    options.add_argument("--modes", default=",".join(MODES), help=f"separated by commas (default {','.join(MODES)})")
    options.add_argument("--no-levels", action="store_true", help="all levels at once only")
    for name, value in (("size", 512), ("steps", 30), ("batch", 4), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--sampler", default="DDIM", help="(default DDIM)")
    options.add_argument("--cfg", type=float, default=5.0, help="(default 5)")
    add_model_options(options)
    options.add_argument("--out", type=Path, default=Path("ablation.json"), help="(default ablation.json)")
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> AblationSpec:
    """Raises `LabError` when an option makes no sense."""
    check_size(args.size, args.size)
    if not 1 <= args.batch <= 64:
        raise LabError(f"--batch is 1 … 64, not {args.batch}.")
    if min(args.singles, args.pairs, args.agreements) < 0 or args.singles + args.pairs + args.agreements < 1:
        raise LabError("A number of prompts is 0 or more, and there has to be one at all.")
    if args.seed < 0:
        raise LabError(f"--seed is 0 or more, not {args.seed}.")
    modes = tuple(name.strip() for name in args.modes.split(",") if name.strip())
    for name in modes:
        if name not in MODES:
            raise LabError(f"There is no mode {name[:20]!r}: there are {', '.join(MODES)}.")
    pictures = Prompted(args.singles, args.pairs, args.agreements, args.size, args.steps, args.sampler, args.cfg,
                        args.seed, args.batch)  # fmt: skip
    return AblationSpec(model_of(args), args.judge, pictures, modes, not args.no_levels)


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the result file."""
    spec = spec_of(args)
    judge, model = Judge.load(spec.judge), spec.model.load()
    result = {"kind": "ablation", "command": command_line(), "checkpoint": model.name}
    result |= {"sha256": file_hash(spec.model.file), "machine": machine(spec.model.device)}
    result |= asdict(spec.pictures)
    result |= {"precision": spec.model.precision, "judge": dict(judge.accuracy)}

    def keep(rows):
        write_json(args.out, result | {"results": [to_json(row) for row in rows]})

    with progress_bar(len(variants_of(spec, model.unet))) as progress:
        rows = measure(model, judge, spec, progress=progress, keep=keep)
    print(ablation_table(rows))
    print(f"Written: {args.out}")
    return 0
