"""``docs``: the README's tables, made from the settings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from lib_attn.lab.reports.readme import README, update
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import write_text


@dataclass(frozen=True)
class DocsSpec:
    """A file whose tables are made anew. check: only say whether they are up to date."""

    file: Path = README
    check: bool = False


def add_commands(commands) -> None:
    """Add ``docs``."""
    options = commands.add_parser("docs", help="write the README's tables from the settings")
    options.add_argument("--check", action="store_true", help="only say whether they are up to date")
    options.add_argument("--file", type=Path, default=README, help="(default README.md)")
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the tables, or with --check end with 1 when they are old."""
    spec = DocsSpec(args.file, args.check)
    try:
        before = spec.file.read_text(encoding="utf-8")
    except OSError:
        raise LabError(f"There is no file {spec.file}.") from None
    after = update(before)
    if spec.check:
        print("Up to date." if before == after else f"{spec.file} is old: run python -m lib_attn.lab docs.")
        return int(before != after)
    if before != after:
        write_text(spec.file, after)
    print(f"{'Up to date' if before == after else 'Written'}: {spec.file}")
    return 0
