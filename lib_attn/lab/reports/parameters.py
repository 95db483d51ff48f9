"""docs/parameters.md, made from the settings schema and the shipped presets."""

from __future__ import annotations

from pathlib import Path

from lib_attn import presets
from lib_attn.schema import Group, Param
from lib_attn.settings import TECHNIQUES, General, positional_params, show

PAGE = Path(__file__).resolve().parents[3] / "docs" / "parameters.md"

HEAD = """# Parameters and presets

Written by `python -m lib_attn.lab docs`; changes by hand are lost.

A parameter has one name everywhere: `near_sighted.tile` in the command line and in X/Y/Z, field `tile` of
`near_sighted` in the API's dictionary (those of `general` stand at its top). **Position** is its place in the API's
positional list, counted from 0. That order never changes: by the release that brought a parameter, and within a release
as in the panel, so it is not the order of the tables below.

Block selectors name blocks of the U-Net as LoRA block weights do: `auto` (the technique's own choice), `all`, `in`,
`mid`, `out`, `in4`, `out6-11`, depths `d0`, `d1-2`, and `!mid` to leave something out; separated by commas.
"""


def page() -> str:
    """The whole page."""
    groups = (*TECHNIQUES, General)
    parts = [HEAD, *(_group(group) for group in groups), "## Presets\n", _presets(), "## The positional list\n"]
    return "\n".join([*parts, _positions()]) + "\n"


def _group(group: type[Group]) -> str:
    places = {p.key: number for number, p in enumerate(positional_params())}
    lines = [f"## {group.label if group is not General else 'In general'}", ""]
    if group is not General:
        lines += [f"{group.about} What it is for, and how it works: [{group.label}]({page_of(group)}).", ""]
    lines += ["| Parameter | Name | Position | Values | Default | Effect |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(_row(p, places[p.key]) for p in group.all_params()), ""])


def page_of(group: type[Group]) -> str:
    """File name of a technique's page in the docs."""
    return f"{group.name.replace('_', '-')}.md"


def _row(p: Param, place: int) -> str:
    effect = f"{p.help} Unit: {p.unit}." if p.unit else p.help
    effect += " For one job: in no preset, infotext, X/Y/Z or command line." if p.transient else ""
    cells = [p.label, f"`{p.key}`", str(place), values(p), default(p), effect]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def values(p: Param) -> str:
    """What a parameter can be."""
    if p.kind == "bool":
        return "on, off"
    if p.choices:
        return ", ".join(p.choices)
    if p.low is not None:
        return f"{p.low:g} … {p.high:g}"
    return {"blocks": "block selector", "file": "name of a learned file", "picture": "picture in base64"}.get(
        p.kind, "text"
    )


def default(p: Param) -> str:
    return ("on" if p.default else "off") if p.kind == "bool" else show(p.default) or "none"


def _presets() -> str:
    """The shipped presets: what each is for, what it needs, and the parameters it sets."""
    lines = ["| Preset | What it is for | What it sets |", "|---|---|---|"]
    known = presets.Presets()
    for name, content in presets.shipped().items():
        parts = [
            f"{group}.{key} = {show(value)}"
            for group, fields in content.items() if isinstance(fields, dict)
            for key, value in fields.items() if key != "enabled"
        ]  # fmt: skip
        techniques = ", ".join(t.label for t in TECHNIQUES if t.name in content)
        cells = [name, " ".join(known.about(name)), f"{techniques}: {', '.join(parts) or 'the defaults'}"]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join([*lines, ""])


def _positions() -> str:
    names = [f"{number} {p.key}" for number, p in enumerate(positional_params())]
    lines = ["```"] + [", ".join(names[i : i + 4]) for i in range(0, len(names), 4)] + ["```"]
    return "\n".join(lines)
