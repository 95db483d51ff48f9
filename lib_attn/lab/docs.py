"""``python -m lib_attn.lab docs``: the parts of the README that are made from the settings schema."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn import presets
from lib_attn.lab.errors import LabError
from lib_attn.settings import GROUPS, Group, Param, show

README = Path(__file__).resolve().parents[2] / "README.md"


def add_commands(commands) -> None:
    """Add ``docs``."""
    options = commands.add_parser("docs", help="write the README's tables from the settings")
    options.add_argument("--check", action="store_true", help="only say whether they are up to date")
    options.add_argument("--file", type=Path, default=README, help="(default README.md)")
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the tables, or with --check end with 1 when they are old."""
    try:
        before = args.file.read_text(encoding="utf-8")
    except OSError:
        raise LabError(f"There is no file {args.file}.") from None
    after = update(before)
    if args.check:
        print("Up to date." if before == after else f"{args.file} is old: run python -m lib_attn.lab docs.")
        return int(before != after)
    if before != after:
        args.file.write_text(after, encoding="utf-8")
    print(f"{'Up to date' if before == after else 'Written'}: {args.file}")
    return 0


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
