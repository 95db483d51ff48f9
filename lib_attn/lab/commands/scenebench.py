"""``scenebench``: judge pictures by their prompts, and train the judge."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lib_attn.lab.commands.options import (
    add_model_options,
    add_preset_option,
    add_settings_options,
    model_of,
    settings_of,
)
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.judging.training import TrainingSpec, train
from lib_attn.lab.measuring.renders import measure_renders
from lib_attn.lab.measuring.scenebench import PromptCounts, ScenebenchSpec, run_spec
from lib_attn.lab.reports.scenes import renders_block
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.results import command_line, file_hash, to_json, write_json
from lib_attn.lab.shared.sizes import check_size


def add_commands(commands) -> None:
    """Add ``scenebench`` with ``train``, ``run`` and ``renders``."""
    scenebench = commands.add_parser("scenebench", help="judge pictures by their prompts")
    inner = scenebench.add_subparsers(dest="task", required=True, metavar="train|run|renders")
    options = inner.add_parser("train", help="render scenes and train a judge")
    options.add_argument("out", type=Path)
    options.add_argument("--scenes", type=int, default=10000)
    options.add_argument("--epochs", type=int, default=7)
    options.set_defaults(run=run_training)
    options = inner.add_parser("run", help="draw the benchmark's prompts and judge them")
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    options.add_argument("--out", type=Path, help="write the figures as JSON")
    for name, count in (("singles", 48), ("pairs", 48), ("counts", 24), ("negatives", 24), ("agreements", 24)):
        options.add_argument(f"--{name}", type=int, default=count, help=f"how many prompts (default {count})")
    options.add_argument("--decoded", type=int, default=0,
                         help="how many renders of each surface go through the autoencoder (default 0)")  # fmt: skip
    for name, value in (("width", 256), ("height", 256), ("steps", 30), ("batch", 8), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--sampler", default="DDIM", help="(default DDIM)")
    options.add_argument("--cfg", type=float, default=5.0, help="(default 5)")
    add_model_options(options)
    add_preset_option(options)
    add_settings_options(options)
    options.set_defaults(run=run)
    options = inner.add_parser("renders", help="what agreement says of renders, whole and broken")
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    options.add_argument("--scenes", type=int, default=96, help="how many prompts are rendered (default 96)")
    options.add_argument("--size", type=int, default=256, help="pixels on a side (default 256)")
    options.add_argument("--out", type=Path, help="write the figures as JSON")
    options.set_defaults(run=run_renders)


def spec_of(args: argparse.Namespace) -> ScenebenchSpec:
    """Raises `LabError` when an option makes no sense."""
    check_size(args.height, args.width)
    if not 1 <= args.batch <= 64:
        raise LabError(f"--batch is 1 … 64, not {args.batch}.")
    if min(args.singles, args.pairs, args.counts, args.negatives, args.agreements, args.decoded) < 0:
        raise LabError("A number of prompts or renders is 0 or more.")
    if args.decoded == 1:
        raise LabError("--decoded is 0, or 2 and more: one render has no error.")
    if args.seed < 0:
        raise LabError(f"--seed is 0 or more, not {args.seed}.")
    prompts = PromptCounts(args.singles, args.pairs, args.counts, args.negatives, args.agreements, args.seed)
    return ScenebenchSpec(model_of(args), args.judge, settings_of(args), prompts, args.height, args.width, args.steps,
                          args.sampler, args.cfg, args.batch, args.decoded)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Draw, judge, print the figures."""
    spec = spec_of(args)
    found = run_spec(spec)
    print(json.dumps(found, indent=1))
    if args.out:
        result = {"kind": "scenes", "command": command_line(), "checkpoint": spec.model.file.stem}
        result |= {"sha256": file_hash(spec.model.file), "machine": machine(spec.model.device)}
        result |= {name: getattr(spec, name) for name in ("width", "height", "steps", "sampler", "cfg")}
        write_json(args.out, result | {"precision": spec.model.precision, "results": found})
    return 0


def run_renders(args: argparse.Namespace) -> int:
    """Render the prompts of the part "agreement" and print what it says of them."""
    check_size(args.size, args.size)
    if args.scenes < 8:
        raise LabError("--scenes is 8 at least: every fourth has a floor, and two are needed to break one.")
    rows = measure_renders(Judge.load(args.judge), args.scenes, args.size)
    result = {"kind": "renders", "command": command_line(), "scenes": args.scenes, "size": args.size}
    result |= {"results": [to_json(row) for row in rows]}
    print(renders_block(result))
    if args.out:
        write_json(args.out, result)
    return 0


def run_training(args: argparse.Namespace) -> int:
    """Train a judge, print its own figures."""
    try:
        judge = train(TrainingSpec(args.out, args.scenes, args.epochs))
    except OSError as error:
        raise LabError(f"{args.out} cannot be written: {error.strerror or error}.") from None
    print(json.dumps(judge.accuracy, indent=1))
    return 0
