"""``bench thin``: what thin queries and keys cost and save."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.drawing.embedded import PROMPTS
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.drawing.variants import Variant
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.measuring.speed import MODELS, BenchSpec, SpeedSpec, measure_sizes
from lib_attn.lab.measuring.thin import measure_errors, measure_pictures, picture_cases, scenes_of, time_cases
from lib_attn.lab.reports.thin import thin_block
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine, pick_device
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, read_result, to_json, write_json
from lib_attn.lab.shared.sizes import check_size

PARTS = ("errors", "pictures", "time")


def add_commands(inner) -> None:
    """Add ``thin`` to the subcommands of ``bench``."""
    options = inner.add_parser("thin", help="thin QK: error of the output, pictures, time of a U-Net")
    options.add_argument("part", choices=PARTS, help="the others in the result file stay, and pictures of another size")
    options.add_argument("--out", type=Path, default=Path("out/thin-qk.json"), help="(default out/thin-qk.json)")
    options.add_argument(
        "--file", default="embedded-thin", help="learned file for the pictures (default embedded-thin)"
    )
    for name, value in (("images", 8), ("size", 512), ("steps", 10), ("seed", 1), ("repeats", 1)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--rows", type=int, default=2, help="of the U-Net batch whose time is taken (default 2)")
    options.add_argument("--only", default="", metavar="'NAME;NAME'", help="settings by name (default: all)")
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: this process's time")
    options.add_argument("--model", choices=tuple(MODELS), default="sd15", help="whose time is taken (default sd15)")
    add_model_options(options)
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure one part, put it into the result file, print what there is."""
    check_size(args.size, args.size)
    if min(args.images, args.repeats) < 1:
        raise LabError("--images and --repeats are 1 at least.")
    result = read_result(args.out, "thin") if args.out.exists() else {"kind": "thin"}
    part = {"command": command_line(), "machine": machine(pick_device(args.device))}

    if args.part != "time":  # which times a U-Net with random weights
        part |= {"checkpoint": model_of(args).file.stem, "size": args.size}
    else:
        part |= {"model": args.model}
    place = f"pictures {args.size}" if args.part == "pictures" else args.part

    def keep(rows: list[Any]) -> None:
        # A long run that is stopped leaves what it has.
        result[place] = part | {"rows": [to_json(row) for row in rows]}
        write_json(args.out, result)

    keep({"errors": _errors, "pictures": _pictures, "time": _time}[args.part](args, keep))
    print(thin_block(result))
    print(f"Written: {args.out}")
    return 0


def _chosen(args: argparse.Namespace, cases: list[Variant]) -> list[Variant]:
    wanted = [name.strip() for name in args.only.split(";") if name.strip()]
    return [case for case in cases if not wanted or case.name in wanted]


def _errors(args: argparse.Namespace, keep: Any) -> list[Any]:
    """Learned from as many other prompts and seeds as are compared."""
    first, prompts = args.seed, len(PROMPTS)
    requests = [
        Request((PROMPTS[i % prompts],), (first + i,), "", args.size, args.size, args.steps, "Euler a", 5.0)
        for i in range(2 * args.images)
    ]
    model = model_of(args).load()
    with progress_bar(len(requests)) as progress:
        return measure_errors(model, requests[1::2], requests[::2], progress)


def _pictures(args: argparse.Namespace, keep: Any) -> list[Any]:
    cases, scenes = _chosen(args, picture_cases(args.file)), scenes_of(args.images)
    request = Request(("",), (args.seed,), "", args.size, args.size, args.steps, "DDIM", 5.0)
    judge, model = Judge.load(JUDGE), model_of(args).load()
    with progress_bar((len(cases) + 1) * len(scenes)) as progress:
        return measure_pictures(model, judge, cases, scenes, request, progress, keep)


def _time(args: argparse.Namespace, keep: Any) -> list[Any]:
    bench = BenchSpec(args.model, pick_device(args.device), args.precision, args.rows, args.clock)
    spec = SpeedSpec(bench, tuple(_chosen(args, time_cases())), ((args.size, args.size),), args.repeats)
    with progress_bar((len(spec.variants) + 1) * args.repeats) as progress:
        return measure_sizes(spec, progress, keep)
