"""What only the real host can tell: its batches, its parser, its lists of callbacks and axes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_attn.settings import TECHNIQUES, Settings, all_params, positional_params, unit_key
from tests import strategies
from tests.conftest import read_infotext, write_infotext


def test_rows_of_the_real_denoiser(webui):
    found = webui.probe("rows")
    assert found["failures"] == [] and found["cases"] > 500


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(strategies.settings(), min_size=4, max_size=4))
def test_infotext_through_the_hosts_parser(webui, many):
    lines = [write_infotext({"Steps": 20, "Sampler": "Euler a", "Size": "64x64", **s.to_infotext()}) for s in many]
    for line, value, parsed in zip(lines, many, webui.probe("parse", lines), strict=True):
        again, messages = Settings.from_infotext(parsed)
        assert not messages and again.to_infotext() == value.to_infotext()
        ours = read_infotext(line)
        keys = {*(p.infotext for p in all_params()), *map(unit_key, TECHNIQUES)}
        assert {k: v for k, v in parsed.items() if k in keys} == {k: v for k, v in ours.items() if k in keys}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1), min_size=10, max_size=10))
def test_our_quoting_is_the_hosts(webui, values):
    from tests.conftest import quote

    assert webui.probe("quote", values) == [quote(value) for value in values]


def ours(labels):
    return [label for label in labels if label.startswith("[Attn]")]


def test_axes_and_callbacks_are_there_once_after_reloading_twice(webui):
    for _ in range(3):
        labels = webui.probe("axes")
        assert len(ours(labels)) == len(set(ours(labels))) == 1 + len(all_params())
        counts = webui.probe("callbacks")
        assert {k for k, n in counts.items() if n} == {
            "callbacks_model_loaded", "callbacks_cfg_denoiser", "callbacks_cfg_denoised", "callbacks_before_ui",
            "callbacks_script_unloaded", "callbacks_ui_settings", "callbacks_ui_tabs", "callbacks_app_started",
        }  # fmt: skip
        assert set(counts.values()) <= {0, 1}
        webui.reload()
    assert webui.picture({"near_sighted": {"enabled": True, "blocks": "all"}}).texts


@pytest.mark.parametrize("tab", [False, True])
def test_script_info(webui, tab):
    found = [s for s in webui.call("/sdapi/v1/script-info") if s["name"] == "attention lab" and s["is_img2img"] == tab]
    assert len(found) == 1 and found[0]["is_alwayson"]
    for arg, param in zip(found[0]["args"], positional_params(), strict=True):
        # No picture is what a picture's control starts with.
        assert param.label in arg["label"] and arg["value"] == (None if param.kind == "picture" else param.default)
        if param.kind in ("int", "float"):
            assert (arg["minimum"], arg["maximum"], arg["step"]) == (param.low, param.high, param.step)
        if param.kind == "choice":
            assert arg["choices"] == list(param.choices)
