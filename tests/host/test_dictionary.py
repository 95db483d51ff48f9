"""The dictionary in the real webui with the embedded model and the file that is shipped for it."""

import pytest

from tests.host.server import ROOT, Webui, with_embedded_model

ASKED = {"prompt": "a torus, grey background", "negative_prompt": "", "steps": 4, "width": 256, "height": 256}
FILE = "embedded-warm"


@pytest.fixture(scope="module")
def own_webui(webui_folder, webui_python, tmp_path_factory):
    folder = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    webui = Webui(folder, webui_python, tmp_path_factory.mktemp("data") / "data", folder / "models/Stable-diffusion",
                  {"attention-lab": ROOT}, ui=False)  # fmt: skip
    yield webui
    webui.stop()


@pytest.fixture(scope="module")
def plain(own_webui):
    return own_webui.picture(**ASKED).pixels


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "live", "blocks": "all", "atoms": 32},
        {"mode": "global", "blocks": "all", "atoms": 32, "tile": 8},
        {"mode": "static", "blocks": "out", "file": FILE},
        {"mode": "full", "file": FILE, "strength": 1.0},
    ],
)
def test_it_acts_by_the_api_and_says_so(own_webui, plain, values):
    answer = own_webui.picture({"dictionary": {"enabled": True, **values}}, **ASKED)
    assert answer.pixels != plain
    text = answer.texts[0]
    assert f"mode: {values['mode']}" in text or values["mode"] == "live"
    assert "Attn dictionary" in text and (f"{FILE}#" in text) == ("file" in values)
    assert (
        own_webui.picture({"dictionary": {"enabled": True, **values, "blend": 0.0, "strength": 0.0}}, **ASKED).pixels
        == plain
    )
    assert own_webui.picture(**ASKED).pixels == plain, "nothing stays"


def test_the_only_file_that_fits_is_taken(own_webui, plain):
    values = {"dictionary": {"enabled": True, "mode": "full", "strength": 1.0}}
    answer = own_webui.picture(values, **ASKED)
    values["dictionary"]["file"] = FILE
    assert answer.pixels == own_webui.picture(values, **ASKED).pixels != plain
    assert f"file: {FILE}#" in answer.texts[0] and f"{FILE} is used, which fits" in answer.texts[0]


def test_a_file_that_is_not_there_is_said_and_the_picture_comes_without(own_webui, plain):
    answer = own_webui.picture(
        {"dictionary": {"enabled": True, "mode": "full", "file": "nobody", "strength": 1.0}}, **ASKED
    )
    assert answer.pixels == plain
    assert "The learned file nobody is not used" in answer.texts[0] + str(answer.parameters)
