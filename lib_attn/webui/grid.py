"""What is told of an X/Y/Z grid before its first cell is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
from modules import shared

from lib_attn.preview import steps_made, warnings_of
from lib_attn.settings import Settings
from lib_attn.techniques.facts import Facts, Pass
from lib_attn.webui import controlnet, host, xyz

#: Axes of the host that change what a technique can do, so that the panel's own numbers say nothing.
VARIES = ("CFG Scale", "Steps", "Size", "Hires steps", "Negative Guidance minimum sigma", "Checkpoint name")


def told(p: Any, settings: Settings, recorded: bool) -> list[str]:
    """Sentences for the first cell of a grid with axes of ours; they are shown at once as well.

    Args:
        settings: the panel's. recorded: whether there is a recorded run.
    """
    if getattr(p, xyz.GRID, None) is None:
        return []
    axes = [getattr(shared.state, f"xyz_plot_{name}", None) for name in "xyz"]
    known = not any(info is not None and info.axis.label in VARIES for info in axes)
    facts = facts_of(p, recorded)

    def reasons(made: Settings) -> Iterable[str]:
        if not known:
            return iter(())
        return (f"{label}: {warning}" for label, warning in warnings_of(made, facts, idle=True))

    found = xyz.tell_grid(p, settings, axes, reasons)
    for text in found:
        _show(text)
    return found


def facts_of(p: Any, recorded: bool) -> Facts:
    """What is known of job `p` before it is drawn. recorded: whether there is a recorded run to follow."""
    steps, cfg = int(getattr(p, "steps", 20) or 20), float(getattr(p, "cfg_scale", 7.0) or 7.0)
    return Facts(
        passes=tuple(_passes(p, steps, cfg)),
        batch=int(getattr(p, "batch_size", 1) or 1),
        profile=host.profile(),
        negative=bool(str(getattr(p, "negative_prompt", "")).strip()),
        recorded=recorded,
        files=host.files,
        controlnet=controlnet.lacking,
        fitting=host.fitting,
    )


def _passes(p: Any, steps: int, cfg: float) -> Iterator[Pass]:
    denoising = getattr(p, "denoising_strength", None)
    made = steps_made(steps, denoising) if getattr(p, "init_images", None) else steps
    first = Pass(int(getattr(p, "width", 512)), int(getattr(p, "height", 512)), made, cfg)
    yield first
    if getattr(p, "enable_hr", False):
        scale = float(getattr(p, "hr_scale", 2.0) or 2.0)
        width = int(getattr(p, "hr_resize_x", 0) or first.width * scale)
        height = int(getattr(p, "hr_resize_y", 0) or first.height * scale)
        again = steps_made(int(getattr(p, "hr_second_pass_steps", 0) or steps), denoising)
        yield replace(first, width=width, height=height, steps=again, hires=True)


def _show(text: str) -> None:
    """A note on the page, at once; a job that comes from no page has none."""
    try:
        gr.Warning(text)
    except Exception:
        host.log.info("Attention Lab: there is no page to show a note on.")
