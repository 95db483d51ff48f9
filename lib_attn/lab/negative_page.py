"""The page of `lib_attn.lab.negative`: tables from its result files, each with the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib_attn.lab.report import read_result

PAGE = "negative-benchmark.md"
ORDER = ("cost", "estimate", "effect", "mix")


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def cost_table(result: dict) -> str:
    """Time and arithmetic against two rows, and against one."""
    rows = []
    for r in result["results"]:
        rows.append([f"{r['width']}x{r['height']}", r["name"], f"{r['seconds']:.3g}", f"{r['ratio']:.3f}x",
                     f"{r['low']:.2f} … {r['high']:.2f}", f"{r['macs_ratio']:.4f}x" if "macs_ratio" in r else "-",
                     f"{100 * (r['one_row'] - 1):+.1f} %" if "one_row" in r else "-",
                     f"{100 * (r['macs_one_row'] - 1):+.2f} %" if "macs_one_row" in r else "-"])  # fmt: skip
    return _lines(("size", "case", "seconds an evaluation", "time / CFG", "range", "arithmetic / CFG",
                   "time over one row", "arithmetic over one row"), rows)  # fmt: skip


def estimate_table(result: dict) -> str:
    """Deviation from full guidance, beside that of a copy with as many rows."""
    copies: dict[float, float] = {}
    for r in result["results"]:
        if r["settings"].get("negative_skip.fill") == "copy":
            # Of two copies with as many rows the closer one counts.
            copies[round(r["rows"], 3)] = min(r["l2"], copies.get(round(r["rows"], 3), r["l2"]))
    rows = []
    for r in result["results"]:
        copy = copies.get(round(r["rows"], 3))
        share = f"{r['l2'] / copy:.2f}" if copy else "-"
        rows.append([r["name"], f"{r['rows']:.3f}", f"{1 / r['rows']:.2f}x", f"{r['l2']:.3f}", share])
    return _lines(("case", "rows computed", "fewer rows", "latent L2", "L2 / copy's"), rows)


def effect_table(result: dict) -> str:
    """How often the named colour and the prompt are seen."""
    shares = ("named", "control", "prompt", "shape", "background")
    rows = [[r["name"], *(_percent(r[share]) for share in shares)] for r in result["results"]]
    head = ("case", "named colour seen", "seen, another named", "prompt right", "shape", "background")
    return _lines(head, rows)


def mix_table(result: dict) -> str:
    """What pictures take from the first of their batch."""
    shares = ("colour", "shape", "agree", "agree_control", "open_shape")
    rows = [
        [r["name"], f"{r['overlap']:.3f}", f"{r['overlap_control']:.3f}", *(_percent(r[name]) for name in shares)]
        for r in result["results"]
    ]
    return _lines(("case", "overlap with source", "with another", "colour right", "shape right", "colour as source",
                   "as another", "shape right, colour open"), rows)  # fmt: skip


TABLES = {"cost": cost_table, "estimate": estimate_table, "effect": effect_table, "mix": mix_table}


def table(result: dict) -> str:
    """Markdown table of one result file."""
    return TABLES[result["kind"].removeprefix("negative ")](result)


TITLES = {
    "cost": "Cost: SD 1.5 U-Net with random weights",
    "estimate": "Leaving the negative out",
    "effect": "What a negative does",
    "mix": "Key mix",
}

ABOUT = {
    "cost": "One guided picture; the first case has two rows. Time is that of the process on {threads}, median of "
    "{repeats} interleaved repeats; arithmetic is counted in matrix products, convolutions and attention. Over one "
    "row: against a picture without any negative, once the negative's keys and values are kept. The negative has "
    "{words} words.",
    "estimate": "Relative L2 of the final latents to those of guidance in every step, same seeds, guidance scale 5. "
    "Even: full steps evenly spread; otherwise most of them early. The last column compares with the closer copy of "
    "the positive (as the webui's NGMS fills in) with as many rows.",
    "effect": 'Prompts leave the colour open ("a cube, grey background"). The first row of each guidance scale is '
    "drawn without a negative; the colour the judge sees there is what the picture's negative names in all rows below, "
    "same seed. The control: how often that colour is seen when the negative names another one; what is lost there as "
    "well is disturbance. Prompt right: one object of the right shape before the right background.",
    "mix": "Batches of 4, the first picture being the source, guidance scale 5. Overlap: intersection over union of "
    "the judge's silhouettes. The controls are the source of another batch. Colours are named in the prompts of the "
    "first four columns and left open in those of the others.",
}


def page(results: Sequence[dict]) -> str:
    """The page in Markdown. Everything on it comes from the result files."""
    lines = ["# Negative skip, contrast and key mix: measurements", ""]
    lines += ["Written by `bench negative`; every figure comes from the commands below.", ""]
    lines += ["```", *dict.fromkeys(r["command"] for r in results), "```"]
    for result in results:
        part = result["kind"].removeprefix("negative ")
        lines += ["", f"## {TITLES[part]}", "", *_about(result, part), "", table(result)]
        changed = [(r["name"], r["settings"]) for r in result["results"] if r.get("settings")]
        if changed:
            lines += ["", "Parameters that are not at their defaults:", ""]
            rows = [[n, " ".join(f"{k.partition('.')[2]}={v}" for k, v in values.items())] for n, values in changed]
            lines += [_lines(("case", "parameters"), rows)]
    return "\n".join(lines) + "\n"


def _about(result: dict, part: str) -> list[str]:
    machine, first = result["machine"], result["results"][0]
    text = ABOUT[part].format(threads=machine["device"], repeats=result.get("repeats"), words=first.get("words"))
    if part == "cost":
        model = "" if result["model"] == "sd15" else " This is a toy U-Net."
        return [f"{text} {result['precision']}, torch {machine['torch']}.{model}"]
    if part == "effect" and any(r["name"] in ("CFG 3", "CFG 8") for r in result["results"]):
        text += " CFG 3 and 8 are compared with the pictures at CFG 5."
    pictures = first.get("pictures", result["images"])
    drawn = f"{result['steps']} steps {result['sampler']}, seeds from {result['seed']}, {result['precision']}"
    model = f"model {result['checkpoint']}, SHA-256 {result['sha256']}…"
    return [f"{text} {pictures} pictures of {result['size']} px a row, {drawn}; {model}."]


def write(results: Path, docs: Path) -> Path:
    """Write the page from the result files of a folder.

    Raises:
        LabError: when there are none, or one is damaged.
    """
    from lib_attn.lab.bench import write_text
    from lib_attn.lab.errors import LabError

    found = [(results / f"{part}.json", part) for part in ORDER if (results / f"{part}.json").is_file()]
    if not found:
        raise LabError(f"There are no result files in {results}.")
    read = [read_result(path, f"negative {part}") for path, part in found]
    write_text(docs / PAGE, page(read))
    return docs / PAGE
