"""Loading checkpoints: what is refused, and that a yaml can only name what is on the list."""

import copy
import json
import struct

import pytest
import torch
import yaml

from lib_attn.lab.drawing import checkpoint
from lib_attn.lab.shared.errors import LabError
from tests.lab.conftest import config


def write(path, change):
    value = copy.deepcopy(config())
    change(value["model"])
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(target="os.system"),
        lambda m: m["params"]["unet_config"].update(target="subprocess.Popen"),
        lambda m: m["params"]["first_stage_config"].update(target="ldm.models.diffusion.ddpm.LatentDiffusion"),
        lambda m: m["params"]["cond_stage_config"].update(target=["ldm"]),
        lambda m: m["params"].update(unet_config="text"),
        lambda m: m["params"]["unet_config"].update(params=[1]),
    ],
)
def test_yaml_may_only_name_what_is_on_the_list(tmp_path, change):
    with pytest.raises(LabError):
        checkpoint.read_config(write(tmp_path / "a.yaml", change))


@pytest.mark.parametrize("text", ["", "[", "model: 1", "model: {target: x}", "!!python/object/apply:os.getcwd []"])
def test_damaged_yaml_is_one_sentence(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(LabError, match="^[^\n]+$"):
        checkpoint.read_config(tmp_path / "a.yaml")


def test_without_a_yaml_it_is_sd_1(tmp_path):
    found = checkpoint.read_config(tmp_path / "none.yaml")
    assert found["unet_config"]["params"]["model_channels"] == 320


def test_bad_files_are_refused(tmp_path, tiny):
    from safetensors.torch import save_file

    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tiny.read_bytes()[:5000])
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    other, xl = tmp_path / "other.safetensors", tmp_path / "xl.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    save_file({"conditioner.embedders.0.a": torch.zeros(1)}, xl)
    pickled = tmp_path / "old.ckpt"
    pickled.write_bytes(b"x")
    huge = tmp_path / "huge.safetensors"
    huge.write_bytes(struct.pack("<Q", 2**40) + json.dumps({}).encode())
    for path in (damaged, empty, other, xl, pickled, huge, tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(LabError, match="^[^\n]+$"):
            checkpoint.read_weights(path)


def test_weights_that_do_not_fit_the_yaml(tmp_path, tiny):
    wide = tmp_path / "wide.safetensors"
    wide.symlink_to(tiny)
    write(wide.with_suffix(".yaml"), lambda m: m["params"]["unet_config"]["params"].update(model_channels=64))
    with pytest.raises(LabError, match="U-Net does not fit"):
        checkpoint.load(wide)
    write(wide.with_suffix(".yaml"), lambda m: m["params"]["unet_config"]["params"].update(surprise=1))
    with pytest.raises(LabError, match="does not describe a U-Net"):
        checkpoint.load(wide)


def test_loading_leaves_the_global_generator_and_the_package_alone(tiny):
    from ldm.modules.attention import CrossAttention

    forward, before = CrossAttention.forward, torch.random.get_rng_state()
    loaded = checkpoint.load(tiny)
    assert torch.equal(before, torch.random.get_rng_state()) and CrossAttention.forward is forward
    assert not any(p.requires_grad for p in loaded.unet.parameters())


def test_open_clip_layout_is_renamed_exactly():
    from lib_attn.lab.drawing import text

    torch.manual_seed(0)
    width = 64
    layer = {f"ln_{i}.{k}": torch.randn(width) for i in (1, 2) for k in ("weight", "bias")}
    layer |= {"attn.in_proj_weight": torch.randn(3 * width, width), "attn.in_proj_bias": torch.randn(3 * width)}
    layer |= {"attn.out_proj.weight": torch.randn(width, width), "attn.out_proj.bias": torch.randn(width)}
    layer |= {"mlp.c_fc.weight": torch.randn(128, width), "mlp.c_fc.bias": torch.randn(128)}
    layer |= {"mlp.c_proj.weight": torch.randn(width, 128), "mlp.c_proj.bias": torch.randn(width)}
    weights = {f"model.transformer.resblocks.{i}.{k}": v for i in (0, 1) for k, v in layer.items()}
    weights |= {"model.token_embedding.weight": torch.randn(49408, width)}
    weights |= {"model.positional_embedding": torch.randn(77, width)}
    weights |= {"model.ln_final.weight": torch.randn(width), "model.ln_final.bias": torch.randn(width)}
    last = text.open_clip_encoder(weights, {"arch": "none", "layer": "last"})
    other = text.open_clip_encoder(weights, {"arch": "none", "layer": "penultimate"})
    parameters = dict(last.model.named_parameters())
    key = "text_model.encoder.layers.1.self_attn.v_proj.weight"
    assert torch.equal(parameters[key], layer["attn.in_proj_weight"][2 * width :])
    a, b = last(["a cat", ""]), other(["a cat", ""])
    assert a.shape == b.shape == (2, 77, width) and not torch.allclose(a, b)
    assert last(["cat " * 100]).shape == (1, 154, width)
