"""Tables of measured rows in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lib_attn.lab.drawing.variants import Variant
from lib_attn.lab.judging.agreement import PARTS as AGREEMENTS
from lib_attn.lab.measuring.ablation import MODES, WHOLE, AblationRow
from lib_attn.lab.measuring.borders import BorderRow
from lib_attn.lab.measuring.compare import Cell
from lib_attn.lab.measuring.deviation import DeviationRow
from lib_attn.lab.measuring.memory import MemoryRow
from lib_attn.lab.measuring.prompted import JudgedRow
from lib_attn.lab.measuring.showcase import Show
from lib_attn.lab.measuring.speed import SpeedRow
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.markdown import markdown_table

#: Fewest pictures whose agreement a table shows.
LEAST = 4


def speed_table(rows: Sequence[SpeedRow]) -> str:
    """One line per variant and size."""
    lines = ["| size | variant | seconds a step | speed-up | range | keys d0 / d1 / d2 |", "|---|---|---|---|---|---|"]
    for r in rows:
        seconds = f"{r.seconds:.3g}"
        if r.cycle is not None:
            seconds += f" (exact {r.exact_seconds:.3g}, between {r.step_seconds:.3g}, every {r.cycle})"
        keys = " / ".join(str(r.keys.get(f"d{d}", "-")) for d in range(3)) if r.keys else "-"
        spread = f"{r.low:.2f} … {r.high:.2f}"
        lines.append(f"| {r.width}x{r.height} | {r.label} | {seconds} | {r.ratio:.2f}x | {spread} | {keys} |")
    return "\n".join(lines)


def memory_table(rows: Sequence[MemoryRow]) -> str:
    """One line per variant and size, against full attention at the same size."""
    full = {(r.height, r.width): r.growth for r in rows if r.name == "full"}
    lines = ["| size | variant | MiB on top of the weights | against full |", "|---|---|---|---|"]
    for r in rows:
        share = r.growth / max(full[r.height, r.width], 1e-9)
        lines.append(f"| {r.width}x{r.height} | {r.label} | {r.growth:.0f} | {share:.3f}x |")
    return "\n".join(lines)


def deviation_table(rows: Sequence[DeviationRow]) -> str:
    """One line per variant, one pair of columns per size."""
    sizes = list(dict.fromkeys((r.height, r.width) for r in rows))
    head = " | ".join(f"{w}x{h} latent L2 | PSNR" for h, w in sizes)
    lines = [f"| variant | {head} |", "|---|" + "---|---|" * len(sizes)]
    for name in dict.fromkeys(r.name for r in rows):
        own = {(r.height, r.width): r for r in rows if r.name == name}
        cells = []
        for size in sizes:
            row = own.get(size)
            decibel = "-" if row is None or row.psnr is None else f"{row.psnr:.1f}"
            cells.append("- | -" if row is None else f"{with_error(row.l2, _error(row.l2_all), 4)} | {decibel}")
        lines.append(f"| {next(iter(own.values())).label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def border_head() -> str:
    """The heading above `border_line`s."""
    return "| shift | jump across borders | inside | ratio |\n|---|---|---|---|"


def border_line(shift: float, row: BorderRow) -> str:
    """Jumps with borders that wander by `shift`."""
    return f"| {shift} | {row.across:.4g} | {row.inside:.4g} | {row.ratio:.3f} |"


def compare_table(rows: Sequence[Sequence[Cell]], variants: Sequence[Variant]) -> str:
    """Means over all pictures, a line per variant, then what techniques had to say. rows: by picture and variant."""
    lines = ["| | seconds a picture | latent L2 | PSNR |", "|---|---|---|---|"]
    for column, variant in enumerate(variants):
        cells = [row[column] for row in rows]
        seconds, l2 = (sum(getattr(cell, key) for cell in cells) / len(cells) for key in ("seconds", "l2"))
        finite = [cell.psnr for cell in cells if math.isfinite(cell.psnr)]
        decibel = f"{sum(finite) / len(finite):.1f} dB" if finite else "identical"
        lines.append(f"| {variant.label} | {seconds:.2f} | {l2:.3f} | {decibel} |")
    return "\n".join([*lines, *said_lines(cell for row in rows for cell in row)])


def show_table(shown: Sequence[tuple[Show, Sequence[Cell]]], side: int) -> str:
    """One line per pair: what is shown, how, and what it took; then what techniques had to say.

    Args:
        side: pixels that the model was trained at.
    """
    lines = ["| what | with | pictures | without | with it | PSNR |", "|---|---|---|---|---|---|"]
    for show, (off, on) in shown:
        decibel = f"{on.psnr:.1f} dB" if math.isfinite(on.psnr) else "identical"
        what = f"{show.claim} | {show.variant.label} | {show.conditions(side)}"
        lines.append(f"| {what} | {off.seconds:.1f} s | {on.seconds:.1f} s | {decibel} |")
    return "\n".join([*lines, *said_lines(cell for _, cells in shown for cell in cells)])


def said_lines(cells: Iterable[Cell]) -> list[str]:
    """What techniques had to say, each sentence once, as paragraphs below a table."""
    said = dict.fromkeys(sentence for cell in cells for sentence in cell.said)
    return [line for sentence in said for line in ("", sentence)]


def caption(cell: Cell) -> str:
    """One line for below a picture."""
    decibel = f", {cell.psnr:.1f} dB" if math.isfinite(cell.psnr) else ""
    return f"{cell.seconds:.1f} s, L2 {cell.l2:.3f}{decibel}"


def ablation_table(rows: Sequence[AblationRow]) -> str:
    """One line per level and mode, each figure but the parts of agreement with its standard error."""
    lines = []
    for r in rows:
        parts = [f"{r.parts[name]:.2f}" if name in (r.parts or ()) else "-" for name in AGREEMENTS]
        lines.append([(WHOLE | MODES)[r.mode], r.level, with_error(r.accuracy, r.accuracy_error, 2),
                      with_error(r.l2, r.l2_error, 2), agreement_of(r), *parts])  # fmt: skip
    return markdown_table(["self-attention", "levels", "all right", "latent L2", "agreement", *AGREEMENTS], lines)


def agreement_of(row: JudgedRow) -> str:
    """Mean and standard error, in brackets of how many pictures; of fewer than `LEAST` neither says anything."""
    if row.agreement_pictures < LEAST:
        return f"- ({row.agreement_pictures})"
    return f"{with_error(row.agreement, row.agreement_error, 2)} ({row.agreement_pictures})"


def _error(values: Sequence[float] | None) -> float | None:
    """Standard error of the mean; None where there are too few."""
    return mean_and_error(values)[1] if values is not None and len(values) > 1 else None


def with_error(value: float, error: float | None, digits: int) -> str:
    """A figure and its standard error, where that is known."""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")
