"""The script file as the host loads it."""

import ast
import inspect

import pytest

from lib_attn.settings import all_params, positional_params
from tests.conftest import ROOT, SCRIPT, load_script

gr = pytest.importorskip("gradio", reason="the panel needs gradio (pip install gradio==3.41.2)")


def build(script_class, is_img2img):
    script = script_class()
    script.is_img2img = is_img2img
    with gr.Blocks():
        script.controls = script.ui(is_img2img)
    return script


def test_thin_and_one_script_class(script_module, host):
    source = SCRIPT.read_text()
    assert len(source.splitlines()) <= 150 and "dataclass" not in source
    classes = [c for c in vars(script_module).values() if inspect.isclass(c) and issubclass(c, host.scripts.Script)]
    assert classes == [script_module.AttentionLab]
    late = [n for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    assert not [n for n in late if isinstance(n, (ast.Import, ast.ImportFrom))]


def test_callbacks_are_registered_by_the_script_file_only(host):
    import lib_attn.webui.job
    import lib_attn.webui.xyz  # noqa: F401

    assert host.script_callbacks.registered == {}
    for _ in range(2):
        host.script_callbacks.registered.clear()  # what "Reload UI" does
        load_script()
        kinds = {name: len(found) for name, found in host.script_callbacks.registered.items()}
        assert kinds == dict.fromkeys(
            [
                "on_model_loaded",
                "on_cfg_denoiser",
                "on_cfg_denoised",
                "on_before_ui",
                "on_ui_settings",
                "on_script_unloaded",
                "on_ui_tabs",
                "on_app_started",
            ],
            1,
        )


def test_before_ui_adds_axes(host, script_module):
    host.script_callbacks.registered["on_before_ui"][0]()
    labels = [axis.label for axis in host.scripts.scripts_data[0].module.axis_options]
    assert len(labels) == 2 + sum(not p.advanced for p in all_params()) and labels[1] == "[Attn] Preset"


def test_without_a_page_the_axes_are_there_when_scripts_are_built(host, script_module):
    """With --nowebui the host asks the X/Y/Z script for its axes before it calls `on_before_ui`."""
    script_module.AttentionLab().show(False)
    labels = [axis.label for axis in host.scripts.scripts_data[0].module.axis_options]
    host.script_callbacks.registered["on_before_ui"][0]()
    assert [axis.label for axis in host.scripts.scripts_data[0].module.axis_options] == labels
    assert "[Attn] Preset" in labels


def test_the_settings_page(host, script_module, monkeypatch):
    monkeypatch.setattr(host.shared.opts, "added", {})
    host.script_callbacks.registered["on_ui_settings"][0]()
    added = host.shared.opts.added
    assert {option.section for option in added.values()} == {("attention_lab", "Attention Lab")}
    assert len(added) == 4 and all(option.label and option.told for option in added.values())
    choices = added["attention_lab_preset"].component_args()["choices"]
    assert choices[0] == "None" and "Same style (StyleAligned)" in choices
    monkeypatch.setattr(host.shared.opts, "attention_lab_axes", "all", raising=False)
    host.script_callbacks.registered["on_before_ui"][0]()
    assert len(host.scripts.scripts_data[0].module.axis_options) == 2 + len(all_params())


def test_ui(script_module, host):
    script = build(script_module.AttentionLab, False)
    assert script.title() == "Attention Lab"
    assert script.show(True) is script.show(False) is host.scripts.AlwaysVisible
    assert [c.label for c in script.controls][0] == "Attention Lab" and len(script.controls) == len(positional_params())


def test_paste_fields(script_module):
    """'Send to img2img' pairs the tabs' fields by the identity of their functions; the host's API would try to set
    a request field for each that has an `api` name."""
    tabs = [build(script_module.AttentionLab, tab) for tab in (False, True)]
    for script in tabs:
        pasted = [control for control in script.controls if control.label not in ("Compare off / on", "Your own map")]
        shown = {script.elem_id(name) for name in ("preset", "preset_about", "preset_told")}
        found = [field.component for field in script.infotext_fields]
        assert set(pasted) < set(found) and len(found) == len(pasted) + len(shown)
        assert {part.elem_id for part in set(found) - set(pasted)} == shown
        assert all(field.api is None for field in script.infotext_fields)
        assert script.paste_field_names == [field.function for field in script.infotext_fields]
    assert all(a is b for a, b in zip(tabs[0].paste_field_names, tabs[1].paste_field_names, strict=True))


def test_nothing_is_written_by_building(script_module, fake_host):
    from pathlib import Path

    build(script_module.AttentionLab, False)
    assert not (Path(fake_host.paths.data_path) / "attention_lab").exists()


def test_fixed_files():
    assert not [n for n in ast.walk(ast.parse((ROOT / "install.py").read_text())) if isinstance(n, ast.stmt)]
    assert "[Extension]" in (ROOT / "metadata.ini").read_text()
