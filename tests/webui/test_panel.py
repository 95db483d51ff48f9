"""The panel in plain gradio: every parameter once, real bounds, stable and unique labels, translated, presets."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from lib_attn.presets import Presets
from lib_attn.settings import Settings, all_params, positional_params
from tests.conftest import ROOT

gr = pytest.importorskip("gradio", reason="the panel needs gradio (pip install gradio==3.41.2)")

JAPANESE = ROOT / "localizations" / "ja_JP.json"

# ui-config.json of every user goes by these: a label may be added, never changed.
LABELS = (
    """
Attention Lab|Also in inner passes|Near-sighted|Tile size|Tile count|Halo|Shift|Global pooling|Global keys
Global strength|Exact step every|Residual memory|Local pooling|Local pooling shape|Local pooling mode|Local K blend
Local V blend|Peak tile size|Peak global pooling|Peak time|Time decay|Depth scaling|Near-sighted: Blocks
Near-sighted: Start|Near-sighted: End|Near-sighted: Hires pass
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.fixture(scope="module")
def built(fake_host, tmp_path_factory):
    from lib_attn.webui import panel

    with gr.Blocks() as page:
        controls = panel.build(elem_id=lambda name: f"lab_{name}", presets=Presets(tmp_path_factory.mktemp("presets")))
    return page, controls


def blocks_of(page):
    return list(page.blocks.values())


def visible_texts(page):
    """Everything on the page that a user reads and the host's localization can reach."""
    texts = set()
    for block in blocks_of(page):
        for text in (getattr(block, "label", None), getattr(block, "info", None), getattr(block, "placeholder", None)):
            texts.add(text)
        if isinstance(block, (gr.Button, gr.HTML)):
            texts.add(re.sub(r"<[^>]*>", "", block.value or ""))
        for choice in getattr(block, "choices", None) or []:
            texts.add(choice[0] if isinstance(choice, (tuple, list)) else choice)
    return texts - {None, ""}


def test_a_control_for_every_parameter(built):
    _, panel = built
    assert set(panel.controls) == {p.key for p in all_params()}
    assert [panel.controls[p.key] for p in positional_params()] == panel.inputs()
    for param in all_params():
        control = panel.controls[param.key]
        assert control.value == param.default and type(control.value) is type(param.default)
        if param.kind in ("int", "float"):
            assert (control.minimum, control.maximum, control.step) == (param.low, param.high, param.step)
        if param.kind == "choice":
            assert [c[0] if isinstance(c, tuple) else c for c in control.choices] == list(param.choices)
        if param.name != "enabled":
            assert param.help in control.info


def test_labels_are_unique_and_frozen(built):
    _, panel = built
    assert [c.label for c in panel.inputs()][: len(LABELS)] == LABELS
    assert len({c.label for c in panel.inputs()}) == len(panel.inputs())


def test_ids_are_unique(built):
    ids = Counter(b.elem_id for b in blocks_of(built[0]) if b.elem_id)
    assert not [name for name, count in ids.items() if count > 1]
    assert all(c.elem_id.startswith("lab_") for c in built[1].inputs())


def test_passing_controls_are_not_stored_by_the_host(built):
    ours = set(built[1].inputs())
    for block in blocks_of(built[0]):
        if isinstance(block, (gr.Dropdown, gr.Textbox, gr.Button)) and block not in ours:
            assert block.do_not_save_to_config


def test_building_twice_is_the_same_and_has_no_side_effects(built, tmp_path):
    from lib_attn.webui import panel

    with gr.Blocks():
        again = panel.build(elem_id=lambda name: f"lab_{name}", presets=Presets(tmp_path / "presets"))
    assert [c.get_config() | {"name": 0} for c in again.inputs()] == [
        c.get_config() | {"name": 0} for c in built[1].inputs()
    ]
    assert not (tmp_path / "presets").exists()


def script_texts():
    source = (ROOT / "javascript" / "attention_lab.js").read_text()
    table = re.search(r"var texts = \{(.*?)\};", source, re.S).group(1)
    return set(re.findall(r': "(.*)",', table))


def test_japanese_covers_the_page_and_nothing_else(built):
    japanese = json.loads(JAPANESE.read_text(encoding="utf-8"))
    texts = visible_texts(built[0]) | script_texts()
    same = {"SDXL", "NAG", "NASA", "AdaIN"}  # names that stay as they are
    assert set(japanese) - texts == set(), "keys that are on no page"
    assert texts - set(japanese) - same == set(), "texts without a translation"
    assert all(value.strip() for value in japanese.values())


def test_japanese_keeps_the_placeholders():
    japanese = json.loads(JAPANESE.read_text(encoding="utf-8"))
    for key, value in japanese.items():
        assert sorted(re.findall(r"\{\w+\}", key)) == sorted(re.findall(r"\{\w+\}", value)), key


def test_preset_buttons(fake_host, tmp_path):
    from lib_attn.webui.panel import PresetActions, values

    actions = PresetActions(Presets(tmp_path))
    todo = actions.apply("ToDo (subsampled K, V)")
    assert todo[:3] == [True, False, True] and todo[3] == 0 and len(todo) == len(positional_params()) + 1
    wanted, _ = Settings.read({"near_sighted": {"enabled": True, "tile": 24}})
    update, said = actions.save("Mine", *values(wanted))
    assert update["value"] == "Mine" and "Mine" in update["choices"] and said == "Saved Mine."
    assert actions.apply("Mine")[:-1] == values(wanted)
    assert "../x" not in actions.save("../<img src=x>", *values(wanted))[1]
    update, said = actions.delete("Mine")
    assert "Mine" not in update["choices"] and said == "Deleted Mine."
    for broken in (actions.apply("Mine"), actions.delete("Mine"), actions.apply(None), actions.save(None)):
        assert isinstance(broken[-1], str) and broken[-1].endswith(".")


def test_the_maths_needs_neither_webui_nor_gradio():
    code = (
        "import sys; sys.modules['modules'] = sys.modules['gradio'] = None\n"
        "import lib_attn.attach, lib_attn.presets, lib_attn.preview, lib_attn.settings"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
