"""Infotext in PNG files, and the grid."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_attn.lab.drawing import pictures
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.shared.errors import LabError
from lib_attn.settings import Settings
from tests.conftest import read_infotext

ON, _ = Settings.read({"near_sighted.enabled": True, "near_sighted.tile": 8, "near_sighted.blocks": "in,!d1"})


def test_infotext_has_the_webuis_form():
    asked = Request(("a cat",), (5, 6), "bad: x, y", height=64, width=128, sampler="DPM++ 2M", cfg=7.0)
    lines = pictures.infotext(asked, 1, ON, "tiny").split("\n")
    assert lines[:2] == ["a cat", "Negative prompt: bad: x, y"]
    start = "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 6, Size: 128x64, Model: tiny"
    assert lines[2].startswith(start)
    assert Settings.from_infotext(read_infotext(lines[2])) == (ON, [])
    assert "Attn" not in pictures.infotext(asked, 0, Settings(), "tiny")


@settings(deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool))
def test_infotext_comes_back(prompt):
    if prompt.startswith("Negative prompt:"):
        return
    pairs = pictures.parse_infotext(pictures.infotext(Request((prompt,), (1,), "b, c"), 0, ON, 'a "b", c: d'))
    assert pairs["Prompt"] == prompt and pairs["Negative prompt"] == "b, c" and pairs["Model"] == 'a "b", c: d'
    assert Settings.from_infotext(pairs) == (ON, [])


def test_png_keeps_it(tmp_path):
    path = pictures.save(Image.new("RGB", (8, 8)), tmp_path / "new" / "a.png", "ä\nSteps: 1")
    assert pictures.read_parameters(path) == "ä\nSteps: 1" and [f.name for f in path.parent.iterdir()] == ["a.png"]
    (tmp_path / "b.png").write_bytes(b"no picture")
    for bad in ("b.png", "none.png"):
        with pytest.raises(LabError):
            pictures.read_parameters(tmp_path / bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot be written"):
        pictures.save(Image.new("RGB", (8, 8)), tmp_path / "file" / "a.png")


def test_grid_holds_all_pictures():
    cells = [[Image.new("RGB", (64, 48), (r * 100, c * 80, 9)) for c in range(3)] for r in range(2)]
    sheet = pictures.grid(cells, ["off", "a very long heading " * 5, "c"], ["x", "ö"], [["1", "2", "3"]] * 2)
    colours = {colour for _, colour in sheet.getcolors(100000)}
    assert {(r * 100, c * 80, 9) for r in range(2) for c in range(3)} <= colours
    assert sheet.width > 3 * 64 and sheet.height > 2 * 48
