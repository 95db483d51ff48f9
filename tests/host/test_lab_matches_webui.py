"""The lab draws what the real webui draws: same checkpoint, prompt, seed, sampler and size."""

import base64
import io
import json

import numpy
import pytest
from PIL import Image

from lib_attn.lab.drawing import checkpoint, pictures
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import ours
from lib_attn.settings import Settings

ALLOWED = 2.0  # mean difference out of 255
ON, _ = Settings.read({"near_sighted.enabled": True, "near_sighted.tile": 8, "near_sighted.blocks": "all"})


def request(sampler, **changes):
    fields = {"steps": 10, "cfg": 7.0, "height": 128, "width": 192} | changes
    return Request(("a red cat on a table",), (7, 8), "blurry, bad", sampler=sampler, **fields)


def ask(webui, asked, settings=None):
    """The webui's answer to the same request."""
    words = [] if settings is None else [settings.to_dict()]
    return webui.picture(
        *words, prompt=asked.prompts[0], negative_prompt=asked.negative, steps=asked.steps, sampler_name=asked.sampler,
        cfg_scale=asked.cfg, width=asked.width, height=asked.height, seed=asked.seeds[0], batch_size=len(asked.seeds),
    )  # fmt: skip


def difference(encoded, picture):
    theirs = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), dtype=float)
    assert theirs.std() > 5, "an empty picture proves nothing"
    return abs(theirs - numpy.asarray(picture, dtype=float)).mean()


@pytest.fixture(scope="module")
def model(checkpoints):
    return checkpoint.load(checkpoints / "a.safetensors")


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DDIM"])
def test_same_picture(webui, model, sampler):
    asked = request(sampler)
    answer = ask(webui, asked)
    own = decode(model, sample(model, asked))
    assert max(difference(e, p) for e, p in zip(answer.encoded[-2:], own, strict=True)) < ALLOWED


@pytest.mark.parametrize("size", [(128, 192), (200, 104)])
def test_same_picture_near_sighted(webui, model, size):
    asked = request("Euler", height=size[0], width=size[1])
    answer = ask(webui, asked, ON)
    own = decode(model, sample(model, asked, ours("on", "on", ON)))
    off = decode(model, sample(model, asked))
    for encoded, picture, plain in zip(answer.encoded[-2:], own, off, strict=True):
        assert difference(encoded, picture) < ALLOWED
        assert abs(numpy.asarray(picture, dtype=float) - numpy.asarray(plain)).mean() > 0


def test_lab_infotext_makes_the_same_picture_in_the_webui(webui, model):
    asked = request("Euler")
    text = pictures.infotext(asked, 0, ON, "a")
    # The text names RNG, and the host takes back only settings that had a value before.
    with webui.options(randn_source="GPU"):
        answer = webui.call("/sdapi/v1/txt2img", {"infotext": text, "batch_size": 1})
    own = decode(model, sample(model, asked.one(0), ours("on", "on", ON)))[0]
    assert difference(answer["images"][0], own) < ALLOWED
    written = json.loads(answer["info"])["infotexts"][0]
    theirs, ours_read = pictures.parse_infotext(written), pictures.parse_infotext(text)
    same = {key: value for key, value in ours_read.items() if key.startswith(("Attn", "Attention")) or key in theirs}
    same.pop("Version")
    # The API writes a whole number as 7.0, the page as 7.
    assert float(theirs.pop("CFG scale")) == float(same.pop("CFG scale"))
    assert {key: theirs.get(key) for key in same} == same
