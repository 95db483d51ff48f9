"""The panel's script and what answers it."""

import json

import pytest

from lib_attn.presets import Presets
from lib_attn.unet.profile import family_profile
from tests.conftest import ROOT

SCRIPT = ROOT / "javascript" / "attention_lab.js"


@pytest.fixture
def live(host, tmp_path):
    from lib_attn.webui.live import Live, Surroundings

    kept = {"recorded": {"prompt": "a cat", "width": 512, "height": 512, "mib": 12}}
    presets = Presets(tmp_path / "presets")

    def around():
        return Surroundings(family_profile("SD 1, 2"), kept.get("recorded"), lambda: kept.clear())

    return Live(presets, around)


def ask(live, values, **facts):
    question = {"values": values, "width": 1024, "height": 1024, "steps": 20, "cfg": 7, "batch": 1} | facts
    return json.loads(live.answer(json.dumps(question)))


ON = {"general.enabled": True, "near_sighted.enabled": True}


def test_an_answer(live):
    found = ask(live, ON, preset="Faster large pictures")
    assert found["active"] == [["near_sighted", "Near-sighted"]] and found["changed"] is False
    line = found["techniques"]["near_sighted"]["lines"][0]
    assert line["values"] == {"size": "1024 × 1024", "factor": "2.3", "tiles": 64} and "{factor}x" in line["text"]
    assert ask(live, ON | {"near_sighted.tile": 9}, preset="Faster large pictures")["changed"] is True
    assert found["recorded"]["prompt"] == "a cat" and "Layout only" in found["names"]


def test_a_picture_on_the_page_is_known_by_its_size(live):
    values = {"general.enabled": True, "depth_guide.enabled": True, "depth_guide.guide": "first steps"}
    drawn = ask(live, values)["techniques"]["depth_guide"]
    assert any("is drawn first" in line["text"] for line in drawn["lines"])
    for size, sides in (([2048, 1024], {"beside": 25.0}), ([0, 0], None), ("x", None), ([1, "2"], None)):
        found = ask(live, values, pictures={"depth_guide.own_map": size, "none.such": [1, 1]})
        lines = found["techniques"]["depth_guide"]["lines"]
        assert [line["text"] for line in lines][:2] == [
            "No file with map blocks is needed.", "Your own map is used, none is drawn.",
        ]  # fmt: skip
        assert [line["values"] for line in lines[2:]] == ([sides] if sides else [])


def test_clear(live):
    assert json.loads(live.clear("{}"))["recorded"] is None


def test_unread_blocks_are_told(live):
    found = ask(live, ON | {"near_sighted.blocks": "<b>x</b>"})
    assert "not understood" in found["techniques"]["near_sighted"]["warnings"][0]["text"]


@pytest.mark.parametrize(
    "text", [None, 3, "", "[", "[1]", "{}", '{"values": 3}', '{"batch": "x"}', "[" * 9000, "x" * 30000]
)
def test_nothing_raises(live, text):
    assert json.loads(live.answer(text))["active"] == []


def test_no_markup_is_made_of_texts():
    source = SCRIPT.read_text()
    assert "innerHTML" not in source and "eval" not in source and "MutationObserver" not in source


def test_the_script_knows_no_parameters():
    source = SCRIPT.read_text()
    assert "near_sighted" not in source and "halo" not in source
