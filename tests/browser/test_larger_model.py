"""The model of 512 px in the real webui's page: chosen there, drawn with at its own size, with Near-sighted on."""

import pytest
from PIL import Image

from lib_attn.lab.commands import cli
from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.browser.controls import Controls
from tests.browser.test_underdrawing import gallery
from tests.browser.test_webui import FIRST, load
from tests.host.server import FLAGS, ROOT, Webui, with_embedded_model


@pytest.fixture(scope="module")
def larger(webui_folder, webui_python, tmp_path_factory):
    folder = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    assert cli.main(["install-model", "--webui", str(folder), "--model", "reference-512"]) == 0
    started = Webui(
        folder,
        webui_python,
        tmp_path_factory.mktemp("data") / "data",
        folder / "models/Stable-diffusion",
        {"attention-lab": ROOT},
        ui=True,
        # The models' files are links to there.
        flags=[*FLAGS, "--gradio-allowed-path", str(webui_folder)],
    )
    yield started
    started.stop()


def generate(page):
    before = page.inner_text("#html_info_txt2img")
    page.click("#txt2img_generate")
    page.wait_for_function(
        "before => { const text = document.querySelector('#html_info_txt2img').innerText;"
        " return text != before && text.includes('Steps: 10'); }", arg=before, timeout=300000,
    )  # fmt: skip
    page.wait_for_timeout(1000)
    (picture,) = gallery(page)
    return page.inner_text("#html_info_txt2img"), picture


def test_near_sighted_acts_at_its_own_size(page, larger, keep, tmp_path):
    load(page, larger)
    Controls(page, "setting_").pick("sd_model_checkpoint", "reference-512")
    page.wait_for_function("!document.querySelector('#quicksettings .generating')", timeout=180000)
    panel, host = Controls(page, FIRST), Controls(page, "txt2img_")
    for name, value in (("steps", 10), ("width", 512), ("height", 512), ("cfg_scale", 5), ("seed", 11)):
        host.set_number(name, value)
    page.fill("#txt2img_prompt textarea", "a red cube, grey background")
    text, plain = generate(page)
    assert "Model: reference-512" in text and plain.shape == (512, 512, 3)
    panel.open("general")
    panel.switch("near_sighted")
    text, near = generate(page)
    keep(page, "larger-model")
    Image.fromarray(near).save(tmp_path / "near.png")
    moved = abs(near.astype(float) - plain).mean()
    assert "Attn near-sighted" in text and 0 < moved < 12, moved
    for picture in (plain, near):
        (look,), _ = Judge.load(JUDGE).look(picture[None])
        assert look.objects == (("red", "cube"),)
