"""The schema: reading, clamping, refusing, and all its round trips."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_attn.settings import GROUPS, General, NearSighted, Settings, all_params, positional_params, show
from tests.strategies import settings


@given(settings())
def test_to_dict_and_flat_are_read_back(value):
    for form in (value.to_dict(), value.flat(), json.loads(json.dumps(value.to_dict()))):
        assert Settings.read(form) == (value, [])


@given(settings())
def test_infotext_pairs_are_read_back(value):
    pairs = value.to_infotext()
    again, messages = Settings.from_infotext(pairs)
    assert not messages
    assert list(again.active()) == list(value.active())
    assert pairs == again.to_infotext() and (pairs != {}) == any(value.active())


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_shown_numbers_are_read_back_exactly(x):
    assert float(show(x)) == x


@given(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans(), st.binary(), st.lists(st.integers())))
def test_a_value_is_in_range_or_refused(value):
    for param in all_params():
        try:
            read = param.read(value)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
        else:
            if param.kind in ("int", "float"):
                assert param.low <= read <= param.high and type(read) is {"int": int, "float": float}[param.kind]
            if param.kind == "choice":
                assert read in param.choices
            assert param.read(read) == read


def test_descriptions_are_complete():
    for param in all_params():
        assert param.label and param.help.endswith(".") and param.read(param.default) == param.default
        if param.kind in ("int", "float"):
            assert param.low <= param.default <= param.high and param.step > 0
    assert len({p.infotext for p in all_params()}) == len({p.key for p in all_params()}) == len(all_params())


def test_infotext_keys_are_safe_for_the_host():
    for param in all_params():
        assert re.fullmatch(r"\w[\w -]+", param.infotext) and not re.fullmatch(r"\d+x\d+", show(param.default))


def test_positional_order_holds_every_parameter_once():
    assert sorted(p.key for p in positional_params()) == sorted(p.key for p in all_params())


def test_techniques_share_their_common_fields():
    for group in GROUPS:
        if group is not General:
            names = [p.name for p in group.params()]
            assert names[0] == "enabled" and {"blocks", "start", "end", "hires"} <= set(names)


def test_master_switch():
    on = NearSighted(enabled=True)
    assert not any(Settings().replace(near_sighted=on).active())
    assert [g.name for g in Settings.read({"near_sighted": {"enabled": True}})[0].active()] == ["near_sighted"]
    assert not any(Settings.read({"enabled": False, "near_sighted": {"enabled": True}})[0].active())


@pytest.mark.parametrize("hires, first, second", [("same", 1, 1), ("off", 1, 0), ("only", 0, 1)])
def test_for_pass(hires, first, second):
    chosen, _ = Settings.read({"near_sighted": {"enabled": True, "hires": hires}})
    assert (len(chosen.for_pass(False)), len(chosen.for_pass(True))) == (first, second)


def test_not_a_dictionary():
    value, messages = Settings.read([1, 2])
    assert value == Settings() and len(messages) == 1
