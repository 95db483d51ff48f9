"""The tab "Attention Lab" of the webui: learning files from pictures that the loaded model draws, or from own ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from modules import call_queue, shared

from lib_attn.learn.learners import Learner, learners
from lib_attn.learn.run import PROMPTS, Pictures
from lib_attn.webui import host, learning, panel
from lib_attn.webui.preset_actions import sentences

PREFIX = "attention_lab_learn_"
DRAWN = ("count", "steps", "cfg", "seed")  # of the pictures that are drawn, not of own ones
TEXTS = {
    "about": "Draws pictures with the loaded model, or shows it yours, and learns from what its attention sees "
    "meanwhile. The file is put into the folder attention-lab among the models.",
    "kind": "What to learn",
    "name": "Name of the file to make",
    "source": "Learn from",
    "drawn": "pictures that the model draws",
    "own": "my own pictures",
    "add": "Add pictures, or drop them here",
    "gallery": "Take those of the txt2img gallery",
    "clear": "Remove all",
    "caption": "What is on them",
    "no_caption": "Empty: the model is not told what is on them",
    "prompts": "Prompts, one a line",
    "no_prompts": f"Empty: a list of {len(PROMPTS)} prompts of many kinds",
    "load": "Prompts from a text file",
    "replace": "Replace a file of this name",
    "learn": "Learn",
    "interrupt": "Interrupt",
}


def build() -> list[tuple[Any, str, str]]:
    """For the host's tabs: none where there is nothing to learn."""
    known = learners()
    if not known:
        return []
    with gr.Blocks(analytics_enabled=False) as tab:
        _lay_out(known, panel.Page(lambda name: PREFIX + name, None, host.files))
    return [(tab, host.TITLE, "attention_lab")]


def _lay_out(known: Mapping[str, Learner], page: panel.Page) -> None:
    labels, groups, controls = {learner.label: kind for kind, learner in known.items()}, [], {}
    looks = [learner.label for learner in known.values() if learner.look]
    first = next(iter(labels))
    with gr.Row(elem_classes=["attention-lab-learn"]):
        with gr.Column():
            gr.HTML(sentences([TEXTS["about"]]))
            kind = gr.Radio(list(labels), value=first, label=TEXTS["kind"], elem_id=page.id("kind"))
            for learner in known.values():
                with gr.Group(visible=not groups) as group:
                    gr.HTML(sentences([learner.about]))
                    controls |= _controls(learner.options, page)
                groups.append(group)
            name = gr.Textbox(label=TEXTS["name"], max_lines=1, elem_id=page.id("name"))
            replace = gr.Checkbox(False, label=TEXTS["replace"], elem_id=page.id("replace"))
        with gr.Column():
            source = gr.Radio(
                [TEXTS["drawn"], TEXTS["own"]], value=TEXTS["drawn"], label=TEXTS["source"],
                visible=first in looks, elem_id=page.id("source"),
            )  # fmt: skip
            with gr.Group() as drawn:
                prompts = gr.Textbox(
                    label=TEXTS["prompts"], placeholder=TEXTS["no_prompts"], lines=6, elem_id=page.id("prompts")
                )
                gr.HTML(_load(TEXTS["load"], ".txt,text/plain", "load"))
                controls |= _controls(Pictures, page, DRAWN)
            with gr.Group(visible=False) as own:
                gr.HTML(_load(TEXTS["add"], "image/*", "own.add", many=True), elem_id=page.id("own"))
                with gr.Row():
                    gallery = gr.Button(TEXTS["gallery"], size="sm", elem_id=page.id("gallery"))
                    clear = gr.Button(TEXTS["clear"], size="sm", elem_id=page.id("clear"))
                caption = gr.Textbox(
                    label=TEXTS["caption"], placeholder=TEXTS["no_caption"], elem_id=page.id("caption")
                )
            controls |= _controls(Pictures, page, [p.name for p in Pictures.params() if p.name not in DRAWN])
            with gr.Row():
                start = gr.Button(TEXTS["learn"], variant="primary", elem_id=page.id("start"))
                stop = gr.Button(TEXTS["interrupt"], elem_id=page.id("stop"))
            # The host puts its bar beside what it is given, at the top of what holds that.
            with gr.Column(elem_classes=["attention-lab-progress"]):
                gr.HTML("", elem_id=page.id("progress"))
            said = page.answer("said")
    # The host's name of the job; own pictures in base64, as the browser has read them.
    task, images = gr.Textbox("", visible=False), gr.Textbox("[]", visible=False)

    def learn(
        task: str, images: str, label: str, name: str, source: str, prompts: str, caption: str, replace: bool,
        *values: Any,
    ) -> list[str]:  # fmt: skip
        told = dict(zip(controls, values, strict=True))
        asked = {"kind": labels.get(label), "name": name, "replace": replace}
        groups = {"pictures": Pictures.name, "options": asked["kind"]}
        asked |= {
            field: {key: value for (group, key), value in told.items() if group == wanted}
            for field, wanted in groups.items()
        }
        wants_own = label in looks and source == TEXTS["own"]
        try:
            own = {"init_images": json.loads(images), "caption": caption}
            return [sentences(learning.learn(asked | (own if wants_own else {"prompts": prompts})))]
        except ValueError as error:
            return [sentences([error])]

    def show(label: str, source: str) -> list[Any]:
        """What belongs to the kind and the source that are chosen."""
        wants_own = label in looks and source == TEXTS["own"]
        visible = [*(label == each for each in labels), label in looks, not wants_own, wants_own]
        return [gr.update(visible=each) for each in visible]

    for chooser in (kind, source):
        chooser.change(show, [kind, source], [*groups, source, drawn, own], queue=False, show_progress="hidden")
    gallery.click(None, [], [], _js="attentionLab.own.take")
    clear.click(None, [], [], _js="attentionLab.own.clear")
    start.click(
        call_queue.wrap_gradio_gpu_call(learn, extra_outputs=[]),
        [task, images, kind, name, source, prompts, caption, replace, *controls.values()], [said],
        _js="attentionLab.learn",
    )  # fmt: skip
    start.click(lambda: "", [], [said], queue=False, show_progress="hidden")
    stop.click(lambda: shared.state.interrupt(), [], [], queue=False)
    page.forgets()


def _load(text: str, accepts: str, function: str, many: bool = False) -> str:
    """What files are chosen with. They are read by the browser, so that no file of the server can be meant."""
    several = " multiple" if many else ""
    return (
        f'<label class="attention-lab-load"><span>{text}</span> '
        f'<input type="file" accept="{accepts}"{several} onchange="attentionLab.{function}(this)"></label>'
    )


def _controls(group: Any, page: panel.Page, names: Iterable[str] | None = None) -> dict[tuple[str, str], Any]:
    """Controls by group and parameter, of all parameters or of some; two a row."""
    params = [p for p in group.params() if names is None or p.name in names]
    found = {}
    for pair in (params[i : i + 2] for i in range(0, len(params), 2)):
        with gr.Row(elem_classes=["attention-lab-row"]):
            found |= {(group.name, param.name): panel.control(group, param, page) for param in pair}
    return found
