"""``bench steps``: step skip against fewer steps and published methods, at the work each of them does."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.drawing.embedded import PROMPTS
from lib_attn.lab.drawing.sampling import SAMPLERS, Request
from lib_attn.lab.measuring.steps import measure, step_cases
from lib_attn.lab.reports.steps import steps_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, to_json, write_json


def add_commands(inner) -> None:
    """Add ``steps`` to the subcommands of ``bench``."""
    options = inner.add_parser("steps", help="step skip, fewer steps, deep features kept: deviation against work")
    options.add_argument("--samplers", default="DDIM,Euler,DPM++ 2M,Euler a", help=f"of {', '.join(SAMPLERS)}")
    options.add_argument("--only", default="", metavar="'NAME;NAME'", help="cases by name (default: all)")
    for name, value in (("images", 6), ("size", 256), ("steps", 20), ("seed", 1)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--cfg", type=float, default=5.0, help="(default 5)")
    options.add_argument("--out", type=Path, default=Path("out/steps.json"), help="(default out/steps.json)")
    add_model_options(options)
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write the result file, print the table."""
    if args.images < 1:
        raise LabError("--images is 1 at least.")
    wanted = [name.strip() for name in args.only.split(";") if name.strip()]
    cases = [case for case in step_cases(args.steps) if not wanted or case.name in wanted]
    prompts = tuple(PROMPTS[i % len(PROMPTS)] for i in range(args.images))
    seeds = tuple(range(args.seed, args.seed + args.images))
    requests = [Request(prompts, seeds, "", args.size, args.size, args.steps, name.strip(), args.cfg)
                for name in args.samplers.split(",")]  # fmt: skip
    model, rows = model_of(args).load(), []
    result = {"kind": "steps", "command": command_line(), "checkpoint": model.name, "size": args.size}
    with progress_bar(len(requests) * (len(cases) + 1)) as progress:
        for request in requests:
            rows += measure(model, cases, request, progress)
            # A long run that is stopped leaves what it has.
            write_json(args.out, result | {"rows": [to_json(row) for row in rows]})
    print(steps_table(rows))
    print(f"Written: {args.out}")
    return 0
