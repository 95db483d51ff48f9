"""What a page shows of ``bench maps``."""

from __future__ import annotations

from collections.abc import Mapping

from lib_attn.lab.shared.markdown import markdown_table


def maps_block(result: Mapping) -> str:
    """Tables of the maps, of the pictures and of the cost."""
    maps, pictures, cost = result["maps"], result["pictures"], result["cost"]
    head = ["maps of", "maps", "right number", "right shapes", "shapes and order right"]
    named = {"single": "one thing", "pair": "two things", "all": "both", "shuffled": "both, against another prompt"}
    rows = [
        [text, str(maps[key]["maps"]), *(f"{maps[key][part]:.2f}" for part in ("count", "shape", "relation"))]
        for key, text in named.items()
        if key in maps
    ]
    near = [["outline's overlap with the nearest render", _pm(maps["outline"]), _pm(maps["outline_shuffled"])],
            ["AbsRel against it", _pm(maps["abs_rel"]), _pm(maps["abs_rel_shuffled"])]]  # fmt: skip
    ways = {
        "unguided": ("without a map", "own"),
        "guided": ("with its map", "own"),
        "shuffled": ("with another's map", "other"),
    }
    shown = [
        [text, _pm(pictures[key][against]), *(f"{pictures[key][p]:.2f}" for p in ("both", "relation", "background"))]
        for key, (text, against) in ways.items()
    ]
    shown.insert(1, ["without a map, another's held against it", _pm(pictures["unguided"]["other"]), "", "", ""])
    return "\n\n".join(
        [
            f"`{result['command']}`, {pictures['guided']['pictures']} pictures, ± one standard error:",
            markdown_table(head, rows),
            markdown_table(["", "own prompt", "another prompt"], near),
            markdown_table(["picture", "covers the map", "things right", "in order", "background"], shown),
            f"CPU time of one picture without a map {cost['picture']:.1f} s, of its map {cost['map']:.1f} s "
            f"({100 * cost['share']:.0f} %), of following it {cost['following']:.1f} s.",
        ]
    )


def _pm(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ± {value['error']:.3f}"
