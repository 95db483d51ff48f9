"""The panel in the real webui's page: open, set, generate, paste back, send to img2img."""

import pytest

from tests.browser.controls import Controls
from tests.host.server import Refused  # noqa: F401

FIRST = "script_txt2img_attention_lab_"
SECOND = "script_img2img_attention_lab_"


@pytest.fixture
def txt2img(page, webui):
    load(page, webui)
    return Controls(page, FIRST)


def load(page, webui):
    page.goto(webui.address)
    page.wait_for_selector("#txt2img_generate")
    page.wait_for_selector(f"#{FIRST}general-visible-checkbox")


def is_on(controls, name):
    return controls.find(f"{name}-checkbox", "input").is_checked()


def wait_on(controls, name, on):
    controls.page.wait_for_function(
        "([id, on]) => document.querySelector(id).checked == on", arg=[f"#{controls.prefix}{name}-checkbox input", on]
    )


def set_up(controls):
    """A small picture with Near-sighted on."""
    page = controls.page
    host = Controls(page, "txt2img_")
    for name, value in (("steps", 3), ("width", 128), ("height", 128)):
        host.set_number(name, value)
    page.fill("#txt2img_prompt textarea", "a cat")
    controls.open("general")
    controls.open("near_sighted")
    controls.set_number("near_sighted_tile", 8)
    controls.open("near_sighted_advanced")
    controls.set_text("near_sighted_blocks", "all")
    controls.choose("near_sighted_hires", "off")


def generate(page):
    page.click("#txt2img_generate")
    page.wait_for_selector("#txt2img_gallery img", timeout=180000)
    page.wait_for_selector("#html_info_txt2img:has-text('Steps: 3')", timeout=180000)
    return page.inner_text("#html_info_txt2img")


def paste(page, text):
    page.fill("#txt2img_prompt textarea", text)
    page.click("#paste")


def check_restored(controls):
    assert is_on(controls, "general") and is_on(controls, "near_sighted")
    assert controls.number("near_sighted_tile") == 8 and controls.chosen("near_sighted_hires") == "off"
    assert controls.text("near_sighted_blocks") == "all"


def test_generate_and_paste_back(txt2img, webui, keep):
    page = txt2img.page
    set_up(txt2img)
    assert is_on(txt2img, "general") and is_on(txt2img, "near_sighted")
    txt2img.wait_live("128 × 128")
    keep(page, "webui-panel")
    text = generate(page)
    keep(page, "webui-generated")
    assert "Attention Lab: True" in text and "Attn near-sighted tile: 8" in text
    state = webui.probe("state")
    assert min(state["patched"]) > 0 and state["leftovers"] == [] and state["comments"] == []

    load(page, webui)
    assert not is_on(txt2img, "general")
    paste(page, text.replace("Negative prompt:", "\nNegative prompt:").replace("Steps: 3", "\nSteps: 3"))
    wait_on(txt2img, "near_sighted", True)
    check_restored(txt2img)
    paste(page, "a dog\nSteps: 3, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 128x128")
    wait_on(txt2img, "near_sighted", False)
    wait_on(txt2img, "general", False)
    assert txt2img.number("near_sighted_tile") == 16 and txt2img.text("near_sighted_blocks") == "auto"


def test_send_to_img2img(txt2img):
    page = txt2img.page
    set_up(txt2img)
    generate(page)
    page.click("#txt2img_send_to_img2img")
    page.wait_for_selector("#img2img_generate:visible")
    img2img = Controls(page, SECOND)
    wait_on(img2img, "near_sighted", True)
    check_restored(img2img)


def test_off_is_off(txt2img, webui):
    page = txt2img.page
    host = Controls(page, "txt2img_")
    for name, value in (("steps", 3), ("width", 128), ("height", 128)):
        host.set_number(name, value)
    page.fill("#txt2img_prompt textarea", "a cat")
    text = generate(page)
    assert "Att" not in text.replace("Attributes", "")
    assert max(webui.probe("state")["patched"]) == 0


def test_presets_and_narrow_page(txt2img, keep):
    page = txt2img.page
    txt2img.open("general")
    txt2img.pick("preset", "ToDo")
    txt2img.find("preset_apply").click()
    wait_on(txt2img, "near_sighted", True)
    assert txt2img.number("near_sighted_tile") == 0
    page.set_viewport_size({"width": 600, "height": 1600})
    txt2img.find("general").scroll_into_view_if_needed()
    keep(page, "webui-narrow")
    width = page.evaluate(f"document.querySelector('#{FIRST}general').scrollWidth")
    assert width <= 600
