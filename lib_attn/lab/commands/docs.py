"""``docs``: what pages have from elsewhere: the parameters from the settings, figures from result files."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.reports import figures, parameters
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import write_text


def add_commands(commands) -> None:
    """Add ``docs``."""
    options = commands.add_parser("docs", help="write docs/parameters.md, and figures of docs/results into their pages")
    options.add_argument("--check", action="store_true", help="only say whether all is up to date")
    options.set_defaults(run=run)


def wanted() -> dict[Path, str]:
    """Pages and what they should say.

    Raises:
        LabError: as `figures.filled`, with the page's name.
    """
    texts = {parameters.PAGE: parameters.page()}
    for page in figures.pages():
        if page != parameters.PAGE:
            try:
                texts[page] = figures.filled(page.read_text(encoding="utf-8"))
            except LabError as error:
                raise LabError(f"{page.name}: {error}") from None
    return texts


def run(args: argparse.Namespace) -> int:
    """Write the pages, or with --check end with 1 when one of them is old."""
    old = {page: text for page, text in wanted().items() if _text_of(page) != text}
    for page, text in old.items():
        if args.check:
            print(f"{page.name} is old: run python -m lib_attn.lab docs.")
        else:
            write_text(page, text)
            print(f"Written: {page.name}")
    if not old:
        print("Up to date.")
    return int(args.check and bool(old))


def _text_of(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
