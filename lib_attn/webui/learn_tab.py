"""The tab "Attention Lab" of the webui: learning files from pictures that the loaded model draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from modules import call_queue, shared

from lib_attn.learn.learners import Learner, learners
from lib_attn.learn.run import PROMPTS, Pictures
from lib_attn.webui import host, learning, panel
from lib_attn.webui.preset_actions import sentences

PREFIX = "attention_lab_learn_"
TEXTS = {
    "about": "Draws pictures with the loaded model and learns from what its attention sees meanwhile. The file is put "
    "into the folder attention-lab among the models.",
    "kind": "What to learn",
    "name": "Name of the file to make",
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
    return [(tab, learning.TITLE, "attention_lab")]


def _lay_out(known: Mapping[str, Learner], page: panel.Page) -> None:
    labels, groups, controls = {learner.label: kind for kind, learner in known.items()}, [], []
    with gr.Row(elem_classes=["attention-lab-learn"]):
        with gr.Column():
            gr.HTML(sentences([TEXTS["about"]]))
            kind = gr.Radio(list(labels), value=next(iter(labels)), label=TEXTS["kind"], elem_id=page.id("kind"))
            for learner in known.values():
                with gr.Group(visible=not groups) as group:
                    gr.HTML(sentences([learner.about]))
                    controls += _controls(learner.options, page)
                groups.append(group)
            name = gr.Textbox(label=TEXTS["name"], max_lines=1, elem_id=page.id("name"))
            replace = gr.Checkbox(False, label=TEXTS["replace"], elem_id=page.id("replace"))
        with gr.Column():
            prompts = gr.Textbox(
                label=TEXTS["prompts"], placeholder=TEXTS["no_prompts"], lines=6, elem_id=page.id("prompts")
            )
            # Read by the browser, so that no file of the server can be meant.
            gr.HTML(
                f'<label class="attention-lab-load"><span>{TEXTS["load"]}</span> '
                '<input type="file" accept=".txt,text/plain" onchange="attentionLab.load(this)"></label>'
            )
            pictures = _controls(Pictures, page)
            with gr.Row():
                start = gr.Button(TEXTS["learn"], variant="primary", elem_id=page.id("start"))
                stop = gr.Button(TEXTS["interrupt"], elem_id=page.id("stop"))
            # The host puts its bar beside what it is given, at the top of what holds that.
            with gr.Column(elem_classes=["attention-lab-progress"]):
                gr.HTML("", elem_id=page.id("progress"))
            said = gr.HTML("", elem_id=page.id("said"))
    task = gr.Textbox("", visible=False)

    def learn(task: str, label: str, name: str, prompts: str, replace: bool, *values: Any) -> list[str]:
        told = iter(values)
        read = {
            group.name: {p.name: next(told) for p in group.params()}
            for group in (Pictures, *(learner.options for learner in known.values()))
        }
        asked = {"kind": labels.get(label), "name": name, "prompts": prompts, "replace": replace}
        asked |= {"pictures": read[Pictures.name], "options": read.get(labels.get(label))}
        try:
            return [sentences(learning.learn(asked))]
        except ValueError as error:
            return [sentences([error])]

    kind.change(lambda label: [gr.update(visible=label == each) for each in labels], [kind], groups, queue=False)
    start.click(
        call_queue.wrap_gradio_gpu_call(learn, extra_outputs=[]),
        [task, kind, name, prompts, replace, *pictures, *controls], [said], _js="attentionLab.learn",
    )  # fmt: skip
    start.click(lambda: "", [], [said], queue=False, show_progress="hidden")
    stop.click(lambda: shared.state.interrupt(), [], [], queue=False)


def _controls(group: Any, page: panel.Page) -> list[Any]:
    params, found = group.params(), []
    for pair in (params[i : i + 2] for i in range(0, len(params), 2)):
        with gr.Row(elem_classes=["attention-lab-row"]):
            found += [panel.control(group, param, page) for param in pair]
    return found
