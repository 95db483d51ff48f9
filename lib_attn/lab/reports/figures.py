"""Figures in pages: whatever a page shows of a measurement is made of its result file, and a test holds both together.

Result files that pages show lie in docs/results. A page names one by a pair of marks, and everything between them is
written by ``python -m lib_attn.lab docs``::

    <!-- steps.json -->
    …
    <!-- /steps.json -->

What a result looks like is decided by its kind (`BLOCKS`). ``<!-- front.json: short -->`` asks for what fits among
other things on a first page (`SHORT`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from lib_attn.lab.reports import near, negative
from lib_attn.lab.reports.dictionary import look_block, shortcut_block
from lib_attn.lab.reports.front import front_block, front_short
from lib_attn.lab.reports.maps import choices_block, maps_block, maps_short
from lib_attn.lab.reports.scenes import ablation_block, renders_block, scenes_block
from lib_attn.lab.reports.steps import steps_block
from lib_attn.lab.reports.thin import thin_block
from lib_attn.lab.shared.errors import LabError

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "docs" / "results"

BLOCKS: dict[str, Callable[[Mapping], str]] = {
    "ablation": ablation_block,
    "scenes": scenes_block,
    "renders": renders_block,
    "steps": steps_block,
    "atoms": shortcut_block,
    "look": look_block,
    "thin": thin_block,
    "maps": maps_block,
    "choices": choices_block,
    "front": front_block,
    "speed": near.speed_block,
    "deviation": near.deviation_block,
    "memory": near.memory_block,
    **negative.BLOCKS,
}
"""Kind of a result: what a page shows of it, in Markdown."""

SHORT: dict[str, Callable[[Mapping], str]] = {"front": front_short, "maps": maps_short}

_NAME = r"[\w-]+\.json(?:: short)?"
_BLOCK = re.compile(rf"<!-- ({_NAME}) -->\n.*?<!-- /\1 -->", re.DOTALL)
_MARK = re.compile(rf"<!-- /?{_NAME} -->")


def pages() -> list[Path]:
    """Pages that may show figures."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str, results: Path = RESULTS) -> str:
    """`text` of a page with its figures as the result files have them.

    Raises:
        LabError: when a mark has no partner, or a result file is missing, damaged or of a kind that is not known.
    """
    if len(_MARK.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise LabError("A mark of a result file has no partner on this page, or stands inside a line.")
    return _BLOCK.sub(lambda found: _block(found[1], results), text)


def _block(name: str, results: Path) -> str:
    file, short, _ = name.partition(": short")
    try:
        result = json.loads((results / file).read_text(encoding="utf-8"))
        block = (SHORT if short else BLOCKS)[result["kind"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise LabError(f"{name} is no result file, or of a kind that pages do not show.") from None
    return f"<!-- {name} -->\n\n{block(result).strip()}\n\n<!-- /{name} -->"
