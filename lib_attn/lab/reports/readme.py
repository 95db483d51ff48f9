"""The parts of the README that are made from the settings schema."""

from __future__ import annotations

from pathlib import Path

from lib_attn import presets
from lib_attn.lab.shared.errors import LabError
from lib_attn.settings import GROUPS, Group, Param, show

README = Path(__file__).resolve().parents[3] / "README.md"


def update(text: str) -> str:
    """`text` with everything between ``<!-- NAME -->`` and ``<!-- /NAME -->`` made anew.

    Raises:
        LabError: when a marker is missing.
    """
    for name, content in {"parameters": parameter_tables(), "presets": preset_table()}.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, found, rest = text.partition(start)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise LabError(f"The markers {start} and {end} are missing.")
        text = f"{head}{start}\n\n{content}\n\n{end}{tail}"
    return text


def parameter_tables() -> str:
    """One table per group: label, name, range, default, effect."""
    return "\n\n".join(_group_table(group) for group in GROUPS)


def _group_table(group: type[Group]) -> str:
    lines = [f"### {group.label}" if group.name != "general" else "### In general", ""]
    if group.about:
        lines += [group.about, ""]
    lines += ["| Parameter | Name | Values | Default | Effect |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(_row(p) for p in group.params())])


def _row(p: Param) -> str:
    effect = f"{p.help} Unit: {p.unit}." if p.unit else p.help
    cells = [p.label, f"`{p.key}`", values(p), default(p), effect]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def values(p: Param) -> str:
    """What a parameter can be."""
    if p.kind == "bool":
        return "on, off"
    if p.choices:
        return ", ".join(p.choices)
    if p.low is not None:
        return f"{p.low:g} … {p.high:g}"
    return "block selector" if p.kind == "blocks" else "text"


def default(p: Param) -> str:
    return ("on" if p.default else "off") if p.kind == "bool" else show(p.default)


def preset_table() -> str:
    """The shipped presets with the parameters they set."""
    lines = ["| Preset | What it sets |", "|---|---|"]
    for name, content in presets.shipped().items():
        parts = [
            f"{group} {key}: {show(value)}"
            for group, fields in content.items() if isinstance(fields, dict)
            for key, value in fields.items() if key != "enabled"
        ]  # fmt: skip
        lines.append(f"| {name} | {', '.join(parts) or 'the defaults'} |")
    return "\n".join(lines)
