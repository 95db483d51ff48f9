"""The underdrawing in the real webui: map and picture in one job, and nothing of it left on the model."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lib_attn.lab.judging.geometry import cut_outs, outline, standing
from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.host.server import FLAGS, ROOT, Webui, with_embedded_model

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


def test_normals_are_drawn_by_their_own_decoder_which_goes_again(webui):
    """The ground is blue, as of what faces the viewer; the picture follows, and the host's decoder is as it was."""
    (plain,) = pixels(webui.picture(**ASKED))
    picture, drawn = pixels(webui.picture({"depth_guide": {"enabled": True, "file": "reference-normal"}}, **ASKED))
    assert abs(np.median(drawn[:32], (0, 1)) - (128, 128, 255)).max() < 12 and len(cut_outs(drawn, "normal")) == 1
    (verdict,), masks = Judge.load(JUDGE).look(np.stack([picture]))
    assert verdict.objects == (("red", "cube"),) and not np.array_equal(picture, plain)
    shown = standing(drawn, "normal").reshape(32, 8, 32, 8).mean((1, 3)) > 0.5
    assert (masks[0] & shown).sum() / (masks[0] | shown).sum() > 0.6
    assert np.array_equal(pixels(webui.picture(**ASKED))[0], plain), "decoder and U-Net are as they were"


def test_each_picture_of_a_batch_has_its_map_and_can_be_made_alone(webui):
    answer = webui.picture(ON, **ASKED | {"batch_size": 2})
    both = pixels(answer)
    assert len(both) == 4, "two pictures, two maps"
    hashes = [re.search(r"Attn map hashes: ([^,]+)", text)[1] for text in answer.texts[:2]]
    assert len(set(hashes)) == 2 and all(re.fullmatch(r"\w{10}", each) for each in hashes), "each says its own"
    counted = webui.picture(ON, **ASKED | {"n_iter": 2})
    found = [re.search(r"Attn map hashes: ([^,]+)", text)[1] for text in counted.texts[:2]]
    assert len(set(found)) == 2 and all(re.fullmatch(r"\w{10}", each) for each in found)
    alone = pixels(webui.picture(ON, **ASKED | {"seed": ASKED["seed"] + 1}))
    assert abs(alone[0].astype(float) - both[1]).mean() < 1.0


def test_a_map_has_the_text_of_its_picture_and_pasting_it_draws_the_same(webui):
    """In the answer and in the file beside the picture's; the host's own reader finds it there."""
    saving = {"depth_guide": {**ON["depth_guide"], "save": True, "file": ""}}
    # A seed of its own: a map that is kept from a batch is not that drawn alone, to the last bit.
    answer = webui.picture(saving, **ASKED | {"seed": ASKED["seed"] + 10}, save_images=True)
    texts = [webui.call("/sdapi/v1/png-info", {"image": encoded})["info"] for encoded in answer.encoded]
    assert texts == [answer.texts[0]] * 2 and "Attn map hashes: " in texts[1] and "file: reference-depth#" in texts[1]
    files = sorted((webui.data / "outputs" / "txt2img-images").rglob("*.png"))
    assert {file.name.endswith("-map.png") for file in files} == {True, False}
    for file in files:
        encoded = base64.b64encode(file.read_bytes()).decode()
        found = webui.call("/sdapi/v1/png-info", {"image": encoded})
        assert found["info"] == texts[0]
    pasted = webui.call("/sdapi/v1/txt2img", {"infotext": texts[1]})
    assert np.array_equal(pixels(SimpleNamespace(encoded=pasted["images"]))[0], pixels(answer)[0])


def test_interrupt_while_the_map_is_drawn_ends_as_interrupt_before_the_first_step(webui):
    """The host gives the noise then; so it does with us, and what happened is said."""
    early = webui.picture(**ASKED, scripts={"Probe": {"args": ["interrupt", -1]}})
    anew = {"depth_guide": {**ON["depth_guide"], "map_seed": 41}}
    for how, word in (("interrupt", "Interrupted"), ("skip", "Skipped")):
        ended = webui.picture(anew, **ASKED, scripts={"Probe": {"args": [how, 2]}})
        assert len(ended.encoded) == 1 and np.array_equal(pixels(ended)[0], pixels(early)[0])
        (told,) = webui.probe("state")["comments"]
        assert told.startswith(f"{word} while its map was drawn") and told in ended.texts[0].replace('"', "")
        assert "Attn map hashes" not in ended.texts[0] and "Attn depth-guide" not in ended.texts[0]


def test_without_controlnet_no_map_is_drawn_and_no_hash_written(webui):
    (plain,) = pixels(webui.picture(**ASKED))
    answer = webui.picture({"depth_guide": {**ON["depth_guide"], "guide": "ControlNet"}}, **ASKED)
    (picture,) = pixels(answer)
    assert np.array_equal(picture, plain) and "Attn map hashes" not in answer.texts[0]
    assert webui.probe("state")["comments"] == [
        "The picture is drawn without its map: ControlNet is not installed, or switched off."
    ]


@pytest.fixture(scope="module")
def small_memory(webui_folder, webui_python, tmp_path_factory):
    """With --medvram, and a LoRA on every projection of self-attention: (webui, the LoRA's word)."""
    folder = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    checkpoints = folder / "models" / "Stable-diffusion"
    started = Webui(folder, webui_python, tmp_path_factory.mktemp("data") / "data", checkpoints,
                    {"attention-lab": ROOT, "zz-probe": ROOT / "tests" / "host" / "probe"}, ui=False,
                    flags=[*FLAGS, "--medvram"])  # fmt: skip
    generator, weights, before = torch.Generator().manual_seed(5), {}, "model.diffusion_model."
    with safe_open(next(checkpoints.glob("*.safetensors")), "pt") as file:
        for name in file.keys():
            if name.startswith(before) and "attn1.to_" in name and name.endswith(".weight"):
                wide, deep = file.get_slice(name).get_shape()
                key = "diffusion_model_" + name.removeprefix(before).removesuffix(".weight").replace(".", "_")
                weights[f"{key}.lora_down.weight"] = torch.randn(4, deep, generator=generator) * 0.1
                weights[f"{key}.lora_up.weight"] = torch.randn(wide, 4, generator=generator) * 0.1
    (started.data / "models" / "Lora").mkdir(parents=True, exist_ok=True)
    save_file(weights, started.data / "models" / "Lora" / "tiny.safetensors")
    started.call("/sdapi/v1/refresh-loras", {})
    yield started, "<lora:tiny:1>"
    started.stop()


def test_weights_are_bit_identical_after_every_ending(small_memory):
    """With --medvram and a LoRA of the host's: success, Interrupt, Skip and an error while the map is drawn."""
    webui, word = small_memory
    with_lora = ASKED | {"prompt": ASKED["prompt"] + word}
    plain = pixels(webui.picture(**ASKED))[0]
    weights = webui.probe("weights")
    changed = pixels(webui.picture(**with_lora))[0]
    loaded = webui.probe("weights")
    assert loaded != weights and not np.array_equal(changed, plain)
    guided = webui.picture(ON, **with_lora)
    assert len(guided.encoded) == 2 and webui.probe("weights") == loaded
    assert not np.array_equal(pixels(guided)[0], changed)
    for number, how in enumerate(("interrupt", "skip", "error"), start=1):
        anew = {"depth_guide": {**ON["depth_guide"], "map_seed": number}}
        ended = webui.picture(anew, **with_lora, scripts={"Probe": {"args": [how, 2]}})
        assert webui.probe("weights") == loaded and webui.probe("state")["leftovers"] == [], how
        assert len(ended.encoded) == 1, "no map"
        assert how != "error" or np.array_equal(pixels(ended)[0], changed), "the picture comes without a map"
    assert np.array_equal(pixels(webui.picture(**ASKED))[0], plain) and webui.probe("weights") == weights


def test_a_map_of_ones_own_is_where_the_picture_has_its_thing(small_memory):
    """One thing, moved: a job of the API with a 16-bit picture; then the same from the picture's text."""
    webui, _ = small_memory
    grey = np.zeros((256, 256), np.uint16)
    grey[128:208, 120:200] = 50000
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG")
    own = {"depth_guide": {**ON["depth_guide"], "own_map": base64.b64encode(stream.getvalue()).decode()}}
    (plain,) = pixels(webui.picture(**ASKED))
    answer = webui.picture(own, **ASKED)
    picture, shown = pixels(answer)
    assert np.array_equal(shown[..., 0] > 100, grey > 0)
    _, masks = Judge.load(JUDGE).look(np.stack([plain, picture]))
    wanted = (grey > 0).reshape(32, 8, 32, 8).mean((1, 3)) > 0.5
    before, after = ((mask & wanted).sum() / (mask | wanted).sum() for mask in masks)
    assert after > before + 0.2, (before, after)
    (pairs,) = webui.probe("parse", [answer.texts[0]])
    assert "map hash: " in pairs["Attn depth-guide"] and "own" not in pairs["Attn depth-guide"]
    again = {"depth_guide": {**ON["depth_guide"], "map_hash": pairs["Attn map hashes"]}}
    assert np.array_equal(pixels(webui.picture(again, **ASKED))[0], picture)
