"""The panel in a plain gradio page, as the lab shows it: no webui needed."""

import json
import threading

import pytest

from lib_attn.unet.profile import family_profile
from tests.browser.controls import Controls
from tests.conftest import ROOT, read_infotext, write_infotext
from tests.host.server import _free_port

gr = pytest.importorskip("gradio", reason="the panel needs gradio (pip install gradio==3.41.2)")


@pytest.fixture(scope="module")
def address(fake_host, tmp_path_factory):
    """A page with the panel, a size, and a text that the settings are written to and read from."""
    from lib_attn.presets import Presets
    from lib_attn.webui import api, infotext, live, panel, preset_actions

    presets = Presets(tmp_path_factory.mktemp("own") / "presets")

    with gr.Blocks(css=(ROOT / "style.css").read_text()) as blocks:
        gr.Number(1024, label="Width", interactive=True, elem_id="lab_width")
        gr.Number(768, label="Height", interactive=True, elem_id="lab_height")
        built = panel.build(
            elem_id=lambda n: f"lab_{n}",
            presets=presets,
            surroundings=lambda: live.Surroundings(family_profile("SD 1, 2")),
        )
        text = gr.Textbox(label="Picture text", interactive=True, elem_id="lab_text")
        write, paste = gr.Button("Write", elem_id="lab_write"), gr.Button("Paste", elem_id="lab_paste")
        others = {"Steps": 20, "Sampler": "Euler a"}
        write.click(lambda *v: write_infotext(others | api.read_args(v)[0].to_infotext()), built.inputs(), [text])
        shown = preset_actions.preset_readers(presets)
        readers = {built.controls[key]: reader for key, reader in infotext.READERS.items()}
        readers |= {built.preset[part]: reader for part, reader in shown.items()}
        paste.click(lambda line: [reader(read_infotext(line)) for reader in readers.values()], [text], list(readers))
    port = _free_port()
    blocks.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, show_error=True)
    yield f"http://127.0.0.1:{port}"
    blocks.close()
    assert threading.active_count() < 50


@pytest.fixture
def lab(page, address):
    page.goto(address)
    page.wait_for_selector("#lab_general")
    page.add_script_tag(path=ROOT / "javascript" / "attention_lab.js")
    controls = Controls(page, "lab_")
    controls.open("general")
    controls.open("near_sighted")
    return controls


def switch(lab, name, on=True):
    lab.find(f"{name}-checkbox", "input").set_checked(on)


def test_settings_go_out_and_come_back(lab, keep):
    switch(lab, "general")
    switch(lab, "near_sighted")
    lab.set_number("near_sighted_tile", 24)
    lab.open("near_sighted_advanced")
    lab.set_text("near_sighted_blocks", "d0,out6")
    lab.wait_live("tiles")
    lab.choose("near_sighted_hires", "off")
    keep(lab.page, "plain")
    lab.find("write").click()
    lab.page.wait_for_function("document.querySelector('#lab_text textarea').value.includes('Attn')")
    line = lab.text("text")
    assert 'Attn near-sighted: "tile: 24, blocks: d0;out6, hires: off"' in line
    lab.set_text("text", "Steps: 20, Sampler: Euler a, Seed: 1")
    lab.find("paste").click()
    lab.page.wait_for_function("!document.querySelector('#lab_near_sighted-checkbox input').checked")
    assert lab.number("near_sighted_tile") == 16 and lab.chosen("near_sighted_hires") == "same"
    lab.set_text("text", line)
    lab.find("paste").click()
    lab.page.wait_for_function("document.querySelector('#lab_near_sighted-checkbox input').checked")
    assert lab.number("near_sighted_tile") == 24 and lab.chosen("near_sighted_hires") == "off"
    assert lab.text("near_sighted_blocks") == "d0,out6"


def test_numbers_fit_into_their_boxes(lab):
    lab.open("near_sighted_advanced")
    box = lab.find("near_sighted_residual_memory", "input[type=number]")
    box.wait_for()
    assert box.input_value() == "2048" and box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_live_text_follows_sliders_and_size(lab):
    lab.set_number("near_sighted_tile", 16)
    lab.wait_live("1024 × 768")
    before = lab.live()
    lab.set_number("near_sighted_tile", 32)
    line = "#lab_near_sighted_live .attention-lab-live"
    lab.page.wait_for_function(
        "([line, t]) => document.querySelector(line).innerText.trim() !== t.trim()", arg=[line, before]
    )
    assert lab.find("near_sighted_tile", ".attention-lab-reads").inner_text() == "= 256 px"
    lab.set_number("width", 128)
    lab.wait_live("128 × 768")
    lab.wait_live("nothing is left to gain")
    lab.open("near_sighted_advanced")
    lab.set_text("near_sighted_blocks", "<b>x</b>")
    lab.wait_live("not understood")


def test_presets(lab):
    lab.pick("preset", "ToDo")
    lab.page.wait_for_function("document.querySelector('#lab_near_sighted_tile input[type=number]').value == '0'")
    assert "Needs SD 1.x or 2.x" in lab.find("preset_about").first.inner_text()
    lab.open("own_presets")
    lab.set_text("preset_name", "Mine <b>")
    lab.find("preset_save").click()
    lab.wait_told("may have letters")
    lab.set_text("preset_name", "my_own v1.2")
    lab.find("preset_save").click()
    lab.wait_told("Saved:")
    assert "my_own v1.2" in lab.find("preset_said").first.inner_text()
    lab.find("preset_delete").click()
    lab.wait_told("Deleted:")
    assert "my_own v1.2" in lab.find("preset_said").first.inner_text()


def test_an_answer_goes_when_something_else_is_chosen_or_typed(lab):
    """And comes again for the same mistake."""
    lab.open("own_presets")
    for _ in range(2):
        lab.set_text("preset_name", "")
        lab.find("preset_save").click()
        lab.wait_told("No technique is on")
        lab.set_text("preset_name", "m")
        lab.page.wait_for_function("document.querySelector('#lab_preset_said').innerText.trim() == ''")
    switch(lab, "contrast")
    lab.pick("preset", "ToDo")
    lab.find("preset_told", ":text('Contrast stays on.')").first.wait_for()
    switch(lab, "contrast", False)
    lab.page.wait_for_function("document.querySelector('#lab_preset_told').innerText.trim() == ''")
    lab.open("depth_guide")
    lab.open("depth_guide_advanced")
    lab.find("depth_guide_map_hash_latest").click()
    lab.find("depth_guide_map_hash_said", ":text('none yet')").first.wait_for()
    lab.pick("preset", "Fast 512")
    lab.page.wait_for_function("document.querySelector('#lab_depth_guide_map_hash_said').innerText.trim() == ''")


def test_a_pasted_picture_shows_its_preset(lab):
    switch(lab, "contrast")
    lab.pick("preset", "Every 3rd step")
    lab.find("preset_told", ":text('Contrast stays on.')").first.wait_for()
    unit = 'Attn step-skip: "key every: 2.0"'
    for text, on, name, about in (
        (f"Attention Lab: 0.1.0, {unit}", False, "Every 2nd step", "Half the work"),
        (f"Attention Lab: 0.1.0, {unit}, Attn contrast: on", True, "", "Choosing one applies it"),
        ("Seed: 1", False, "", "Choosing one applies it"),
    ):
        lab.set_text("text", f"Steps: 20, Sampler: Euler a, {text}")
        lab.find("paste").click()
        # The switch differs from picture to picture; until an answer is there, gradio counts seconds in its place.
        lab.page.wait_for_function(
            "on => document.querySelector('#lab_contrast-checkbox input').checked === on"
            " && document.querySelector('#lab_preset_told').innerText.trim() === ''",
            arg=on,
        )
        lab.find("preset_about", f":text('{about}')").first.wait_for()
        assert lab.text("preset") == name


def test_all_off_folds_what_was_opened(lab):
    switch(lab, "general")
    lab.pick("preset", "ToDo")
    lab.page.wait_for_function("document.querySelector('#lab_near_sighted-checkbox input').checked")
    switch(lab, "contrast")
    lab.find("contrast", "> .label-wrap.open").wait_for()
    lab.find("all_off").click()
    lab.page.wait_for_function("!document.querySelector('#lab_contrast-checkbox input').checked")
    assert not any(lab.is_open(name) for name in ("near_sighted", "contrast"))
    assert lab.text("preset") == "" and "Choosing one applies it" in lab.find("preset_about").first.inner_text()


def test_nothing_stale_stands_while_a_preset_is_applied(lab):
    """Seen in every frame: what the values on the page do not say is hidden."""
    switch(lab, "general")
    lab.wait_live("No technique is on", "general")
    lab.page.evaluate(WATCH)
    lab.pick("preset", "ToDo")
    lab.page.wait_for_function("window.seen.includes('new')")
    seen = lab.page.evaluate("window.seen")
    chosen = seen.index("chosen")
    assert "old" not in seen[chosen + 1 :] and "hidden" in seen


# What stands in the line: "old" or "new" where it can be seen, else "hidden"; "chosen" once the list shows the name.
WATCH = """() => {
    window.seen = [];
    const note = (what) => window.seen[window.seen.length - 1] !== what && window.seen.push(what);
    let chosen = false;
    const look = () => {
        const name = document.querySelector('#lab_preset input').value, line =
            document.querySelector('#lab_general_live .attention-lab-live');
        const shown = getComputedStyle(line).visibility == 'visible';
        if (!chosen && name.startsWith('ToDo')) { chosen = true; note('chosen'); }
        else note(!shown ? 'hidden' : line.innerText.includes('No technique is on') ? 'old' : 'new');
        requestAnimationFrame(look);
    };
    look();
}"""


def test_parts_of_a_sentence_are_translated(lab):
    japanese = json.loads((ROOT / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))
    lab.page.evaluate("(table) => { window.localization = table; }", japanese)
    told = {
        "Key mix changed nothing. Needs batch size 2 or more.": ("Key mix", "Needs batch size 2 or more."),
        "Negative skip changed nothing. Every step computes the negative: nothing is saved. The penalty works at CFG 1 "
        "only.": ("Negative skip", "Every step computes the negative: nothing is saved.",
                  "The penalty works at CFG 1 only."),
        "X/Y/Z: Near-sighted: With these values it equals full attention at this size. Cells: tile = 8.":
            ("Near-sighted", "With these values it equals full attention at this size."),
        "Step skip computes every step: another extension works inside the model and may count on every row (M00).":
            ("another extension works inside the model and may count on every row",),
        "The learned file mine is not used: it is cut off.": ("it is cut off",),
        "Near-sighted: Blocks is not understood: 'x' counts downwards: the default auto is used.":
            ("Near-sighted: Blocks", "auto"),
    }  # fmt: skip
    for text, parts in told.items():
        found = lab.page.evaluate("(text) => attentionLab.translatedMessage(text)", text)
        for part in parts:
            assert japanese[part] in found and japanese[part] != part, text


def test_values_out_of_range_are_told_in_japanese(lab):
    """Label, value, range and choices as the panel has them, also where the host shows an error of X/Y/Z."""
    japanese = json.loads((ROOT / "localizations" / "ja_JP.json").read_text(encoding="utf-8"))
    lab.page.evaluate("(table) => { window.localization = table; }", japanese)
    told = {
        "Tile size is a number from 0 to 256, not 999.":
            "「タイルの大きさ」は 0 から 256 までの数で、999 は使えません。",
        "Tile size is a number from 0 to 256, not 999: the nearest value 256 is used.":
            "「タイルの大きさ」は 0 から 256 までの数で、999 は使えません。最も近い 256 を使います。",
        "Near-sighted: Hires pass is one of same, off, only, not 'never': the default same is used.":
            "「近視アテンション：高解像度パス」は次のどれかです：同じ, オフ, ここだけ。"
            "'never' は使えません。初期値の「同じ」を使います。",
        "Near-sighted: Blocks is not understood: 'x' counts downwards: the default auto is used.":
            "「近視アテンション：ブロック」を読み取れません：'x' は番号が逆順です。初期値の「auto（自動）」を使います。",  # noqa: E501
    }  # fmt: skip
    for text, wanted in told.items():
        assert lab.page.evaluate("(text) => attentionLab.translatedMessage(text)", text) == wanted
    shown = f"<p id=html_log_x><span class=error>RuntimeError: {next(iter(told))}</span></p>"
    lab.page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", shown)
    lab.page.evaluate("attentionLab.updateSoon()")
    lab.page.locator("#html_log_x .error", has_text=told[next(iter(told))]).wait_for()
