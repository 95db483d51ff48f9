"""Picture text: written, parsed by the host's rule, and read back into every control."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_attn.settings import Settings, all_params
from lib_attn.webui import infotext
from tests.conftest import read_infotext, write_infotext
from tests.strategies import settings

OTHERS = {"Steps": 20, "Sampler": "Euler a", "Size": "512x768"}


def controls(pairs):
    return {key: reader(pairs) for key, reader in infotext.READERS.items()}


@given(settings())
def test_every_control_comes_back(value):
    for full in (False, True):
        comes_back(value, full)


def comes_back(value, full):
    parameters = dict(OTHERS)
    infotext.write(parameters, value, full)
    read = controls(read_infotext(write_infotext(parameters)))
    expected = (value if any(value.active()) else Settings()).flat()
    off = {f"{g.name}." for g in value.groups if g.name != "general" and not g.enabled}
    for param in all_params():
        # A technique that is off is not in the text: its controls go to their defaults.
        wanted = param.default if f"{param.technique}." in off else expected[param.key]
        assert read[param.key] == wanted and type(read[param.key]) is type(param.default)


def test_a_picture_without_our_keys_switches_everything_off():
    found = controls({"Steps": "20"})
    assert found == {key: Settings().flat()[key] for key in found} and set(found) == {p.key for p in all_params()}


def test_a_cell_takes_the_keys_of_the_cell_before_out():
    on, _ = Settings.read({"near_sighted": {"enabled": True}})
    parameters = dict(OTHERS)
    infotext.write(parameters, on, full=True)
    infotext.write(parameters, on)
    assert set(parameters) == {*OTHERS, "Attention Lab", "Attn near-sighted"}
    infotext.write(parameters, Settings())
    assert parameters == OTHERS


def test_switches_are_real_booleans():
    for text, value in (("True", True), ("False", False)):
        assert infotext.READERS["near_sighted.enabled"]({"Attn near-sighted enabled": text}) is value


@given(st.dictionaries(st.sampled_from(infotext.KEYS), st.text(max_size=2000)), st.text(max_size=300))
def test_a_malicious_picture_leads_to_valid_values_at_worst(pairs, line):
    for found in (pairs, {key: value * 1000 for key, value in pairs.items()}):
        for param in all_params():
            value = infotext.READERS[param.key](found)
            assert type(value) is type(param.default) and param.read(value) == value


@pytest.mark.parametrize("value", [None, 3, [1], {"a": 1}, b"x", float("nan"), "9" * 5000])
def test_values_of_wrong_type(value):
    for param in all_params():
        read = infotext.READERS[param.key]({param.infotext: value})
        assert type(read) is type(param.default)


def test_what_changed_nothing_drops_out_of_the_text():
    """The host calls what is callable when it writes a picture's text; to everybody else it is a text."""
    on, _ = Settings.read({"near_sighted": {"enabled": True}, "contrast": {"enabled": True}})
    parameters = {}
    infotext.write(parameters, on, still=lambda p, name: name == p)
    written = {name: parameters[f"Attn {name}"](p="contrast", index=0) for name in ("near-sighted", "contrast")}
    assert written == {"near-sighted": "on", "contrast": None}
    assert parameters["Attn contrast"] == "on" and json.dumps(parameters)
