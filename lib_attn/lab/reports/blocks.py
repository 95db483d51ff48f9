"""Parts of a page that commands write, between two markers."""

from __future__ import annotations

from pathlib import Path

from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import write_text


def fill(page: Path, name: str, body: str) -> None:
    """Put `body` between ``<!-- name -->`` and ``<!-- /name -->`` of `page`.

    Raises:
        LabError: when the page or its markers are not there.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    try:
        text = page.read_text(encoding="utf-8")
    except OSError:
        raise LabError(f"There is no file {page}.") from None
    head, found, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise LabError(f"The markers {start} and {end} are missing in {page}.")
    write_text(page, f"{head}{start}\n\n{body}\n\n{end}{tail}")
