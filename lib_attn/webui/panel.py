"""The panel, made from the settings schema.

Works in the host and in a plain gradio page; what differs (the accordion with a switch in its header, what is known
of the model, where the docs are) is handed in. `javascript/attention_lab.js` keeps it alive: it asks `Live` for the
sentences whenever a value moves. Without that script the panel works all the same, only silently.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lib_attn.learned.files import Loader
from lib_attn.presets import ALL_OFF, Presets
from lib_attn.settings import GROUPS, TECHNIQUES, General, Group, Param, positional_params
from lib_attn.webui.live import Live, Surroundings
from lib_attn.webui.preset_actions import CHOOSE, PresetActions, sentences, values

__all__ = ["Panel", "PresetActions", "build", "info", "plain_switch", "values"]

ADVANCED = "Advanced"
PICTURE = 160  # height of a place for a picture, in pixels
FOLD = ["attention-lab-fold"]  # accordions of the panel, which are low while they are folded
TEXTS = {
    "preset": "Preset",
    "about": CHOOSE,
    "all_off": ALL_OFF,
    "compare": "Compare off / on",
    "own": "My presets",
    "name": "Name for the present settings",
    "save": "Save preset",
    "delete": "Delete chosen preset",
    "reset": "Reset",
    "clear": "Clear recording",
    "general": "In general",
    "more": "What it is",
    "look": "Look again",
    "none": "There is none yet.",
}


@dataclass
class Panel:
    """The panel's controls by parameter key, and what shows its preset, see `preset_readers`."""

    controls: dict[str, Any] = field(default_factory=dict)
    preset: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> list[Any]:
        """The controls in the frozen order of the positional API."""
        return [self.controls[p.key] for p in positional_params()]


def info(param: Param) -> str:
    """The sentence below the control."""
    return param.help


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
    surroundings: Callable[[], Surroundings] = Surroundings,
    docs: Callable[[str], str] | None = None,
    files: Loader | None = None,
    start_with: Callable[[], str] = str,
    compare: bool = False,
) -> Panel:
    """Lay out all controls inside the current gradio context.

    Args:
        elem_id: gives the page's id for one of our names.
        switch: ``switch(value, label=…, elem_id=…)``, a context manager that yields the on/off control.
        presets: shown when given.
        surroundings: tells what is known of the model and the recorded run at the moment.
        docs: address of a page of the docs by its file's name.
        files: for the names of learned files.
        start_with: name of the preset that a freshly loaded page begins with, empty for none.
        compare: whether the page can draw the same seeds without and with; shows the button.
    """
    panel, page = Panel(), Page(elem_id, docs, files or Loader(), surroundings)
    general = [p for p in General.params() if p.name != "enabled"]
    master = General.params()[0]
    with switch(master.default, label=master.label, elem_id=elem_id(General.name)) as control:
        panel.controls[master.key] = control
        page.data()
        chosen = _presets_head(page, presets, compare) if presets is not None else None
        page.live(General.name)
        for group in TECHNIQUES:
            _technique(panel, group, page)
        with gr.Accordion(TEXTS["general"], open=False, elem_id=elem_id("general_advanced"), elem_classes=FOLD):
            _row(panel, General, general, page)
        wish = next(p for p in General.all_params() if p.transient)
        panel.controls[wish.key] = _transient(
            gr.Checkbox(False, label=wish.label, visible=False, elem_id=elem_id("compare"))
        )
        if chosen is not None:
            panel.preset = {"name": chosen.name, "about": chosen.about, "told": chosen.told}
            _preset_events(panel, chosen, page, presets, start_with)
        if compare and chosen is not None:
            _compare_events(chosen.compare, panel.controls[wish.key], page)
        _live_events(page, Live(presets, surroundings))
        page.forgets()
    return panel


class Page:
    """What all parts need to know of the page they are put on; see `build` for what is handed in."""

    def __init__(
        self,
        elem_id: Callable[[str], str],
        docs: Callable[[str], str] | None,
        files: Loader,
        surroundings: Callable[[], Surroundings] = Surroundings,
    ):
        self.id, self.docs, self._files, self._surroundings = elem_id, docs, files, surroundings
        self._answers: list[Any] = []

    @property
    def prefix(self) -> str:
        return self.id("")

    def data(self) -> None:
        """The schema for the script, which has no list of parameters of its own."""
        params = [
            {"key": p.key, "id": control_id(p, self.id), "reads": p.reads} for group in GROUPS for p in group.params()
        ]
        all_params = [p for group in GROUPS for p in group.all_params()]
        pictures = [{"key": p.key, "id": control_id(p, self.id)} for p in all_params if p.kind == "picture"]
        schema = {"prefix": self.prefix, "params": params, "pictures": pictures}
        data = html.escape(json.dumps(schema), quote=True)
        gr.HTML(f'<div class="attention-lab-data" hidden data-schema="{data}"></div>', elem_id=self.id("data"))

    def files(self, kind: str) -> list[str]:
        """Names of learned files of a kind, with the empty one for none."""
        return ["", *self._files.folders().names(kind)]

    def latest(self, key: str) -> tuple[Any, str]:
        """What the button beside a parameter fills in, and a sentence where there is nothing."""
        found = self._surroundings().latest(key)
        return found or gr.update(), "" if found else sentences([TEXTS["none"]])

    def live(self, name: str) -> Any:
        return gr.HTML('<div class="attention-lab-live" aria-live="polite"></div>', elem_id=self.id(f"{name}_live"))

    def applying(self, count: int, off: bool = False) -> tuple[str, str]:
        """What the script is told before Python is asked for the panel's values, and when they are there.

        Args:
            count: of inputs; gradio hands the script the outputs too.
        """
        prefix, script = json.dumps(self.prefix), "window.attentionLab && attentionLab"
        before = f"(...all) => {{ {script}.applying({prefix}, {json.dumps(off)}); return all.slice(0, {count}); }}"
        return before, f"() => {{ {script}.applied({prefix}); return []; }}"

    def hidden_button(self, name: str, *classes: str) -> Any:
        """A button for the script to press; gradio takes events from nothing that is not on the page."""
        button = gr.Button("", elem_id=self.id(name), elem_classes=["attention-lab-hidden", *classes])
        return _transient(button)

    def answer(self, name: str) -> Any:
        """A place for what a button has to say; it goes when something else is chosen or typed on the page."""
        self._answers.append(gr.HTML("", elem_id=self.id(name), elem_classes=["attention-lab-answer"]))
        return self._answers[-1]

    def forgets(self) -> None:
        """At the end of the page: the button by which the script clears the answers."""
        clear = f"() => {json.dumps([''] * len(self._answers))}"
        self.hidden_button("forget", "attention-lab-forget").click(None, [], self._answers, _js=clear)


def control_id(param: Param, elem_id: Callable[[str], str]) -> str:
    """The page's id of a parameter's control."""
    if param.name == "enabled":
        return f"{elem_id(param.technique)}-checkbox"
    return elem_id(f"{param.technique}_{param.name}")


def _technique(panel: Panel, group: type[Group], page: Page) -> None:
    params = [p for p in group.params() if p.name != "enabled"]
    enabled = group.params()[0]
    own: dict[str, Any] = {}
    with gr.Group(elem_classes=["attention-lab-technique"], elem_id=page.id(f"{group.name}_box")):
        panel.controls[enabled.key] = gr.Checkbox(
            enabled.default,
            label=enabled.label,
            container=False,
            elem_id=control_id(enabled, page.id),
            elem_classes=["attention-lab-switch"],
        )
        with gr.Accordion(group.label, open=False, elem_id=page.id(group.name), elem_classes=FOLD):
            gr.HTML(_about(group, page), elem_id=page.id(f"{group.name}_about"))
            basic = [p for p in params if not p.advanced]
            first = next(p for p in basic if p.kind in ("int", "float"))
            with gr.Row(elem_classes=["attention-lab-row"]):
                panel.controls[first.key] = own[first.key] = control(group, first, page)
                with gr.Column(elem_classes=["attention-lab-beside"]):
                    page.live(group.name)
                    reset = _transient(gr.Button(TEXTS["reset"], size="sm", elem_id=page.id(f"{group.name}_reset")))
            _row(panel, group, [p for p in basic if p is not first], page)
            if any(p.name == "record" for p in basic):
                _recorded(page, group)
            with gr.Accordion(ADVANCED, open=False, elem_id=page.id(f"{group.name}_advanced"), elem_classes=FOLD):
                given = [p for p in group.all_params() if p.kind == "picture"]
                advanced = [*(p for p in params if p.advanced), *given]
                for pair in (advanced[i : i + 2] for i in range(0, len(advanced), 2)):
                    _row(panel, group, pair, page)
    params += given
    controls = [panel.controls[p.key] for p in params]
    reset.click(lambda: [p.default for p in params], [], controls, show_progress="hidden")


def _about(group: type[Group], page: Page) -> str:
    link = ""
    if page.docs is not None:
        address = html.escape(page.docs(f"{group.name.replace('_', '-')}.md"), quote=True)
        link = f' <a href="{address}" target="_blank" rel="noopener">{TEXTS["more"]}</a>'
    return f'<p class="attention-lab-about"><span>{html.escape(group.about)}</span>{link}</p>'


def _recorded(page: Page, group: type[Group]) -> None:
    with gr.Row(elem_classes=["attention-lab-buttons"]):
        gr.HTML('<p class="attention-lab-recorded"></p>', elem_id=page.id("recorded"))
        _transient(
            gr.Button(
                TEXTS["clear"], size="sm", elem_id=page.id("recorded_clear"), elem_classes=["attention-lab-clear"]
            )
        )


def _row(panel: Panel, group: type[Group], params: Iterable[Param], page: Page) -> None:
    with gr.Row(elem_classes=["attention-lab-row"]):
        for param in params:
            panel.controls[param.key] = control(group, param, page)


def control(group: type[Group], param: Param, page: Page) -> Any:
    """The control of a parameter, put where one is on the page."""
    shared = {
        "value": param.default,
        "label": param.title,
        "info": info(param),
        "elem_id": control_id(param, page.id),
    }
    if param.kind == "bool":
        return gr.Checkbox(**shared)
    if param.kind in ("int", "float"):
        return gr.Slider(minimum=param.low, maximum=param.high, step=param.step, **shared)
    if param.kind == "choice":
        many = len(param.choices) > 4
        return (gr.Dropdown if many else gr.Radio)(choices=list(param.choices), **shared)
    if param.kind == "file":
        return _file(param, page, shared)
    if param.kind == "picture":
        help = shared.pop("info")
        with gr.Column():
            gr.HTML(sentences([help]))
            return _transient(Picture(height=PICTURE, **shared))
    if param.latest:
        return _text_with_latest(param, page, shared)
    return gr.Textbox(placeholder=param.default, max_lines=1, **shared)


def _text_with_latest(param: Param, page: Page, shared: dict[str, Any]) -> Any:
    """A text, and a button that fills in the latest value there is."""
    with gr.Column():
        text = gr.Textbox(placeholder=param.default, max_lines=1, **shared)
        button = _transient(gr.Button(param.latest, size="sm", elem_id=f"{shared['elem_id']}_latest"))
        said = page.answer(f"{param.technique}_{param.name}_said")
    button.click(lambda: page.latest(param.key), [], [text, said], queue=False, show_progress="hidden").then(
        None, [], [], _js="() => { attentionLab.updateSoon(); return []; }"
    )
    return text


def _file(param: Param, page: Page, shared: dict[str, Any]) -> Any:
    """A list of learned files, and a button that looks for them again. A pasted name that is not in it is shown too."""
    with gr.Row(elem_classes=["attention-lab-file"]):
        chosen = gr.Dropdown(choices=page.files(param.file), allow_custom_value=True, **shared)
        again = gr.Button(TEXTS["look"], size="sm", elem_id=f"{shared['elem_id']}_look", min_width=0)
    _transient(again).click(
        lambda: gr.update(choices=page.files(param.file)), [], [chosen], queue=False, show_progress="hidden"
    )
    return chosen


class Picture(gr.Image):
    """A picture that is handed on as it was put in, as base64: gradio itself would take 16 bits for 8."""

    def get_block_name(self) -> str:
        return "image"

    def preprocess(self, x: str | None) -> str:
        return x or ""

    def postprocess(self, y: str | None) -> str | None:
        return y or None


def _transient(component: Any) -> Any:
    """Keep the host from storing a passing value in its ui-config.json."""
    component.do_not_save_to_config = True
    return component


@dataclass
class _Chosen:
    """The controls of the preset part."""

    name: Any
    about: Any
    all_off: Any
    compare: Any
    own: Any
    save: Any
    delete: Any
    said: Any
    told: Any


def _presets_head(page: Page, presets: Presets, compare: bool) -> _Chosen:
    with gr.Row(elem_classes=["attention-lab-presets"]):
        name = gr.Dropdown(presets.names(), value=None, label=TEXTS["preset"], elem_id=page.id("preset"), scale=3)
        with gr.Row(elem_classes=["attention-lab-buttons"]):
            all_off = gr.Button(TEXTS["all_off"], size="sm", elem_id=page.id("all_off"))
            versus = gr.Button(TEXTS["compare"], size="sm", elem_id=page.id("compare_run")) if compare else None
    about = gr.HTML(sentences([TEXTS["about"]]), elem_id=page.id("preset_about"))
    told = page.answer("preset_told")
    with gr.Accordion(TEXTS["own"], open=False, elem_id=page.id("own_presets"), elem_classes=FOLD):
        with gr.Row(elem_classes=["attention-lab-presets"]):
            own = gr.Textbox(label=TEXTS["name"], max_lines=1, elem_id=page.id("preset_name"), scale=3)
            with gr.Row(elem_classes=["attention-lab-buttons"]):
                save = gr.Button(TEXTS["save"], size="sm", elem_id=page.id("preset_save"))
                delete = gr.Button(TEXTS["delete"], size="sm", elem_id=page.id("preset_delete"))
        said = page.answer("preset_said")
    for component in filter(None, (name, all_off, versus, own, save, delete)):
        _transient(component)
    return _Chosen(name, about, all_off, versus, own, save, delete, said, told)


def _preset_events(panel: Panel, chosen: _Chosen, page: Page, presets: Presets, start_with: Callable[[], str]) -> None:
    actions, controls = PresetActions(presets, start_with), panel.inputs()
    pending = gr.State("")
    quiet = {"show_progress": "hidden"}
    # Not `input`: the preset that is chosen already may be chosen again, to take back what was moved since.
    begin, end = page.applying(len(controls))
    chosen.name.select(actions.select, controls, [*controls, chosen.about, chosen.told], _js=begin, **quiet).then(
        None, [], [], _js=end
    )
    begin, _ = page.applying(len(controls), off=True)
    cleared = [*controls, chosen.name, chosen.about, chosen.told]
    chosen.all_off.click(actions.all_off, controls, cleared, _js=begin, **quiet).then(None, [], [], _js=end)
    told = [chosen.name, chosen.about, chosen.said]
    chosen.save.click(actions.save, [chosen.own, pending, *controls], [*told, pending], **quiet)
    chosen.delete.click(actions.delete, [chosen.name], told, **quiet)
    # For the script: the list anew, and what a freshly loaded page begins with.
    page.hidden_button("refresh").click(actions.refresh, [chosen.name], [chosen.name], queue=False, **quiet)
    page.hidden_button("start").click(
        actions.start, [chosen.name, *controls], [chosen.name, chosen.about, *controls], queue=False, **quiet
    )


def _live_events(page: Page, live: Live) -> None:
    """The script presses a button, hands in what it sees on the page and shows the answer."""
    asked, answer = (_transient(gr.Textbox(visible=False, elem_id=page.id(name))) for name in ("asked", "answer"))
    prefix = json.dumps(page.prefix)
    for name, act in (("ask", live.answer), ("clear", live.clear)):
        page.hidden_button(name).click(
            act, [asked], [answer], _js=f"() => attentionLab.ask({prefix})", queue=False, show_progress="hidden"
        ).then(None, [answer], [], _js=f"(text) => attentionLab.show({prefix}, text)")


def _compare_events(button: Any, wish: Any, page: Page) -> None:
    """Set the wish, start the job, take the wish back: the job has its values by then."""
    prefix = json.dumps(page.prefix)
    button.click(None, [], [wish], _js=f"() => attentionLab.compare({prefix})")
    page.hidden_button("compared").click(None, [], [wish], _js="() => false")
