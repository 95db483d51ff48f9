"""Learning in the real webui, through its API: interrupted and gone on with, in the queue, and its files put to use."""

import base64
import io
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from lib_attn.learn.learners import learners
from lib_attn.learned.files import load
from lib_attn.learned.folders import Folders
from lib_attn.settings import GROUPS
from lib_attn.webui.xyz import label
from tests.host.server import Refused
from tests.host.test_pictures import grid

ROUTE = "/attention-lab/v1/learn"
PICTURES = {"count": 4, "steps": 12, "width": 128, "height": 128}
OPTIONS = {"dictionary": {"atoms": 8, "bank": 4, "samples": 512}}
USE = {
    "dictionary": {"mode": "static", "full_first": 0.0},
    "thin_qk": {"when": "always", "choose": "fixed", "channels": 4, "round_to": 4},
}


def asked(kind, name):
    options = OPTIONS.get(kind, {})
    return {"kind": kind, "name": name, "prompts": ["a cat", "a dog"], "pictures": PICTURES, "options": options}


def picture(colour, size=(200, 120)):
    """A picture with something on it, as a program sends it."""
    canvas, out = Image.new("RGB", size, colour), io.BytesIO()
    canvas.paste("white", (40, 30, 90, 80))
    canvas.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def own(name, **changes):
    """What is asked for a dictionary of four pictures."""
    pictures = [picture(colour) for colour in ("red", "orange", "brown", "yellow")]
    size = {"width": 128, "height": 128}
    more = {"options": OPTIONS["dictionary"], "pictures": size, "init_images": pictures, "caption": "a (cat:1.2)"}
    return {"kind": "dictionary", "name": name, **more, **changes}


def folder(webui):
    return Path(webui.data, "models", "attention-lab")


class Background(threading.Thread):
    """A call to the API beside the test; `answer` when it is done."""

    def __init__(self, webui, body):
        super().__init__(daemon=True)
        self._webui, self._body, self.answer = webui, body, None
        self.start()

    def run(self):
        self.answer = self._webui.call(ROUTE, self._body)

    def second_picture(self):
        """Wait until the second picture is being drawn."""
        while True:
            assert self.is_alive(), self.answer
            state = self._webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]
            if state["job_no"] >= 1 and state["job"]:
                assert state["job_count"] == PICTURES["count"]
                return
            time.sleep(0.02)


@pytest.mark.parametrize("kind", sorted(learners()))
def test_interrupted_and_gone_on_with_is_the_same_file(webui, kind):
    run = Background(webui, asked(kind, f"{kind} broken"))
    run.second_picture()
    webui.call("/sdapi/v1/interrupt", {})
    run.join(600)
    assert run.answer["info"].startswith("Interrupted: ")
    assert not (folder(webui) / f"{kind} broken.safetensors").exists()
    for name in ("broken", "whole"):
        info = webui.call(ROUTE, asked(kind, f"{kind} {name}"))["info"]
        assert info.startswith(f"{kind} {name} is learned, from 4 pictures in ")
    broken, whole = (load(f"{kind} {name}", kind, Folders([folder(webui)])) for name in ("broken", "whole"))
    assert broken.tensors.keys() == whole.tensors.keys() and whole.family == "other" and len(whole.layers) > 3
    assert all((broken.tensors[name] == value).all() for name, value in whole.tensors.items())
    assert whole.about["checkpoint"][0] == "a" and list(Path(webui.data, "attention_lab", "unfinished").iterdir()) == []


@pytest.mark.parametrize("kind", sorted(learners()))
def test_a_picture_with_the_file_and_without(webui, kind):
    name = f"{kind} used"
    webui.call(ROUTE, asked(kind, name) | {"replace": True})
    file = load(name, kind, Folders([folder(webui)]))
    plain, on = webui.picture(), {"enabled": True, "blocks": "all", **USE.get(kind, {})}
    drawn = webui.picture({kind: on | {"file": name}})
    assert f"file: {name}#{file.hash}" in drawn.texts[0] and drawn.pixels != plain.pixels
    again = webui.picture({kind: on | {"file": f"{name}#{file.hash}"}})
    assert again.pixels == drawn.pixels and "Attention Lab messages" not in again.texts[0]
    other = webui.picture({kind: on | {"file": f"{name}#0123456789"}})
    assert "is not the one that was asked for" in other.texts[0] and other.pixels == drawn.pixels
    for missing in ("gone", "gone#0123456789"):
        without = webui.picture({kind: on | {"file": missing}})
        assert "The learned file gone is not used" in without.texts[0] and without.pixels == plain.pixels


@pytest.mark.parametrize("checkpoint", ["a", "xl"])
def test_a_dictionary_of_own_pictures(webui, checkpoint):
    """Stopped and gone on with, in SD 1's layout and in SDXL's, and what it does to a picture."""
    with webui.options(sd_model_checkpoint=checkpoint, live_previews_enable=False):
        plain, names = webui.picture(), [f"{checkpoint} {name}" for name in ("broken", "whole")]
        run = Background(webui, own(names[0]))
        run.second_picture()
        webui.call("/sdapi/v1/interrupt", {})
        run.join(600)
        assert run.answer["info"].startswith("Interrupted: ")
        for name in names:
            assert webui.call(ROUTE, own(name))["info"].startswith(f"{name} is learned, from 4 pictures in ")
        broken, whole = (load(name, "dictionary", Folders([folder(webui)])) for name in names)
        assert all((broken.tensors[name] == value).all() for name, value in whole.tensors.items())
        assert (
            any(name.startswith("bank.") for name in whole.tensors) and whole.about["learned"]["pictures"]["count"] == 4
        )
        style = {"enabled": True, "mode": "full", "file": names[1], "strength": 1.0}
        drawn = webui.picture({"dictionary": style})
        assert drawn.pixels != plain.pixels and "Attention Lab messages" not in drawn.texts[0]
        assert webui.picture().pixels == plain.pixels, "nothing stays"
    if checkpoint == "xl":
        other = webui.picture({"dictionary": style})
        assert "it was learned for another kind of model" in other.texts[0]


@pytest.mark.parametrize("kind", sorted(learners()))
def test_a_grid_over_files(webui, kind):
    """X/Y/Z takes files by name; every cell is what its file draws alone."""
    axis = next(label(g, p) for g in GROUPS for p in g.params() if p.file == kind)
    names = [f"{kind} {name}" for name in ("broken", "whole")]
    for seed, name in enumerate(names, 5):
        body = asked(kind, name) | {"replace": True}
        webui.call(ROUTE, body | {"pictures": PICTURES | {"count": 1, "seed": seed}})
    on = {kind: {"enabled": True, "blocks": "all", **USE.get(kind, {})}}
    made = grid(webui, on, x=(axis, ",".join(names)))
    cells = made.pixels[1:3]
    assert cells[0] != cells[1]
    for cell, text, name in zip(cells, made.texts[1:3], names, strict=True):
        assert cell == webui.picture({kind: on[kind] | {"file": name}}).pixels[0] and f"file: {name}#" in text
    with pytest.raises(Refused):
        grid(webui, on, x=(axis, f"{names[0]},gone"))


def test_a_picture_waits_until_learning_is_done(webui):
    alone = webui.picture(steps=2)
    run = Background(webui, asked(sorted(learners())[0], "queued") | {"replace": True})
    run.second_picture()
    beside = webui.picture(steps=2)
    run.join(10)
    assert not run.is_alive() and "is learned" in run.answer["info"] and beside.pixels == alone.pixels


def test_what_is_refused_has_a_sentence(webui):
    bodies = (
        ({"kind": "thin_qk", "name": "../x"}, "The name of the file"), ({"kind": "x"}, "The kind"),
        (own("none", init_images=[]), "There are no pictures"),
        (own("bad", init_images=[picture("red"), "/etc/passwd"]), "Picture 2 cannot be read"),
    )  # fmt: skip
    for body, sentence in bodies:
        with pytest.raises(Refused, match=f"422 .*{sentence}"):
            webui.call(ROUTE, body)
