"""The page Learn in the real webui: a run begun, interrupted and gone on with, and its file in the panel's list."""

import json

import pytest
from PIL import Image

from tests.browser.controls import Controls
from tests.browser.test_webui import FIRST, generate, load, small

PREFIX = "attention_lab_learn_"
BAR = "#tab_attention_lab .progressDiv"


@pytest.fixture
def learn(page, webui):
    load(page, webui)
    page.locator("#tabs > .tab-nav button").filter(has_text="Attention Lab").click()
    return Controls(page, PREFIX)


def wait_said(controls, text):
    controls.find("said", f":text({json.dumps(text)})").first.wait_for(timeout=300000)


def test_a_run_is_interrupted_and_gone_on_with(learn, keep, tmp_path):
    page = learn.page
    prompts = tmp_path / "my prompts.txt"
    prompts.write_text("a <b>star</b>\na torus\n", encoding="utf-8")
    page.set_input_files(".attention-lab-load input", prompts)
    page.wait_for_function(f"() => document.querySelector('#{PREFIX}prompts textarea').value.includes('torus')")
    learn.choose("kind", "Dictionary")
    learn.set_text("name", "by hand")
    numbers = {"pictures_count": 3, "pictures_steps": 10, "pictures_width": 128, "pictures_height": 128}
    for name, value in (numbers | {"dictionary_atoms": 8, "dictionary_samples": 256}).items():
        learn.set_number(name, value)
    keep(page, "learn")

    learn.find("start").click()
    page.wait_for_function(f"() => (document.querySelector('{BAR}') || {{}}).textContent?.includes('Picture 2 of 3')")
    keep(page, "learn-running")
    learn.find("stop").click()
    wait_said(learn, "Interrupted: 1 of 3 pictures")
    learn.find("start").click()
    wait_said(learn, "by hand is learned, from 3 pictures")
    page.locator(BAR).wait_for(state="detached")
    keep(page, "learn-done")
    learn.find("start").click()
    wait_said(learn, "There is a learned file by hand already")

    page.click("#tabs > .tab-nav button:has-text('txt2img')")
    panel = Controls(page, FIRST)
    panel.open("general")
    panel.open("dictionary")
    # Every panel on the page looks again when a file was learned.
    page.wait_for_timeout(1000)
    assert "by hand" in panel.offered("dictionary_file")
    panel.pick("dictionary_file", "by hand")
    assert panel.text("dictionary_file") == "by hand"


def test_a_dictionary_of_own_pictures(learn, keep, tmp_path):
    """Four pictures chosen, one dropped, those of the gallery taken; the file is chosen and drawn with."""
    page = learn.page
    page.click("#tabs > .tab-nav button:has-text('txt2img')")
    small(page)
    generate(page)
    page.locator("#tabs > .tab-nav button").filter(has_text="Attention Lab").click()
    files = []
    for number, colour in enumerate(("red", "orange", "yellow", "brown")):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (3000 if number else 150, 200), colour).save(files[-1])
    learn.choose("kind", "Dictionary")
    learn.choose("source", "my own pictures")
    learn.find("prompts").wait_for(state="hidden")
    learn.set_text("name", "my look")
    for name, value in {"pictures_width": 128, "pictures_height": 128, "dictionary_atoms": 8}.items():
        learn.set_number(name, value)
    learn.find("start").click()
    wait_said(learn, "There are no pictures to learn from")
    learn.set_text("name", "")
    learn.find("start").click()
    wait_said(learn, "The file to make needs a name.")
    learn.set_text("name", "my look")
    broken = tmp_path / "holiday.png"
    broken.write_text("no picture")
    page.set_input_files(f"#{PREFIX}own input", [files[0], broken, *files])
    thumbs = page.locator(f"#{PREFIX}own img")
    page.locator(f"#{PREFIX}own p:text('holiday.png is no picture that can be read, and is left out.')").wait_for()
    page.wait_for_function(f"() => document.querySelectorAll('#{PREFIX}own img').length == 5")
    page.locator(f"#{PREFIX}own button[title='0.png: remove']").first.click()
    page.wait_for_function(f"() => document.querySelectorAll('#{PREFIX}own img').length == 4")
    learn.find("gallery").click()
    page.wait_for_function(f"() => document.querySelectorAll('#{PREFIX}own img').length == 5")
    assert thumbs.nth(1).evaluate("img => img.decode().then(() => img.naturalWidth)") == 2048
    assert thumbs.nth(4).evaluate("img => img.decode().then(() => img.naturalWidth)") == 128
    keep(page, "learn-own")
    learn.find("start").click()
    page.wait_for_function(f"() => (document.querySelector('{BAR}') || {{}}).textContent?.includes('of 5')")
    wait_said(learn, "my look is learned, from 5 pictures")
    keep(page, "learn-own-done")
    learn.find("clear").click()
    page.wait_for_function(f"() => !document.querySelector('#{PREFIX}own img')")

    page.click("#tabs > .tab-nav button:has-text('txt2img')")
    panel = Controls(page, FIRST)
    panel.open("general")
    panel.switch("dictionary")
    panel.open("dictionary")
    page.wait_for_timeout(1000)
    panel.pick("dictionary_file", "my look")
    panel.choose("dictionary_mode", "full")
    panel.set_number("dictionary_strength", 1)
    page.click("#txt2img_generate")
    page.wait_for_selector("#html_info_txt2img:has-text('file: my look#')", timeout=180000)
    keep(page, "learn-own-drawn")
    panel.switch("dictionary", False)


def test_a_pasted_picture_whose_file_is_missing_says_so(page, webui, keep):
    load(page, webui)
    text = 'a cube\nSteps: 4, Sampler: Euler a, Seed: 3, Attention Lab: 0.1.0, Attn dictionary: "file: gone#0123456789"'
    page.fill("#txt2img_prompt textarea", text)
    page.click("#paste")
    panel = Controls(page, FIRST)
    panel.wait_live("The learned file gone is not used: there is none of this name", "dictionary")
    assert panel.text("dictionary_file") == "gone#0123456789"
    keep(page, "learned-file-missing")
    page.fill("#txt2img_prompt textarea", "a cube\nSteps: 4, Sampler: Euler a, Seed: 3")
    page.click("#paste")
    page.wait_for_function(f"() => document.querySelector('#{FIRST}dictionary_file input').value === ''")
