"""The tables and the plot of ``bench front``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_attn.lab.measuring.front import ALONE, FASTEST, FULL_CASE, QualityRow, TimeRow
from lib_attn.lab.measuring.speed import LABELS
from lib_attn.lab.reports.tables import agreement_of, with_error
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.markdown import markdown_table
from lib_attn.lab.shared.results import from_json

FEWER = "fewer steps"


@dataclass(frozen=True)
class Point:
    """A case in both measurements.

    fewer: deviation of fewer steps in the same time, between the measured ones on a straight line; None beyond them.
    best: nothing else is at least as fast and nearer.
    """

    time: TimeRow
    quality: QualityRow
    fewer: float | None
    best: bool

    @property
    def share(self) -> float:
        """Of the time of all steps."""
        return 1.0 / self.time.ratio


def join(times: Sequence[TimeRow], quality: Sequence[QualityRow]) -> list[Point]:
    """Cases that both have, the slowest first. times: of one size; quality: of one sampler and size."""
    by = {row.name: row for row in quality}
    both = [(row, by[row.name]) for row in times if row.name in by]
    line = sorted((1.0 / t.ratio, q.l2) for t, q in both if _is_fewer(t.name) or t.name == FULL_CASE)
    points = []
    for t, q in both:
        best = not any(o.ratio >= t.ratio and p.l2 < q.l2 for o, p in both)
        points.append(Point(t, q, between(line, 1.0 / t.ratio), best))
    return sorted(points, key=lambda p: p.time.ratio)


def _is_fewer(name: str) -> bool:
    return name.split()[0].isdigit() and name.endswith(" steps")


def between(line: Sequence[tuple[float, float]], x: float) -> float | None:
    """The value at x on straight lines through points sorted by x; None outside of them."""
    for (x0, y0), (x1, y1) in zip(line, line[1:], strict=False):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y0
    return None


def front_table(points: Sequence[Point]) -> str:
    """A line for each case."""
    head = ["case", "speed-up", "latent L2", "fewer steps in its time", "beats them", "accuracy", "agreement", "front"]
    lines = []
    for p in points:
        q, compared = p.quality, p.fewer is not None
        own = _is_fewer(q.name) or q.name == FULL_CASE
        fewer = f"{p.fewer:.3f}" if compared else "-"
        beats = "" if own or not compared else "yes" if q.l2 < p.fewer else "**no**"
        lines.append([q.name, f"{p.time.ratio:.2f}x", with_error(q.l2, q.l2_error, 3), fewer, beats,
                      with_error(q.accuracy, q.accuracy_error, 2), agreement_of(q),
                      "yes" if p.best else ""])  # fmt: skip
    return markdown_table(head, lines)


def time_table(rows: Sequence[TimeRow]) -> str:
    """A line for each case: what a picture takes and what it is the sum of."""
    whole = any(row.whole is not None for row in rows)
    head = ["case", "seconds a picture", "speed-up", "range", "evaluations and seconds of each"]
    lines = []
    for r in sorted(rows, key=lambda r: r.ratio):
        parts = " + ".join(f"{count:g} x {seconds:.3g}" for count, seconds in r.parts)
        line = [r.name, f"{r.seconds:.4g}", f"{r.ratio:.2f}x", f"{r.low:.2f} … {r.high:.2f}", parts]
        lines.append([*line, "-" if r.whole is None else f"{r.whole:.4g}"] if whole else line)
    return markdown_table([*head, "really run"] if whole else head, lines)


def front_block(result: dict) -> str:
    """All tables of a result, as they stand in a page."""
    times, quality = _rows(result)
    parts = ["\n".join(["```", *result["commands"], "```"])]
    drawn: dict[str, list[QualityRow]] = {}
    for q in quality:
        what = f"{result['checkpoint']}, {q.size} px, {q.sampler}, {q.pictures} pictures, ± one standard error"
        drawn.setdefault(what, []).append(q)
    clock = "processor time" if result["clock"] == "cpu" else "wall time"
    asked = f"{result['steps']} steps, CFG {result['cfg']:g}"
    how = f"{asked}; {result['machine']['device']}, {result['precision']}, {clock}"
    model = LABELS.get(result["model"], result["checkpoint"])
    for (height, width, images), own in _by_size(times).items():
        batch = f"{images} pictures at once" if images > 1 else "one picture"
        repeats = f"median of {result['repeats']} interleaved repeats"
        parts += [f"**{model}, {width}x{height}, {batch}**, {how}, {repeats}:", time_table(own)]
        for what, rows in _of_size(drawn, height, width).items():
            parts += [f"The same against what it does to pictures: {what}.", front_table(join(own, rows))]
    if not times:
        parts += [text for what, rows in drawn.items() for text in (f"{asked}; {what}:", quality_table(rows))]
    return "\n\n".join(parts)


def front_short(result: dict) -> str:
    """What is ours, beside fewer steps: the speed-up of a picture at each timed size, of how many repeats, and how far
    it moves.

    Peers and formulas are left to the page that shows everything. The least and the largest speed-up of the repeats
    stand in brackets, where they differ.
    """
    times, quality = _rows(result)
    sizes = {size: {row.name: row for row in rows} for size, rows in _by_size(times).items()}
    moved = {size: {q.name: q for q in quality if q.size == size} for size in sorted({q.size for q in quality})}
    at = [f"speed-up at {w} x {h}" + (f", {n} at once" if n > 1 else "") for h, w, n in sizes]
    head = ["", *at, *(f"moves the picture, {n} px by {result['checkpoint']}" for n in moved)]
    names = [row.name for row in next(iter(sizes.values())).values() if _is_fewer(row.name) or _is_ours(row.name)]
    lines = []
    for name in names:
        found = [rows.get(name) for rows in sizes.values()]
        drawn = [rows.get(name) for rows in moved.values()]
        lines.append([name, *("-" if row is None else _spread(row) for row in found),
                      *("-" if q is None else with_error(q.l2, q.l2_error, 2) for q in drawn)])  # fmt: skip
    repeats = f"{result['repeats']} interleaved repeats" if result["repeats"] > 1 else "one repeat"
    model = LABELS.get(result["model"], result["checkpoint"])
    return f"{markdown_table(head, lines)}\n\nSpeed-ups of {model}, {repeats}, {result['precision']}."


def _spread(row: TimeRow) -> str:
    ratio, low, high = (f"{value:.2f}" for value in (row.ratio, row.low, row.high))
    return f"{ratio}x" if low == high else f"{ratio}x ({low} … {high})"


def _is_ours(name: str) -> bool:
    return name in ALONE or name.startswith(FASTEST)


def _of_size(drawn: dict[str, list[QualityRow]], height: int, width: int) -> dict[str, list[QualityRow]]:
    """Those drawn at a size that was timed, or all where there are none."""
    return {what: rows for what, rows in drawn.items() if height == width == rows[0].size} or drawn


def _rows(result: dict) -> tuple[list[TimeRow], list[QualityRow]]:
    return tuple([from_json(kind, row) for row in result.get(name, ())]
                 for kind, name in ((TimeRow, "time"), (QualityRow, "quality")))  # fmt: skip


def quality_table(rows: Sequence[QualityRow]) -> str:
    """A line for each case, the nearest first, without time."""
    rows = sorted(rows, key=lambda q: q.l2)
    lines = [[q.name, with_error(q.l2, q.l2_error, 3), with_error(q.accuracy, q.accuracy_error, 2), agreement_of(q)]
             for q in rows]  # fmt: skip
    return markdown_table(["case", "latent L2", "accuracy", "agreement"], lines)


def _by_size(times: Sequence[TimeRow]) -> dict[tuple[int, int, int], list[TimeRow]]:
    found: dict[tuple[int, int, int], list[TimeRow]] = {}
    for row in times:
        found.setdefault((row.height, row.width, row.images), []).append(row)
    return found


def plot(result: dict, path: Path) -> None:
    """Time against deviation with the front drawn through, for the first size and sampler of a result.

    Raises:
        LabError: when matplotlib is not there, or one of the two was not measured.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise LabError("The plot needs the package matplotlib.") from None
    times, quality = _rows(result)
    if not times or not quality:
        raise LabError("The plot needs both time and quality.")
    (height, width, _), own = next(iter(_by_size(times).items()))
    drawn = [q for q in quality if (q.sampler, q.size) == (quality[0].sampler, quality[0].size)]
    points = [p for p in join(own, drawn) if p.quality.l2 > 0]
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for name, chosen in ((FEWER, [p for p in points if _is_fewer(p.quality.name)]),
                         ("methods", [p for p in points if not _is_fewer(p.quality.name)])):  # fmt: skip
        axes.plot([p.time.ratio for p in chosen], [p.quality.l2 for p in chosen],
                  "--s" if name == FEWER else "o", label=name)  # fmt: skip
        for p in chosen:
            at = p.time.ratio, p.quality.l2
            axes.annotate(p.quality.name, at, textcoords="offset points", xytext=(5, 4), fontsize=7)
    best = [p for p in points if p.best]
    axes.plot([p.time.ratio for p in best], [p.quality.l2 for p in best], color="grey", linewidth=0.8, label="front")
    axes.set_xlabel(f"speed-up of a whole picture over all steps, {width}x{height}")
    axes.set_ylabel(f"relative L2 of the final latents, {quality[0].size} px, {quality[0].sampler}")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
