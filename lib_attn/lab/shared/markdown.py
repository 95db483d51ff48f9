"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A heading and lines of cells."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def percent(share: float) -> str:
    """``0.25`` -> ``25 %``."""
    return f"{100 * share:.0f} %"


def share_of(share: float, count: int) -> str:
    """A share of `count` things with its standard error: ``75 % ± 4``."""
    return f"{percent(share)} ± {100 * (share * (1 - share) / count) ** 0.5:.0f}"
