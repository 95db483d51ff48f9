"""The embedded model in the real webui: put there by install-model, it draws there what it draws in the lab."""

import base64
import io

import numpy
import pytest
from PIL import Image

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import checkpoint
from lib_attn.lab.drawing.embedded import EMBEDDED
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.host.server import Webui

PROMPT = "a red sphere, grey background"
ALLOWED = 2.0  # mean difference out of 255


@pytest.fixture(scope="module")
def folder(webui_folder, tmp_path_factory):
    """A folder that is the webui but for its models, which are its own."""
    folder = tmp_path_factory.mktemp("installed") / "webui"
    folder.mkdir()
    for entry in webui_folder.iterdir():
        if entry.name not in ("models", "outputs", "config.json", "ui-config.json"):
            (folder / entry.name).symlink_to(entry)
    assert cli.main(["install-model", "--webui", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def own_webui(folder, webui_python, tmp_path_factory):
    webui = Webui(folder, webui_python, tmp_path_factory.mktemp("data") / "data", folder / "models/Stable-diffusion",
                  {}, ui=False)  # fmt: skip
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
