"""One job from the real webui's page: a map of one's own put in, the picture has its thing there."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from lib_attn.lab.commands import cli
from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.browser.controls import Controls
from tests.browser.test_webui import FIRST, load, paste
from tests.host.server import FLAGS, ROOT, Webui, with_embedded_model


def with_a_page(webui_folder, webui_python, tmp_path_factory, *models):
    """A webui with the embedded model, those of `models` beside it, and a page; stopped afterwards."""
    folder = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    for model in models:
        assert cli.main(["install-model", "--webui", str(folder), "--model", model]) == 0
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


@pytest.fixture(scope="module")
def embedded(webui_folder, webui_python, tmp_path_factory):
    yield from with_a_page(webui_folder, webui_python, tmp_path_factory)


def gallery(page):
    """Pictures of the gallery, as the page shows them."""
    addresses = page.eval_on_selector_all("#txt2img_gallery .thumbnail-item img", "found => found.map(i => i.src)")
    answers = [page.request.get(address) for address in dict.fromkeys(addresses)]
    return [np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB")) for answer in answers]


def generate(page, steps=20):
    before = page.inner_text("#html_info_txt2img")
    page.click("#txt2img_generate")
    page.wait_for_function(
        "([before, steps]) => { const text = document.querySelector('#html_info_txt2img').innerText;"
        " return text != before && text.includes('Steps: ' + steps); }", arg=[before, steps], timeout=300000,
    )  # fmt: skip
    page.wait_for_timeout(1000)
    return page.inner_text("#html_info_txt2img"), gallery(page)


def test_a_map_put_into_the_page_is_followed_and_found_again(page, embedded, keep, tmp_path):
    load(page, embedded)
    panel, host = Controls(page, FIRST), Controls(page, "txt2img_")
    for name, value in (("steps", 20), ("width", 256), ("height", 256), ("cfg_scale", 5), ("seed", 11)):
        host.set_number(name, value)
    page.fill("#txt2img_prompt textarea", "a red cube, grey background")
    _, (plain,) = generate(page)
    grey = np.zeros((128, 128), np.uint8)
    grey[64:104, 60:100] = 200
    Image.fromarray(grey).save(tmp_path / "mine.png")
    panel.open("general")
    panel.switch("depth_guide")
    panel.open("depth_guide")
    panel.open("depth_guide_advanced")
    panel.find("depth_guide_own_map", "input[type=file]").set_input_files(tmp_path / "mine.png")
    page.wait_for_selector(f"#{FIRST}depth_guide_own_map img")
    panel.find("depth_guide_own_map").scroll_into_view_if_needed()
    panel.wait_live("Your own map is used, none is drawn.", "depth_guide")
    host.set_number("width", 384)
    panel.wait_live("The map is taller than the picture: 17 % of it are cut off at the top", "depth_guide")
    host.set_number("width", 256)
    keep(page, "underdrawing-own-map")
    text, (picture, shown) = generate(page)
    keep(page, "underdrawing-picture")
    wanted = grey.reshape(32, 4, 32, 4).mean((1, 3)) > 100
    _, masks = Judge.load(JUDGE).look(np.stack([plain, picture]))
    before, after = ((mask & wanted).sum() / (mask | wanted).sum() for mask in masks)
    assert after > before + 0.2, (before, after)
    assert shown.shape == (256, 256, 3) and abs(shown[::2, ::2, 0].astype(int) - grey).mean() < 5
    assert "reference-depth is used" in page.inner_text("#html_log_txt2img")
    wanted_hash = re.search(r"Attn map hashes: (\w{10})", text)[1]
    panel.find("depth_guide_own_map", "button[aria-label=Clear], button[title=Clear]").first.click()
    panel.find("depth_guide_map_hash_latest").click()
    panel.wait_live(f"The map {wanted_hash} is used, none is drawn.", "depth_guide")
    keep(page, "underdrawing-last-map")
    panel.choose("depth_guide_guide", "ControlNet")
    panel.wait_live("none is drawn: ControlNet is not installed or switched off.", "depth_guide")
    keep(page, "underdrawing-without-controlnet")
    panel.set_text("depth_guide_map_hash", "")
    paste(page, text)
    page.wait_for_function(
        "([box, hash]) => document.querySelector(box).value == hash",
        arg=[f"#{FIRST}depth_guide_map_hash textarea, #{FIRST}depth_guide_map_hash input", wanted_hash],
    )
    _, again = generate(page)
    assert np.array_equal(again[0], picture)
