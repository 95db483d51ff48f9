"""Pictures of the real webui through its API: identical where nothing may change, different where it must."""

import threading
import time

import pytest

from lib_attn import __version__
from lib_attn.settings import Settings
from tests.host.server import Refused

ON = {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "all"}}
OFF = {"near_sighted": {"enabled": False}}
NEUTRAL = [
    {"near_sighted": {"enabled": True, "blocks": "all", "pool": 1}},
    {"near_sighted": {"enabled": True, "blocks": "all", "tile": 256}},
    {"near_sighted": {"enabled": True, "blocks": "all", "start": 0.3, "end": 0.3}},
]
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "width": 64}
SAMPLERS = ["Euler a", "Heun", "DPM++ 2M", "DPM++ SDE", "DPM fast", "Restart", "LMS", "LCM", "DDIM", "PLMS", "UniPC"]


@pytest.fixture(scope="module")
def init(absent):
    """A picture to start img2img from."""
    return absent["txt2img"].encoded[0]


def kinds(init):
    """Requests of every kind, by name."""
    half = init  # any picture will do as a mask
    return {
        "txt2img": {},
        "portrait": {"width": 104, "height": 200},
        "batch 2x2": {"batch_size": 2, "n_iter": 2},
        "AND": {"prompt": "a cat AND a dog :0.4", "batch_size": 2},
        "long prompt": {"prompt": "cat " * 90},
        "hires": HIRES,
        "img2img": {"path": "img2img", "init_images": [init], "denoising_strength": 0.6},
        "inpaint": {"path": "img2img", "init_images": [init], "mask": half, "denoising_strength": 0.6},
    }


def scripted(init):
    """Requests through the host's own scripts, which sample several times, and of a masked part alone."""
    image = {"path": "img2img", "init_images": [init], "denoising_strength": 0.6}
    return {
        "only masked": image | {"mask": init, "inpaint_full_res": True, "inpaint_full_res_padding": 16},
        "SD upscale": image | {"script_name": "SD upscale", "script_args": [None, 64, "None", 2.0]},
        "loopback": image | {"script_name": "Loopback", "script_args": [2, 0.5, "Linear", "None"]},
        "outpainting": image
        | {"script_name": "Outpainting mk2", "script_args": [None, 64, 8, ["left"], 1.0, 0.05]},
        "poor man's outpainting": image
        | {"script_name": "Poor man's outpainting", "script_args": [64, 4, "fill", ["down"]]},
        "noise under the mask": image | {"mask": init, "inpainting_fill": 2},
    }  # fmt: skip


def after_a_plain_job(webui, *args, **fields):
    """A picture of a job that finds the global generator where a certain other job has left it.

    The host draws the noise of a picture's encoding from there, so two equal jobs alone need not be equal.
    """
    webui.picture()
    return webui.picture(*args, **fields)


@pytest.fixture(scope="session")
def absent(start):
    """The same requests in a webui that has never heard of the extension."""
    webui = start({}, ui=False)
    try:
        first = webui.picture()
        image = first.encoded[0]
        found = {name: webui.picture(**fields) for name, fields in kinds(image).items()}
        return found | {name: after_a_plain_job(webui, **fields) for name, fields in scripted(image).items()}
    finally:
        webui.stop()


@pytest.mark.parametrize("kind", scripted(""))
def test_absent_and_off_are_identical_through_scripts(webui, absent, init, kind):
    fields, expected = scripted(init)[kind], absent[kind]
    for args in ((), (OFF,)):
        found = after_a_plain_job(webui, *args, **fields)
        assert found.pixels == expected.pixels and found.texts == expected.texts


@pytest.mark.parametrize("kind", kinds(""))
def test_absent_off_and_neutral_are_identical_and_on_differs(webui, absent, init, kind):
    fields, expected = kinds(init)[kind], absent[kind]
    unmentioned = webui.picture(**fields)
    assert unmentioned.pixels == expected.pixels
    off = webui.picture(OFF, **fields)
    assert off.pixels == expected.pixels and "Attn" not in "".join(off.texts) and "Attention" not in "".join(off.texts)
    assert not [key for key in off.parameters if key.startswith("Att")]
    assert max(webui.probe("state")["patched"], default=0) == 0
    for neutral in NEUTRAL if kind == "txt2img" else NEUTRAL[:1]:
        assert webui.picture(neutral, **fields).pixels == expected.pixels
    on = webui.picture(ON, **fields)
    assert all(a != b for a, b in zip(on.pixels, expected.pixels, strict=True)) and on.sizes == expected.sizes
    state = webui.probe("state")
    assert min(state["patched"]) > 0 and state["comments"] == []
    assert all(f"Attention Lab: {__version__}" in text for text in on.texts)


def test_same_request_same_picture(webui):
    assert webui.picture(ON).pixels == webui.picture(ON).pixels


def test_image_of_a_batch_can_be_made_alone(webui):
    """Of the same pixels up to the rounding of another batch size."""
    from PIL import ImageChops, ImageStat

    on = {"near_sighted": {**ON["near_sighted"], "shift": 1.0}}
    batch, alone = webui.picture(on, batch_size=2), webui.picture(on, seed=8)
    pictures = [_open(p.encoded[-1]) for p in (batch, alone)]
    assert ImageStat.Stat(ImageChops.difference(*pictures).convert("L")).mean[0] < 1.0


def _open(encoded):
    import base64
    import io

    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_kind_of_sampler(webui, sampler):
    webui.picture(ON, sampler_name=sampler, steps=4)
    state = webui.probe("state")
    assert state["patched"] and min(state["patched"]) > 0 and state["comments"] == []


@pytest.mark.parametrize("hires, expected", [("same", (True, True)), ("off", (True, False)), ("only", (False, True))])
def test_hires_pass(webui, hires, expected):
    webui.picture({"near_sighted": {**ON["near_sighted"], "hires": hires}}, **HIRES)
    state = webui.probe("state")
    patched = [bool(n) for n in state["patched"]]
    assert (patched[0], patched[-1]) == expected and state["comments"] == []


def test_infotext_round_trip(webui):
    fields = {**ON["near_sighted"], "blocks": "in1,out6-11", "shift": 0.25, "hires": "off", "global_keys": "average"}
    first = webui.picture({"near_sighted": fields})
    again = webui.picture(infotext=first.texts[0])
    assert again.pixels == first.pixels and again.texts == first.texts
    parsed = webui.call("/sdapi/v1/png-info", {"image": first.encoded[0]})["parameters"]
    assert Settings.from_infotext(parsed)[0] == Settings.read({"near_sighted": fields})[0]


def test_infotext_without_our_keys_switches_off(webui, absent):
    assert webui.picture(infotext=absent["txt2img"].texts[0]).pixels == absent["txt2img"].pixels


def test_positional_list(webui):
    first = webui.picture(ON)
    flat = Settings.read(ON)[0].flat()
    from lib_attn.settings import positional_params

    assert webui.picture(*[flat[p.key] for p in positional_params()]).pixels == first.pixels
    assert webui.picture(True, False, True).texts != first.texts


@pytest.mark.parametrize(
    "args, word",
    [
        (["x"], "on or off"),
        ([[1, 2]], "on or off"),
        ([{"near_sighted": 5}], "dictionary"),
        ([{"near_sighted": {"enabled": True, "tile": "wide"}}], "number"),
        ([{"near_sighted": {"enabled": True, "tile": 1e300}}], "is a number from"),
        ([{"near_sighted": {"enabled": True, "blocks": "((((" * 50}}], "no block"),
        ([{"far_sighted": {}}], "no technique"),
        ([True, False, True] + ["x"] * 60, "number"),
        ([None] * 5, ""),
    ],
)
def test_bad_input_gives_one_sentence_and_a_picture(webui, args, word):
    """A client of the API sees it in the answer; no other place of this host would tell."""
    made = webui.picture(*args)
    message = made.parameters.get("Attention Lab messages", "")
    assert len(made.pixels) == 1 and (word in message if word else message == "")
    assert (
        len(message) < 4000 and "\n" not in message and all(("messages: " in text) == bool(word) for text in made.texts)
    )
    assert "  ".join(webui.probe("state")["comments"]).replace("  ", " ") == message


@pytest.mark.parametrize("how", ["interrupt", "skip", "error"])
def test_ended_in_mid_sampling(webui, absent, how):
    scripts = {"Probe": {"args": [how, 1]}}
    if how == "error":
        with pytest.raises(Refused):
            webui.picture(ON, scripts=scripts)
    else:
        webui.picture(ON, scripts=scripts, steps=6)
    state = webui.probe("state")
    assert state["patched"] and len(state["patched"]) < 6 and state["leftovers"] == []
    assert webui.picture().pixels == absent["txt2img"].pixels


def test_interrupt_over_the_api(webui, absent):
    done = []
    thread = threading.Thread(target=lambda: done.append(webui.picture(ON, steps=60)))
    thread.start()
    end = time.monotonic() + 60
    while not webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"] > 2:
        assert time.monotonic() < end and thread.is_alive()
        time.sleep(0.05)
    webui.call("/sdapi/v1/interrupt", {})
    thread.join(120)
    assert done and len(webui.probe("state")["patched"]) < 60
    assert webui.picture().pixels == absent["txt2img"].pixels


def test_model_switch_in_between(webui):
    first = webui.picture(ON).pixels
    other = webui.picture(ON, override_settings={"sd_model_checkpoint": "b"}).pixels
    assert min(webui.probe("state")["patched"]) > 0
    assert other != first and webui.picture(ON).pixels == first


def test_refiner(webui):
    webui.picture(ON, steps=6, refiner_checkpoint="b", refiner_switch_at=0.5)
    state = webui.probe("state")
    assert len(state["patched"]) == 6 and min(state["patched"]) > 0 and state["comments"] == []


def test_hires_checkpoint(webui):
    webui.picture(ON, **HIRES, hr_checkpoint_name="b")
    state = webui.probe("state")
    assert min(state["patched"]) > 0 and state["comments"] == []


GRID = {"x": ("[Attn] Near-sighted", "False,True"), "y": ("[Attn] Near-sighted: Tile size", "8,16")}


def grid(webui, *args, **axes):
    values = []
    for axis in "xyz":
        label, text = axes.get(axis, ("Nothing", ""))
        # The host's list of an axis type leaves out the axes of the other tab.
        values += [_axis_index(webui, label), text, text.split(",")]
    values += [False, True, False, False, False, False, False, 0, True]
    fields = {name: value for name, value in axes.items() if name not in "xyz"}
    return webui.picture(*args, script_name="x/y/z plot", script_args=values, **fields)


def _axis_index(webui, label):
    info = [s for s in webui.call("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    return info[0]["args"][0]["choices"].index(label)


def test_grid_cells_do_not_leak(webui, absent):
    blocks = {"near_sighted": {"blocks": "all", "pool": 4}}
    made = grid(webui, blocks, **GRID)
    cells, texts = made.pixels[1:5], made.texts[1:5]
    assert len(cells) == 4
    for i in (0, 2):
        assert cells[i] == absent["txt2img"].pixels[0] and "Attn" not in texts[i]
    for i, tile in ((1, 8), (3, 16)):
        alone = webui.picture({"near_sighted": {**blocks["near_sighted"], "enabled": True, "tile": tile}})
        assert cells[i] == alone.pixels[0] and ("tile: 8" in texts[i]) == (tile == 8)
    assert "[Attn] Near-sighted: Tile size" in made.texts[0]
    assert webui.picture().pixels == absent["txt2img"].pixels


@pytest.mark.parametrize("values", ["999", "wide"])
def test_bad_axis_values_are_refused_before_the_first_picture(webui, values):
    with pytest.raises(Refused):
        grid(webui, x=("[Attn] Near-sighted: Tile size", values))


@pytest.mark.parametrize(
    "options",
    [
        {"cross_attention_optimization": name}
        for name in ("sdp - scaled dot product", "Doggettx", "V1 - original v1", "InvokeAI", "sub-quadratic", "None")
    ]
    + [{"batch_cond_uncond": False}, {"upcast_attn": True}, {"hypertile_enable_unet": False}],
    ids=lambda o: " ".join(map(str, next(iter(o.items())))),
)
def test_settings_of_the_host(webui, options):
    with webui.options(**options):
        plain = webui.picture()
        assert webui.picture(NEUTRAL[0]).pixels == plain.pixels
        assert webui.picture(ON).pixels != plain.pixels
        state = webui.probe("state")
    assert min(state["patched"]) > 0 and state["comments"] == []


def test_hypertile_and_token_merging_go_first(webui):
    """Where they have rearranged the tokens nothing is done and the user is told, once."""
    top = {"near_sighted": {**ON["near_sighted"], "blocks": "d0"}}  # the level that both act on
    size = {"width": 512, "height": 256, "steps": 1}
    for options in ({"hypertile_enable_unet": True, "hypertile_max_tile_unet": 128}, {"token_merging_ratio": 0.5}):
        with webui.options(**options):
            plain = webui.picture(**size)
            assert webui.picture(top, **size).pixels == plain.pixels
            assert len(webui.probe("state")["comments"]) == 1
    # Hypertile stays on the model for ever, switched off: that must not keep us away.
    assert webui.picture(ON).pixels != webui.picture().pixels
    webui.picture(ON)
    assert webui.probe("state")["comments"] == []
