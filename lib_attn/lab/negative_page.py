"""The page of `lib_attn.lab.negative`: tables from its result files, each with the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib_attn.lab.judged import mean_and_error
from lib_attn.lab.mixing import GROUP
from lib_attn.lab.report import read_result

PAGE = "negative-benchmark.md"
ORDER = ("cost", "estimate", "effect", "contrast", "mix")


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
    """How much of the named colour and how often the prompt is seen."""
    rows, plain = [], {}
    for r in result["results"]:
        # A technique is compared with the same guidance without it, which comes before it.
        reference = plain.get(r["cfg"], plain.get(r["base"]))
        change = "-"
        if reference is not None:
            pairs = zip(r["areas"], reference["areas"], strict=True)
            change = _change([100 * (own - other) for own, other in pairs], 1, " points")
        if r["plain"]:
            plain[r["cfg"]] = r
        rows.append([r["name"], *(_percent(r[share]) for share in ("named", "control")), f"{100 * r['area']:.1f} %",
                     f"{100 * r['area_control']:.1f} %", change,
                     *(_percent(r[share]) for share in ("prompt", "shape", "background"))])  # fmt: skip
    head = ("case", "named colour seen", "seen, another named", "area of it", "area, another named", "area, change",
            "prompt right", "shape", "background")  # fmt: skip
    return _lines(head, rows)


def _change(differences: Sequence[float], digits: int, unit: str = "") -> str:
    """Mean of differences with its standard error."""
    mean, error = mean_and_error(differences)
    return f"{round(mean, digits) + 0.0:+.{digits}f} ± {error:.{digits}f}{unit}"  # + 0.0: no minus before a nought


def _closer(row: dict, first: dict, name: str, digits: int) -> str:
    """How much more than in `first` a figure with the own source differs from that with another source.

    Pictures with the same source are no independent ones, so the error is that of the groups' means.
    """
    gains = [[a - b for a, b in zip(r["all"][name], r["all"][f"{name}_control"], strict=True)] for r in (row, first)]
    change = [a - b for a, b in zip(*gains, strict=True)]
    groups = [change[i : i + GROUP - 1] for i in range(0, len(change), GROUP - 1)]
    return _change([mean_and_error(group)[0] for group in groups], digits)


def mix_table(result: dict) -> str:
    """What pictures take from the first of their batch: layout, then look."""
    first, layout, look = result["results"][0], [], []
    for r in result["results"]:

        def closer(name, digits, r=r):
            return "-" if r is first else _closer(r, first, name, digits)

        right = [_percent(r[name]) for name in ("colour", "shape", "other_colour", "other_shape")]
        overlaps = [f"{r[name]:.3f}" for name in ("overlap", "overlap_control")]
        layout.append([r["name"], *overlaps, closer("overlap", 3), *right])
        seen = [_percent(r[name]) for name in ("agree", "agree_control")]
        distances = [f"{r[name]:.0f}" for name in ("distance", "distance_control")]
        look.append([r["name"], *seen, *distances, closer("distance", 0), _percent(r["open_shape"])])
    head = ("case", "overlap with source", "with another", "nearer than off", "colour right", "shape right",
            "colour right, shapes differ", "shape right, shapes differ")  # fmt: skip
    second = ("case", "colour as source", "as another", "distance to source", "to another", "nearer than off",
              "shape right")  # fmt: skip
    parts = ["Layout; colours are named and differ within a batch:", _lines(head, layout),
             "Look; colours are left open:", _lines(second, look)]  # fmt: skip
    return "\n\n".join(parts)


TABLES = {"cost": cost_table, "estimate": estimate_table, "effect": effect_table, "contrast": effect_table,
          "mix": mix_table}  # fmt: skip


def table(result: dict) -> str:
    """Markdown table of one result file."""
    return TABLES[result["kind"].removeprefix("negative ")](result)


TITLES = {
    "cost": "Cost: SD 1.5 U-Net with random weights",
    "estimate": "Leaving the negative out",
    "effect": "What a negative does",
    "contrast": "What contrast adds under weak guidance",
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
    "same seed. Another named: the same colour when the negative names another one; what is lost there as well is "
    "disturbance. Area: share of the object's pixels that have that colour, where the judge sees an object. Change: "
    "against the same guidance scale without a technique, picture by picture, ± one standard error. Prompt right: one "
    "object of the right shape before the right background.",
    "contrast": "As above, under weak guidance. CFG 2.5 has the pictures of CFG 2 without a negative as its own, and "
    "changes are against CFG 2.",
    "mix": "Batches of 4 pictures of one shape, the first being the source, guidance scale 5. Another: the source of "
    "another batch of the same shape and background, which was not used. Overlap: intersection over union of the "
    "judge's silhouettes. Distance: of the objects' mean colours in RGB (0 … 441). Nearer than off: (own - another) "
    "less the same without a technique, mean of the batches ± one standard error; for a distance below 0 is nearer. "
    "Shapes differ: each picture of the batch is asked for another shape.",
}


def page(results: Sequence[dict]) -> str:
    """The page in Markdown. Everything on it comes from the result files."""
    lines = ["# Negative skip, contrast and key mix: measurements", ""]
    lines += ["Written by `bench negative`; every figure comes from the commands below.", ""]
    lines += ["```", *dict.fromkeys(r["command"] for r in results), "```"]
    before = None
    for result in results:
        part = result["kind"].removeprefix("negative ")
        lines += [] if part == before else ["", f"## {TITLES[part]}"]
        before = part
        lines += ["", *_about(result, part), "", table(result)]
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
        text += " CFG 3 and 8 have the pictures of CFG 5 without a negative as theirs."
    pictures = first.get("pictures", result["images"])
    drawn = f"{result['steps']} steps {result['sampler']}, seeds from {result['seed']}, {result['precision']}"
    model = f"model {result['checkpoint']}, SHA-256 {result['sha256']}…"
    return [f"{text} {pictures} pictures of {result['size']} px a row, {drawn}; {model}."]


def write(results: Path, docs: Path) -> Path:
    """Write the page from the result files of a folder: of a part all that begin with its name.

    Raises:
        LabError: when there are none, or one is damaged.
    """
    from lib_attn.lab.bench import write_text
    from lib_attn.lab.errors import LabError

    found = [(path, part) for part in ORDER for path in sorted(results.glob(f"{part}*.json"))]
    if not found:
        raise LabError(f"There are no result files in {results}.")
    read = [read_result(path, f"negative {part}") for path, part in found]
    write_text(docs / PAGE, page(read))
    return docs / PAGE
