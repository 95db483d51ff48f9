"""The table of ``bench steps``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib_attn.lab.measuring.steps import StepRow
from lib_attn.lab.shared.markdown import markdown_table
from lib_attn.lab.shared.results import from_json


def steps_table(rows: Sequence[StepRow]) -> str:
    """A line for each case, sorted by its work, and a column for each sampler."""
    samplers, names = (list(dict.fromkeys(getattr(r, key) for r in rows)) for key in ("sampler", "name"))
    by = {(r.sampler, r.name): r for r in rows}
    lines = []
    for name in names:
        own = [by.get((sampler, name)) for sampler in samplers]
        work = next(r.work for r in own if r is not None)
        cells = [f"{r.l2:.3f} ± {r.error:.3f}" if r is not None else "-" for r in own]
        lines.append((work, [name, f"{work:.2f}", *cells]))
    return markdown_table(["case", "work", *samplers], [line for _, line in sorted(lines, key=lambda pair: pair[0])])


def steps_block(result: Mapping) -> str:
    """What a page shows of a result."""
    rows = [from_json(StepRow, row) for row in result["rows"]]
    images = max(row.images for row in rows)
    told = f"{images} pictures of {result['size']} px by {result['checkpoint']}, ± one standard error"
    return f"`{result['command']}`, {told}:\n\n{steps_table(rows)}"
