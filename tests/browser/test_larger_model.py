"""The model of 512 px in the real webui's page: chosen there, drawn with at its own size, with Near-sighted on."""

import pytest

from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.browser.controls import Controls
from tests.browser.test_underdrawing import generate, with_a_page
from tests.browser.test_webui import FIRST, load


@pytest.fixture(scope="module")
def larger(webui_folder, webui_python, tmp_path_factory):
    yield from with_a_page(webui_folder, webui_python, tmp_path_factory, "reference-512")


def test_near_sighted_acts_at_its_own_size(page, larger, keep):
    load(page, larger)
    Controls(page, "setting_").pick("sd_model_checkpoint", "reference-512")
    page.wait_for_function("!document.querySelector('#quicksettings .generating')", timeout=180000)
    panel, host = Controls(page, FIRST), Controls(page, "txt2img_")
    for name, value in (("steps", 10), ("width", 512), ("height", 512), ("cfg_scale", 5), ("seed", 11)):
        host.set_number(name, value)
    page.fill("#txt2img_prompt textarea", "a red cube, grey background")
    text, (plain,) = generate(page, steps=10)
    assert "Model: reference-512" in text and plain.shape == (512, 512, 3)
    panel.open("general")
    panel.switch("near_sighted")
    text, (near,) = generate(page, steps=10)
    keep(page, "larger-model")
    moved = abs(near.astype(float) - plain).mean()
    assert "Attn near-sighted" in text and 0 < moved < 12, moved
    for picture in (plain, near):
        (look,), _ = Judge.load(JUDGE).look(picture[None])
        assert look.objects == (("red", "cube"),)
