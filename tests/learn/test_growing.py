"""A U-Net with a finer level around it, kernels that lose their reach, and a noise schedule of half-sized pictures."""

import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("ldm")

from lib_attn.learn.reference_model import diffusion, grow, models, reach, stages, state
from lib_attn.learn.reference_model import unet as unet_stage
from lib_attn.learn.reference_model.data import prepare
from lib_attn.learn.reference_model.diffusion import NoiseConfig
from lib_attn.learn.reference_model.loop import LoopConfig
from lib_attn.learn.reference_model.models import TextToNoise, UNetConfig
from lib_attn.learn.reference_model.recipe import PolishStage, Recipe, UNetPhase
from lib_attn.learn.reference_model.unet import POOLED_ABOVE, pool_keys, use_fast_attention

LARGE = UNetConfig(model_channels=32, channel_mult=(1, 1, 2), context_dim=32)
SMALL = replace(LARGE, channel_mult=(1, 2))


def drawn(config, seed=0):
    """A U-Net with nothing at zero, as a trained one."""
    torch.manual_seed(seed)
    unet = models.build_unet(config).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(0.08 * torch.randn_like(parameter))
    return unet


def taps(weight):
    """What lies around the middle of 3 x 3 kernels."""
    around = weight.clone()
    around[:, :, 1, 1] = 0
    return around


def test_a_grown_unet_begins_as_the_small_one_at_half_the_size():
    small = drawn(SMALL)
    weights = small.state_dict()
    # The first and last layer see neighbours, which are nearer in the larger picture; without them all is exact.
    for key in ("input_blocks.0.0.weight", "out.2.weight"):
        weights[key] = weights[key] - taps(weights[key])
    small.load_state_dict(weights)
    large = models.build_unet(LARGE).eval()
    large.load_state_dict(grow.grown(weights, LARGE, large.state_dict()))
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 32)
    t = torch.tensor([100, 800])
    wide = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        want = small(x, t, context=context).repeat_interleave(2, 2).repeat_interleave(2, 3)
        got = large(wide / 2, t, context=context)
    assert want.std() > 0.05
    assert torch.allclose(got, want, atol=1e-4)


def test_growing_refuses_what_does_not_fit():
    small, large = drawn(SMALL).state_dict(), models.build_unet(LARGE).state_dict()
    with pytest.raises(ValueError, match="equally wide"):
        grow.grown(small, replace(LARGE, channel_mult=(1, 2, 2)), large)
    with pytest.raises(ValueError, match="no place for"):
        grow.grown(drawn(replace(SMALL, channel_mult=(1, 4))).state_dict(), LARGE, large)


def test_narrowed_kernels_are_those_of_the_way_out_and_the_middle():
    names = reach.narrowed(UNetConfig(channel_mult=(1, 1, 2, 2)), (3,))
    blocks = {name.split(".in_layers")[0].split(".out_layers")[0] for name in names}
    assert blocks == {"middle_block.0", "middle_block.2", "output_blocks.0.0", "output_blocks.1.0"}
    assert reach.blocks_of_level(UNetConfig(channel_mult=(1, 1, 2, 2)), 0) == ["output_blocks.6.0", "output_blocks.7.0"]
    state_dict = models.build_unet(LARGE).state_dict()
    assert all(state_dict[name].shape[-2:] == (3, 3) for level in range(3) for name in reach.narrowed(LARGE, (level,)))


def test_outer_taps_fade_to_nothing_and_stay_there():
    module = torch.nn.Module()
    module.unet = drawn(SMALL)
    narrow = reach.Narrow(SMALL, (1,), fade=4)
    key = narrow.names[0]
    before = module.unet.state_dict()[key].clone()
    other = module.unet.state_dict()["output_blocks.3.0.in_layers.2.weight"].clone()
    for step in range(1, 4):
        narrow(module, step)
        now = module.unet.state_dict()[key]
        assert torch.allclose(taps(now), taps(before) * (1 - step / 4), atol=1e-6)
        assert torch.equal(now[:, :, 1, 1], before[:, :, 1, 1])
    narrow(module, 4)
    assert not taps(module.unet.state_dict()[key]).any()
    with torch.no_grad():
        module.unet.get_parameter(key).add_(1.0)  # what an optimizer does
    narrow(module, 5)
    assert not taps(module.unet.state_dict()[key]).any()
    assert torch.equal(other, module.unet.state_dict()["output_blocks.3.0.in_layers.2.weight"])


def test_a_narrowed_level_hears_of_other_places_through_attention_alone():
    """With its attention and that of the level above averaged away, a place of the deepest way out knows itself."""
    unet = drawn(SMALL)
    reach.Narrow(SMALL, (1,), 0).scale(unet, 0.0)
    block = unet.output_blocks[0][0]
    x, emb = torch.randn(1, block.in_layers[2].in_channels, 8, 8), torch.randn(1, 128)
    block.in_layers[0] = block.out_layers[0] = torch.nn.Identity()  # group norms see the whole picture
    other = x.clone()
    other[..., 2, 2] += 1.0
    with torch.no_grad():
        changed = (block._forward(x, emb) - block._forward(other, emb)).abs().sum(1)[0] > 1e-6
    assert changed.nonzero().tolist() == [[2, 2]]


def test_signal_is_what_an_average_over_places_leaves():
    bar, shifted = diffusion.alphas_cumprod(), diffusion.alphas_cumprod(2.0)
    assert torch.allclose(shifted / (1 - shifted), 4 * bar / (1 - bar))
    torch.manual_seed(0)
    clean, noise = torch.ones(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    t = torch.tensor([700])
    pooled = 2 * torch.nn.functional.avg_pool2d(diffusion.add_noise(clean, noise, t), 2)
    small = diffusion.add_noise(clean[..., :32, :32], torch.randn(1, 4, 32, 32), t, 2.0)
    assert abs(float(pooled.mean() / pooled.std() / (small.mean() / small.std())) - 1) < 0.05
    loud = NoiseConfig(cap=100.0)
    assert diffusion.loss_weights(replace(loud, signal=2.0))[900] < diffusion.loss_weights(loud)[900]


def test_rows_and_grids_are_not_told_where_to_look():
    from lib_attn.learn.reference_model import tokenizer

    captions = [
        "a row of four red cubes",
        "a grid of six cones on a brick floor",
        "two cubes",
        "three stars",
        "a cube left of a cone of the same colour",
        "a cube",
    ]
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        words = tokenizer.load(pathlib.Path(folder))
        rows = prepare(torch.zeros(6, 4, 8, 8), captions, words)
    assert rows.objects.tolist() == [0, 0, 2, 3, 2, 1]
    assert {k: v.tolist() for k, v in rows.kinds.items()} == {"single": [5], "pair": [4], "several": [0, 1, 2, 3]}


def growing_recipe():
    phases = (
        UNetPhase("half", 32, 24, 3, 4, 1e-3, warmup=1, levels=2, narrow=(1,), fade=2, noise=NoiseConfig(signal=2.0)),
        UNetPhase("whole", 64, 24, 3, 4, 1e-3, warmup=1, narrow=(2,)),
    )
    return replace(
        Recipe.small(),
        unet_model=LARGE,
        phases=phases,
        kinds=(0.3, 0.3, 0.2, 0.2),
        textured=0.5,
        polish=PolishStage(steps=1, warmup=1, scenes=8, phases=((0, 64, 2),)),
    )


def test_a_run_that_grows_exports_a_model_of_all_levels(tmp_path):
    from lib_attn.learn.scenes import render, renderers

    try:
        renderers.open_renderer(32).close()
    except render.RenderError as error:
        pytest.skip(str(error))
    run = stages.Run(tmp_path, growing_recipe())
    for stage in stages.STAGES[:3]:
        run.run(stage)
    run._phase(run.recipe.phases[0], None)
    with pytest.raises(state.StateError, match="2 levels of the U-Net so far"):
        run.run("export")
    for stage in stages.STAGES[3:]:
        run.run(stage)
    half, whole = (state.load_tensors(tmp_path / f"unet-{name}.safetensors") for name in ("half", "whole"))
    assert len(whole) > len(half)
    for name in reach.narrowed(SMALL, (1,)):
        assert not taps(half[f"unet.{name}"]).any()
    for name in reach.narrowed(LARGE, (2,)):
        assert not taps(whole[f"unet.{name}"]).any()
    exported = state.load_tensors(tmp_path / "export" / "reference.safetensors")
    model = TextToNoise(LARGE, run.recipe.text_model)
    unet = {k.removeprefix("model.diffusion_model."): v.float() for k, v in exported.items() if "diffusion_model" in k}
    model.unet.load_state_dict(unet)
    assert torch.equal(unet["input_blocks.0.0.weight"], whole["unet.input_blocks.0.0.weight"].half().float())


def test_the_decoder_learns_from_parts_of_large_pictures(tmp_path):
    """Every part is cut from latents and picture at the same place."""
    import numpy as np

    from lib_attn.learn.reference_model import vae

    seen = []
    latents = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2, 4, 8, 8).contiguous()
    pictures = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones((8, 8), np.uint8))
    pictures = np.broadcast_to(pictures[None, ..., None], (2, 64, 64, 3)).copy()

    class Watching(models.Autoencoder):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.encoder = self.quant_conv = torch.nn.Identity()
            self.post_quant_conv, self.decoder = torch.nn.Conv2d(4, 3, 1), torch.nn.Upsample(scale_factor=8)

    model = Watching()
    model.post_quant_conv.register_forward_hook(lambda module, args, out: seen.append(args[0] * models.SCALE_FACTOR))
    config = LoopConfig(steps=6, batch=2, lr=1e-3, warmup=1, precision="no")
    signed = []
    before, vae.to_signed = vae.to_signed, lambda p, device: signed.append(p) or before(p, device)
    try:
        vae.polish(tmp_path, [(latents, pictures)], vae.DecoderOnly(model), config, ((0, 0, 2),), jitter=0.0, crop=4)
    finally:
        vae.to_signed = before
    corners = set()
    for z, x in zip(seen, signed, strict=True):
        assert z.shape == (2, 4, 4, 4) and x.shape == (2, 32, 32, 3)
        assert np.allclose(z[:, 0].detach().numpy(), x[:, ::8, ::8, 0], atol=1e-3)
        corners.add(round(float(z[0, 0, 0, 0].detach())))
    assert len(corners) > 2


def test_the_recipe_for_512_pixels_can_be_read_back_and_starts_from_the_shipped_model(tmp_path):
    from lib_attn.lab.drawing.embedded import EMBEDDED
    from lib_attn.learn.reference_model import start

    recipe = Recipe.large()
    assert Recipe.from_json(recipe.to_json()) == recipe
    run = stages.Run(tmp_path, recipe)
    start.start_from(run, EMBEDDED)
    # What the first phase trains has the shipped weights; the decoder is left for the stage that polishes it again.
    weights = state.load_tensors(tmp_path / start.WEIGHTS)
    model = TextToNoise(recipe.phases[0].model_of(recipe), recipe.text_model)
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    assert not (tmp_path / "decoder.safetensors").exists() and (tmp_path / "vae.safetensors").exists()
    grown = grow.grown(model.unet.state_dict(), recipe.unet_model, models.build_unet(recipe.unet_model).state_dict())
    parts = (*grown.values(), *model.text.state_dict().values(), *run.autoencoder().state_dict().values())
    assert 2 * sum(value.numel() for value in parts) < 64 * 2**20


def test_fading_goes_on_where_it_was_stopped(tmp_path):
    """A run stopped in the middle of the fading gives the weights of an unbroken one bit for bit."""
    from lib_attn.learn.reference_model import unet as training
    from lib_attn.learn.reference_model.unet import Latents

    torch.manual_seed(0)
    data = Latents(
        torch.randn(8, 4, 8, 8),
        torch.randint(0, 999, (2, 77)),
        torch.tensor([0, 1] * 4),
        torch.zeros(1, 77, dtype=torch.long),
    )

    def train(folder, steps):
        torch.manual_seed(1)
        model = TextToNoise(SMALL, Recipe.small().text_model)
        config = LoopConfig(steps=steps, batch=2, lr=1e-3, warmup=1, decay=0.0, precision="no")
        training.train(folder, data, model, config, after_step=reach.Narrow(SMALL, (1,), 6))
        return model.state_dict()

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "cut", 2)
    cut = train(tmp_path / "cut", 4)
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_averaged_keys_are_full_attention_where_places_agree():
    """Where the four places of a group are alike their average says all of them; elsewhere it does not."""
    unet = drawn(LARGE)
    use_fast_attention(unet)
    layer = next(m for m in unet.modules() if hasattr(m, "to_q"))
    width = layer.to_q.in_features
    edge = 2 * math.isqrt(POOLED_ABOVE)
    alike = torch.randn(1, width, edge // 2, edge // 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    other = torch.randn(1, width, edge, edge)
    few = torch.randn(1, POOLED_ABOVE, width)
    with torch.no_grad():
        full = [layer(x.flatten(2).transpose(1, 2)) for x in (alike, other)] + [layer(few)]
        pool_keys(unet, True)
        pooled = [layer(x.flatten(2).transpose(1, 2)) for x in (alike, other)] + [layer(few)]
        pool_keys(unet, False)
        again = layer(other.flatten(2).transpose(1, 2))
    assert torch.allclose(pooled[0], full[0], atol=1e-4)
    assert not torch.allclose(pooled[1], full[1], atol=1e-2)
    assert torch.equal(pooled[2], full[2]) and torch.equal(again, full[1])


def test_keys_are_averaged_for_the_share_of_the_steps_that_is_asked_for(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(unet_stage, "pool_keys", lambda model, pooled: seen.append(pooled))
    phase = UNetPhase("64", 64, 8, 4, 2, 1e-3, warmup=1, pooled=0.5)
    run = stages.Run(tmp_path, replace(Recipe.small(), phases=(phase,), scenes=8, preview=0))
    for stage in ("scenes", "vae", "latents", "unet"):
        run.run(stage)
    assert seen == [True, True, False, False]
