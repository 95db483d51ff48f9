"""``bench …``: the measurements, each in a module of its own."""

from __future__ import annotations

import argparse

from lib_attn.lab.commands import (
    bench_ablation,
    bench_deviation,
    bench_dictionary,
    bench_front,
    bench_maps,
    bench_memory,
    bench_negative,
    bench_seams,
    bench_speed,
    bench_steps,
    bench_thin,
)


def add_commands(commands) -> None:
    """Add ``bench`` with its own subcommands."""
    bench = commands.add_parser("bench", help="measure speed, memory, and what becomes of pictures")
    inner = bench.add_subparsers(dest="measurement", required=True, metavar="MEASUREMENT")
    for module in (
        bench_speed,
        bench_memory,
        bench_deviation,
        bench_ablation,
        bench_seams,
        bench_negative,
        bench_steps,
        bench_maps,
        bench_front,
        bench_dictionary,
        bench_thin,
    ):
        module.add_commands(inner)


#: These take no time and no memory of this process.
DRAWN = ("ablation", "deviation", "seams", "steps")


def only_draws(args: argparse.Namespace) -> bool:
    """Whether a measurement is of pictures alone, so that what helps to draw them changes no figure."""
    return args.measurement in DRAWN or getattr(args, "no_time", False)
