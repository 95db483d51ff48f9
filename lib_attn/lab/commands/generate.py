"""``generate``: pictures from a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.commands.options import (
    add_picture_options,
    add_settings_options,
    model_of,
    request_of,
    settings_of,
)
from lib_attn.lab.drawing.generate import GenerateSpec, generate


def add_commands(commands) -> None:
    """Add ``generate``."""
    options = commands.add_parser("generate", help="draw pictures")
    add_picture_options(options)
    options.add_argument("--batch", type=int, default=1, help="pictures at once, seeds count up (default 1)")
    options.add_argument("--out", type=Path, default=Path("out"), help="folder (default out)")
    add_settings_options(options)
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> GenerateSpec:
    return GenerateSpec(model_of(args), request_of(args, args.batch), settings_of(args), args.out)


def run(args: argparse.Namespace) -> int:
    """Draw, save, and say where."""
    for path in generate(spec_of(args)):
        print(f"Written: {path}")
    return 0
