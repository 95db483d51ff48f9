"""``bench atoms`` and ``bench look``: nearness and time of atoms, and pictures under a style bank."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.drawing.embedded import PROMPTS
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.measuring.dictionary import (
    LookSpec,
    measure_errors,
    measure_look,
    measure_prompts,
    shortcut_cases,
)
from lib_attn.lab.measuring.scenebench import PromptCounts, ScenebenchSpec
from lib_attn.lab.measuring.speed import BenchSpec, SpeedSpec, measure_sizes
from lib_attn.lab.reports.dictionary import look_table, shortcut_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, read_result, to_json, write_json
from lib_attn.lab.shared.sizes import check_size, parse_sizes
from lib_attn.settings import Settings

PARTS = ("errors", "prompts", "speed")
#: From 2048 points on the shortcuts act by themselves.
LEAST_SIZE = 384


def add_commands(inner) -> None:
    """Add both to the subcommands of ``bench``."""
    options = inner.add_parser("atoms", help="atoms beside full and near-sighted attention: nearness and time")
    options.add_argument("--parts", default=",".join(PARTS), help="what is measured anew; the rest stays as it was")
    options.add_argument("--only", default="", help="only these cases, by name, separated by commas")
    for name, value, what in (
        ("images", 2, "pictures for the errors"), ("size", 512, "their pixels, and those of the prompts"),
        ("steps", 20, "of both"), ("singles", 24, "prompts of one object"),
        ("agreements", 24, "prompts of what has to agree"), ("repeats", 1, "of the times"),
    ):  # fmt: skip
        options.add_argument(f"--{name}", type=int, default=value, help=f"{what} (default {value})")
    options.add_argument("--speed-sizes", default="512,1024", help="pixels of the times (default 512,1024)")
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    options.add_argument("--out", type=Path, default=Path("out/atoms.json"), help="(default out/atoms.json)")
    add_model_options(options)
    options.set_defaults(run=run)
    options = inner.add_parser("look", help="pictures under a dictionary of other pictures, and without")
    for name, value in (("shown", 12), ("pictures", 24), ("named", 24), ("size", 256), ("steps", 15), ("batch", 8)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--strengths", default="1", help="separated by commas (default 1)")
    options.add_argument("--files", type=Path, metavar="FOLDER", help="keep the dictionaries there")
    options.add_argument("--settings", default="mode=full", help="of the dictionary, 'mode=full; style_match=0.5'")
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    options.add_argument("--out", type=Path, default=Path("out/look.json"), help="(default out/look.json)")
    add_model_options(options)
    options.set_defaults(run=run_look)


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the result file."""
    check_size(args.size, args.size)
    parts = [part.strip() for part in args.parts.split(",") if part.strip()]
    if min(args.images, args.steps, args.repeats) < 1 or min(args.singles, args.agreements) < 0:
        raise LabError("Numbers of pictures, steps and repeats are 1 at least, numbers of prompts 0.")
    if set(parts) - set(PARTS):
        raise LabError(f"--parts are {', '.join(PARTS)}.")
    if "prompts" in parts and args.size < LEAST_SIZE:
        raise LabError(f"Below {LEAST_SIZE} pixels Blocks: auto leaves every layer exact, so cases are alike.")
    wanted = [name.strip() for name in args.only.split(",") if name.strip()]
    cases = [case for case in shortcut_cases() if not wanted or case.name in wanted]
    spec = model_of(args)
    result = read_result(args.out, "atoms") if args.out.is_file() else {"kind": "atoms"}
    result |= {"machine": machine(spec.device), "checkpoint": spec.file.stem}

    def keep(part: str, rows) -> None:
        kept = [row for row in result.get(part, []) if wanted or row["size"] != args.size]
        rows = {(row["name"], row["size"]): row for row in [*kept, *map(to_json, rows)]}
        result[part] = list(rows.values())
        result[f"{part}_command"] = command_line()
        write_json(args.out, result)

    if "errors" in parts:
        prompts = tuple(PROMPTS[i % len(PROMPTS)] for i in range(args.images))
        request = Request(prompts, tuple(range(1, args.images + 1)), "", args.size, args.size, args.steps, "DDIM", 5.0)
        with progress_bar(len(cases)) as progress:
            rows = []
            for row in measure_errors(spec.load(), cases, request, progress):
                rows.append(row)
                keep("errors", rows)
    if "prompts" in parts:
        counts = PromptCounts(args.singles, 0, 0, 0, args.agreements)
        drawing = ScenebenchSpec(spec, args.judge, Settings(), counts, args.size, args.size, args.steps, batch=4)
        rows = []
        for row in measure_prompts(spec.load(), Judge.load(args.judge), cases, drawing):
            rows.append(row)
            keep("prompts", rows)
    if "speed" in parts:
        timed = SpeedSpec(BenchSpec(clock="cpu"), tuple(cases), tuple(parse_sizes(args.speed_sizes)), args.repeats)
        with progress_bar(len(timed.sizes) * timed.repeats * (len(cases) + 1)) as progress:
            rows = measure_sizes(timed, progress)
        sizes = {row["name"]: row for row in result.get("speed", [])}
        for row in rows:
            told = sizes.setdefault(row.name, {"name": row.name})
            told[str(row.width)] = {"seconds": row.seconds, "ratio": row.ratio}
        result |= {"speed": list(sizes.values()), "speed_command": command_line()}
        write_json(args.out, result)
    print(shortcut_table(result))
    print(f"Written: {args.out}")
    return 0


def run_look(args: argparse.Namespace) -> int:
    """Measure, print a table, write the result file."""
    check_size(args.size, args.size)
    if min(args.shown, args.pictures, args.named, args.steps, args.batch) < 1:
        raise LabError("Numbers of pictures and steps are 1 at least.")
    try:
        strengths = tuple(float(text) for text in args.strengths.split(","))
    except ValueError:
        raise LabError("--strengths are numbers separated by commas.") from None
    spec = LookSpec(model_of(args), args.judge, args.shown, args.pictures, args.named, strengths, args.settings,
                    args.size, args.steps, batch=args.batch, files=args.files)  # fmt: skip
    told = {name: value for name, value in asdict(spec).items() if name not in ("model", "judge", "files")}
    result = {"kind": "look", "command": command_line(), "checkpoint": spec.model.file.stem}
    result |= {"machine": machine(spec.model.device), "spec": told}

    def keep(rows) -> None:
        write_json(args.out, result | {"rows": [to_json(row) for row in rows]})

    with progress_bar(3 + 2 * len(strengths)) as progress:
        rows = measure_look(Judge.load(args.judge), spec, progress, keep)
    print(look_table(rows))
    print(f"Written: {args.out}")
    return 0
