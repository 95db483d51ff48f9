"""``bench maps``: pictures that follow the pass of a map, and what pages show of them."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("ldm", reason="the networks are ldm's")

from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import FULL, preset
from lib_attn.lab.measuring.maps import of_the_pass
from lib_attn.lab.reports.figures import RESULTS
from lib_attn.lab.reports.maps import maps_block, maps_short


def test_a_picture_that_follows_a_map_s_pass_follows_that_of_the_map_named():
    model = ModelSpec().load()
    asked = Request(("a large red sphere", "a small blue cube"), (3, 4), "", 64, 64, 4, "DDIM", 5.0)
    plain, variant = sample(model, asked, FULL), preset("Underdrawing")
    own, another = (of_the_pass(model, asked, variant, other) for other in (0, 1))
    assert own.shape == plain.shape and not torch.allclose(own, plain) and not torch.allclose(own, another)
    alone = of_the_pass(model, replace(asked, prompts=asked.prompts[:1], seeds=asked.seeds[:1]), variant, 0)
    torch.testing.assert_close(alone[0], own[0])
    assert torch.equal(sample(model, asked, FULL), plain), "the blocks are off again"


def test_rows_of_ways_that_were_measured_alone_are_shown():
    result = json.loads((RESULTS / "maps.json").read_text())
    assert "by key mix" not in maps_block(result)
    result["pictures"]["keys"] = result["pictures"]["guided"]
    short = maps_short(result)
    assert "with its map's pass, by key mix" in short and "AbsRel" not in short
