"""``bench speed``: time and memory of a full-size SD 1.5 U-Net with random weights."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lib_attn.lab.commands.options import add_unet_options, add_variant_options, choice_of, variants_of
from lib_attn.lab.drawing.variants import FULL, Variant
from lib_attn.lab.measuring.choice import VariantChoice
from lib_attn.lab.measuring.memory import MemoryRow, peak_memory
from lib_attn.lab.measuring.speed import BenchSpec, SpeedSpec, measure_sizes
from lib_attn.lab.reports.tables import memory_table, speed_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine, pick_device
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, from_json, to_json, write_json
from lib_attn.lab.shared.sizes import parse_sizes


def add_commands(inner) -> None:
    """Add ``speed`` to the subcommands of ``bench``, and what it starts for each variant with --memory."""
    options = inner.add_parser("speed", help="time and memory of a full-size SD 1.5 U-Net with random weights")
    add_variant_options(options)
    options.add_argument("--sizes", default="512,1024", help="pictures in pixels: 1024 or 768x512, separated by commas")
    options.add_argument("--repeats", type=int, default=3, help="repeats, all variants interleaved (default 3)")
    add_unet_options(options, precision="bf16")
    options.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    busy = "cpu: processor time of this process, for a machine that has other things to do"
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=busy)
    options.add_argument("--memory", action="store_true", help="peak memory too, each variant in a process of its own")
    options.add_argument("--no-time", action="store_true", help="with --memory: only that")
    options.add_argument("--out", type=Path, default=Path("speed.json"), help="result file (default speed.json)")
    options.set_defaults(run=run)
    one = inner.add_parser("memory-of-one")
    for name in ("--variant", "--size", "--precision", "--device", "--model", "--webui", "--slothful"):
        one.add_argument(name)
    one.add_argument("--rows", type=int)
    one.add_argument("--setting", action="append", default=[])
    one.set_defaults(run=run_memory_of_one)


@dataclass(frozen=True)
class BenchSpeedSpec:
    """What is timed, whether time and memory are wanted, and the result file. choice: `speed.variants` by name."""

    speed: SpeedSpec
    choice: VariantChoice
    time: bool
    memory: bool
    out: Path


def spec_of(args: argparse.Namespace) -> BenchSpeedSpec:
    """Raises `LabError` when an option makes no sense."""
    sizes, variants, device = parse_sizes(args.sizes), variants_of(args), pick_device(args.device)
    if args.repeats < 1 or args.rows < 1:
        raise LabError("--repeats and --rows are 1 at least.")
    if args.clock == "cpu" and device != "cpu":
        raise LabError("--clock cpu says nothing about a GPU.")
    bench = BenchSpec(args.model, device, args.precision, args.rows, args.clock)
    speed = SpeedSpec(bench, variants, tuple(sizes), args.repeats)
    return BenchSpeedSpec(speed, choice_of(args), not args.no_time, args.memory, args.out)


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the result file."""
    spec = spec_of(args)
    speed, bench = spec.speed, spec.speed.bench
    result = {"kind": "speed", "command": command_line(), "machine": machine(bench.device), "model": bench.model}
    result |= {"rows": bench.rows, "precision": bench.precision, "repeats": speed.repeats, "clock": bench.clock}
    result |= {"results": [], "memory": []}

    def keep(kind: str, rows) -> None:
        result[kind] = [to_json(row) for row in rows]
        write_json(spec.out, result)  # a long run that is stopped leaves what it has

    if spec.time:
        with progress_bar(len(speed.sizes) * speed.repeats * (len(speed.variants) + 1)) as progress:
            rows = measure_sizes(speed, progress, lambda rows: keep("results", rows))
        print(speed_table(rows))
    if spec.memory:
        grown: list[MemoryRow] = []
        for height, width in speed.sizes:
            for variant in tqdm([FULL, *speed.variants], desc=f"memory {width}x{height}", file=sys.stderr):
                grown.append(memory_in_subprocess(bench, spec.choice, variant, height, width))
                keep("memory", grown)
        print(memory_table(grown))
    print(f"Written: {spec.out}")
    return 0


def memory_in_subprocess(
    bench: BenchSpec, choice: VariantChoice, variant: Variant, height: int, width: int
) -> MemoryRow:
    """`peak_memory` in a fresh process, so that nobody's leftovers count for anybody else."""
    command = [sys.executable, "-m", "lib_attn.lab", "bench", "memory-of-one", "--variant", variant.name]
    command += ["--size", f"{width}x{height}", "--precision", bench.precision, "--model", bench.model]
    command += ["--rows", str(bench.rows), "--device", bench.device]
    for name, folder in (("webui", choice.webui), ("slothful", choice.slothful)):
        command += [f"--{name}", folder] if folder else []
    for text in choice.settings:
        command += ["--setting", text]
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise LabError(f"Measuring the memory of {variant.label} failed: {why}")
    return from_json(MemoryRow, json.loads(done.stdout.splitlines()[-1]))


def run_memory_of_one(args: argparse.Namespace) -> int:
    """What `memory_in_subprocess` starts."""
    choice = VariantChoice(tuple(args.setting), presets=True, webui=args.webui, slothful=args.slothful)
    variants = {v.name: v for v in (FULL, *choice.variants()[0])}
    bench = BenchSpec(args.model, pick_device(args.device), args.precision, args.rows).build()
    height, width = parse_sizes(args.size)[0]
    print(json.dumps(to_json(peak_memory(bench, variants[args.variant], height, width))))
    return 0
