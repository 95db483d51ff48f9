"""The two forms of arguments, and what becomes of nonsense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_attn.settings import Settings, positional_params
from lib_attn.webui.api import MAX_MESSAGES, read_args

# The positional API of release 1. Values may be added at the end by a later release, never here.
FROZEN = """
general.enabled general.inner_passes near_sighted.enabled near_sighted.tile near_sighted.tile_count near_sighted.halo
near_sighted.shift near_sighted.pool near_sighted.global_keys near_sighted.global_strength near_sighted.exact_every
near_sighted.residual_memory near_sighted.local_pool near_sighted.local_shape near_sighted.local_mode
near_sighted.local_k_blend near_sighted.local_v_blend near_sighted.tile_peak near_sighted.pool_peak
near_sighted.peak_time near_sighted.time_decay near_sighted.depth_scaling near_sighted.blocks near_sighted.start
near_sighted.end near_sighted.hires
""".split()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=500),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


def test_positional_order_is_frozen():
    assert [p.key for p in positional_params() if p.since == 1] == FROZEN
    assert [p.key for p in positional_params()][: len(FROZEN)] == FROZEN


def test_named_fields():
    settings, messages = read_args([{"near_sighted": {"enabled": True, "tile": 32}}, "the rest", "is not read"])
    assert not messages and settings.general.enabled and settings["near_sighted"].tile == 32
    assert settings["near_sighted"].pool == Settings()["near_sighted"].pool


def test_positional_list_and_short_list():
    settings, messages = read_args([True, False, True, 24])
    assert not messages and [g.tile for g in settings.active()] == [24]
    assert read_args([])[0] == Settings()


def test_positional_list_of_all_values():
    settings, _ = Settings.read({"near_sighted": {"enabled": True, "blocks": "out6-11", "shift": 0.25}})
    flat = settings.flat()
    again, messages = read_args([flat[p.key] for p in positional_params()])
    assert again == settings and not messages


def test_surplus_values_are_reported():
    _, messages = read_args([False] * 3 + [None] * len(positional_params()))
    assert len(messages) == 1 and "at most" in messages[0]


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"near_sighted": {"tile": float("nan")}}, "Tile size is a number from 0 to 256, not nan"),
        ({"near_sighted": {"tile": "wide"}}, "number"),
        ({"near_sighted": {"tile": 10**9}}, "Tile size is a number from 0 to 256, not 1000000000: the nearest"),
        ({"near_sighted": {"tile": 8.5}}, "Tile size is a whole number, not 8.5: the nearest value 8 is used."),
        ({"near_sighted": {"hires": "perhaps"}}, "one of"),
        ({"near_sighted": {"blocks": "in4)(*"}}, "no block"),
        ({"near_sighted": {"zoom": 3}}, "no parameter"),
        ({"near_sighted": [1, 2]}, "dictionary"),
        ({"far_sighted": {}}, "no technique"),
        ({"enabled": "perhaps"}, "on or off"),
    ],
)
def test_one_clear_sentence_for_each_mistake(fields, word):
    settings, messages = read_args([fields])
    assert len(messages) == 1 and word in messages[0] and len(messages[0]) < 300
    assert isinstance(settings, Settings)


def test_many_mistakes_are_summed_up():
    _, messages = read_args([{f"x{i}": 1 for i in range(1000)}])
    assert len(messages) == MAX_MESSAGES + 1


@given(st.lists(json_values, max_size=30))
def test_nothing_raises(args):
    settings, messages = read_args(args)
    assert len(messages) <= MAX_MESSAGES + 1
    json.dumps(settings.to_dict(), allow_nan=False)


@given(st.dictionaries(st.sampled_from(["general", "near_sighted", "enabled", "near_sighted.tile"]), json_values))
def test_no_named_value_raises(fields):
    json.dumps(read_args([fields])[0].to_dict(), allow_nan=False)
