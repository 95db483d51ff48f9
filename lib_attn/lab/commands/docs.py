"""``docs``: the page of all parameters and presets, made from the settings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from lib_attn.lab.reports.parameters import PAGE, page
from lib_attn.lab.shared.results import write_text


@dataclass(frozen=True)
class DocsSpec:
    """The page's file. check: only say whether it is up to date."""

    file: Path = PAGE
    check: bool = False


def add_commands(commands) -> None:
    """Add ``docs``."""
    options = commands.add_parser("docs", help="write docs/parameters.md from the settings")
    options.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options.add_argument("--file", type=Path, default=PAGE, help="(default docs/parameters.md)")
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page, or with --check end with 1 when it is old."""
    spec = DocsSpec(args.file, args.check)
    wanted = page()
    fresh = _text_of(spec.file) == wanted
    if spec.check:
        print("Up to date." if fresh else f"{spec.file} is old: run python -m lib_attn.lab docs.")
        return int(not fresh)
    if not fresh:
        write_text(spec.file, wanted)
    print(f"{'Up to date' if fresh else 'Written'}: {spec.file}")
    return 0


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None
