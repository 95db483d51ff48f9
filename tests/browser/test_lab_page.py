"""The lab's page in a browser: the webui's panel, its live text, pairs side by side, and why nothing happened."""

import threading
import time
from dataclasses import replace

import pytest

from tests.browser.controls import Controls
from tests.host.server import _free_port
from tests.lab.conftest import model, tiny  # noqa: F401

pytest.importorskip("gradio", reason="the page needs gradio (pip install gradio==3.41.2)")

STEPS = 2


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):  # noqa: F811
    """The page itself, as ``ui`` serves it, with a model of random weights trained at 64 px."""
    import uvicorn

    from lib_attn.lab.drawing import page

    app = page.build_app(page.build_page(replace(model, side=64), tmp_path_factory.mktemp("own") / "presets"))
    port = _free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(params=[1400, 400])
def lab(request, page, address):
    page.set_viewport_size({"width": request.param, "height": 1200})
    page.goto(address)
    page.wait_for_selector("#lab_general")
    return Controls(page, "lab_")


def switch(lab, name, on=True):
    lab.find(f"{name}-checkbox", "input").set_checked(on)


def draw(lab):
    """Press Generate and wait for the pictures; returns their captions in the gallery's order."""
    before = lab.text("infotext")
    lab.set_number("steps", STEPS)
    lab.find("generate").click()
    lab.page.wait_for_function("t => document.querySelector('#lab_infotext textarea').value !== t", arg=before)
    lab.page.wait_for_selector("#lab_gallery .grid-container, #lab_gallery .thumbnails, #lab_gallery button img")
    return lab.find("gallery", ".caption-label").all_inner_texts()


def test_first_picture_is_of_the_models_own_size_and_the_panel_is_folded(lab, keep):
    assert lab.number("width") == lab.number("height") == 64
    assert lab.find("general-checkbox", "input").is_checked()
    for name in ("near_sighted", "negative_skip", "contrast", "key_mix"):
        assert not lab.find(f"{name}-checkbox", "input").is_checked()
        assert not lab.find(f"{name}_blocks").is_visible() and not lab.find(f"{name}_advanced").is_visible()
    keep(lab.page, f"lab-page-{lab.page.viewport_size['width']}")


def test_nothing_stands_out_of_its_box(lab):
    wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert lab.page.evaluate(wide) <= 0


def test_live_text_follows_the_size(lab):
    lab.open("near_sighted")
    switch(lab, "near_sighted")
    lab.wait_live("64 × 64")
    lab.set_number("width", 1024)
    lab.set_number("height", 1024)
    lab.wait_live("1024 × 1024")


def test_pairs_stand_side_by_side(lab, keep):
    switch(lab, "negative_skip")
    lab.set_number("batch_size", 2)
    captions = draw(lab)
    assert [caption.split(",")[:2] for caption in captions] == [
        [f"Seed {seed}", f" {side}"] for seed in (1, 2) for side in ("without", "with")
    ]
    boxes = [box.bounding_box() for box in lab.find("gallery", "button img").all()[:4]]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] == boxes[3]["y"] and boxes[0]["x"] < boxes[1]["x"]
    keep(lab.page, f"lab-pairs-{lab.page.viewport_size['width']}")


def test_a_job_without_effect_says_why(lab):
    lab.pick("preset", "Same style")
    lab.page.wait_for_function("document.querySelector('#lab_key_mix-checkbox input').checked")
    draw(lab)
    lab.page.wait_for_selector("#lab_said:has-text('Key mix changed nothing')")
    assert "batch size 2 or more" in lab.find("said").first.inner_text()
