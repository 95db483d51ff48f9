"""The page "Attention Lab" of the webui's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import shared

SECTION = ("attention_lab", "Attention Lab")
FILES = "attention_lab_files"
PRESET = "attention_lab_preset"
AXES = "attention_lab_axes"
INFOTEXT = "attention_lab_infotext"
NONE = "None"
BASIC, ALL = "basic", "all"
SHORT, FULL = "short", "full"

LABELS = {
    FILES: "Folder of learned files",
    PRESET: "Preset that a freshly loaded page begins with",
    AXES: "X/Y/Z axes",
    INFOTEXT: "What is written under a picture",
}
INFOS = {
    FILES: "looked at after the folder attention-lab among the models; empty: none",
    PRESET: "the master switch stays off until you switch it on",
    AXES: "basic: presets, switches and what stands above Advanced",
    INFOTEXT: "short: one entry a technique with the values that are not at their defaults; full: every value",
}


def add(names: Callable[[], list[str]]) -> None:
    """Make the page. `names` gives the presets when the page is drawn."""
    import gradio as gr

    def presets() -> dict[str, Any]:
        return {"choices": [NONE, *names()]}

    def radio(*choices: str) -> dict[str, Any]:
        return {"choices": list(choices)}

    kinds = {
        FILES: ("", None, None),
        PRESET: (NONE, gr.Dropdown, presets),
        AXES: (BASIC, gr.Radio, radio(BASIC, ALL)),
        INFOTEXT: (SHORT, gr.Radio, radio(SHORT, FULL)),
    }
    for key, (default, component, args) in kinds.items():
        option = shared.OptionInfo(default, LABELS[key], component, args, section=SECTION).info(INFOS[key])
        shared.opts.add_option(key, option.needs_reload_ui() if key == AXES else option)


def all_axes() -> bool:
    """Whether X/Y/Z shows an axis for every parameter."""
    return getattr(shared.opts, AXES, BASIC) == ALL


def full_infotext() -> bool:
    """Whether every parameter has a key of its own under a picture."""
    return getattr(shared.opts, INFOTEXT, SHORT) == FULL


def files_folder() -> str:
    """A folder of learned files beside the host's own; empty for none."""
    return str(getattr(shared.opts, FILES, "") or "").strip()


def first_preset() -> str:
    """Name of the preset that a page begins with, empty for none."""
    name = getattr(shared.opts, PRESET, NONE)
    return "" if name in (NONE, None) else name
