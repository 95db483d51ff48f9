"""``bench seams``: how visible tile borders are, with and without shift."""

from __future__ import annotations

import argparse

from lib_attn.lab.commands.options import add_request_options, model_of, requests_of
from lib_attn.lab.drawing.variants import parse_setting
from lib_attn.lab.measuring.borders import BorderSpec, measure
from lib_attn.lab.reports.tables import border_head, border_line
from lib_attn.lab.shared.sizes import parse_sizes

SHIFTS = (0, 0.5, 1)


def add_commands(inner) -> None:
    """Add ``seams`` to the subcommands of ``bench``."""
    options = inner.add_parser("seams", help="jumps across tile borders against inside, with and without shift")
    add_request_options(options)
    options.add_argument("--sizes", default="512", help="512 or 512x768, separated by commas")
    options.add_argument("--setting", default="tile=16 pool=8", help="setting to look at (default 'tile=16 pool=8')")
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> BorderSpec:
    """The setting with each of `SHIFTS`. Raises `LabError` when an option makes no sense."""
    body = args.setting.partition(":")[2] or args.setting
    plain = " ".join(word for word in body.split() if word.partition("=")[0].rpartition(".")[2] != "shift")
    variants = tuple(parse_setting(f"shift {value}: {plain} shift={value}") for value in SHIFTS)
    return BorderSpec(model_of(args), requests_of(args, parse_sizes(args.sizes)), variants)


def run(args: argparse.Namespace) -> int:
    """Print the jumps of one setting without and with shift."""
    spec = spec_of(args)
    model = spec.model.load()
    print(border_head())
    for value, variant in zip(SHIFTS, spec.variants, strict=True):
        print(border_line(value, measure(model, variant, spec.requests)), flush=True)
    return 0
