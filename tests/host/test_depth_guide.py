"""The underdrawing in the real webui: map and picture in one job, and nothing of it left on the model."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lib_attn.lab.judging.geometry import cut_outs, outline
from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.host.server import ROOT, Webui, with_embedded_model

ASKED = {"prompt": "a red cube, grey background", "negative_prompt": "", "steps": 20, "sampler_name": "DDIM",
         "cfg_scale": 5, "width": 256, "height": 256, "seed": 11}  # fmt: skip
ON = {"depth_guide": {"enabled": True, "file": "reference-depth"}}


@pytest.fixture(scope="module")
def webui(webui_folder, webui_python, tmp_path_factory):
    folder = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    started = Webui(folder, webui_python, tmp_path_factory.mktemp("data") / "data", folder / "models/Stable-diffusion",
                    {"attention-lab": ROOT, "probe": ROOT / "tests" / "host" / "probe"}, ui=False)  # fmt: skip
    yield started
    started.stop()


def pixels(answer):
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(e))).convert("RGB")) for e in answer.encoded]


def test_a_map_is_drawn_first_and_the_picture_follows_it(webui):
    (plain,) = pixels(webui.picture(**ASKED))
    answer = webui.picture(ON, **ASKED)
    picture, drawn = pixels(answer)
    assert picture.shape == drawn.shape == (256, 256, 3) and not np.array_equal(picture, plain)
    assert len(cut_outs(drawn)) == 1 and np.ptp(drawn, axis=-1).max() == 0
    assert "Attn depth-guide: " in answer.texts[0] and "Attn map hashes: " in answer.texts[0]
    verdicts, masks = Judge.load(JUDGE).look(np.stack([picture]))
    assert verdicts[0].objects == (("red", "cube"),)
    shown = outline(drawn).reshape(32, 8, 32, 8).mean((1, 3)) > 0.5
    assert (masks[0] & shown).sum() / (masks[0] | shown).sum() > 0.7
    assert np.array_equal(pixels(webui.picture(ON, **ASKED))[0], picture), "the same again, with the map that was kept"
    assert np.array_equal(pixels(webui.picture(**ASKED))[0], plain), "the model is as it was"


def test_each_picture_of_a_batch_has_its_map_and_can_be_made_alone(webui):
    both = pixels(webui.picture(ON, **ASKED | {"batch_size": 2}))
    assert len(both) == 4, "two pictures, two maps"
    alone = pixels(webui.picture(ON, **ASKED | {"seed": ASKED["seed"] + 1}))
    assert abs(alone[0].astype(float) - both[1]).mean() < 1.0
