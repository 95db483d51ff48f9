"""The report: one table and one plot of speed-up against deviation, with the commands that make them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lib_attn.lab.errors import LabError

PLOT = "benchmark.png"
PAGE = "benchmark.md"


def add_commands(inner) -> None:
    """Add ``report`` to the subcommands of ``bench``."""
    options = inner.add_parser("report", help="write the table and the plot from measured results")
    options.add_argument("--speed", type=Path, nargs="+", required=True, help="result files of bench speed")
    options.add_argument("--deviation", type=Path, nargs="+", required=True, help="result files of bench deviation")
    options.add_argument("--memory", type=Path, nargs="*", default=[], help="result files of bench memory")
    options.add_argument("--speed-size", default=None, help="size whose speed is plotted (default: the largest)")
    options.add_argument("--out", type=Path, default=Path("docs"), help="folder (default docs)")
    options.set_defaults(run=run_report)


def run_report(args) -> int:
    """Write benchmark.md and benchmark.png."""
    speeds = [read_result(path, "speed") for path in args.speed]
    deviations = [read_result(path, "deviation") for path in args.deviation]
    memories = [read_result(path, "memory") for path in args.memory]
    command = "python -m lib_attn.lab bench report"
    for name in ("speed", "deviation", "memory"):
        files = [path.name for path in getattr(args, name)]
        command += f" --{name} {' '.join(files)}" if files else ""
    command += " --out docs"
    points = join(speeds, deviations, args.speed_size)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        plot(points, args.out / PLOT)
        (args.out / PAGE).write_text(page(speeds, deviations, memories, points, command), encoding="utf-8")
    except OSError as error:
        raise LabError(f"The report cannot be written to {args.out}: {error.strerror}.") from None
    print(f"Written: {args.out / PAGE}, {args.out / PLOT}")
    return 0


def read_result(path: Path, kind: str) -> dict:
    """A result file of the measurement `kind`.

    Raises:
        LabError: when it is missing or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise LabError(f"There is no result file {path}.") from None
    except ValueError:
        raise LabError(f"{path} is no result file: it is damaged or no JSON.") from None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise LabError(f"{path} is no result of bench {kind}.")
    return value


def join(speeds: Sequence[dict], deviations: Sequence[dict], size: str | None = None) -> list[dict]:
    """Variants that both measurements have: speed-up at `size` (``1024x1024``; None: the largest) with the deviation
    at the first size of the deviation results.

    Returns:
        dictionaries with name, label, kind, ratio, l2, left (share of self-attention's time that remains, None where
        it was not measured), best (no other point is at least as fast and closer).
    """
    times = [r for s in speeds for r in s["results"]]
    if not times:
        raise LabError("The speed results are empty.")
    sizes = {f"{r['width']}x{r['height']}": r["height"] * r["width"] for r in times}
    size = size or max(sizes, key=sizes.get)
    if size not in sizes:
        raise LabError(f"Speed was not measured at {size}: there is {', '.join(sizes)}.")
    ratios = {r["name"]: r["ratio"] for r in times if f"{r['width']}x{r['height']}" == size}
    free = 1 / ratios["free"] if "free" in ratios else None
    rows = [r for d in deviations for r in d["results"]]
    first = (rows[0]["height"], rows[0]["width"]) if rows else None
    points = [
        {"name": r["name"], "label": r["label"], "kind": r["kind"], "ratio": ratios[r["name"]], "l2": r["l2"],
         "left": None if free is None else (1 / ratios[r["name"]] - free) / (1 - free),
         "speed_size": size, "deviation_size": f"{r['width']}x{r['height']}"}
        for r in rows if (r["height"], r["width"]) == first and r["name"] in ratios
    ]  # fmt: skip
    for p in points:
        p["best"] = not any(o["ratio"] >= p["ratio"] and o["l2"] < p["l2"] for o in points)
    return points


def plot(points: Sequence[dict], path: Path) -> None:
    """Speed-up against deviation, ours and peers', the front drawn through."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise LabError("The plot needs the package matplotlib.") from None
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for kind, marker, name in (("peer", "s", "others"), ("ours", "o", "Attention Lab")):
        chosen = [p for p in points if p["kind"] == kind]
        axes.scatter([p["l2"] for p in chosen], [p["ratio"] for p in chosen], marker=marker, label=name, zorder=3)
        for p in chosen:
            axes.annotate(p["label"], (p["l2"], p["ratio"]), textcoords="offset points", xytext=(6, 4), fontsize=8)
    front = sorted((p["l2"], p["ratio"]) for p in points if p["best"])
    axes.plot([x for x, _ in front], [y for _, y in front], color="grey", linewidth=0.8, zorder=1, label="front")
    if points:
        axes.set_xlabel(f"relative L2 of the final latents to full attention, {points[0]['deviation_size']}")
        axes.set_ylabel(f"speed-up over full attention, {points[0]['speed_size']}")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def page(speeds: Sequence[dict], deviations: Sequence[dict], memories: Sequence[dict], points, command: str) -> str:
    """The page in Markdown. Everything on it comes from the result files."""
    from lib_attn.lab.bench import memory_table, speed_table
    from lib_attn.lab.deviation import deviation_table

    lines = ["# Measurements", "", "Written by `bench report`; every figure comes from the commands below.", ""]
    lines += ["```", *[r["command"] for r in (*speeds, *deviations, *memories)], command, "```", ""]
    lines += ["## Speed against deviation", "", f"![speed-up against deviation]({PLOT})", ""]
    if points:
        lines += [
            f"Speed-up of a U-Net step at {points[0]['speed_size']}, relative L2 of the final latents against full "
            f"attention at {points[0]['deviation_size']}. Exact steps of the residual mode are counted in. "
            "On the front: nothing else here is at least as fast and closer. Left: what remains of the time that "
            "self-attention takes, its projections included.", "",
            "| variant | speed-up | left | latent L2 | on the front |", "|---|---|---|---|---|",
        ]  # fmt: skip
    for p in sorted(points, key=lambda p: -p["ratio"]):
        left = "-" if p["left"] is None else f"{p['left']:.1%}"
        front = "yes" if p["best"] else ""
        lines.append(f"| {p['label']} | {p['ratio']:.2f}x | {left} | {p['l2']:.4f} | {front} |")
    for s in speeds:
        model = "SD 1.5 U-Net with random weights" if s["model"] == "sd15" else "toy U-Net"
        lines += ["", f"## Speed: {model}", ""]
        unit = "processor time" if s.get("clock") == "cpu" else "wall time"
        rows = f"{s['rows']} row{'' if s['rows'] == 1 else 's'}"
        where = f"{rows}, {s['precision']}, {s['machine']['device']}, torch {s['machine']['torch']}"
        if s["results"]:
            lines += [f"{where}, {unit}, median of {s['repeats']} interleaved repeats.", "", speed_table(s["results"])]
        if s.get("memory"):
            lines += ["", "Peak memory of a cycle of steps on top of the weights:", "", memory_table(s["memory"])]
    for d in deviations:
        digest = f" (SHA-256 {d['sha256']}…)" if "sha256" in d else ""
        lines += ["", f"## Deviation: {d['checkpoint']}{digest}", ""]
        drawn = min((r["images"] for r in d["results"]), default=0)  # fewer than asked for where a run was stopped
        pictures = f"{drawn} picture{'' if drawn == 1 else 's'}"
        lines += [f"{pictures} a size, seeds from {d['seed']}, {d['steps']} steps {d['sampler']}, "
                  f"CFG {d['cfg']:g}, {d['precision']}.", "", deviation_table(d["results"])]  # fmt: skip
    for m in memories:
        model = "SD 1.5 U-Net" if m["model"] == "sd15" else "toy U-Net"
        lines += ["", f"## Memory: {model}", ""]
        text = (
            "Most bytes of tensors alive at once on top of the weights, over a cycle of steps, "
            f"{m['rows']} rows, {m['precision']}. Counted without computing, for a fused attention kernel; "
            "a kernel's own workspace is not in it."
        )
        lines += [text, "", memory_table(m["results"])]
    lines += ["", *_settings(speeds, deviations)]
    return "\n".join(lines).rstrip() + "\n"


def _settings(speeds: Sequence[dict], deviations: Sequence[dict]) -> list[str]:
    """What our variants are: the parameters that are not at their defaults."""
    found = {r["label"]: r["settings"] for s in (*speeds, *deviations) for r in s["results"] if "settings" in r}
    if not found:
        return []
    texts = {label: " ".join(f"{k}={v}" for k, v in values.items()) or "defaults" for label, values in found.items()}
    rows = [f"| {label} | {text} |" for label, text in texts.items()]
    return ["## Settings", "", "| variant | parameters that are not at their defaults |", "|---|---|", *rows]
