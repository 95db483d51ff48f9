"""The map handed to the real sd-webui-controlnet: its own code reads the unit, loads the model and draws with it.

Its models are of true layout and random weights: a T2I-Adapter (TencentARC/T2I-Adapter), because that is the one kind
whose width ControlNet takes from the file, so that it fits the embedded model.
"""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_attn.learned.files import load, save
from lib_attn.learned.folders import SHIPPED, Folders
from tests.host.server import FLAGS, ROOT, Webui, with_embedded_model

NAME = "sd-webui-controlnet"
ASKED = {"prompt": "a red cube, grey background", "negative_prompt": "", "steps": 8, "sampler_name": "Euler",
         "cfg_scale": 5, "width": 256, "height": 256, "seed": 11}  # fmt: skip
ON = {"enabled": True, "file": "reference-depth", "guide": "ControlNet", "strength": 1.5, "until": 0.75, "map_steps": 5}
#: Width of the embedded model's U-Net.
WIDTH = 64


def adapter(seed):
    """Random weights of an adapter of two blocks a stage, as ControlNet builds it for SD 1.x."""
    generator = torch.Generator().manual_seed(seed)

    def weights(*shape):
        return torch.randn(shape, generator=generator) * (2.0 / np.prod(shape[1:])) ** 0.5

    tensors = {"conv_in.weight": weights(WIDTH, 3 * 64, 3, 3), "conv_in.bias": torch.zeros(WIDTH)}
    widths = [WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH]
    for stage, width in enumerate(widths):
        for number in range(2):
            block, before = f"body.{2 * stage + number}", widths[stage - 1] if stage and not number else width
            if before != width:
                tensors |= {f"{block}.in_conv.weight": weights(width, before, 1, 1)}
                tensors |= {f"{block}.in_conv.bias": torch.zeros(width)}
            for part, size in (("block1", 3), ("block2", 1)):
                tensors |= {f"{block}.{part}.weight": weights(width, width, size, size)}
                tensors |= {f"{block}.{part}.bias": torch.zeros(width)}
    return tensors


@pytest.fixture(scope="module")
def served(webui_folder, webui_python, tmp_path_factory):
    folder = os.environ.get("ATTENTION_LAB_EXTENSIONS")
    if not folder or not Path(folder, NAME).is_dir():
        pytest.skip(f"ATTENTION_LAB_EXTENSIONS names no folder with {NAME}")
    installed = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    models = tmp_path_factory.mktemp("controlnet")
    # An adapter for another kind of checkpoint comes first by name, and is not to be taken.
    names = "a_xl_depth", "t2iadapter_depth_sd15", "t2iadapter_normal", "t2iadapter_normalbae"
    for seed, name in enumerate(names, 1):
        save_file(adapter(seed), models / f"{name}.safetensors")
    depth = load("reference-depth", "depth", Folders([SHIPPED]))
    about = depth.about | {"family": depth.family, "map": "normal"}
    own = tmp_path_factory.mktemp("learned")
    save(own / "own normals.safetensors", "depth", depth.tensors, about)
    started = Webui(
        installed, webui_python, tmp_path_factory.mktemp("data") / "data", installed / "models/Stable-diffusion",
        {"attention-lab": ROOT, "zz-probe": ROOT / "tests" / "host" / "probe", NAME: Path(folder, NAME)}, ui=False,
        flags=[*FLAGS, "--controlnet-dir", str(models)], config={"attention_lab_files": str(own)},
    )  # fmt: skip
    yield started
    started.stop()


def pixels(answer):
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(e))).convert("RGB")) for e in answer.encoded]


def greys(picture):
    """As the probe tells a hint."""
    return picture.astype(float).mean(-1).reshape(16, picture.shape[0] // 16, 16, -1).mean((1, 3)).flatten() / 255


def test_controlnet_draws_with_the_map_and_rests_while_it_is_drawn(served):
    (plain,) = pixels(served.picture(**ASKED))
    answer = served.picture({"depth_guide": ON}, **ASKED)
    picture, drawn = pixels(answer)  # and no placeholder of ControlNet's
    assert not np.array_equal(picture, plain)
    state = served.probe("state")
    assert state["comments"] == [] and state["errors"] == []
    maps = [step for step in state["controls"] if step["steps"] == ON["map_steps"]]
    own = [step for step in state["controls"] if step["steps"] == ASKED["steps"]]
    assert len(maps) == ON["map_steps"] and len(own) == ASKED["steps"]
    assert all(unit["start"] == 2.0 for step in maps for unit in step["units"])
    for step in own:
        (unit,) = step["units"]
        assert (unit["start"], unit["end"], unit["weight"]) == (0.0, 0.75, 1.5)
        assert unit["hint"]["size"] == [256, 256] and unit["large"] is None
        np.testing.assert_allclose(unit["hint"]["greys"], greys(drawn), atol=0.003)
    assert "guide: ControlNet" in answer.texts[0]
    assert "ControlNet 0" not in answer.texts[0], "pasted, it would be a unit of the user's without a picture"
    assert np.array_equal(pixels(served.picture({"depth_guide": ON}, **ASKED))[0], picture), "the same again"
    assert np.array_equal(pixels(served.picture(**ASKED))[0], plain), "nothing of it is left"
    weak = pixels(served.picture({"depth_guide": ON | {"strength": 0.1}}, **ASKED))[0]
    assert abs(weak.astype(float) - plain).mean() < abs(picture.astype(float) - plain).mean()


def test_each_of_several_runs_gets_its_own_map(served):
    answer = served.picture({"depth_guide": ON}, **ASKED | {"n_iter": 2})
    shown = pixels(answer)
    assert len(shown) == 4
    steps = served.probe("state")["controls"]
    own = [step["units"][0] for step in steps if step["steps"] == ASKED["steps"]]
    assert len(own) == 2 * ASKED["steps"]
    for run in (0, 1):
        unit = own[run * ASKED["steps"]]
        np.testing.assert_allclose(unit["hint"]["greys"], greys(shown[2 + run]), atol=0.003)
    alone = pixels(served.picture({"depth_guide": ON}, **ASKED | {"seed": ASKED["seed"] + 1}))
    assert np.array_equal(alone[0], shown[1])


def test_the_hires_pass_has_the_map_in_its_size(served):
    fields = ASKED | {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6,
                      "hr_second_pass_steps": 4}  # fmt: skip
    answer = served.picture({"depth_guide": ON}, **fields)
    drawn = pixels(answer)[-1]
    steps = served.probe("state")["controls"]
    hires = [step["units"][0] for step in steps if step["hires"]]
    assert hires and all(unit["hires"] == "BOTH" for unit in hires)
    assert hires[0]["large"]["size"] == [384, 384]
    np.testing.assert_allclose(hires[0]["large"]["greys"], greys(drawn), atol=0.02)
    off = served.picture({"depth_guide": ON | {"hires": "off"}}, **fields)
    assert not np.array_equal(pixels(off)[0], pixels(answer)[0])


def test_a_unit_of_the_user_s_stays_and_a_normal_model_is_chosen_for_normals(served):
    encoded = io.BytesIO()
    Image.fromarray(np.full((256, 256, 3), 200, np.uint8)).save(encoded, "PNG")
    used = {"enabled": True, "module": "none", "model": "t2iadapter_depth_sd15", "weight": 0.5,
            "image": base64.b64encode(encoded.getvalue()).decode()}  # fmt: skip
    (name,) = (m for m in served.call("/controlnet/model_list")["model_list"] if m.startswith(used["model"]))
    used["model"] = name
    answer = served.picture(
        {"depth_guide": ON | {"file": "own normals"}}, scripts={"ControlNet": {"args": [used]}}, **ASKED
    )
    steps = [s for s in served.probe("state")["controls"] if s["steps"] == ASKED["steps"]]
    first, second = steps[0]["units"]
    assert (first["start"], first["weight"], second["weight"]) == (0.0, 0.5, 1.5)
    np.testing.assert_allclose(first["hint"]["greys"], 200 / 255, atol=0.003)
    assert "ControlNet 0" in answer.texts[0] and "ControlNet 1" not in answer.texts[0]
    assert "normalbae" in served.log.read_text(errors="replace")
