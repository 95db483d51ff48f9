"""Model files of others: by the names of their weights they are taken, and what they then compute is what they compute
where they come from."""

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")
pytest.importorskip("diffusers", reason="it has the layouts that are read")

import diffusers
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file

from lib_attn.lab.drawing.checkpoint import build_decoder
from lib_attn.learned.files import Loader
from lib_attn.learned.folders import Folders
from lib_attn.learned.header import Refused
from lib_attn.store import Store
from lib_attn.techniques.base import Context
from lib_attn.techniques.depth_guide.settings import DepthGuide
from lib_attn.techniques.depth_guide.underdraw import underdraw
from lib_attn.unet.diffusers import unet_names
from lib_attn.unet.replace import DECODER, FREE, Unfitting, replaced
from lib_attn.unet.standalone import arguments, is_whole, stood_in
from tests.unets import snapshot, tiny_unet, unet_input

#: SD 1.x, and what BK-SDM and tiny-sd leave of it: three stages of one block each, and no middle.
FULL = {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 2}
TINY = {
    "block_out_channels": (32, 64, 128), "layers_per_block": 1, "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3, "mid_block_type": None,
}  # fmt: skip
SMALL = TINY | {
    "block_out_channels": (32, 64, 128, 128), "mid_block_type": None,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
TIMES = torch.tensor([500.0, 20.0])


def filled(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim > 1 or not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval().requires_grad_(False)


def other_unet(layout=FULL, seed=1):
    """diffusers' own U-Net, tiny; its ``attention_head_dim`` is the number of heads."""
    with torch.random.fork_rng(devices=[]):
        config = {"cross_attention_dim": 16, "attention_head_dim": 4, "norm_num_groups": 32, "sample_size": 16}
        return filled(diffusers.UNet2DConditionModel(**config | layout), seed)


def other_vae(channels=4, seed=1):
    with torch.random.fork_rng(devices=[]):
        config = {"in_channels": channels, "out_channels": channels, "block_out_channels": (32, 32, 64, 64)}
        config |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        return filled(diffusers.AutoencoderKL(**config, layers_per_block=2, norm_num_groups=32), seed)


def loaded(folder, name, tensors):
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    return Loader(lambda: Folders([folder])).load("depth", name)


@pytest.fixture
def unet():
    return tiny_unet(0)


@pytest.fixture(autouse=True)
def nothing_stays(unet):
    before, weights = snapshot(unet), {k: v.clone() for k, v in unet.state_dict().items()}
    random = torch.random.get_rng_state()
    yield
    assert snapshot(unet) == before and torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(v, weights[k]) for k, v in unet.state_dict().items())


def run(unet):
    x, context = unet_input(2, 16, 16)
    with torch.inference_mode():
        if isinstance(unet, diffusers.UNet2DConditionModel):
            return unet(x, TIMES, encoder_hidden_states=context).sample
        return unet(x, TIMES, context=context)


def test_a_unet_of_the_same_layout_computes_what_it_does_in_diffusers(unet, tmp_path):
    other = other_unet()
    file = loaded(tmp_path, "ldm3d", other.state_dict())
    assert file.family == "" and file.about["layout"] == "U-Net" and file.about["map"] == "depth"
    assert is_whole(file.tensors) and file.tensors.keys() == unet.state_dict().keys()
    with replaced(unet, file.tensors):
        torch.testing.assert_close(run(unet), run(other), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", [TINY, SMALL], ids=["tiny-sd", "BK-SDM small"])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_distilled_unet_computes_what_it_does_in_diffusers(unet, tmp_path, layout, error):
    other = other_unet(layout)
    file = loaded(tmp_path, "tiny-sd", other.state_dict())
    plain = run(unet)
    try:
        with stood_in(unet, file.tensors):
            torch.testing.assert_close(run(unet), run(other), atol=1e-4, rtol=1e-4)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    assert torch.equal(run(unet), plain)


def test_a_distilled_unet_keeps_the_precision_of_the_loaded_one(unet, tmp_path):
    tensors = loaded(tmp_path, "tiny-sd", other_unet(TINY).state_dict()).tensors
    half = tiny_unet(3)
    for module in half.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.half()
    with stood_in(half, tensors):
        assert half.input_blocks[1][0].in_layers[2].weight.dtype == torch.float16
        assert half.input_blocks[1][0].in_layers[0].weight.dtype == torch.float32


def test_true_shapes_of_public_models():
    """Counts of weights as their papers and READMEs have them; nothing is allocated."""
    wide = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
    for layout, channels, count, depth in (
        (TINY, (320, 640, 1280), 323_384_964, 1), (SMALL, (320, 640, 1280, 1280), 482_346_884, 1),
        (FULL, (320, 640, 1280, 1280), 859_520_964, 2),
    ):  # fmt: skip
        with torch.device("meta"):
            other = diffusers.UNet2DConditionModel(**wide | layout | {"block_out_channels": channels})
        tensors = other.state_dict()
        own = {new: tensors[name] for name, new in unet_names(tensors).items()}
        assert len(own) == len(tensors) and sum(t.numel() for t in own.values()) == count
        told = arguments(own)
        assert told["num_res_blocks"] == depth and told["context_dim"] == 768
        assert told["channel_mult"] == [width // 320 for width in channels]
        with torch.device("meta"):
            made = UNetModel(**told, num_heads=8)
        wanted = {k: v.shape for k, v in made.state_dict().items() if depth == 2 or not k.startswith("middle_block")}
        assert wanted == {k: v.shape for k, v in own.items()}


def test_a_decoder_of_4_channels_comes_from_the_file_beside_it(unet, tmp_path):
    vae = other_vae()
    save_file({k: v.contiguous() for k, v in vae.state_dict().items()}, tmp_path / "ldm3d.vae.safetensors")
    file = loaded(tmp_path, "ldm3d", other_unet().state_dict())
    own = {k.removeprefix("vae."): v for k, v in file.tensors.items() if k.startswith("vae.")}
    assert file.about["channels"] == [3] and own["decoder.conv_out.weight"].shape[0] == 4
    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 1, 2, 2], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    decoder = build_decoder({"ddconfig": ddconfig, "embed_dim": 4}).eval().requires_grad_(False)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    with torch.inference_mode(), replaced(decoder, own, DECODER, FREE, called=False):
        drawn = decoder(latents)
        torch.testing.assert_close(drawn, vae.decode(latents).sample, atol=1e-4, rtol=1e-4)
    assert drawn.shape == (1, 4, 64, 64)
    assert all(torch.equal(v, before[k]) for k, v in decoder.state_dict().items())
    assert Folders([tmp_path]).names("depth") == ["ldm3d"], "an autoencoder is no file of its own"


def test_a_checkpoint_of_the_webui_s_layout_with_a_decoder_of_its_own(unet, tmp_path):
    tensors = {f"model.diffusion_model.{k}": v for k, v in tiny_unet(4).state_dict().items()}
    tensors |= {"first_stage_model.decoder.conv_out.weight": torch.ones(4, 8, 3, 3)}
    tensors |= {"first_stage_model.decoder.up.0.block.0.conv1.bias": torch.ones(8), "cond_stage_model.x": torch.ones(2)}
    file = loaded(tmp_path, "rich NORMAL", tensors)
    assert file.about["channels"] == [0, 1, 2] and file.about["map"] == "normal"
    assert "vae.decoder.up.0.block.0.conv1.bias" in file.tensors and not any("cond" in name for name in file.tensors)
    with replaced(unet, {k: v for k, v in file.tensors.items() if not k.startswith("vae.")}):
        assert torch.equal(run(unet), run(tiny_unet(4)))
    tensors["first_stage_model.decoder.conv_out.weight"] = torch.ones(3, 8, 3, 3)
    plain = loaded(tmp_path, "plain", tensors)
    assert "channels" not in plain.about and not any(k.startswith("vae.") for k in plain.tensors)


def lora_of(other, kind, alpha=None):
    """A LoRA on every layer of a U-Net of diffusers, as the trainers write it, and the U-Net that has it."""
    generator, tensors = torch.Generator().manual_seed(7), {}
    for name, module in other.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        out, inner, rest = module.weight.shape[0], module.weight.shape[1], module.weight.shape[2:]
        down = torch.randn(2, inner, *rest, generator=generator) * 0.2
        up = torch.randn(out, 2, *(1 for _ in rest), generator=generator) * 0.2
        if kind == "kohya":
            key = "lora_unet_" + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            if alpha is not None:
                tensors[f"{key}.alpha"] = torch.tensor(alpha)
        else:
            tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
        scale = 1.0 if alpha is None else alpha / 2
        module.weight += scale * (up.flatten(1) @ down.flatten(1)).view(module.weight.shape)
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"] = torch.tensor(1.0)
    return tensors


@pytest.mark.parametrize("kind, alpha", [("kohya", None), ("kohya", 0.5), ("diffusers", None)])
def test_a_lora_changes_what_it_changes_in_diffusers(unet, tmp_path, kind, alpha):
    other = other_unet()
    base = loaded(tmp_path, "base", other.state_dict()).tensors
    unet.load_state_dict(base)
    try:
        file = loaded(tmp_path, "depth lora", lora_of(other, kind, alpha))
        assert len(file.tensors) == 2 * sum(t.ndim > 1 for t in base.values())
        plain = run(unet)
        with replaced(unet, file.tensors):
            changed = run(unet)
        torch.testing.assert_close(changed, run(other), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(changed, plain, atol=1e-2) and torch.equal(run(unet), plain)
    finally:
        unet.load_state_dict(tiny_unet(0).state_dict())


def test_ldm_s_own_names_in_a_lora(unet, tmp_path):
    name = "output_blocks.3.1.transformer_blocks.0.attn1.to_q"
    width = unet.get_submodule(name).in_features
    tensors = {f"lora_unet_{name.replace('.', '_')}.lora_down.weight": torch.ones(1, width)}
    tensors[f"lora_unet_{name.replace('.', '_')}.lora_up.weight"] = torch.ones(width, 1)
    assert set(loaded(tmp_path, "a", tensors).tensors) == {f"{name}.weight.up", f"{name}.weight.down"}


def test_loras_of_the_host_s_folder_are_found_and_told_of_by_name(tmp_path):
    own, loras = tmp_path / "own", tmp_path / "Lora"
    own.mkdir(), loras.mkdir()
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{layer}.lora_down.weight": torch.ones(1, 8), f"{layer}.lora_up.weight": torch.ones(8, 1)}
    for path in (loras / "Depth maps", loras / "style", own / "any name"):
        save_file(tensors, f"{path}.safetensors")
    folders = Folders([own], [loras])
    assert folders.names("depth") == ["any name", "Depth maps"] and folders.names("dictionary") == []
    assert Loader(lambda: folders).load("depth", "style").tensors
    context = Context(files=Loader(lambda: Folders([], [loras])))
    assert context.files.folders().names("depth") == ["Depth maps"] and context.fitting("depth") == [], (
        "what does not say what it is for is not taken unasked: it may be any LoRA with depth in its name"
    )


WIDE = {
    "lora_unet_conv_in.lora_down.weight": torch.ones(1, 4, 3, 3),
    "lora_unet_conv_in.lora_up.weight": torch.ones(8, 1),
}


@pytest.mark.parametrize(
    "tensors, why",
    [
        ({"down_blocks.0.resnets.0.conv1.weight": torch.ones(1), "conv_out.weight": torch.ones(1),
          "down_blocks.0.motion_modules.0.x": torch.ones(1)}, "no weight of SD 1.x"),
        ({"lora_unet_conv_in.hada_w1_a": torch.ones(1)}, "kind that is not read"),
        ({"lora_unet_joint_blocks_1.lora_down.weight": torch.ones(1, 1)}, "joint_blocks_1 is no weight of SD 1.x"),
        ({k: v for k, v in WIDE.items() if "up" not in k}, "is missing or of another shape"),
        (WIDE | {"lora_unet_conv_in.lora_up.weight": torch.full((8, 1), torch.nan)}, "not finite"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1),
          "first_stage_model.decoder.conv_out.weight": torch.ones(6, 1, 3, 3)}, "neither 3 nor 4 channels"),
        ({"text_model.x": torch.ones(1)}, "no learned file"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_one_sentence(tmp_path, tensors, why):
    with pytest.raises(Refused, match=f"^The learned file odd is not used: [^\n]*{why}[^\n]*\\.$"):
        loaded(tmp_path, "odd", tensors)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"cross_attention_dim": 24}, "reads other text"),
        ({"in_channels": 8}, "reads other latents"),
        ({"block_out_channels": (64, 128, 256)}, "another width"),
        ({"layers_per_block": (1, 2, 1)}, "has shape"),
    ],
)
def test_a_unet_for_another_model_is_not_put_on(unet, tmp_path, change, why):
    tensors = loaded(tmp_path, "other", other_unet(TINY | change).state_dict()).tensors
    with pytest.raises(Unfitting, match=why), stood_in(unet, tensors):
        pass


def test_half_a_unet_is_not_put_on(unet, tmp_path):
    state = other_unet(TINY).state_dict()
    del state["up_blocks.1.resnets.0.conv2.weight"]
    with pytest.raises(Unfitting, match="is missing"), stood_in(unet, loaded(tmp_path, "half", state).tensors):
        pass


def underdrawn(unet, folder, name, draw, decode=None, decoder=None, prediction="epsilon"):
    said, loader = [], Loader(lambda: Folders([folder]))
    settings = DepthGuide(enabled=True, file=name)
    maps = underdraw(settings, unet, lambda: ["a picture"], draw, decode, files=loader, store=Store(),
                     say=said.append, decoder=decoder, prediction=prediction)  # fmt: skip
    return maps, said


class Drawer(torch.nn.Module):
    """An autoencoder, as far as its last layer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.decoder, self.post_quant_conv = torch.nn.Module(), torch.nn.Conv2d(4, 4, 1)
            self.decoder.conv_out = torch.nn.Conv2d(8, 3, 3, padding=1)


@pytest.mark.parametrize("name, shows", [("rich depth", 3), ("rich normal", 0)])
def test_a_map_is_made_of_the_channels_that_the_file_s_decoder_draws(unet, tmp_path, name, shows):
    tensors = {f"model.diffusion_model.{k}": v for k, v in other_ldm().items()}
    tensors["first_stage_model.decoder.conv_out.weight"] = torch.ones(4, 8, 3, 3)
    tensors["first_stage_model.decoder.conv_out.bias"] = torch.arange(4.0)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    decoder, plain = Drawer(), run(unet)

    def draw():
        assert not torch.equal(run(unet), plain)
        return torch.zeros(1, 4, 8, 8)

    def decode(latents):
        h, w = (8 * n for n in latents.shape[-2:])
        with torch.no_grad():
            shown = decoder.decoder.conv_out(torch.zeros(1, 8, h, w))[0]
        return [(60 * shown + torch.arange(float(w))).permute(1, 2, 0).to(torch.uint8).numpy()]

    (drawn,), said = underdrawn(unet, tmp_path, name, draw, decode, decoder)
    assert drawn.picture.shape == (64, 64, 3) and drawn.latent is None and not said
    if shows:
        assert (drawn.picture[..., 0] == drawn.picture[..., 1]).all() and drawn.picture.max() == 255
    else:
        assert [int(drawn.picture[0, 0, c]) for c in range(3)] == [0, 60, 120]
    assert decoder.decoder.conv_out.weight.shape == (3, 8, 3, 3)
    none, said = underdrawn(unet, tmp_path, name, draw, lambda latents: [decode(latents)[0][..., :3]], decoder)
    if shows:
        assert none == () and "VAE type for decoding is not Full" in said[0]


def other_ldm():
    return {k: v.clone() for k, v in tiny_unet(4).state_dict().items()}


def test_a_unet_that_predicts_noise_is_not_sampled_by_velocity(unet, tmp_path):
    save_file({k: v.contiguous() for k, v in other_unet(TINY).state_dict().items()}, tmp_path / "tiny.safetensors")
    maps, said = underdrawn(unet, tmp_path, "tiny", lambda: pytest.fail("it was drawn"), prediction="v")
    assert maps == () and said == [
        "The picture is drawn without a map: the U-Net in the file predicts noise, and this model is sampled by its "
        "velocity."
    ]
