"""Tables of ``bench atoms`` and ``bench look``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib_attn.lab.measuring.dictionary import ErrorRow, LookRow, PromptRow
from lib_attn.lab.shared.markdown import markdown_table, percent
from lib_attn.lab.shared.results import from_json

PARTS = ("prompts right", "agreement")


def shortcut_table(result: Mapping) -> str:
    """A line for each case, with what has been measured of it."""
    errors = {row["name"]: from_json(ErrorRow, row) for row in result.get("errors", [])}
    prompts = {(row["name"], row["size"]): from_json(PromptRow, row) for row in result.get("prompts", [])}
    drawn = sorted({size for _, size in prompts})
    speed = {row["name"]: row for row in result.get("speed", [])}
    sizes = sorted({size for row in speed.values() for size in row if size != "name"}, key=int)
    names = list(dict.fromkeys([*errors, *(name for name, _ in prompts), *speed]))
    lines = []
    for name in names:
        error, times = errors.get(name), speed.get(name, {})
        said = [prompts.get((name, size)) for size in drawn]
        lines.append(
            [
                name,
                "-"
                if error is None or error.error is None
                else f"{error.error:.3f} ({error.least:.3f} … {error.largest:.3f})",
                *("-" if row is None else f"{percent(row.right)} ± {100 * row.right_error:.0f}" for row in said),
                *("-" if row is None else f"{row.agreement:.2f} ± {row.agreement_error:.2f}" for row in said),
                *(f"{times[size]['ratio']:.2f}x" if size in times else "-" for size in sizes),
            ]
        )
    head = ["case", "output error (layers)", *(f"{part}, {size} px" for part in PARTS for size in drawn)]
    head += [f"steps at {size} px" for size in sizes]
    measured = [i for i in range(len(head)) if any(line[i] != "-" for line in lines)]
    return markdown_table([head[i] for i in measured], [[line[i] for i in measured] for line in lines])


def shortcut_block(result: Mapping) -> str:
    """What a page shows of ``bench atoms``."""
    commands = dict.fromkeys(f"`{result[key]}`" for key in result if key.endswith("_command"))
    told = [f"pictures by {result['checkpoint']}"]
    if prompts := result.get("prompts"):
        asked = max(row["pictures"] for row in prompts)
        told += [f"{asked} of one object, which the judge answers, beside those that leave something open"]
    return f"{', '.join(commands)}, {', '.join(told)}, ± one standard error:\n\n{shortcut_table(result)}"


def look_table(rows: Sequence[LookRow]) -> str:
    """A line for each dictionary and strength."""
    sets = list(rows[0].colour)
    head = ["learned from", "strength"]
    head += [f"{part} like {name}" for part in ("colours", "pattern") for name in sets] + ["named words right"]
    lines = []
    for row in rows:
        near = [
            f"{mean:.2f} ± {error:.2f}" for part in (row.colour, row.pattern) for mean, error in map(part.get, sets)
        ]
        right = f"{percent(row.right)} ± {100 * row.right_error:.0f}"
        lines.append([row.learned_from, f"{row.strength:g}", *near, right])
    return markdown_table(head, lines)


def look_block(result: Mapping) -> str:
    """What a page shows of ``bench look``."""
    rows = [from_json(LookRow, row) for row in result["rows"]]
    told = (
        f"{rows[0].pictures} open and {rows[0].named} named pictures a line of {result['spec']['size']} px by "
        f"{result['checkpoint']}, ± one standard error"
    )
    return f"`{result['command']}`, {told}:\n\n{look_table(rows)}"
