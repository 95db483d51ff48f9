"""Learning in the host: a job that draws pictures and makes a file of them, by the page and by the API."""

import base64
import dataclasses
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests import damaged
from tests.learn.a_learner import LEARNER
from tests.unets import snapshot
from tests.webui.jobs import Job, Model, Sampler, run

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")
gr = pytest.importorskip("gradio", reason="the page needs gradio (pip install gradio==3.41.2)")
fastapi = pytest.importorskip("fastapi", reason="the route needs fastapi")

ASKED = {
    "kind": "means", "name": "mine", "prompts": "a cat\n\n  a dog  \n", "options": {"factor": 2},
    "pictures": {"count": 3, "steps": 2, "width": 128, "height": 64},
}  # fmt: skip
LOOK = dataclasses.replace(LEARNER, look=True)


def picture(colour="red", size=(96, 64), kind="PNG"):
    """A picture as a program sends it."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


OWN = {
    "kind": "means", "name": "mine", "options": {"factor": 2}, "caption": "a fox",
    "init_images": [
        picture("red"), picture("green", (70, 300), "JPEG"), "data:image/webp;base64," + picture("blue", kind="WEBP")
    ],
    "pictures": {"width": 128, "height": 128},
}  # fmt: skip


class Host:
    """The host's drawing, reduced: notes what is drawn; `event(number)` may press a button while a picture is drawn."""

    def __init__(self, fake):
        self.fake, self.drawn, self.event = fake, [], lambda number: None
        self.passes, self.shown = 0, []

    def process_images(self, p):
        if "sample" in vars(p):
            return self._process_own(p)
        (script,) = p.scripts.alwayson_scripts
        assert p.do_not_save_samples and p.do_not_save_grid and fake_length(p, script) == 1
        p.sampler = Sampler(self.fake, self.fake.script_callbacks, steps=p.steps, event=lambda step: self._step(step))
        p.comments, p.extra_generation_params, p.seeds, p.is_hr_pass = {}, {}, [p.seed], False
        run(script, p, *p.script_args[script.args_from : script.args_to])
        self.drawn.append((p.prompt, p.seed))
        self.fake.shared.state.job_no += 1

    def _process_own(self, p):
        """What the host does around a job's own ``sample``."""
        with torch.no_grad():
            (given,) = p.sample(
                conditioning=torch.ones(1, 8, 16), unconditional_conditioning=None, seeds=[p.seed], subseeds=[0],
                subseed_strength=0, prompts=[p.prompt],
            )  # fmt: skip
        assert given.shape == (3, p.height, p.width) and given.abs().max() <= 1
        self.drawn.append((p.prompt, p.width, p.height, given.mean((1, 2)).round().tolist()))
        self.fake.shared.state.job_no += 1

    def apply_model(self, x, timesteps, cond):
        assert not torch.is_inference_mode_enabled(), "the host could not change what it keeps of the weights then"
        self.shown.append((float(timesteps), tuple(x.shape), float(x.std())))
        self._step(len(self.shown) % 8)
        assert cond["c_concat"][0] is x
        return self.fake.shared.sd_model.unet(x, timesteps, context=cond["c_crossattn"][0])

    def encode(self, values, model):
        assert values.shape[:2] == (1, 3) and 0 <= values.min() and values.max() <= 1
        latent = torch.nn.functional.avg_pool2d(values, 8)
        latent = torch.cat([latent, latent[:, :1]], 1)
        return latent + 0.01 * torch.randn(latent.shape)  # as the host's VAE does

    def _step(self, step):
        if step == 1:
            self.passes += 1
            self.event(self.passes)


def fake_length(p, script):
    return len(p.script_args[script.args_from : script.args_to])


@pytest.fixture
def learning(host, script_module, monkeypatch, tmp_path):
    """The module, in a host with folders of its own and one kind of file to learn."""
    from lib_attn.learn import run as runs
    from lib_attn.webui import learn_tab, learning

    for module in (runs, learning, learn_tab):
        monkeypatch.setattr(module, "learners", lambda: {"means": LOOK})
    monkeypatch.setattr(runs, "AT_MOST", 1e9)
    monkeypatch.setattr(host.paths, "models_path", str(tmp_path / "models"))
    monkeypatch.setattr(learning, "UNFINISHED", str(tmp_path / "unfinished"))
    host.shared.sd_model = Model()
    drawing = Host(host)
    monkeypatch.setattr(host.processing, "process_images", drawing.process_images)
    monkeypatch.setattr(host.sd_samplers_common, "images_tensor_to_samples", drawing.encode)
    host.shared.sd_model.apply_model = drawing.apply_model
    monkeypatch.setattr(host.processing, "StableDiffusionProcessingTxt2Img", lambda **fields: Processing(fields))
    host.scripts.scripts_txt2img.alwayson_scripts = [
        SimpleNamespace(title=lambda: "Another"), _placed(script_module.AttentionLab())
    ]  # fmt: skip
    host.shared.state.begin()
    before = snapshot(host.shared.sd_model.unet)
    learning.drawing = drawing
    yield learning
    assert snapshot(host.shared.sd_model.unet) == before
    del learning.drawing


def _placed(script):
    script.args_from, script.args_to = 7, 40
    return script


class Processing(Job):
    def __init__(self, fields):
        super().__init__(**fields)

    def close(self):
        pass

    def txt2img_image_conditioning(self, x):
        return x


def made(host):
    from lib_attn.webui.host import files

    return files.load("means", "mine")


def test_a_file_is_learned_with_the_hosts_own_drawing(learning, host):
    (said,) = learning.learn(ASKED)
    assert said.startswith("mine is learned, from 3 pictures in ") and said.endswith(" s.")
    assert learning.drawing.drawn == [("a cat", 1), ("a dog", 2), ("a cat", 3)]
    file = made(host)
    assert file.about["learned"]["options"]["factor"] == 2.0 and file.about["learned"]["pictures"]["width"] == 128
    assert os.listdir(learning.UNFINISHED) == []
    assert host.shared.state.job_count == 3 and host.shared.state.textinfo == "Learning from what was seen"


def test_positive_and_negative_are_told_apart(learning, host, monkeypatch):
    from lib_attn.learn import run as runs

    seen = []
    learner = LEARNER.__class__(
        **{**vars(LEARNER), "learn": lambda c, o, layers: (seen.append(c), LEARNER.learn(c, o, layers))[1]}
    )
    monkeypatch.setattr(runs, "learners", lambda: {"means": learner})
    learning.learn(ASKED)
    key = list(seen[0].shapes)[-1]
    signs = [seen[0].moment(key, "q", sign=sign) for sign in (0, 1)]
    assert all(s.any() for s in signs) and not torch.equal(*signs)
    assert set(seen[0].tokens(key)["sign"].tolist()) == {0, 1}


@pytest.mark.parametrize("button", ["interrupted", "skipped"])
def test_an_interrupted_run_goes_on_without_loss(learning, host, button):
    learning.learn(ASKED | {"name": "whole"})
    learning.drawing.passes = 0
    learning.drawing.event = lambda number: setattr(host.shared.state, button, number == 2)
    assert learning.learn(ASKED) == ["Interrupted: 1 of 3 pictures are kept. The same again goes on from there."]
    assert not os.path.exists(os.path.join(host.paths.models_path, "attention-lab", "mine.safetensors"))
    learning.drawing.event, learning.drawing.drawn = lambda number: None, []
    host.shared.state.begin()
    assert learning.learn(ASKED)[0].startswith("mine is learned")
    assert learning.drawing.drawn == [("a dog", 2), ("a cat", 3)]
    from lib_attn.webui.host import files

    whole = files.load("means", "whole").tensors
    assert whole.keys() == made(host).tensors.keys()
    assert all(torch.equal(value, made(host).tensors[name]) for name, value in whole.items())


def test_stopping_after_the_present_picture_keeps_it(learning, host):
    learning.drawing.event = lambda number: setattr(host.shared.state, "stopping_generation", True)
    assert learning.learn(ASKED)[0].startswith("Interrupted: 1 of 3")
    host.shared.state.begin()
    learning.drawing.event, learning.drawing.drawn = lambda number: None, []
    learning.learn(ASKED)
    assert learning.drawing.drawn == [("a dog", 2), ("a cat", 3)]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"kind": "other"}, "The kind is one of means"),
        ({"kind": None}, "The kind is one of means"),
        ({"name": ""}, "The file to make needs a name$"),
        ({"name": " "}, "The file to make needs a name$"),
        ({"name": "../mine"}, "The name of the file"),
        ({"name": "/tmp/mine"}, "The name of the file"),
        ({"name": "a\0b"}, "The name of the file"),
        ({"name": 3}, "The name of the file"),
        ({"path": "/tmp"}, "There is no field path"),
        ({"prompts": 3}, "Prompts are a text"),
        ({"prompts": [1]}, "Prompts are a text"),
        ({"prompts": ["x" * 2001]}, "There may be 1000 prompts"),
        ({"prompts": "x\n" * 1001}, "There may be 1000 prompts"),
        ({"pictures": {"count": "many"}}, "Pictures is a number from 1 to 1000, not 'many'$"),
        ({"pictures": {"count": 10**9}}, "Pictures is a number from 1 to 1000, not 1000000000$"),
        ({"pictures": {"layers": "nowhere"}}, "Layers is not understood: 'nowhere' is no block"),
        ({"pictures": {"layers": "out99"}}, "This model has no attention in the layers out99"),
        ({"pictures": [1]}, "Pictures and options are told as dictionaries"),
        ({"options": {"factor": float("nan")}}, "Factor is a number from .* not nan$"),
        ({"options": {"path": "x"}}, "Means has no parameter 'path'"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_one_sentence_and_nothing_is_drawn(learning, changes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        learning.learn(ASKED | changes)
    assert learning.drawing.drawn == []


def test_what_is_asked_is_a_dictionary(learning):
    with pytest.raises(ValueError, match="dictionary of named fields"):
        learning.learn([1])


def test_a_file_is_replaced_only_where_that_is_wanted(learning, host):
    learning.learn(ASKED)
    with pytest.raises(ValueError, match="There is a learned file mine already"):
        learning.learn(ASKED)
    first = made(host)
    learning.learn(ASKED | {"options": {"factor": 3}, "replace": True})
    assert made(host).hash != first.hash


def test_a_file_of_another_kind_is_not_replaced_either(learning, host):
    from lib_attn.learned.files import save
    from lib_attn.webui.host import own_folder

    save(Path(own_folder(), "mine.safetensors"), "other", {}, {"family": "other", "layers": {}})
    with pytest.raises(ValueError, match="There is a learned file mine already"):
        learning.learn(ASKED)


def test_an_unfinished_run_of_other_values_is_begun_anew(learning, host):
    learning.drawing.event = lambda number: setattr(host.shared.state, "interrupted", number == 2)
    learning.learn(ASKED)
    host.shared.state.begin()
    learning.drawing.event, learning.drawing.drawn = lambda number: None, []
    anew, learned = learning.learn(ASKED | {"options": {"factor": 7}})
    assert anew.endswith("it was begun anew.") and "from 3 pictures" in learned and len(learning.drawing.drawn) == 3


def test_folders_of_learned_files(learning, host, tmp_path, monkeypatch):
    """The host's own, then the one that the user has set."""
    from lib_attn.learned.files import save
    from lib_attn.webui.host import files, own_folder

    for folder, names in ((own_folder(), ("a", "b")), (tmp_path / "mine", ("b", "c"))):
        for number, name in enumerate(names):
            about = {"family": "other", "layers": {f"IN{number:02d}.0": 1}}
            save(Path(folder, f"{name}.safetensors"), "means", {}, about)
    assert files.folders().names("means") == ["a", "b"]
    monkeypatch.setattr(host.shared.opts, "attention_lab_files", f" {tmp_path / 'mine'} ", raising=False)
    assert files.folders().names("means") == ["a", "b", "c"]
    assert files.load("means", "b").layers == {"IN01.0": 1}, "not the first folder's"


def test_our_own_prompts_where_there_are_none(learning):
    from lib_attn.learn.run import PROMPTS

    learning.learn(ASKED | {"prompts": " \n"})
    assert [prompt for prompt, _ in learning.drawing.drawn] == list(PROMPTS[:3])


def test_an_unsupported_model_is_said(learning, host):
    host.shared.sd_model = SimpleNamespace(unet=host.shared.sd_model.unet)
    with pytest.raises(ValueError, match="Nothing can be learned: this model has no U-Net"):
        learning.learn(ASKED)
    host.sd_unet.current_unet = object()
    with pytest.raises(ValueError, match="SD Unet setting"):
        learning.learn(ASKED)


def test_what_the_job_says_ends_the_run(learning, host, monkeypatch):
    """A picture of which nothing could be seen is no picture to learn from."""
    draw = learning.drawing.process_images

    def process_images(p):
        draw(p)
        p.comment("Attention Lab did nothing: another extension is in the way.")

    monkeypatch.setattr(host.processing, "process_images", process_images)
    with pytest.raises(ValueError, match="^Attention Lab did nothing: another extension is in the way$"):
        learning.learn(ASKED)


def test_a_file_that_cannot_be_written_is_said(learning, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="cannot be written: No space left on device"):
        learning.learn(ASKED)


def test_one_picture_is_no_pictures(learning):
    one = OWN | {"init_images": OWN["init_images"][:1]}
    assert learning.learn(one)[0].startswith("mine is learned, from one picture in ")


def test_a_file_is_learned_from_own_pictures(learning, host):
    from lib_attn.learn.shown import TIMESTEPS

    before = torch.random.get_rng_state()
    assert learning.learn(OWN)[0].startswith("mine is learned, from 3 pictures in ")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert learning.drawing.drawn == [
        ("a fox", 128, 128, [1, -1, -1]), ("a fox", 64, 256, [-1, 0, -1]), ("a fox", 128, 128, [-1, -1, 1])
    ]  # fmt: skip
    assert [time for time, *_ in learning.drawing.shown] == [*TIMESTEPS] * 3
    assert [shape for _, shape, _ in learning.drawing.shown[::8]] == [(1, 4, 16, 16), (1, 4, 32, 8), (1, 4, 16, 16)]
    noise = [std for *_, std in learning.drawing.shown[:8]]
    assert noise == sorted(noise) and noise[-1] == pytest.approx(1, abs=0.1), "more noise at higher timesteps"
    about = made(host).about["learned"]
    assert about["pictures"]["count"] == 3 and about["pictures"]["width"] == 128
    assert host.shared.state.job_count == 3 and host.shared.state.sampling_step == 8


def test_other_own_pictures_make_another_file(learning, host):
    learning.learn(OWN)
    first = made(host)
    learning.learn(OWN | {"replace": True})
    assert all(torch.equal(value, made(host).tensors[name]) for name, value in first.tensors.items())
    learning.learn(OWN | {"replace": True, "init_images": OWN["init_images"][::-1]})
    assert not all(torch.equal(value, made(host).tensors[name]) for name, value in first.tensors.items())


@pytest.mark.parametrize("button", ["interrupted", "skipped", "stopping_generation"])
def test_an_interrupted_run_over_own_pictures_goes_on_without_loss(learning, host, button):
    learning.learn(OWN | {"name": "whole"})
    learning.drawing.passes, learning.drawing.drawn, learning.drawing.shown = 0, [], []
    learning.drawing.event = lambda number: setattr(host.shared.state, button, number == 2)
    # The second picture is given up, but for "stop after the present one".
    kept = 2 if button == "stopping_generation" else 1
    assert learning.learn(OWN) == [f"Interrupted: {kept} of 3 pictures are kept. The same again goes on from there."]
    host.shared.state.begin()
    learning.drawing.event, learning.drawing.drawn = lambda number: None, []
    assert learning.learn(OWN)[0].startswith("mine is learned") and len(learning.drawing.drawn) == 3 - kept
    from lib_attn.webui.host import files

    whole = files.load("means", "whole").tensors
    assert all(torch.equal(value, made(host).tensors[name]) for name, value in whole.items())


@pytest.mark.parametrize("change", [{"caption": "a dog"}, {"init_images": [picture()] * 3}])
def test_an_unfinished_run_over_other_pictures_is_begun_anew(learning, host, change):
    learning.drawing.event = lambda number: setattr(host.shared.state, "interrupted", number == 2)
    learning.learn(OWN)
    host.shared.state.begin()
    learning.drawing.event, learning.drawing.drawn = lambda number: None, []
    assert learning.learn(OWN | change)[0].endswith("it was begun anew.") and len(learning.drawing.drawn) == 3


CUT = base64.b64encode(base64.b64decode(picture("red", (300, 300), "JPEG"))[:600]).decode()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"init_images": []}, "There are no pictures to learn from"),
        ({"init_images": "x"}, "The field init_images is a list"),
        ({"init_images": [3]}, "The field init_images is a list"),
        ({"init_images": [picture(), "nonsense"]}, "Picture 2 cannot be read: PNG, JPEG"),
        ({"init_images": ["", picture()]}, "Picture 1 cannot be read"),
        ({"init_images": ["/etc/passwd"]}, "Picture 1 cannot be read"),
        ({"init_images": ["http://127.0.0.1/x.png"]}, "Picture 1 cannot be read"),
        ({"init_images": [base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode()]}, "Picture 1 cannot be read"),
        ({"init_images": [CUT]}, "Picture 1 cannot be read"),
        ({"init_images": [damaged.jpeg()]}, "Picture 1 cannot be read"),
        ({"init_images": [picture(size=(9000, 8000))]}, "Picture 1 is too large: 64 million pixels at most"),
        ({"init_images": [picture()] * 1001}, "There may be 1000 pictures at most"),
        ({"caption": 3}, "The caption is a text"),
        ({"caption": "x" * 2001}, "The caption is a text"),
        ({"pictures": {"width": 1}}, "Width is a number from 64 to 2048, not 1$"),
    ],
)  # fmt: skip
def test_own_pictures_that_are_not_understood_are_one_sentence(learning, changes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        learning.learn(OWN | changes)
    assert learning.drawing.drawn == []


def test_a_technique_without_a_look_is_not_learned_from_own_pictures(learning, monkeypatch):
    monkeypatch.setattr(learning, "learners", lambda: {"means": LEARNER})
    with pytest.raises(ValueError, match="^Means is learned from pictures that the model draws"):
        learning.learn(OWN)


def test_a_unet_in_place_of_the_models_own_ends_the_run(learning, host):
    """The host puts it in place when a job begins."""
    process = learning.drawing._process_own
    learning.drawing._process_own = lambda p: (setattr(host.sd_unet, "current_unet", object()), process(p))
    with pytest.raises(ValueError, match="SD Unet setting"):
        learning.learn(OWN)


def client(learning, *dependencies, guarded=True):
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()
    if guarded:
        app.add_api_route(learning.GUARDED, lambda: {}, methods=["POST"], dependencies=list(dependencies))
    learning.add_route(None, app)
    return TestClient(app)


def test_the_route_learns_and_answers(learning, host):
    answer = client(learning).post(learning.ROUTE, json=ASKED)
    assert answer.status_code == 200 and answer.json()["info"].startswith("mine is learned")
    assert made(host).tensors and host.shared.state.job == ""
    again = client(learning).post(learning.ROUTE, json=ASKED)
    assert again.status_code == 422
    assert again.json()["detail"] == "There is a learned file mine already: choose another name, or Replace."
    assert client(learning).post(learning.ROUTE, json=[1]).status_code == 422
    assert client(learning).get(learning.ROUTE).status_code == 405


def test_the_route_has_the_hosts_guard(learning):
    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPBasic, HTTPBasicCredentials

    def guard(credentials: HTTPBasicCredentials = Depends(HTTPBasic())):  # noqa: B008
        if credentials.password != "right":
            raise HTTPException(status_code=401)

    page = client(learning, Depends(guard))
    for auth in (None, ("user", "wrong")):
        assert page.post(learning.ROUTE, json=ASKED, auth=auth).status_code == 401
    assert learning.drawing.drawn == []
    assert page.post(learning.ROUTE, json=ASKED, auth=("user", "right")).status_code == 200


def test_without_the_hosts_api_there_is_no_route(learning):
    assert client(learning, guarded=False).post(learning.ROUTE, json=ASKED).status_code == 404


@pytest.fixture
def tab(learning):
    from lib_attn.webui import learn_tab

    ((blocks, title, ident),) = learn_tab.build()
    assert (title, ident) == ("Attention Lab", "attention_lab")
    return blocks


def components(blocks):
    return {c.elem_id: c for c in blocks.blocks.values() if getattr(c, "elem_id", None)}


def test_the_page_has_a_control_for_everything(tab):
    from lib_attn.learn.run import Pictures

    found = components(tab)
    names = ["kind", "name", "source", "prompts", "own", "caption", "replace", "start", "stop", "said", "progress"]
    names += [f"{p.technique}_{p.name}" for g in (Pictures, LEARNER.options) for p in g.params()]
    assert {f"attention_lab_learn_{name}" for name in names} <= found.keys()
    labels = [c.label for c in found.values() if getattr(c, "label", None)]
    assert len(labels) == len(set(labels))
    assert not [c for c in tab.blocks.values() if isinstance(c, (gr.File, gr.UploadButton))], "no path from the page"


def test_the_page_learns(tab, learning, host):
    start = next(d for d in tab.dependencies if d["js"] == "attentionLab.learn")
    inputs = [tab.blocks[i] for i in start["inputs"]]
    values = [getattr(c, "value", None) for c in inputs]
    learn = tab.fns[tab.dependencies.index(start)].fn
    given = {"name": "mine", "prompts": "a cat", "pictures_count": 2, "means_factor": 5.0}
    for i, control in enumerate(inputs):
        name = (control.elem_id or "").removeprefix("attention_lab_learn_")
        values[i] = given.get(name, values[i])
    (said,) = learn(*values)
    assert "mine is learned, from 2 pictures" in said and made(host).about["learned"]["options"]["factor"] == 5.0
    (said,) = learn(*values)
    assert "There is a learned file mine already" in said and "<script" not in said


def test_the_page_learns_from_own_pictures(tab, learning, host):
    from lib_attn.webui.learn_tab import TEXTS

    start = next(d for d in tab.dependencies if d["js"] == "attentionLab.learn")
    inputs = [tab.blocks[i] for i in start["inputs"]]
    learn = tab.fns[tab.dependencies.index(start)].fn
    given = {"name": "mine", "source": TEXTS["own"], "caption": "a fox", "pictures_width": 128, "pictures_height": 128}
    values = [given.get((c.elem_id or "").removeprefix("attention_lab_learn_"), c.value) for c in inputs]
    assert "There are no pictures to learn from" in learn(*values)[0]
    values[1] = json.dumps(OWN["init_images"])
    assert "mine is learned, from 3 pictures" in learn(*values)[0] and len(learning.drawing.drawn) == 3
    values[1] = "no JSON"
    assert "script" not in learn(*values)[0] and len(learning.drawing.drawn) == 3


def test_the_page_shows_what_belongs_to_the_source(tab):
    from lib_attn.webui.learn_tab import TEXTS

    changes = [d for d in tab.dependencies if len(d["inputs"]) == 2 and len(d["outputs"]) == 4]
    assert len(changes) == 2
    show = tab.fns[tab.dependencies.index(changes[0])].fn
    for source, drawn in ((TEXTS["drawn"], True), (TEXTS["own"], False)):
        assert [update["visible"] for update in show("Means", source)] == [True, True, drawn, not drawn]


def test_interrupt_presses_the_hosts_button(tab, host):
    (stop,) = [d for d in tab.dependencies if not d["inputs"] and not d["outputs"] and not d["js"]]
    tab.fns[tab.dependencies.index(stop)].fn()
    assert host.shared.state.interrupted and not stop["queue"]


def test_without_anything_to_learn_there_is_no_tab(learning, monkeypatch):
    from lib_attn.webui import learn_tab

    monkeypatch.setattr(learn_tab, "learners", dict)
    assert learn_tab.build() == []
