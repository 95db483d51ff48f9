"""``bench report``: the page and the plot of speed-up against deviation."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.reports.benchmark import ReportSpec, write


def add_commands(inner) -> None:
    """Add ``report`` to the subcommands of ``bench``."""
    options = inner.add_parser("report", help="write the table and the plot from measured results")
    options.add_argument("--speed", type=Path, nargs="+", required=True, help="result files of bench speed")
    options.add_argument("--deviation", type=Path, nargs="+", required=True, help="result files of bench deviation")
    options.add_argument("--memory", type=Path, nargs="*", default=[], help="result files of bench memory")
    options.add_argument("--speed-size", default=None, help="size whose speed is plotted (default: the largest)")
    options.add_argument("--out", type=Path, default=Path("docs"), help="folder (default docs)")
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write page and plot, and say where."""
    files = (tuple(paths) for paths in (args.speed, args.deviation, args.memory))
    print(f"Written: {', '.join(str(path) for path in write(ReportSpec(*files, args.speed_size, args.out)))}")
    return 0
