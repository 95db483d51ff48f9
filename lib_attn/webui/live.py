"""Answers the panel's script: what the present values will do in the job that the page would start."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib_attn.learned.files import Loader
from lib_attn.presets import Presets
from lib_attn.preview import passes_of, preview
from lib_attn.settings import TECHNIQUES, Settings
from lib_attn.techniques.facts import Facts, Said, Sentence, no_controlnet, sentence
from lib_attn.unet.profile import Profile

PICTURES = {p.key for technique in TECHNIQUES for p in technique.all_params() if p.kind == "picture"}
MAX_TEXT = 20000  # characters of a question


@dataclass(frozen=True)
class Surroundings:
    """What the page's program knows at the moment.

    profile: of the loaded model. recorded: prompt, width, height and mib of the recorded run, None without one.
    clear: drops the recorded run. files: loads learned files. controlnet, keeps, fitting: see `Facts`. latest: gives
    what the button beside a parameter fills in, by the parameter's key; empty when there is nothing yet.
    """

    profile: Profile | None = None
    recorded: Mapping[str, Any] | None = None
    clear: Callable[[], None] | None = None
    files: Loader = field(default_factory=Loader)
    controlnet: Callable[[Any], Sentence | None] = no_controlnet
    latest: Callable[[str], str] = lambda key: ""
    keeps: Callable[[str, str], bool] = lambda name, wanted: True
    fitting: Callable[[str], Sequence[str]] = lambda kind: ()


class Live:
    """Takes and gives JSON; never raises on what a page sends."""

    def __init__(self, presets: Presets | None, surroundings: Callable[[], Surroundings]):
        self._presets, self._surroundings = presets, surroundings

    def clear(self, text: Any) -> str:
        """Drop the recorded run, then answer."""
        clear = self._surroundings().clear
        if clear is not None:
            clear()
        return self.answer(text)

    def answer(self, text: Any) -> str:
        """Sentences for what the script sees.

        Args:
            text: JSON with ``values`` by parameter key, ``pictures``: [width, height] by parameter key, ``preset``,
                ``batch``, ``negative`` and the numbers that `lib_attn.preview.passes_of` takes.
        """
        asked = _read(text)
        given = asked.get("values") if isinstance(asked.get("values"), dict) else {}
        pictures = _sizes(asked.get("pictures"))
        settings, _ = Settings.read(given | dict.fromkeys(pictures, "on the page"))
        around = self._surroundings()
        facts = Facts(
            passes=passes_of(asked),
            batch=_whole(asked.get("batch")),
            profile=around.profile,
            negative=asked["negative"] if isinstance(asked.get("negative"), bool) else None,
            recorded=around.recorded is not None,
            files=around.files,
            pictures=pictures,
            controlnet=around.controlnet,
            keeps=around.keeps,
            fitting=around.fitting,
        )
        found = preview(settings, facts)
        for technique in TECHNIQUES:
            named = {p.name: given[p.key] for p in technique.params() if p.key in given}
            found.techniques[technique.name].warnings[:0] = map(sentence, technique.read(named)[1])
        answer: dict[str, Any] = {
            "general": _plain(found.general),
            "techniques": {name: _plain(said) for name, said in found.techniques.items()},
            "active": [[group.name, group.label] for group in settings.active()],
            "recorded": dict(around.recorded) if around.recorded is not None else None,
        }
        if self._presets is not None:
            answer["names"] = self._presets.names()
            answer["changed"] = self._presets.changed(asked.get("preset"), settings)
        return json.dumps(answer, ensure_ascii=False)


def _read(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) <= MAX_TEXT else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _sizes(value: Any) -> dict[str, tuple[int, int]]:
    """Sizes of pictures by key; (0, 0) where the page does not know."""
    found = {}
    for key in PICTURES & set(value if isinstance(value, dict) else ()):
        size = value[key]
        sides = size if isinstance(size, list) and len(size) == 2 else (0, 0)
        found[key] = tuple(side if type(side) is int and 0 < side < 1 << 20 else 0 for side in sides)
    return found


def _whole(value: Any) -> int:
    try:
        return max(1, min(int(float(value)), 1000))
    except (TypeError, ValueError, OverflowError):
        return 1


def _plain(said: Said) -> dict[str, Any]:
    return {
        "lines": [s.to_dict() for s in said.lines],
        "warnings": [s.to_dict() for s in said.warnings],
        "idle": said.idle,
    }
