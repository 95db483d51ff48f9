"""Learning inside the host: pictures drawn, or the user's own ones shown to the model, one after the other as a job of
its own, with progress and interrupt.

What is learned of is handed in as plain JSON, by the page "Learn" or by an API client. Names are checked; nothing is a
path.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from fastapi import Body, HTTPException
from modules import call_queue, paths, processing, progress, scripts, shared

from lib_attn.learn import shown
from lib_attn.learn.learners import Learner, learners
from lib_attn.learn.run import PROMPTS, Pictures, Plan, Run
from lib_attn.learned.folders import SUFFIX
from lib_attn.names import is_learned
from lib_attn.unet.families import UnsupportedModel, find_layers
from lib_attn.webui import host, job, showing

ROUTE = "/attention-lab/v1/learn"
GUARDED = "/sdapi/v1/txt2img"  # a route of the host, whose guard is ours as well
OFF = {"enabled": False}
FIELDS = ("kind", "name", "prompts", "init_images", "caption", "pictures", "options", "replace")
MAX_PROMPTS, MAX_PROMPT = 1000, 2000
UNFINISHED = os.path.join(paths.data_path, "attention_lab", "unfinished")


def learn(asked: Any) -> list[str]:
    """Learn a file; the host's queue is held, and its state begun, by whoever calls.

    Args:
        asked: ``kind``, ``name`` of the file to make, ``prompts`` (lines of a text, or a list; without any a list of
            our own), ``init_images``: own pictures in base64 that are learned from instead, ``caption``: what is on
            them, ``pictures`` and ``options`` by name as their schema has them, ``replace``: whether there may be a
            file of this name already.

    Returns:
        sentences on the file, or on how far it came.

    Raises:
        ValueError: with one sentence, when something in `asked` is not understood or cannot be done.
    """
    kind, name, source, pictures, options = _read(asked)
    refusal = host.refusal()
    if refusal is not None:
        raise ValueError(refusal)
    model = host.current_model()
    try:
        layers = find_layers(model)
    except UnsupportedModel as error:
        raise ValueError(f"Nothing can be learned: {error}") from None
    own = source if isinstance(source, showing.Own) else None
    if own is None:
        plan = Plan(kind, pictures, options, source, host.checkpoint(model))
    else:
        plan = shown.plan_of(kind, own.names, options, own.caption, host.checkpoint(model), pictures)
    run = Run(plan, layers, Path(UNFINISHED, name + SUFFIX))
    told = ["An unfinished run of this name had other values: it was begun anew."] if run.dropped else []
    count = plan.pictures.count
    shared.state.job_count, shared.state.job_no = count, run.done
    for prompt, seed in run.pictures():
        number = run.done + 1
        shared.state.textinfo = f"Picture {number} of {count}"
        if not _pass(run, own, prompt, seed):
            kept = run.kept
            return [*told, f"Interrupted: {kept} of {count} pictures are kept. The same again goes on from there."]
        _keep(run.drawn)
    shared.state.textinfo = "Learning from what was seen"
    _keep(run.finish, _file(name))
    seconds = round(run.seconds)
    if count == 1:
        return [*told, f"{name} is learned, from one picture in {seconds} s."]
    return [*told, f"{name} is learned, from {count} pictures in {seconds} s."]


def _pass(run: Run, own: showing.Own | None, prompt: str, seed: int) -> bool:
    """Have the next picture pass through the model; False when the user has stopped it."""
    if shared.state.interrupted or shared.state.stopping_generation:
        return False
    return _draw(run, prompt, seed) if own is None else showing.show(run, own)


def _file(name: str) -> Path:
    return Path(host.own_folder(), name + SUFFIX)


def _keep(act: Any, *args: Any) -> Any:
    try:
        return act(*args)
    except ValueError as error:
        raise ValueError(f"What was learned cannot be kept: {error}") from None
    except OSError as error:
        raise ValueError(f"What was learned cannot be written: {error.strerror}") from None


def _read(asked: Any) -> tuple[str, str, tuple[str, ...] | showing.Own, Pictures, Any]:
    if not isinstance(asked, Mapping):
        raise ValueError("What is to be learned is told as a dictionary of named fields")
    for field in asked:
        if field not in FIELDS:
            field, fields = str(field)[:40], ", ".join(FIELDS)
            raise ValueError(f"There is no field {field}: there are {fields}")
    known, kind, name = learners(), asked.get("kind"), asked.get("name")
    if not isinstance(kind, str) or kind not in known:
        kinds = ", ".join(known)
        raise ValueError(f"The kind is one of {kinds}")
    if name is None or str(name).strip() == "":
        raise ValueError("The file to make needs a name")
    if not isinstance(name, str) or not is_learned(name.strip()):
        raise ValueError("The name of the file to make may have 60 letters, digits, spaces and . _ - + ' ( )")
    name = name.strip()
    if _file(name).exists() and asked.get("replace") is not True:
        raise ValueError(f"There is a learned file {name} already: choose another name, or Replace")
    return (
        kind,
        name,
        _own(asked, known[kind]) if "init_images" in asked else _prompts(asked.get("prompts")),
        *(
            _group(group, asked.get(field))
            for group, field in ((Pictures, "pictures"), (known[kind].options, "options"))
        ),
    )


def _own(asked: Mapping[str, Any], learner: Learner) -> showing.Own:
    if not learner.look:
        technique = learner.label
        raise ValueError(f"{technique} is learned from pictures that the model draws, not from init_images")
    caption = asked.get("caption") or ""
    if not isinstance(caption, str) or len(caption) > MAX_PROMPT:
        raise ValueError("The caption is a text of 2000 characters at most")
    return showing.read(asked["init_images"], caption)


def _prompts(given: Any) -> tuple[str, ...]:
    lines = given.splitlines() if isinstance(given, str) else given or []
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("Prompts are a text, one a line, or a list of texts")
    prompts = tuple(filter(None, map(str.strip, lines)))
    if len(prompts) > MAX_PROMPTS or any(len(prompt) > MAX_PROMPT for prompt in prompts):
        raise ValueError("There may be 1000 prompts of 2000 characters at most")
    return prompts or PROMPTS


def _group(group: Any, values: Any) -> Any:
    if not isinstance(values or {}, Mapping):
        raise ValueError("Pictures and options are told as dictionaries of named fields")
    read, messages = group.read(values or {})
    if messages:
        # Behind the colon stands what a picture would use instead; here nothing is learned.
        raise ValueError(messages[0].rpartition(": ")[0])
    return read


def _draw(run: Run, prompt: str, seed: int) -> bool:
    """Draw one picture as the host does; False when the user has stopped it."""
    pictures, state = run.plan.pictures, shared.state
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, prompt=prompt, seed=seed, steps=pictures.steps, cfg_scale=pictures.cfg,
        width=pictures.width, height=pictures.height, sampler_name="Euler a", scheduler="Automatic",
        do_not_save_samples=True, do_not_save_grid=True,
    )  # fmt: skip
    with closing(p):
        setattr(p, job.OBSERVERS, [run.capture.observer])
        p.scripts, p.script_args = _our_script(), [OFF]
        processing.process_images(p)
        told = [text for text in p.comments if host.TITLE in text]
    if told:
        raise ValueError(told[0].rstrip("."))
    return not (state.interrupted or state.skipped)


def _our_script() -> Any:
    """The host's runner of scripts, with ours alone: what else is on by default stays out of what is learned."""
    ours = copy.copy(next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == host.TITLE))
    ours.args_from, ours.args_to = 0, 1
    runner = scripts.ScriptRunner()
    runner.scripts = runner.alwayson_scripts = [ours]
    return runner


def add_route(_: Any, app: Any) -> None:
    """Add the route to the host's API, where it has one, behind the same guard as the host's own routes."""
    guarded = next((route for route in app.routes if getattr(route, "path", "") == GUARDED), None)
    if guarded is not None:
        app.add_api_route(ROUTE, answer, methods=["POST"], dependencies=guarded.dependencies)


def answer(asked: dict = Body(...)) -> dict[str, str]:  # noqa: B008
    """Learn for an API client: waits in the host's queue, like a picture."""
    task = progress.create_task_id("learn")
    progress.add_task_to_queue(task)
    with call_queue.queue_lock:
        shared.state.begin(job=task)
        progress.start_task(task)
        try:
            return {"info": " ".join(learn(asked))}
        except ValueError as error:
            raise HTTPException(status_code=422, detail=f"{error}.") from None
        finally:
            progress.finish_task(task)
            shared.state.end()
