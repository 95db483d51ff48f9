"""Block names, depths and the selector grammar."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_attn.unet.families import find_blocks, find_layers
from lib_attn.unet.layers import MAX_SELECTOR_LENGTH, parse_selector
from tests.unets import tiny_unet

ALL = "IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11".split()


@pytest.fixture(scope="module")
def layers():
    return find_layers(tiny_unet())


def chosen(layers, text):
    selector = parse_selector(text)
    return [layer.name for layer in layers if selector.matches(layer)]


def test_names_and_depths_are_those_of_sd1(layers):
    assert [layer.name for layer in layers] == ALL
    assert [layer.depth for layer in layers] == [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert [layer.index for layer in layers] == list(range(16))


def test_transformer_depth_is_counted(layers):
    deep_unet = tiny_unet(channel_mult=[1, 2], attention_resolutions=[2], transformer_depth=3, context_dim=[16] * 3)
    deep = find_layers(deep_unet)
    assert [(layer.name, layer.index) for layer in deep][:4] == [("IN04", 0), ("IN04", 1), ("IN04", 2), ("IN05", 3)]
    assert {layer.depth for layer in deep} == {1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ALL),
        ("in", ALL[:6]),
        ("mid", ["M00"]),
        ("M00", ["M00"]),
        ("out", ALL[7:]),
        ("in4", ["IN04"]),
        ("IN04, out06-8", ["IN04", "OUT06", "OUT07", "OUT08"]),
        ("d0", ["IN01", "IN02", "OUT09", "OUT10", "OUT11"]),
        ("d1-2", [*ALL[2:6], *ALL[7:13]]),
        ("all,!mid,!d0", [*ALL[2:6], *ALL[7:13]]),
        ("!mid", [*ALL[:6], *ALL[7:]]),
        ("d0;!in", ["OUT09", "OUT10", "OUT11"]),
        ("in,!in4,in4", ALL[:6]),
        ("in99", []),
    ],
)
def test_selector(layers, text, expected):
    assert chosen(layers, text) == expected


@pytest.mark.parametrize("text", ["", "  ", "auto", "AUTO"])
def test_auto(text):
    assert parse_selector(text).auto


@pytest.mark.parametrize(
    "text",
    ["foo", "in-3", "in3-", "d", "all3", "in5-4", "in4 - 5", "in1000", "!", "auto,in", "x" * (MAX_SELECTOR_LENGTH + 1)],
)
def test_bad_selectors_are_refused_in_one_sentence(text):
    with pytest.raises(ValueError) as error:
        parse_selector(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 160


@given(st.text(max_size=60))
def test_selector_reads_its_own_text(text):
    try:
        selector = parse_selector(text)
    except ValueError:
        return
    assert parse_selector(selector.text) == selector


def test_models_without_a_unet_are_refused():
    with pytest.raises(TypeError, match="no U-Net"):
        find_layers(object())


class Wrapper(torch.nn.Module):
    """What another extension may put around a block; nothing to iterate over."""

    def __init__(self, block):
        super().__init__()
        self.inside = torch.nn.ModuleDict({"block": block})


def test_wrapped_blocks_are_those_inside():
    unet = tiny_unet()
    blocks, layers = find_blocks(unet), find_layers(unet)
    for place in (unet.input_blocks, unet.output_blocks):
        for number in (0, 3, 4, 11):
            place[number] = Wrapper(place[number])
    unet.middle_block = Wrapper(unet.middle_block)
    assert find_blocks(unet) == blocks and [b.module for b in find_blocks(unet)] == [b.module for b in blocks]
    assert find_layers(unet) == layers


def test_a_block_that_cannot_be_looked_into():
    unet = tiny_unet()
    unet.input_blocks[1] = torch.nn.Identity()
    assert [layer.name for layer in find_layers(unet)] == ALL[1:]
