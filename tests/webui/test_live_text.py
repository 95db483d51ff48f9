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


def test_values_that_cannot_be_are_told_by_the_labels_of_their_controls(live):
    wrong = {"near_sighted.blocks": "<b>x</b>", "near_sighted.tile": 999, "near_sighted.hires": "never"}
    found = ask(live, ON | wrong | {"dictionary.file": "a/b", "general.skip_cfg1": 3})
    told = {name: [warning["text"] for warning in said["warnings"]] for name, said in found["techniques"].items()}
    assert told["near_sighted"][:3] == [
        "Tile size is a number from 0 to 256, not 999: the nearest value 256 is used.",
        "Near-sighted: Blocks is not understood: '<b>x</b>' is no block: use auto, all, in, mid, out, in4, out6-11, "
        "d0, d1-2 or !mid: the default auto is used.",
        "Near-sighted: Hires pass is one of same, off, only, not 'never': the default same is used.",
    ]  # fmt: skip
    assert told["dictionary"][0] == "Dictionary file is the name of a learned file, not 'a/b': it is left empty."


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
