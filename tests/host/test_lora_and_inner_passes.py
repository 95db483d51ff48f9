"""What comes with real use: a LoRA on self-attention, a job within a job, the README's request."""

import json
import re
import urllib.parse

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_attn.settings import Settings
from tests.conftest import ROOT
from tests.host.negatives import ALL
from tests.host.server import REQUEST, Refused

# The level with the most tokens, so that every layer the LoRA changes is one that we compute.
TOP = {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "d0"}}
COVERING = {"near_sighted": {**TOP["near_sighted"], "tile": 256}}
# input_blocks.1, .2 and output_blocks.9, .10, .11 by the names of kohya's scripts.
TOP_BLOCKS = {
    "input_blocks.1": "down_blocks_0_attentions_0", "input_blocks.2": "down_blocks_0_attentions_1",
    "output_blocks.9": "up_blocks_3_attentions_0", "output_blocks.10": "up_blocks_3_attentions_1",
    "output_blocks.11": "up_blocks_3_attentions_2",
}  # fmt: skip


def write_lora(webui, checkpoints, name, attention, parts):
    """A LoRA on projections of the first level's attention, strong enough to be seen; returns its word."""
    generator, weights = torch.Generator().manual_seed(5), {}
    with safe_open(checkpoints / "a.safetensors", "pt") as file:
        for block, theirs in TOP_BLOCKS.items():
            for part in parts:
                weight = f"model.diffusion_model.{block}.1.transformer_blocks.0.{attention}.{part}.weight"
                wide, deep = file.get_slice(weight).get_shape()
                key = f"lora_unet_{theirs}_transformer_blocks_0_{attention}_{part.replace('.', '_')}"
                weights[f"{key}.lora_down.weight"] = torch.randn(4, deep, generator=generator) * 0.5
                weights[f"{key}.lora_up.weight"] = torch.randn(wide, 4, generator=generator) * 0.5
                weights[f"{key}.alpha"] = torch.tensor(4.0)
    folder = webui.data / "models" / "Lora"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / f"{name}.safetensors")
    webui.call("/sdapi/v1/refresh-loras", {})
    return f"<lora:{name}:{{}}>"


@pytest.fixture(scope="module")
def lora(webui, checkpoints):
    """On self-attention."""
    return write_lora(webui, checkpoints, "tiny", "attn1", ("to_q", "to_k", "to_v", "to_out.0"))


def test_lora_acts_on_the_layers_that_we_compute(webui, lora):
    def draw(strength, *args):
        return webui.picture(*args, prompt=REQUEST["prompt"] + ("" if strength is None else lora.format(strength)))

    plain, weak, with_lora = draw(None), draw(0), draw(1)
    assert weak.pixels == plain.pixels and with_lora.pixels != plain.pixels
    assert draw(1, COVERING).pixels == with_lora.pixels
    near, near_with_lora = draw(None, TOP), draw(1, TOP)
    state = webui.probe("state")
    assert min(state["patched"]) > 0 and state["comments"] == []
    assert near_with_lora.pixels != near.pixels and near_with_lora.pixels != with_lora.pixels
    assert draw(1).pixels == with_lora.pixels and draw(None).pixels == plain.pixels
    draw(None)  # taking the LoRA off in the first evaluation, the host writes on the model what is no leftover


def test_lora_reaches_the_words_of_the_negative(webui, checkpoints):
    """With the penalty in every layer that the LoRA changes, K and V of the negative's words go through it too."""
    word = write_lora(webui, checkpoints, "cross", "attn2", ("to_k", "to_v"))

    def draw(strength, *args):
        return webui.picture(*args, prompt=REQUEST["prompt"] + word.format(strength), cfg_scale=1)

    for kind in ("NAG", "value sign flip", "NASA"):
        penalty = {"negative_skip": {"enabled": True, "penalty": kind, "blocks": "d0"}}
        pictures = [draw(0, penalty), draw(1, penalty), draw(0), draw(1)]
        assert len({tuple(p.pixels) for p in pictures}) == 4
        assert draw(1, penalty).pixels == pictures[1].pixels and draw(0, penalty).pixels == pictures[0].pixels
    draw(0)  # taking the LoRA off in the first evaluation, the host writes on the model what is no leftover


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("techniques", [TOP, ALL], ids=["near-sighted", "negatives"])
def test_a_job_within_a_job(webui, wanted, techniques):
    """Exact by default: the picture of the same inner job without any extension. Treated on request."""
    settings = {**techniques, "inner_passes": wanted}
    made = webui.picture(settings, scripts={"Probe": {"args": ["inner", -1]}})
    state = webui.probe("state")
    inner = state["inner"]
    assert min(state["patched"]) > 0 and state["comments"] == [] and state["leftovers"] == []
    assert len(inner["patched"]) > 0 and inner["comments"] == ""
    assert inner["leftovers_before"] == inner["leftovers"] == []
    assert all(bool(count) == wanted for count in inner["patched"])
    assert ("Attn" in inner["text"]) == wanted
    assert "Attention Lab: " in made.texts[0] and "Attn " in made.texts[0]
    assert inner["exact"] == (not wanted)


def readme_request():
    """Address and body of the curl command in the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```sh\ncurl (\S+) -H 'Content-Type: application/json' -d '(.*?)'\n```", text, re.DOTALL)
    return urllib.parse.urlsplit(found[1]).path, json.loads(found[2])


def test_the_request_in_the_readme(webui):
    path, body = readme_request()
    assert body["width"] == body["height"] == 1024
    answer = webui.call(path, {**body, "width": 512, "height": 512, "steps": 2})
    state = webui.probe("state")
    assert min(state["patched"]) > 0 and state["comments"] == []
    info = json.loads(answer["info"])
    asked, messages = Settings.read(body["alwayson_scripts"]["Attention Lab"]["args"][0])
    assert messages == [] and info["extra_generation_params"].items() >= asked.to_infotext().items()
    assert all(f"{key}: " in info["infotexts"][0] for key in asked.to_infotext())


def test_without_effect_the_reason_is_in_the_answer(webui):
    """At 128 px nothing is worth while: one sentence, and the picture as it was."""
    on = {"near_sighted": {"enabled": True}}
    assert webui.picture(on, n_iter=2).pixels == webui.picture(n_iter=2).pixels
    webui.picture(on, n_iter=2)
    comments = webui.probe("state")["comments"]
    assert len(comments) == 1 and "changed nothing" in comments[0]


def test_null_in_place_of_the_list_is_refused_by_the_host(webui):
    """What the README says of it."""
    with pytest.raises(Refused, match="^500"):
        webui.call("/sdapi/v1/txt2img", {**REQUEST, "alwayson_scripts": {"Attention Lab": {"args": None}}})
    assert len(webui.picture().pixels) == 1
