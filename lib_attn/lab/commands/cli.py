"""The parser of all commands: one sentence and exit code 2 for anything the user can put right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lib_attn.lab.commands import bench, compare, docs, generate, install_model, scenebench, ui
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import keep_memory

#: In the order of the help text. Each has an ``add_commands(commands)``.
COMMANDS = (generate, compare, bench, docs, install_model, ui, scenebench)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="python -m lib_attn.lab", description="Attention Lab without a webui.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        args = build_parser().parse_args(arguments)
        # Times and memory are those of a process that is left alone.
        if args.command != "bench" or bench.only_draws(args):
            keep_memory()
        return args.run(args) or 0
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
