"""``install-model``: put the embedded model where a webui finds it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.embedded import EMBEDDED, MODELS
from lib_attn.lab.drawing.install import install


def add_commands(commands) -> None:
    """Add ``install-model``."""
    options = commands.add_parser("install-model", help="copy the embedded model into a webui")
    options.add_argument("--webui", type=Path, required=True, metavar="FOLDER",
                         help="the folder of the webui, the one that holds launch.py")  # fmt: skip
    options.add_argument("--model", choices=tuple(MODELS), default=EMBEDDED.stem,
                         help=f"which of those that come with the project (default {EMBEDDED.stem})")  # fmt: skip
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy, and say what to do next."""
    checkpoint = MODELS[args.model]
    for path in install(args.webui, checkpoint):
        print(path)
    side = ModelSpec(checkpoint).side
    print(f"Press the refresh button beside the webui's checkpoint list and choose {checkpoint.name}; draw at "
          f"{side} x {side}.", file=sys.stderr)  # fmt: skip
    return 0
