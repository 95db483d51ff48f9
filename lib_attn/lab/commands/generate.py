"""``generate``: pictures from a prompt."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.commands.options import (
    add_model_options,
    add_picture_options,
    add_preset_option,
    add_settings_options,
    model_of,
    request_of,
    settings_of,
)
from lib_attn.lab.drawing.generate import GenerateSpec, generate


def add_commands(commands) -> None:
    """Add ``generate``."""
    options = commands.add_parser(
        "generate",
        help="draw pictures",
        usage="%(prog)s [--prompt TEXT] [--preset NAME] [--TECHNIQUE.PARAMETER VALUE] … [options]",
        description="Draw pictures, with what was used written into them. A preset is a start; any option of a "
        "technique switches it on.",
    )
    add_picture_options(options)
    options.add_argument(
        "--batch", type=int, metavar="N", default=1, help="pictures at once, seeds count up (default 1)"
    )
    add_preset_option(options)
    options.add_argument("--out", type=Path, metavar="FOLDER", default=Path("out"), help="(default out)")
    add_model_options(options)
    add_settings_options(options)
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> GenerateSpec:
    return GenerateSpec(model_of(args), request_of(args, args.batch), settings_of(args), args.out)


def run(args: argparse.Namespace) -> int:
    """Draw, save, and say where."""
    for path in generate(spec_of(args)):
        print(f"Written: {path}")
    return 0
