"""The panel in the real webui's page: open, set, generate, paste back, send to img2img."""

import json

import pytest

from lib_attn import __version__
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


def load(page, webui, path=""):
    page.goto(webui.address + path)
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
    controls.switch("near_sighted")
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
    assert f"Attention Lab: {__version__}" in text
    assert 'Attn near-sighted: "tile: 8, blocks: all, hires: off"' in text
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


def test_the_long_text_of_earlier_pictures_is_pasted(txt2img):
    pairs = {"Attention Lab": "True", "Attn near-sighted enabled": "True", "Attn near-sighted tile": "24"}
    line = ", ".join(f"{key}: {value}" for key, value in pairs.items())
    paste(txt2img.page, f"a dog\nSteps: 3, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 128x128, {line}")
    wait_on(txt2img, "near_sighted", True)
    assert txt2img.number("near_sighted_tile") == 24 and is_on(txt2img, "general")


def test_presets_apply_combine_and_show_what_changed(txt2img, keep):
    txt2img.open("general")
    txt2img.wait_live("No technique is on", "general")
    txt2img.pick("preset", "Near-sighted 1024")
    wait_on(txt2img, "near_sighted", True)
    assert txt2img.number("near_sighted_tile") == 8 and is_on(txt2img, "general")
    assert "at least 768 px" in txt2img.find("preset_about").first.inner_text()
    txt2img.pick("preset", "Negative every 3rd step")
    wait_on(txt2img, "negative_skip", True)
    assert is_on(txt2img, "near_sighted") and txt2img.number("near_sighted_tile") == 8
    txt2img.wait_live("less work", "general")
    txt2img.wait_changed(False)
    keep(txt2img.page, "webui-presets")
    assert not txt2img.is_open("negative_skip")
    txt2img.open("negative_skip")
    txt2img.set_number("negative_skip_key_every", 7)
    txt2img.wait_changed(True)
    txt2img.pick("preset", "Negative every 3rd step")
    txt2img.wait_changed(False)
    assert txt2img.number("negative_skip_key_every") == 3
    txt2img.set_number("negative_skip_key_every", 7)
    txt2img.find("negative_skip_reset").click()
    txt2img.wait_number("negative_skip_key_every", 3)
    txt2img.wait_changed(True)  # the preset has no penalty, the defaults have one
    assert is_on(txt2img, "negative_skip")
    txt2img.find("all_off").click()
    wait_on(txt2img, "near_sighted", False)
    wait_on(txt2img, "negative_skip", False)
    assert not txt2img.is_open("negative_skip")
    txt2img.wait_live("No technique is on", "general")


def test_saved_presets_are_in_both_tabs_and_after_a_page_load(txt2img, webui):
    name = "my_snake v1.2 é"
    page, other = txt2img.page, Controls(txt2img.page, SECOND)
    txt2img.open("general")
    txt2img.pick("preset", "Layout only")
    wait_on(txt2img, "key_mix", True)
    txt2img.open("own_presets")
    for told in ("Saved:", "Press Save preset again", "Saved:"):
        txt2img.set_text("preset_name", name)
        txt2img.find("preset_save").click()
        txt2img.wait_told(told)
        assert name in txt2img.find("preset_said").first.inner_text()
    page.click("#tabs button:has-text('img2img')")
    other.open("general")
    page.wait_for_timeout(1500)
    assert name in other.offered("preset")
    load(page, webui)
    txt2img.open("general")
    page.wait_for_timeout(1500)
    txt2img.pick("preset", name)
    wait_on(txt2img, "key_mix", True)
    txt2img.open("own_presets")
    txt2img.find("preset_delete").click()
    txt2img.wait_told("Deleted:")
    assert name not in txt2img.offered("preset")
    txt2img.pick("preset", "Layout only")
    txt2img.find("preset_about", ":text('first one')").first.wait_for()
    txt2img.find("preset_delete").click()
    txt2img.wait_told("comes with the extension")


def test_warnings_while_choosing(txt2img):
    page = txt2img.page
    host = Controls(page, "txt2img_")
    txt2img.open("general")
    txt2img.pick("preset", "Same style")
    txt2img.wait_live("Needs batch size 2 or more", "general")
    host.set_number("batch_size", 2)
    txt2img.wait_live("Acts in", "key_mix")
    assert "Needs batch" not in txt2img.live("general")
    txt2img.find("all_off").click()
    wait_on(txt2img, "key_mix", False)
    txt2img.pick("preset", "(NAG)")
    txt2img.wait_live("The penalty works at CFG 1 only; here only the negative's steps are saved", "general")
    host.set_number("cfg_scale", 1)
    txt2img.wait_live("The penalty needs a negative prompt", "general")
    page.fill("#txt2img_neg_prompt textarea", "blue")
    page.wait_for_function("line => !document.querySelector(line).innerText.includes('needs a')",
                           arg=f"#{FIRST}general_live")  # fmt: skip
    host.set_number("cfg_scale", 7)
    host.set_number("steps", 1)
    txt2img.wait_live("One step is always computed in full", "general")


def test_folding_never_switches_and_switching_on_unfolds(txt2img):
    txt2img.open("general")
    txt2img.open("contrast")
    assert not is_on(txt2img, "contrast")
    txt2img.find("contrast", "> .label-wrap").click()
    txt2img.switch("contrast")
    txt2img.page.wait_for_timeout(300)
    assert txt2img.is_open("contrast")
    txt2img.find("contrast", "> .label-wrap").click()
    assert is_on(txt2img, "contrast") and not txt2img.is_open("contrast")


@pytest.mark.parametrize("width, theme", [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")])
def test_height_and_width_of_the_panel(page, webui, keep, width, theme):
    """One technique on, Advanced closed: at most 900 px; nothing runs out of its box at any width."""
    page.set_viewport_size({"width": width, "height": 1600})
    load(page, webui, f"/?__theme={theme}")
    panel = Controls(page, FIRST)
    panel.open("general")
    for technique in TECHNIQUES:
        panel.switch(technique.name)
        panel.open(technique.name)
        page.wait_for_timeout(700)
        box = panel.find("general").first.bounding_box()
        assert width < 1400 or box["height"] <= 900, technique.name
        panel.find("general").first.scroll_into_view_if_needed()
        keep(page, f"webui-{technique.name}-{width}-{theme}")
        panel.switch(technique.name, False)
        panel.find(technique.name, "> .label-wrap").click()
    panel.open("own_presets")
    page.wait_for_timeout(500)
    over = page.evaluate(RUNS_OUT, f"#{FIRST}general")
    assert over == []


# Buttons that stick out of the panel, by more than rounding.
RUNS_OUT = """id => {
    const box = document.querySelector(id).getBoundingClientRect();
    return Array.from(document.querySelectorAll(id + " button")).filter(b => b.offsetParent !== null).filter(b => {
        const r = b.getBoundingClientRect();
        return r.right > box.right + 1 || r.left < box.left - 1 || b.scrollWidth > b.clientWidth + 1;
    }).map(b => b.id || b.textContent);
}"""


def test_compare_and_recorded_run(txt2img, webui, keep):
    page = txt2img.page
    small(page)
    Controls(page, "txt2img_").set_number("batch_size", 2)
    txt2img.open("general")
    txt2img.pick("preset", "Layout only")
    wait_on(txt2img, "key_mix", True)
    txt2img.open("key_mix")
    txt2img.find("key_mix_record", "input").check()
    txt2img.wait_live("This run is recorded", "key_mix")
    txt2img.find("compare_run").click()
    page.wait_for_selector("#html_log_txt2img:has-text('PSNR')", timeout=180000)
    log = page.inner_text("#html_log_txt2img")
    assert "s of sampling without" in log
    ratios = [float("inf") if text == "identical" else float(text.split()[0])
              for text in log.split("PSNR ")[1].partition(".\n")[0].rstrip(".").split(", ")]  # fmt: skip
    assert len(ratios) == 2 and ratios[0] > 60 > ratios[1]  # the first image is the source
    # A grid, two pictures, and for each a pair and a difference.
    assert page.locator("#txt2img_gallery .thumbnails button").count() == 7
    keep(page, "webui-compare")
    txt2img.find("recorded", ":text('128 × 128')").wait_for()
    assert "a cat" in txt2img.find("recorded").first.inner_text()
    txt2img.find("recorded_clear").click()
    page.wait_for_function("line => document.querySelector(line).innerText.trim() == ''", arg=f"#{FIRST}recorded")
    assert webui.probe("state")["leftovers"] == []
    page.click("#txt2img_generate")  # the wish was for one job
    page.wait_for_selector("#html_log_txt2img:has-text('Time taken'):not(:has-text('PSNR'))", timeout=180000)


def test_the_settings_page(page, webui):
    load(page, webui)
    page.click("#tabs button:has-text('Settings')")
    page.locator("#settings button").filter(has_text="Attention Lab").first.click()
    for key in ("files", "preset", "axes", "infotext"):
        page.locator(f"#setting_attention_lab_{key}").wait_for()


def test_negative_stream_generate_and_paste_back(txt2img, webui, keep):
    """All three techniques moved away from their defaults, drawn, pasted back and sent to the other tab."""
    page = txt2img.page
    small(page)
    txt2img.open("general")
    for technique in ("negative_skip", "contrast", "key_mix"):
        txt2img.switch(technique)
        txt2img.open(technique)
        txt2img.open(f"{technique}_advanced")
        for name, value in MOVED[technique].items():
            move(txt2img, f"{technique}_{name}", value)
        txt2img.find(technique).scroll_into_view_if_needed()
        keep(page, f"webui-{technique}")
    text = generate(page)
    keep(page, "webui-negative-stream")
    for technique, values in MOVED.items():
        unit = text.split(f'Attn {technique.replace("_", "-")}: "')[1].partition('"')[0].split(", ")
        defaults = {p.name: p.default for t in TECHNIQUES if t.name == technique for p in t.params()}
        for name, value in values.items():
            assert (f"{name.replace('_', ' ')}: {value}" in unit) == (value != defaults[name]), name
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
    # At three steps all are full ones, unless they are spread evenly.
    "negative_skip": {"key_every": 2, "early": 0, "fill": "copy", "strength": 3, "penalty": "NASA", "blocks": "out"},
    "contrast": {"feature": 0.7, "keys": 0.4, "map_strength": 0.5, "tau": 2, "blocks": "mid"},
    "key_mix": {
        "source": "blurred",
        "operator": "concatenate",
        "amount": 0.8,
        "values": "AdaIN",
        "blur": 4,
        "features": "follow",
        "feature_amount": 0.6,
    },  # fmt: skip
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
        ("Negative acts more", "contrast"),
    ):
        txt2img.find("all_off").click()
        txt2img.pick("preset", preset)
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
    page.locator("#script_txt2img_xyz_plot_x_type input").first.fill("preset")
    assert xyz.PRESET in [text.strip() for text in page.locator("ul.options li").all_inner_texts()]


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
    assert any(line.startswith(japanese[KeyMix.about]) for line in shown) and japanese["Negative skip: Blocks"] in shown
    for technique in TECHNIQUES:
        for param in technique.params():
            # The help of a technique's own switch stands nowhere: its accordion is the switch.
            assert param.name == "enabled" or japanese[param.help] in shown, param.key
