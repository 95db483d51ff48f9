"""Tables of the parts of ``bench negative``, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from lib_attn.lab.measuring.cost import CostRow
from lib_attn.lab.measuring.negative.cases import SKIP
from lib_attn.lab.measuring.negative.effect import EffectRow
from lib_attn.lab.measuring.negative.estimate import EstimateRow
from lib_attn.lab.measuring.negative.mix import GROUP, MixRow
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.markdown import markdown_table, percent


def cost_table(results: Sequence[CostRow]) -> str:
    """Time and arithmetic against two rows, and against one."""
    rows = []
    for r in results:
        rows.append([f"{r.width}x{r.height}", r.name, f"{r.seconds:.3g}", f"{r.ratio:.3f}x",
                     f"{r.low:.2f} … {r.high:.2f}", f"{r.macs_ratio:.4f}x" if r.macs_ratio is not None else "-",
                     f"{100 * (r.one_row - 1):+.1f} %" if r.one_row is not None else "-",
                     f"{100 * (r.macs_one_row - 1):+.2f} %" if r.macs_one_row is not None else "-"])  # fmt: skip
    head = ("size", "case", "seconds an evaluation", "time / CFG", "range", "arithmetic / CFG", "time over one row",
            "arithmetic over one row")  # fmt: skip
    return markdown_table(head, rows)


def estimate_table(results: Sequence[EstimateRow]) -> str:
    """Deviation from full guidance, beside that of a copy with as many rows."""
    copies: dict[float, float] = {}
    for r in results:
        if r.settings.get(f"{SKIP}fill") == "copy":
            # Of two copies with as many rows the closer one counts.
            copies[round(r.rows, 3)] = min(r.l2, copies.get(round(r.rows, 3), r.l2))
    rows = []
    for r in results:
        copy = copies.get(round(r.rows, 3))
        share = f"{r.l2 / copy:.2f}" if copy else "-"
        each = r.l2_all or [r.l2]
        l2, furthest = "{:.3f} ± {:.3f}".format(*mean_and_error(each)), f"{max(each):.3f}"
        rows.append([r.name, f"{r.rows:.3f}", f"{1 / r.rows:.2f}x", l2, furthest, share])
    head = ("case", "rows computed", "fewer rows", "latent L2", "furthest picture", "L2 / copy's")
    return markdown_table(head, rows)


def effect_table(results: Sequence[EffectRow]) -> str:
    """How much of the named colour and how often the prompt is seen."""
    rows, plain = [], {}
    for r in results:
        # A technique is compared with the same guidance without it, which comes before it.
        without = plain.get(r.cfg, plain.get(r.base))
        change = "-"
        if without is not None:
            pairs = zip(r.areas, without.areas, strict=True)
            change = _change([100 * (own - other) for own, other in pairs], 1, " points")
        if r.plain:
            plain[r.cfg] = r
        rows.append([r.name, *(percent(getattr(r, share)) for share in ("named", "control")), f"{100 * r.area:.1f} %",
                     f"{100 * r.area_control:.1f} %", change,
                     *(percent(getattr(r, share)) for share in ("prompt", "shape", "background"))])  # fmt: skip
    head = ("case", "named colour seen", "seen, another named", "area of it", "area, another named", "area, change",
            "prompt right", "shape", "background")  # fmt: skip
    return markdown_table(head, rows)


def _change(differences: Sequence[float], digits: int, unit: str = "") -> str:
    """Mean of differences with its standard error."""
    mean, error = mean_and_error(differences)
    return f"{round(mean, digits) + 0.0:+.{digits}f} ± {error:.{digits}f}{unit}"  # + 0.0: a rounded 0 has no minus


def _closer(row: MixRow, first: MixRow, name: str, digits: int) -> str:
    """How much more than in `first` a figure with the own source differs from that with another source.

    Pictures with the same source are not independent, so the error is that of the groups' means.
    """
    gains = [[a - b for a, b in zip(r.all[name], r.all[f"{name}_control"], strict=True)] for r in (row, first)]
    change = [a - b for a, b in zip(*gains, strict=True)]
    groups = [change[i : i + GROUP - 1] for i in range(0, len(change), GROUP - 1)]
    return _change([mean_and_error(group)[0] for group in groups], digits)


def mix_table(results: Sequence[MixRow]) -> str:
    """What pictures take from the first of their batch: layout, then look."""
    first, layout, look = results[0], [], []
    for r in results:

        def closer(name, digits, r=r):
            return "-" if r is first else _closer(r, first, name, digits)

        right = [percent(getattr(r, name)) for name in ("colour", "shape", "other_colour", "other_shape")]
        overlaps = [f"{getattr(r, name):.3f}" for name in ("overlap", "overlap_control")]
        layout.append([r.name, *overlaps, closer("overlap", 3), *right])
        seen = [percent(getattr(r, name)) for name in ("agree", "agree_control")]
        distances = [f"{getattr(r, name):.0f}" for name in ("distance", "distance_control")]
        look.append([r.name, *seen, *distances, closer("distance", 0), percent(r.open_shape)])
    head = ("case", "overlap with source", "with another", "nearer than off", "colour right", "shape right",
            "colour right, shapes differ", "shape right, shapes differ")  # fmt: skip
    second = ("case", "colour as source", "as another", "distance to source", "to another", "nearer than off",
              "shape right")  # fmt: skip
    parts = ["Layout; colours are named and differ within a batch:", markdown_table(head, layout),
             "Look; colours are left open:", markdown_table(second, look)]  # fmt: skip
    return "\n\n".join(parts)
