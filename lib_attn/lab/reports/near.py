"""What a page shows of ``bench speed``, ``bench deviation`` and ``bench memory``."""

from __future__ import annotations

from collections.abc import Mapping

from lib_attn.lab.measuring.deviation import DeviationRow
from lib_attn.lab.measuring.memory import MemoryRow
from lib_attn.lab.measuring.speed import LABELS, SpeedRow
from lib_attn.lab.reports.tables import deviation_table, memory_table, speed_table
from lib_attn.lab.shared.markdown import markdown_table
from lib_attn.lab.shared.results import from_json


def speed_block(result: Mapping) -> str:
    """Seconds of a step, and of what memory it needed where that was measured too."""
    unit = "processor time" if result.get("clock") == "cpu" else "wall time"
    what = f"{LABELS[result['model']]} with random weights, {_rows(result)}, {result['machine']['device']}, "
    what += f"torch {result['machine']['torch']}, {unit}, median of {result['repeats']} interleaved repeats:"
    parts = [_command(result), what, speed_table([from_json(SpeedRow, row) for row in result["results"]])]
    if result.get("memory"):
        grown = [from_json(MemoryRow, row) for row in result["memory"]]
        parts += ["Peak memory of a cycle of steps on top of the weights:", memory_table(grown)]
    return "\n\n".join([*parts, *_settings(result)])


def deviation_block(result: Mapping) -> str:
    """How far the final latents are from those of full attention."""
    moved = [from_json(DeviationRow, row) for row in result["results"]]
    drawn = min(row.images for row in moved)  # fewer than asked for where a run was stopped
    what = f"{result['checkpoint']} (SHA-256 {result['sha256']}…), {drawn} picture{'' if drawn == 1 else 's'} a size, "
    what += f"seeds from {result['seed']}, {result['steps']} steps {result['sampler']}, CFG {result['cfg']:g}, "
    parts = [_command(result), f"{what}{result['precision']}, ± one standard error:", deviation_table(moved)]
    return "\n\n".join([*parts, *_settings(result)])


def memory_block(result: Mapping) -> str:
    """Bytes of tensors alive at once."""
    what = (
        f"{LABELS[result['model']]}, {_rows(result)}: most bytes of tensors alive at once on top of the weights, over "
        "a cycle of steps. Counted without computing, for a fused attention kernel; a kernel's own workspace is not "
        "in it."
    )
    rows = [from_json(MemoryRow, row) for row in result["results"]]
    return "\n\n".join([_command(result), what, memory_table(rows), *_settings(result)])


def _command(result: Mapping) -> str:
    return f"```\n{result['command']}\n```"


def _rows(result: Mapping) -> str:
    return f"{result['rows']} row{'' if result['rows'] == 1 else 's'}, {result['precision']}"


def _settings(result: Mapping) -> list[str]:
    """What our variants are: the parameters that are not at their defaults."""
    found = {row["label"]: row["settings"] for row in result["results"] if "settings" in row}
    rows = [[label, " ".join(f"{k}={v}" for k, v in own.items()) or "defaults"] for label, own in found.items()]
    return [markdown_table(["variant", "parameters that are not at their defaults"], rows)] if rows else []
