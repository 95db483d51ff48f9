"""The page of ``bench report``: speed-up against deviation as a table and a plot, with the commands that make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_attn.lab.measuring.deviation import DeviationRow
from lib_attn.lab.measuring.memory import MemoryRow
from lib_attn.lab.measuring.speed import LABELS, SpeedRow
from lib_attn.lab.reports.tables import deviation_table, memory_table, speed_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import from_json, read_result

PLOT = "benchmark.png"
PAGE = "benchmark.md"


@dataclass(frozen=True)
class ReportSpec:
    """Result files of the three measurements. speed_size: ``1024x1024``; None: the largest. out: folder of the page."""

    speed: tuple[Path, ...]
    deviation: tuple[Path, ...]
    memory: tuple[Path, ...] = ()
    speed_size: str | None = None
    out: Path = Path("docs")

    @property
    def command(self) -> str:
        """The command that makes this report, with file names instead of this machine's folders."""
        words = ["python -m lib_attn.lab bench report"]
        for name in ("speed", "deviation", "memory"):
            if files := getattr(self, name):
                words += [f"--{name}", *(path.name for path in files)]
        return " ".join([*words, "--out docs"])


@dataclass(frozen=True)
class Point:
    """A variant in both measurements: speed-up and relative L2.

    left: share of self-attention's time that remains, None where it was not measured. best: no other point is at least
    as fast and closer.
    """

    name: str
    label: str
    kind: str
    ratio: float
    l2: float
    left: float | None
    speed_size: str
    deviation_size: str
    best: bool = False


def write(spec: ReportSpec) -> list[Path]:
    """Write page and plot; returns their paths.

    Raises:
        LabError: when a result file is missing or damaged, or nothing can be written.
    """
    speeds = [read_result(path, "speed") for path in spec.speed]
    deviations = [read_result(path, "deviation") for path in spec.deviation]
    memories = [read_result(path, "memory") for path in spec.memory]
    points = join(_rows(speeds, SpeedRow), _rows(deviations, DeviationRow), spec.speed_size)
    paths = [spec.out / PAGE, spec.out / PLOT]
    try:
        spec.out.mkdir(parents=True, exist_ok=True)
        plot(points, paths[1])
        paths[0].write_text(page(speeds, deviations, memories, points, spec.command), encoding="utf-8")
    except OSError as error:
        raise LabError(f"The report cannot be written to {spec.out}: {error.strerror}.") from None
    return paths


def _rows(results: Sequence[dict], kind: type) -> list:
    return [from_json(kind, row) for result in results for row in result["results"]]


def join(times: Sequence[SpeedRow], moved: Sequence[DeviationRow], size: str | None = None) -> list[Point]:
    """Variants that both measurements have: speed-up at `size` (``1024x1024``; None: the largest) with the deviation
    at the first size of the deviation results.

    Raises:
        LabError: when speed was not measured, or not at that size.
    """
    if not times:
        raise LabError("The speed results are empty.")
    sizes = {f"{r.width}x{r.height}": r.height * r.width for r in times}
    size = size or max(sizes, key=sizes.get)
    if size not in sizes:
        raise LabError(f"Speed was not measured at {size}: there is {', '.join(sizes)}.")
    ratios = {r.name: r.ratio for r in times if f"{r.width}x{r.height}" == size}
    free = 1 / ratios["free"] if "free" in ratios else None
    first = (moved[0].height, moved[0].width) if moved else None
    both = [r for r in moved if (r.height, r.width) == first and r.name in ratios]
    return [
        Point(r.name, r.label, r.kind, ratios[r.name], r.l2,
              left=None if free is None else (1 / ratios[r.name] - free) / (1 - free),
              speed_size=size, deviation_size=f"{r.width}x{r.height}",
              best=not any(ratios[o.name] >= ratios[r.name] and o.l2 < r.l2 for o in both))
        for r in both
    ]  # fmt: skip


def plot(points: Sequence[Point], path: Path) -> None:
    """Speed-up against deviation, ours and peers', the front drawn through."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise LabError("The plot needs the package matplotlib.") from None
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for kind, marker, name in (("peer", "s", "others"), ("ours", "o", "Attention Lab")):
        chosen = [p for p in points if p.kind == kind]
        axes.scatter([p.l2 for p in chosen], [p.ratio for p in chosen], marker=marker, label=name, zorder=3)
        for p in chosen:
            axes.annotate(p.label, (p.l2, p.ratio), textcoords="offset points", xytext=(6, 4), fontsize=8)
    front = sorted((p.l2, p.ratio) for p in points if p.best)
    axes.plot([x for x, _ in front], [y for _, y in front], color="grey", linewidth=0.8, zorder=1, label="front")
    if points:
        axes.set_xlabel(f"relative L2 of the final latents to full attention, {points[0].deviation_size}")
        axes.set_ylabel(f"speed-up over full attention, {points[0].speed_size}")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def page(
    speeds: Sequence[dict],
    deviations: Sequence[dict],
    memories: Sequence[dict],
    points: Sequence[Point],
    command: str,
) -> str:
    """The page in Markdown. Everything on it comes from the result files."""
    lines = ["# Measurements", "", "Written by `bench report`; every figure comes from the commands below.", ""]
    lines += ["```", *[r["command"] for r in (*speeds, *deviations, *memories)], command, "```", ""]
    lines += ["## Speed against deviation", "", f"![speed-up against deviation]({PLOT})", ""]
    if points:
        lines += [
            f"Speed-up of a U-Net step at {points[0].speed_size}, relative L2 of the final latents against full "
            f"attention at {points[0].deviation_size}. Exact steps of the residual mode are counted in. "
            "On the front: nothing else here is at least as fast and closer. Left: what remains of the time that "
            "self-attention takes, its projections included.", "",
            "| variant | speed-up | left | latent L2 | on the front |", "|---|---|---|---|---|",
        ]  # fmt: skip
    for p in sorted(points, key=lambda p: -p.ratio):
        left = "-" if p.left is None else f"{p.left:.1%}"
        front = "yes" if p.best else ""
        lines.append(f"| {p.label} | {p.ratio:.2f}x | {left} | {p.l2:.4f} | {front} |")
    for s in speeds:
        lines += ["", f"## Speed: {LABELS[s['model']]} with random weights", ""]
        unit = "processor time" if s.get("clock") == "cpu" else "wall time"
        rows = f"{s['rows']} row{'' if s['rows'] == 1 else 's'}"
        where = f"{rows}, {s['precision']}, {s['machine']['device']}, torch {s['machine']['torch']}"
        if s["results"]:
            text = f"{where}, {unit}, median of {s['repeats']} interleaved repeats."
            lines += [text, "", speed_table(_rows([s], SpeedRow))]
        if s.get("memory"):
            grown = [from_json(MemoryRow, row) for row in s["memory"]]
            lines += ["", "Peak memory of a cycle of steps on top of the weights:", "", memory_table(grown)]
    for d in deviations:
        digest = f" (SHA-256 {d['sha256']}…)" if "sha256" in d else ""
        lines += ["", f"## Deviation: {d['checkpoint']}{digest}", ""]
        moved = _rows([d], DeviationRow)
        drawn = min((r.images for r in moved), default=0)  # fewer than asked for where a run was stopped
        pictures = f"{drawn} picture{'' if drawn == 1 else 's'}"
        lines += [f"{pictures} a size, seeds from {d['seed']}, {d['steps']} steps {d['sampler']}, "
                  f"CFG {d['cfg']:g}, {d['precision']}.", "", deviation_table(moved)]  # fmt: skip
    for m in memories:
        lines += ["", f"## Memory: {LABELS[m['model']]}", ""]
        text = (
            "Most bytes of tensors alive at once on top of the weights, over a cycle of steps, "
            f"{m['rows']} rows, {m['precision']}. Counted without computing, for a fused attention kernel; "
            "a kernel's own workspace is not in it."
        )
        lines += [text, "", memory_table(_rows([m], MemoryRow))]
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
