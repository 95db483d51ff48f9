"""The page's buttons, without a browser."""

from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs gradio (pip install gradio==3.41.2)")

from lib_attn.lab.drawing import page, pictures
from lib_attn.lab.drawing.sampling import Request
from lib_attn.settings import Settings, positional_params

FIELDS = {"prompt": "a", "negative": "", "sampler": "Euler", "steps": 2, "width": 128, "height": 64}
FIELDS |= {"cfg": 5.0, "seed": 1, "batch": 1}
ON, _ = Settings.read({"near_sighted.enabled": True, "near_sighted.tile": 8, "near_sighted.blocks": "all"})


def panel_values(settings):
    return [settings.flat()[p.key] for p in positional_params()]


def test_the_page_can_be_built(model, tmp_path):
    built = page.build_page(model, tmp_path)
    labels = {c.label for c in built.blocks.values() if getattr(c, "label", None)}
    assert {"Prompt", "Sampler", "Tile size", "Infotext", "Pictures"} <= labels


def test_draw(model, monkeypatch):
    import gradio

    monkeypatch.setattr(gradio, "Progress", lambda: lambda *a, **k: None)
    actions = page.Actions(model)
    drawn, said, text = actions.draw(FIELDS, panel_values(ON), True)
    assert len(drawn) == 2 and "latent L2" in drawn[1][1] and "Attn near-sighted: " in text and "tile: 8" in text
    drawn, said, text = actions.draw(FIELDS, panel_values(Settings()), True)
    assert len(drawn) == 1 and "Attn" not in text
    for change in ({"width": 100}, {"sampler": "x"}, {"seed": None}, {"steps": "x"}):
        assert actions.draw(FIELDS | change, panel_values(ON), True)[0] == []


def test_a_png_brings_every_control_back(model, tmp_path):
    asked = Request(("a cat",), (9,), "dog", 64, 128, 7, "DDIM", 4.5)
    path = pictures.save(Image.new("RGB", (8, 8)), tmp_path / "a.png", pictures.infotext(asked, 0, ON, "tiny"))
    *values, said = page.Actions(model).read_png(SimpleNamespace(name=str(path)))
    assert values[:8] == ["a cat", "dog", "DDIM", 7, 128, 64, 4.5, 9] and values[9:] == panel_values(ON) and not said
    plain = pictures.save(Image.new("RGB", (8, 8)), tmp_path / "b.png")
    assert page.Actions(model).read_png(SimpleNamespace(name=str(plain)))[9:-1] == panel_values(Settings())
    assert "no picture" in page.Actions(model).read_png(SimpleNamespace(name=str(tmp_path / "c.png")))[-1]
    assert page.Actions(model).read_png(None)[-1]
