"""The schema: reading, clamping, refusing, and all its round trips."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_attn import __version__
from lib_attn.settings import (
    GROUPS,
    General,
    NearSighted,
    Settings,
    all_params,
    infotext_value,
    positional_params,
    show,
)  # fmt: skip
from tests.strategies import settings


@given(settings())
def test_to_dict_and_flat_are_read_back(value):
    for form in (value.to_dict(), value.flat(), json.loads(json.dumps(value.to_dict()))):
        assert Settings.read(form) == (value, [])


@given(settings())
def test_infotext_pairs_are_read_back(value):
    for full in (False, True):
        pairs = value.to_infotext(full)
        again, messages = Settings.from_infotext(pairs)
        assert not messages
        assert list(again.active()) == list(value.active())
        assert pairs == again.to_infotext(full) and (pairs != {}) == any(value.active())


def test_the_short_infotext_has_one_key_a_technique():
    values = {"near_sighted": {"enabled": True, "tile": 8, "blocks": "d0,out6"}, "contrast.enabled": True}
    assert Settings.read(values)[0].to_infotext() == {
        "Attention Lab": __version__, "Attn near-sighted": "tile: 8, blocks: d0;out6", "Attn contrast": "on",
    }  # fmt: skip
    assert "Attn skip cfg1" in Settings.read({**values, "skip_cfg1": False})[0].to_infotext()


def test_the_long_infotext_of_earlier_pictures_is_read():
    pairs = {"Attention Lab": "True", "Attn near-sighted enabled": "True", "Attn near-sighted tile": "24"}
    settings, messages = Settings.from_infotext(pairs)
    assert not messages and [(g.name, g.tile, g.pool) for g in settings.active()] == [("near_sighted", 24, 4)]


def test_a_later_default_changes_no_old_picture(monkeypatch):
    """A picture of release 0.1.0 means that release's defaults, whatever has become of them."""
    param = next(p for p in NearSighted.params() if p.name == "tile")
    changed = dataclasses.replace(param, default=32, earlier=(("0.1.0", 16), ("0.3.0", 20)))
    assert [changed.default_of(r) for r in ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "x")] == [16, 20, 20, 32, 32]
    for release, tile in (("0.1.0", 16), ("0.3", 20), ("1.0", 32)):
        assert infotext_value(changed, {"Attention Lab": release, "Attn near-sighted": "pool: 8"}) == tile
    assert infotext_value(changed, {"Attention Lab": "0.1.0", "Attn near-sighted": "tile: 8"}) == "8"


@pytest.mark.parametrize("unit", ["", "on", "tile", "tile: 8, tile: 9", ":", ",,,", "tile: x", "x" * 9000])
def test_a_damaged_unit_leads_to_valid_values(unit):
    settings, _ = Settings.from_infotext({"Attention Lab": "0.1.0", "Attn near-sighted": unit})
    assert settings["near_sighted"].tile in (9, 16)


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
    wishes = [p.key for group in GROUPS for p in group.all_params() if p.transient]
    assert sorted(p.key for p in positional_params()) == sorted([*wishes, *(p.key for p in all_params())])


def test_techniques_share_their_common_fields():
    for group in GROUPS:
        if group is not General:
            names = [p.name for p in group.params()]
            assert names[0] == "enabled" and {"start", "end", "hires"} <= set(names)
            assert "blocks" in names or vars(group)["blocks"] == "auto", "acts on no block, and says so"


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
