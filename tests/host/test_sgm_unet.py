"""SDXL's U-Net class (sgm) from a webui checkout: names, both attention levels, nothing left behind."""

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import NearSighted
from lib_attn.unet.families import find_layers
from lib_attn.unet.rows import plan_rows
from tests.unets import snapshot, unet_input

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR names no stable-diffusion-webui"),
]


@pytest.fixture(scope="module")
def unet():
    sys.path.insert(0, str(Path(os.environ["WEBUI_DIR"]) / "repositories" / "generative-models"))
    try:
        from sgm.modules.diffusionmodules.openaimodel import UNetModel
    except ModuleNotFoundError as missing:
        pytest.skip(f"generative-models imports {missing.name}, which is not installed here")
    finally:
        sys.path.pop(0)
    options = {
        "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [4, 2],
        "num_res_blocks": 2, "channel_mult": [1, 2, 4], "num_head_channels": 16, "use_spatial_transformer": True,
        "transformer_depth": [1, 2, 3], "context_dim": 16, "use_linear_in_transformer": True,
        "num_classes": "sequential", "adm_in_channels": 8, "spatial_transformer_attn_type": "softmax",
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        unet = UNetModel(**options).eval()
        for parameter in unet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return unet.requires_grad_(False)


def run(unet, x, context):
    y = torch.zeros(x.shape[0], 8)
    return unet(x, torch.full((x.shape[0],), 500), context=context, y=y)


def test_names_depths_and_counts(unet):
    layers = find_layers(unet)
    assert [layer.name for layer in layers][:5] == ["IN04", "IN04", "IN05", "IN05", "IN07"]
    assert {layer.depth for layer in layers if layer.name in ("IN04", "IN05", "OUT03", "OUT04", "OUT05")} == {1}
    assert {layer.depth for layer in layers if layer.name in ("IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02")} == {2}
    assert len(layers) == 5 * 2 + 6 * 3


@pytest.mark.parametrize("depth", [1, 2])
def test_each_attention_level_can_be_treated(unet, depth):
    x, context = unet_input(2, 64, 48)
    before, plain = snapshot(unet), run(unet, x, context)
    near = NearSighted(enabled=True, tile=16, pool=8, blocks=f"d{depth}")
    with attach(unet, [near], seeds=[3]) as attachment:
        attachment.begin_step(plan_rows([[1.0]]), 0, 1)
        changed = run(unet, x, context)
    assert changed.isfinite().all() and not torch.equal(changed, plain)
    assert snapshot(unet) == before
    assert torch.equal(run(unet, x, context), plain)


def treated_levels(unet, near, x, context):
    levels = set()
    with attach(unet, [near]) as attachment:
        runtime = attachment._runtimes[0]
        original = runtime._near
        runtime._near = lambda call, step: (levels.add(call.layer.depth), original(call, step))[1]
        run(unet, x, context)
    return levels


def test_both_levels_by_name_and_the_larger_one_by_itself(unet):
    """At 1280x1024 the lower level has 1280 tokens: little is to be had there, so `auto` leaves it exact."""
    x, context = unet_input(1, 160, 128)
    assert treated_levels(unet, NearSighted(enabled=True, pool=8), x, context) == {1}
    assert treated_levels(unet, NearSighted(enabled=True, pool=8, blocks="d1-2"), x, context) == {1, 2}
