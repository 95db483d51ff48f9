"""The panel, made from the settings schema.

Works in the host and in a plain gradio page; what differs (the accordion with a switch in its header) is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lib_attn.presets import Presets
from lib_attn.settings import GROUPS, General, Group, Param, Settings, positional_params
from lib_attn.webui.api import read_args

SHARED = ("blocks", "start", "end", "hires")  # fields that every technique has, and so would every label
ADVANCED = "Advanced"
TEXTS = {
    "preset": "Preset",
    "apply": "Apply preset",
    "own": "My presets",
    "name": "Preset name",
    "save": "Save preset",
    "delete": "Delete preset",
}


@dataclass
class Panel:
    """The panel's controls by parameter key."""

    controls: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> list[Any]:
        """The controls in the frozen order of the positional API."""
        return [self.controls[p.key] for p in positional_params()]


def label(group: type[Group], param: Param) -> str:
    """The control's label, unique in the panel and the same for ever: the host's ui-config.json goes by it."""
    return f"{group.label}: {param.label}" if param.name in SHARED else param.label


def info(param: Param) -> str:
    """The sentence below the control."""
    return f"{param.help} Unit: {param.unit}." if param.unit else param.help


@contextmanager
def plain_switch(value: bool, label: str, elem_id: str):
    """Stand-in for the host's InputAccordion: an accordion with its switch as the first control."""
    with gr.Accordion(label, open=value, elem_id=elem_id):
        yield gr.Checkbox(value, label=label, elem_id=f"{elem_id}-checkbox")


def build(
    *,
    elem_id: Callable[[str], str],
    switch: Callable[..., Any] = plain_switch,
    presets: Presets | None = None,
) -> Panel:
    """Lay out all controls inside the current gradio context.

    Args:
        elem_id: gives the page's id for one of our names.
        switch: ``switch(value, label=…, elem_id=…)``, a context manager that yields the on/off control.
        presets: shown when given.
    """
    panel = Panel()
    techniques = [group for group in GROUPS if group is not General]
    with _switch(panel, General, elem_id, switch):
        choose = _preset_row(elem_id, presets) if presets is not None else None
        for group in techniques:
            with _switch(panel, group, elem_id, switch):
                _technique(panel, group, elem_id)
        _rows(panel, General, [p for p in General.params() if p.name != "enabled"], elem_id)
        if presets is not None:
            _own_presets(panel, choose, elem_id, presets)
    return panel


@contextmanager
def _switch(panel: Panel, group: type[Group], elem_id: Callable[[str], str], switch: Callable[..., Any]):
    param = next(p for p in group.params() if p.name == "enabled")
    with switch(param.default, label=param.label, elem_id=elem_id(group.name)) as control:
        panel.controls[param.key] = control
        yield


def _technique(panel: Panel, group: type[Group], elem_id: Callable[[str], str]) -> None:
    params = [p for p in group.params() if p.name != "enabled"]
    gr.HTML(f'<p class="attention-lab-about">{group.about}</p>', elem_id=elem_id(f"{group.name}_about"))
    basic = [p for p in params if not p.advanced]
    # What every technique has stands in the same rows everywhere: start beside end.
    _rows(panel, group, [p for p in basic if p.name not in SHARED], elem_id)
    _rows(panel, group, [p for p in basic if p.name in SHARED], elem_id)
    gr.HTML('<p class="attention-lab-live" aria-live="polite"></p>', elem_id=elem_id(f"{group.name}_live"))
    with gr.Accordion(ADVANCED, open=False, elem_id=elem_id(f"{group.name}_advanced")):
        _rows(panel, group, [p for p in params if p.advanced], elem_id)


def _rows(panel: Panel, group: type[Group], params: Iterable[Param], elem_id: Callable[[str], str]) -> None:
    params = list(params)
    for pair in (params[i : i + 2] for i in range(0, len(params), 2)):
        with gr.Row(elem_classes=["attention-lab-row"]):
            for param in pair:
                panel.controls[param.key] = _control(group, param, elem_id)


def _control(group: type[Group], param: Param, elem_id: Callable[[str], str]) -> Any:
    shared = {
        "value": param.default,
        "label": label(group, param),
        "info": info(param),
        "elem_id": elem_id(f"{group.name}_{param.name}"),
    }
    if param.kind == "bool":
        return gr.Checkbox(**shared)
    if param.kind in ("int", "float"):
        return gr.Slider(minimum=param.low, maximum=param.high, step=param.step, **shared)
    if param.kind == "choice":
        many = len(param.choices) > 4
        return (gr.Dropdown if many else gr.Radio)(choices=list(param.choices), **shared)
    return gr.Textbox(placeholder=param.default, max_lines=1, **shared)


def _transient(component: Any) -> Any:
    """Keep the host from storing a passing value in its ui-config.json."""
    component.do_not_save_to_config = True
    return component


def _preset_row(elem_id: Callable[[str], str], presets: Presets) -> tuple[Any, Any]:
    with gr.Row(elem_classes=["attention-lab-presets"]):
        name = gr.Dropdown(
            presets.names(), value=presets.names()[0], label=TEXTS["preset"], elem_id=elem_id("preset"), scale=3
        )
        apply = gr.Button(TEXTS["apply"], elem_id=elem_id("preset_apply"), scale=1)
    return _transient(name), _transient(apply)


def _own_presets(panel: Panel, choose: tuple[Any, Any], elem_id: Callable[[str], str], presets: Presets) -> None:
    chosen, apply = choose
    with gr.Accordion(TEXTS["own"], open=False, elem_id=elem_id("own_presets")):
        with gr.Row(elem_classes=["attention-lab-presets"]):
            name = _transient(gr.Textbox(label=TEXTS["name"], max_lines=1, elem_id=elem_id("preset_name"), scale=3))
            save = _transient(gr.Button(TEXTS["save"], elem_id=elem_id("preset_save"), scale=1))
            delete = _transient(gr.Button(TEXTS["delete"], elem_id=elem_id("preset_delete"), scale=1))
    said = gr.Markdown("", elem_id=elem_id("preset_said"))
    controls = panel.inputs()
    actions = PresetActions(presets)
    apply.click(actions.apply, [chosen], [*controls, said], show_progress="hidden")
    save.click(actions.save, [name, *controls], [chosen, said], show_progress="hidden")
    delete.click(actions.delete, [name], [chosen, said], show_progress="hidden")


class PresetActions:
    """What the preset buttons do; each returns values for gradio and one sentence for the user."""

    def __init__(self, presets: Presets):
        self._presets = presets

    def apply(self, name: Any) -> list[Any]:
        try:
            settings, messages = self._presets.read(name)
        except ValueError as error:
            return [*(gr.update() for _ in positional_params()), _sentence(error)]
        return [*values(settings), " ".join(messages)]

    def save(self, name: Any, *args: Any) -> list[Any]:
        settings, _ = read_args(args)
        try:
            saved = self._presets.save(name, settings)
        except ValueError as error:
            return [gr.update(), _sentence(error)]
        return [gr.update(choices=self._presets.names(), value=saved), f"Saved {_plain(saved)}."]

    def delete(self, name: Any) -> list[Any]:
        try:
            deleted = self._presets.delete(name)
        except ValueError as error:
            return [gr.update(), _sentence(error)]
        names = self._presets.names()
        return [gr.update(choices=names, value=names[0]), f"Deleted {_plain(deleted)}."]


def values(settings: Settings) -> list[Any]:
    """The panel's values for `settings`, in the order of `Panel.inputs`."""
    flat = settings.flat()
    return [flat[p.key] for p in positional_params()]


def _sentence(error: Exception) -> str:
    return f"{_plain(str(error))}."


def _plain(text: str) -> str:
    """`text` without anything that Markdown or HTML would act on."""
    return "".join(c for c in text if c not in "<>[]`*_&\\")
