"""The panel in the real webui's page: open, set, generate, paste back, send to img2img."""

import json

import pytest

from lib_attn.settings import GROUPS, TECHNIQUES, KeyMix
from lib_attn.webui import xyz
from tests.browser.controls import Controls
from tests.conftest import ROOT
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


def small(page):
    """A small picture."""
    host = Controls(page, "txt2img_")
    for name, value in (("steps", 3), ("width", 128), ("height", 128)):
        host.set_number(name, value)
    page.fill("#txt2img_prompt textarea", "a cat")


def set_up(controls):
    """A small picture with Near-sighted on."""
    small(controls.page)
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
    small(page)
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


def test_negative_stream_generate_and_paste_back(txt2img, webui, keep):
    """All three techniques moved away from their defaults, drawn, pasted back and sent to the other tab."""
    page = txt2img.page
    small(page)
    txt2img.open("general")
    for technique in ("negative_skip", "contrast", "key_mix"):
        txt2img.open(technique)
        txt2img.open(f"{technique}_advanced")
        for name, value in MOVED[technique].items():
            move(txt2img, f"{technique}_{name}", value)
        txt2img.find(technique).scroll_into_view_if_needed()
        keep(page, f"webui-{technique}")
    text = generate(page)
    keep(page, "webui-negative-stream")
    for technique, values in MOVED.items():
        for name, value in values.items():
            key = f"Attn {technique.replace('_', '-')} {name.replace('_', ' ')}"
            assert f"{key}: {value}" in text, key
    state = webui.probe("state")
    assert state["comments"] == [] and state["leftovers"] == []

    load(page, webui)
    paste(page, text.replace("Negative prompt:", "\nNegative prompt:").replace("Steps: 3", "\nSteps: 3"))
    check_moved(txt2img)
    generate(page)
    page.click("#txt2img_send_to_img2img")
    page.wait_for_selector("#img2img_generate:visible")
    check_moved(Controls(page, SECOND))


MOVED = {
    "negative_skip": {"key_every": 2, "fill": "copy", "strength": 3, "penalty": "NASA", "blocks": "out"},
    "contrast": {"feature": 0.7, "keys": 0.4, "map_strength": 0.5, "tau": 2, "blocks": "mid"},
    "key_mix": {"source": "blurred", "operator": "concatenate", "amount": 0.8, "values": "AdaIN", "blur": 4,
                "features": "follow", "feature_amount": 0.6},  # fmt: skip
}


def move(controls, name, value):
    if isinstance(value, (int, float)):
        controls.set_number(name, value)
    elif name.endswith("blocks"):
        controls.set_text(name, value)
    elif name.endswith("source"):
        controls.pick(name, value)
    else:
        controls.choose(name, value)


def check_moved(controls):
    for technique, values in MOVED.items():
        wait_on(controls, technique, True)
        for name, value in values.items():
            control = f"{technique}_{name}"
            if isinstance(value, (int, float)):
                assert controls.number(control) == value, control
            elif name in ("blocks", "source"):
                assert controls.text(control) == value, control
            else:
                assert controls.chosen(control) == value, control


def test_presets_of_the_negative_stream(txt2img):
    txt2img.open("general")
    for preset, technique in (
        ("Negative prompt at CFG 1 (VSF)", "negative_skip"),
        ("Same style", "key_mix"),
        ("Default", None),
    ):
        txt2img.pick("preset", preset)
        txt2img.find("preset_apply").click()
        for name in ("negative_skip", "contrast", "key_mix"):
            wait_on(txt2img, name, name == technique)
        if technique == "negative_skip":
            assert txt2img.chosen("negative_skip_penalty") == "value sign flip"


def test_axes_are_offered(txt2img):
    """In the page's own list of X/Y/Z axes."""
    page = txt2img.page
    page.locator("#script_list input").first.click()
    page.locator("ul.options li").filter(has_text="X/Y/Z plot").first.click()
    page.locator("#script_txt2img_xyz_plot_x_type input").first.click()
    offered = page.locator("ul.options li").all_inner_texts()
    for group in GROUPS:
        for param in group.params():
            assert any(text.strip().lstrip("✓").strip() == xyz.label(group, param) for text in offered), param.key


def test_japanese_reaches_every_text_of_the_panel(page, webui, keep):
    """The host's own localization script with our file: no English sentence of ours is left on the page."""
    japanese = json.loads((ROOT / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))

    def translate(route):
        answer = route.fetch()
        body = answer.text()
        assert "window.localization = {}" in body and '"ja_JP"' in body
        body = body.replace("window.localization = {}", f"window.localization = {json.dumps(japanese)}")
        route.fulfill(response=answer, body=body)

    page.route(webui.address + "/", translate)
    load(page, webui)
    controls = Controls(page, FIRST)
    controls.open("general")
    for technique in TECHNIQUES:
        controls.open(technique.name)
        controls.open(f"{technique.name}_advanced")
    page.wait_for_timeout(500)
    keep(page, "webui-japanese")
    shown = {line.strip() for line in controls.find("general").first.inner_text().splitlines()}
    left = sorted(text for text in shown if text in japanese and japanese[text] != text)
    assert left == []
    assert japanese[KeyMix.about] in shown and japanese["Negative skip: Blocks"] in shown
    for technique in TECHNIQUES:
        for param in technique.params():
            told = f"{param.help} Unit: {param.unit}." if param.unit else param.help
            # The help of a technique's own switch stands nowhere: its accordion is the switch.
            assert param.name == "enabled" or japanese[told] in shown, param.key
