"""Picture text: written, parsed by the host's rule, and read back into every control."""

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
    parameters = dict(OTHERS)
    infotext.write(parameters, value)
    read = controls(read_infotext(write_infotext(parameters)))
    expected = (value if any(value.active()) else Settings()).flat()
    off = {f"{g.name}." for g in value.groups if g.name != "general" and not g.enabled}
    for param in all_params():
        # A technique that is off is not in the text: its controls go to their defaults.
        wanted = param.default if f"{param.technique}." in off else expected[param.key]
        assert read[param.key] == wanted and type(read[param.key]) is type(param.default)


def test_a_picture_without_our_keys_switches_everything_off():
    assert controls({"Steps": "20"}) == Settings().flat()


def test_a_cell_takes_the_keys_of_the_cell_before_out():
    on, _ = Settings.read({"near_sighted": {"enabled": True}})
    parameters = dict(OTHERS)
    infotext.write(parameters, on)
    assert set(parameters) > set(OTHERS)
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
