"""``ui``: a local page to play with."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.shared.errors import LabError


def add_commands(commands) -> None:
    """Add ``ui``."""
    options = commands.add_parser("ui", help="a local page to play with")
    options.add_argument("--port", type=int, default=7870, help="(default 7870)")
    options.add_argument("--presets-folder", type=Path, default=Path("out") / "presets", help="for presets of your own")
    add_model_options(options)
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Open the page until interrupted."""
    if not 1 <= args.port <= 65535:
        raise LabError(f"--port is 1 … 65535, not {args.port}.")
    if importlib.util.find_spec("gradio") is None:
        raise LabError("The page needs the package gradio (pip install gradio==3.41.2).")
    print("Loading the page and the model …", flush=True)
    # The page is a gradio program, and gradio takes seconds to import: only this command does.
    from lib_attn.lab.drawing import page

    page.serve(page.PageSpec(model_of(args), args.port, args.presets_folder))
    return 0
