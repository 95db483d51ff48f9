"""What a page shows of ``bench maps``, and of ``learn depth --ablation``."""

from __future__ import annotations

from collections.abc import Mapping

from lib_attn.lab.shared.markdown import markdown_table, share_of

COVERS = ["picture", "covers its map", "another's", "the moved one", "things right", "in order", "background"]

#: How near maps are to what they should be: what it is called, digits and unit, by its name in a result file.
NEAR = {
    "outline": ("outline's overlap with the nearest render", 3, ""),
    "abs_rel": ("AbsRel against it", 3, ""),
    "angle": ("angle between normals by geometry and its own", 1, "°"),
    "degrees": ("angle between normals and its own", 1, "°"),
    "autoencoder": ("angle between a render's normals and the same through the autoencoder", 1, "°"),
    "agreement": ("angle between normals and those by geometry of the depth map of the same prompt and seed", 1, "°"),
}


def maps_block(result: Mapping) -> str:
    """Tables of the maps, of the pictures and of the cost."""
    maps, pictures, cost = result["maps"], result["pictures"], result["cost"]
    head = ["maps of", "maps", "right number", "right shapes", "shapes and order right"]
    named = {"single": "one thing", "pair": "two things", "all": "both", "shuffled": "both, against another prompt"}
    rows = [
        [
            text,
            str(maps[key]["maps"]),
            *(share_of(maps[key][part], maps[key]["maps"]) for part in ("count", "shape", "relation")),
        ]
        for key, text in named.items()
        if key in maps
    ]
    near = [
        [text, *(_pm(maps[k], digits) + unit if k in maps else "-" for k in (key, f"{key}_shuffled"))]
        for key, (text, digits, unit) in NEAR.items()
        if key in maps
    ]
    return "\n\n".join(
        [
            _told(result),
            markdown_table(head, rows),
            markdown_table(["", "own prompt", "another prompt"], near),
            _pictures(pictures),
            f"CPU time of one picture without a map {cost['picture']:.1f} s, of its map {cost['map']:.1f} s "
            f"({100 * cost['share']:.0f} %), of following it {_seconds(cost['following'])}.",
        ]
    )


def _seconds(following: float) -> str:
    """The difference of two times of one picture each, which may be less than they vary by."""
    return f"{following:.1f} s" if following >= 0 else "too little to be told on a busy machine"


def maps_short(result: Mapping) -> str:
    """The table of the pictures alone."""
    return f"{_told(result)}\n\n{_pictures(result['pictures'])}"


def _told(result: Mapping) -> str:
    drawn = f"{result['pictures']['guided']['pictures']} pictures by {result['checkpoint']}"
    return f"`{result['command']}`, {drawn}, ± one standard error:"


def _pictures(pictures: Mapping) -> str:
    ways = {
        "unguided": ("without a map", ""),
        "guided": ("with its map", "guided"),
        "shuffled": ("with another's map", "shuffled"),
        "moved": ("with its map, smaller and moved", "moved"),
        "keys": ("with its map's pass, by key mix", "guided"),
        "keys_shuffled": ("with another's pass, by key mix", "shuffled"),
        "gradient_guided": ("with its map, by a gradient through the U-Net", "guided"),
        "gradient_shuffled": ("with another's map, by that gradient", "shuffled"),
        "gradient_moved": ("with the moved map, by that gradient", "moved"),
    }
    shown = [
        [text, *(_bold(_pm(pictures[key][f"covers_{of}"]), of == followed) for of in ("guided", "shuffled", "moved")),
         *(share_of(pictures[key][p], pictures[key]["pictures"]) for p in ("both", "relation", "background"))]
        for key, (text, followed) in ways.items()
        if key in pictures
    ]  # fmt: skip
    return markdown_table(COVERS, shown)


def _bold(text: str, followed: bool) -> str:
    return f"**{text}**" if followed else text


def _pm(value: Mapping[str, float | None], digits: int = 3) -> str:
    if value["mean"] is None:
        return "none"  # no map covers a place of its render
    return f"{value['mean']:.{digits}f}" + ("" if value["error"] is None else f" ± {value['error']:.{digits}f}")


def choices_block(result: Mapping) -> str:
    """A table of what maps are worth after equal time, by which weights have learned."""
    recipe = result["recipe"]
    distance = {"depth": ("abs_rel", "AbsRel", 3), "normal": ("degrees", "degrees off", 1)}[recipe["map"]]
    key, text, digits = distance
    judged = result["rows"][0]["maps"]["all"]["maps"]
    head = ["learns", "weights", "rate", "steps", "processor time", "right number", "shapes and order right"]
    rows = []
    for row in result["rows"]:
        maps = row["maps"]
        rows.append([
            f"`{row['train']}`", f"{row['weights'] / 1e6:.2f} M", f"{row['lr']:g}", str(row["steps"]),
            f"{row['seconds']:.0f} s", share_of(maps["all"]["count"], judged),
            f"{share_of(maps['all']['relation'], judged)} ({share_of(maps['shuffled']['relation'], judged)})",
            f"{_pm(maps['outline'])} ({_pm(maps['outline_shuffled'])})",
            f"{_pm(maps[key], digits)} ({_pm(maps[f'{key}_shuffled'], digits)})",
        ])  # fmt: skip
    return "\n\n".join(
        [
            f"`{result['command']}`: steps of {recipe['batch']} maps of {recipe['scenes']} scenes at "
            f"{recipe['size']} px, {judged} maps by {result['checkpoint']} judged, ± one standard error, in brackets "
            "against another prompt:",
            markdown_table([*head, "overlap", text], rows),
        ]
    )
