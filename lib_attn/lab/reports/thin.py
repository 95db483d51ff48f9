"""The tables of ``bench thin``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_attn.lab.measuring.speed import LABELS, SpeedRow
from lib_attn.lab.measuring.thin import ErrorRow, PictureRow
from lib_attn.lab.shared.markdown import markdown_table, percent, share_of
from lib_attn.lab.shared.results import from_json


def thin_block(result: Mapping) -> str:
    """What a page shows of a result: a table for each part that was measured."""
    parts = []
    for name, (kind, table, told) in _PARTS.items():
        for part in (value for key, value in sorted(result.items()) if key.split()[0] == name):
            rows = [from_json(kind, row) for row in part["rows"]]
            parts.append(f"`{part['command']}`, {told(part, rows)}:\n\n{table(rows)}")
    return "\n\n".join(parts)


def errors_table(rows: Sequence[ErrorRow]) -> str:
    """A line for each kind of maps, a column for each share of the channels."""
    shares, names = (list(dict.fromkeys(getattr(r, key) for r in rows)) for key in ("share", "name"))
    by = {(r.name, r.share): r for r in rows}
    lines = [[name, *(f"{by[name, s].l2:.4f} ± {by[name, s].error:.4f}" for s in shares)] for name in names]
    return markdown_table(["maps", *(f"{percent(s)} of the channels" for s in shares)], lines)


def pictures_table(rows: Sequence[PictureRow]) -> str:
    """A line for each setting."""
    lines = [
        [r.name, f"{r.l2:.3f} ± {r.error:.3f}", share_of(r.both, r.images), share_of(r.relation, r.images)]
        for r in rows
    ]
    return markdown_table(["setting", "L2 of the latents", "colours and shapes right", "in the right order too"], lines)


def time_table(rows: Sequence[SpeedRow]) -> str:
    """A line for each setting, beside full attention."""
    lines = [[r.label, f"{r.seconds:.1f} s", f"{r.ratio:.2f}x", f"{r.low:.2f} … {r.high:.2f}"] for r in rows]
    return markdown_table(["setting", "one step", "as fast as full attention", "range of the repeats"], lines)


def _images(part: Mapping, rows: Sequence[Any]) -> str:
    return f"{rows[0].images} pictures of {part['size']} px by {part['checkpoint']}, ± one standard error"


def _size(part: Mapping, rows: Sequence[SpeedRow]) -> str:
    model = LABELS[part.get("model", "sd15")]  # older results do not say
    return f"{rows[0].width} × {rows[0].height}, {model} with random weights"


_PARTS: dict[str, tuple[type, Callable[[Any], str], Callable[[Mapping, Any], str]]] = {
    "errors": (ErrorRow, errors_table, _images),
    "pictures": (PictureRow, pictures_table, _images),
    "time": (SpeedRow, time_table, _size),
}
