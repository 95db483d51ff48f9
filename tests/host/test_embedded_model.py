"""The embedded model in the real webui: put there by install-model, it draws there what it draws in the lab."""

import base64
import io

import numpy
import pytest
from PIL import Image

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import checkpoint
from lib_attn.lab.drawing.embedded import EMBEDDED, MODELS
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.judging.geometry import cut_outs
from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.host.server import ROOT, Webui, with_embedded_model
from tests.host.test_pictures import grid

PROMPT = "a red sphere, grey background"
ALLOWED = 2.0  # mean difference out of 255


@pytest.fixture(scope="module")
def folder(webui_folder, tmp_path_factory):
    """A folder that is the webui but for its models, which are its own."""
    return with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")


@pytest.fixture(scope="module")
def own_webui(folder, webui_python, tmp_path_factory):
    webui = Webui(folder, webui_python, tmp_path_factory.mktemp("data") / "data", folder / "models/Stable-diffusion",
                  {"attention-lab": ROOT}, ui=False)  # fmt: skip
    yield webui
    webui.stop()


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(EMBEDDED)


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a"])
def test_same_picture_as_in_the_lab(own_webui, model, sampler):
    assert [m["model_name"] for m in own_webui.call("/sdapi/v1/sd-models")] == [EMBEDDED.stem]
    asked = Request((PROMPT,), (7,), height=256, width=256, steps=20, cfg=5.0, sampler=sampler)
    answer = own_webui.picture(prompt=PROMPT, negative_prompt="", steps=20, sampler_name=sampler, cfg_scale=5,
                               width=256, height=256, seed=7)  # fmt: skip
    theirs = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(answer.encoded[0]))).convert("RGB"))
    mine = numpy.asarray(decode(model, sample(model, asked))[0])
    assert abs(theirs.astype(float) - mine).mean() < ALLOWED
    seen = Judge.load(JUDGE).look(theirs[None])[0][0]
    assert len(seen.objects) == 1 and seen.background == "grey"


@pytest.mark.parametrize(
    "changes", [{"file": "embedded-thin"}, {"choose": "fixed", "channels": 16}], ids=["file", "weights"]
)
def test_thin_queries_and_keys(own_webui, changes):
    """One job with it and one without, which is as before; the text under the picture brings it back."""
    asked = {"prompt": PROMPT, "negative_prompt": "", "steps": 4, "width": 256, "height": 256, "seed": 7}
    fields = {"enabled": True, "when": "always", "blocks": "all", "energy": 0.9, **changes}
    before = own_webui.picture(**asked)
    thin = own_webui.picture({"thin_qk": fields}, **asked)
    assert thin.pixels != before.pixels == own_webui.picture(**asked).pixels
    text = thin.parameters["Attn thin-qk"]
    assert ("file: embedded-thin#" in text) == ("file" in changes)
    assert "Attention Lab" not in before.parameters and "is not used" not in thin.texts[0]
    assert own_webui.picture(infotext=thin.texts[0], **asked).pixels == thin.pixels


def test_a_sweep_without_a_page(own_webui):
    """A server with --nowebui has the axes too; every cell is the picture drawn alone."""
    asked = {"prompt": PROMPT, "negative_prompt": "", "steps": 6, "width": 256, "height": 256, "seed": 7}
    swept = grid(own_webui, x=("[Attn] Preset", "All off,Every 2nd step"), **asked)
    skipped = {"step_skip": {"enabled": True, "key_every": 2.0}}
    assert swept.pixels[1:3] == [own_webui.picture(*settings, **asked).pixels[0] for settings in ((), (skipped,))]
    assert swept.pixels[1] != swept.pixels[2]


def test_the_model_of_512_px_draws_there_what_it_draws_in_the_lab(folder, webui_python, tmp_path_factory):
    """The webui has it whole; the lab completes it from the file beside it."""
    assert cli.main(["install-model", "--webui", str(folder), "--model", "reference-512"]) == 0
    webui = Webui(folder, webui_python, tmp_path_factory.mktemp("larger") / "data", folder / "models/Stable-diffusion",
                  {"attention-lab": ROOT}, ui=False)  # fmt: skip
    try:
        webui.call("/sdapi/v1/options", {"sd_model_checkpoint": "reference-512.safetensors"})
        asked = Request((PROMPT,), (7,), height=512, width=512, steps=10, cfg=5.0, sampler="DDIM")
        fields = {"prompt": PROMPT, "negative_prompt": "", "steps": 10, "sampler_name": "DDIM", "cfg_scale": 5,
                  "width": 512, "height": 512, "seed": 7}  # fmt: skip
        answer = webui.picture(**fields)
        thin = {"enabled": True, "when": "always", "blocks": "all", "energy": 0.9, "file": "reference-512-thin"}
        thinned = webui.picture({"thin_qk": thin}, **fields)
        first = webui.picture({"thin_qk": thin | {"file": "embedded-thin"}}, **fields)
        underdrawn = webui.picture({"depth_guide": {"enabled": True}}, **fields)
        again = webui.picture(**fields)
    finally:
        webui.stop()
    # Its own file of thin queries and keys acts; the first model's is refused, and the picture is as without.
    assert "file: reference-512-thin#" in thinned.parameters["Attn thin-qk"] and "is not used" not in thinned.texts[0]
    assert thinned.pixels != answer.pixels == first.pixels and "is not used" in first.texts[0]
    # Its own map blocks are the only ones that fit: what they draw is a map of one thing, and the model is as it was.
    assert "file: reference-512-depth#" in underdrawn.parameters["Attn depth-guide"]
    picture, drawn = (
        numpy.asarray(Image.open(io.BytesIO(base64.b64decode(e))).convert("RGB")) for e in underdrawn.encoded
    )
    assert len(cut_outs(drawn)) == 1 and len(Judge.load(JUDGE).look(picture[None])[0][0].objects) == 1
    assert underdrawn.pixels[0] != answer.pixels[0] == again.pixels[0]
    theirs = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(answer.encoded[0]))).convert("RGB"))
    mine = numpy.asarray(decode(*_drawn(MODELS["reference-512"], asked))[0])
    assert abs(theirs.astype(float) - mine).mean() < ALLOWED
    assert len(Judge.load(JUDGE).look(theirs[None])[0][0].objects) == 1


def _drawn(file, asked):
    model = checkpoint.load(file)
    return model, sample(model, asked)
