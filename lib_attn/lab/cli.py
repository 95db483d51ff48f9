"""The lab's command line: one subcommand per job, one sentence and exit code 2 for anything the user can put right."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from lib_attn.lab.errors import LabError

#: Modules with an ``add_commands(commands)``; those that are not there are left out.
COMMANDS = ("generate", "compare", "bench", "docs", "install", "ui")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="python -m lib_attn.lab", description="Attention Lab without a webui.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        if importlib.util.find_spec(f"lib_attn.lab.{name}"):
            importlib.import_module(f"lib_attn.lab.{name}").add_commands(commands)
    if importlib.util.find_spec("lib_attn.lab.scenebench"):
        commands.add_parser("scenebench", add_help=False, help="judge pictures by their prompts")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["scenebench"] and importlib.util.find_spec("lib_attn.lab.scenebench"):
        return importlib.import_module("lib_attn.lab.scenebench").main(arguments[1:]) or 0
    try:
        args = build_parser().parse_args(arguments)
        return args.run(args) or 0
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
