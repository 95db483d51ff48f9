"""The trainer: exact resume, two processes as one, its schedule and its sentences."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("transformers")
pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")

from safetensors import safe_open

from lib_attn.lab.judging.prompts import single_prompts
from lib_attn.learn.reference_model import data, diffusion, gaze, loop, models, start, state, text, tokenizer, unet, vae
from lib_attn.learn.reference_model.__main__ import main
from lib_attn.learn.reference_model.recipe import Recipe
from lib_attn.learn.scenes import layout
from lib_attn.learn.scenes.vocabulary import Thing, is_held_out

ROOT = Path(__file__).resolve().parents[2]
SMALL = Recipe.small()


def fake_data(count=16, edge=8):
    rng = torch.Generator().manual_seed(4)
    tokens = torch.randint(0, 49000, (3, 77), generator=rng)
    return unet.Latents(
        torch.randn(count, 4, edge, edge, generator=rng).half(),
        tokens,
        torch.randint(0, 3, (count,), generator=rng),
        torch.full((1, 77), 49407),
    )


def fresh_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.TextToNoise(SMALL.unet_model, SMALL.text_model)
    unet.use_fast_attention(model)
    return model


def config(steps, **more):
    return loop.LoopConfig(steps=steps, batch=4, lr=1e-3, warmup=2, decay=0.0, precision="no", **more)


def weights_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_resumed_run_equals_unbroken_run(tmp_path):
    rows = fake_data()
    whole = fresh_model()
    unbroken = unet.train(tmp_path / "a", rows, whole, config(4))
    unet.train(tmp_path / "b", rows, fresh_model(), config(2))
    torch.rand(7)  # the global generator must not matter
    second = fresh_model()
    resumed = unet.train(tmp_path / "b", rows, second, config(4))
    assert resumed.step == 4
    assert same(weights_of(whole), weights_of(second))
    assert same(unbroken.ema.shadow, resumed.ema.shadow)


def test_training_moves_no_global_generator(tmp_path):
    before = torch.random.get_rng_state()
    unet.train(tmp_path, fake_data(), fresh_model(), config(1))
    assert torch.equal(before, torch.random.get_rng_state())


_TWO = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from tests.learn import test_reference_model as t
from lib_attn.learn.reference_model import unet, state
model = t.fresh_model()
loop = unet.train(Path({folder!r}), t.fake_data(), model, t.config(3))
if loop.accelerator.is_main_process:
    state.save_tensors(Path({folder!r}) / "result.safetensors", model.state_dict())
"""


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    """What training changed agrees to 1 % of its own size, all weights together.

    Only the order of additions differs, but Adam divides by the size of the gradient, so biases in front of
    a normalisation, whose true gradient is 0, follow rounding alone; hence not weight by weight.
    """
    one = fresh_model()
    unet.train(tmp_path / "one", fake_data(), one, config(3))
    script = tmp_path / "two.py"
    folder = tmp_path / "two"
    folder.mkdir()
    script.write_text(_TWO.format(root=str(ROOT), folder=str(folder)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # A free port, so that two test runs on one machine do not meet.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    two = state.load_tensors(folder / "result.safetensors")
    start, end = weights_of(fresh_model()), weights_of(one)
    moved = torch.cat([(end[k] - start[k]).flatten() for k in end if end[k].is_floating_point()])
    apart = torch.cat([(end[k] - two[k]).flatten() for k in end if end[k].is_floating_point()])
    assert 0 < moved.norm() and apart.norm() < 0.01 * moved.norm(), float(apart.norm() / moved.norm())


def test_uneven_batch_is_refused(tmp_path, monkeypatch):
    import accelerate

    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        loop.Loop(tmp_path, torch.nn.Linear(1, 1), config(1))


def test_learning_rate_can_be_prolonged():
    short, long = loop.LoopConfig(100, 1, 1e-3, warmup=10), loop.LoopConfig(200, 1, 1e-3, warmup=10)
    assert loop.learning_rate(short, 0) == pytest.approx(1e-4)
    assert all(loop.learning_rate(short, s) == loop.learning_rate(long, s) for s in range(75))
    assert loop.learning_rate(short, 99) < 1e-4


def test_fast_attention_changes_nothing():
    from ldm.modules.attention import CrossAttention

    for tokens, other in ((20, None), (20, 7), (unet.FUSED_ABOVE, None)):
        layer = CrossAttention(16, 24 if other else None, heads=2, dim_head=8)
        x = torch.randn(2, tokens, 16)
        context = torch.randn(2, other, 24) if other else None
        expected = layer(x, context)
        unet.use_fast_attention(torch.nn.ModuleList([layer]))
        assert torch.allclose(layer(x, context), expected, atol=1e-5)


def test_schedule_is_stable_diffusions():
    bar = diffusion.alphas_cumprod()
    assert float(bar[0]) == pytest.approx(1 - 0.00085, abs=1e-6)
    assert float(((1 - bar[-1]) / bar[-1]).sqrt()) == pytest.approx(14.6146, abs=1e-3)
    weights = diffusion.loss_weights(diffusion.NoiseConfig())
    assert weights.shape == (1000,) and float(weights.max()) == 8.0 and (weights > 0).all()


def test_noise_may_have_a_part_that_is_constant_over_a_picture(tmp_path):
    plain, rng = torch.zeros(64, 4, 2, 3), torch.Generator().manual_seed(1)
    before = rng.get_state()
    assert diffusion.with_offset(plain, diffusion.NoiseConfig(), rng) is plain
    assert torch.equal(rng.get_state(), before), "runs without it draw what they drew"
    loud = diffusion.with_offset(plain, diffusion.NoiseConfig(offset=0.5), rng)
    assert torch.equal(loud, loud[..., :1, :1].expand_as(loud))
    assert loud[..., 0, 0].std() == pytest.approx(0.5, rel=0.2)
    with pytest.raises(ValueError, match="0 or more"):
        diffusion.NoiseConfig(offset=-0.1)
    trained = []
    for name, offset in (("none", 0.0), ("some", 0.5), ("zero", 0.0)):
        trained.append(fresh_model())
        unet.train(tmp_path / name, fake_data(), trained[-1], config(2), noise=diffusion.NoiseConfig(offset=offset))
    none, some, zero = (weights_of(model) for model in trained)
    assert same(none, zero) and not same(none, some)


def test_ddim_finds_the_picture_of_a_perfect_model():
    bar = diffusion.alphas_cumprod().float()
    truth = torch.full((1, 4, 2, 2), 0.7)

    def perfect(x, t):
        a = bar[t][:, None, None, None]
        return (x - a.sqrt() * truth) / (1 - a).sqrt()

    assert torch.allclose(diffusion.ddim(perfect, torch.randn(1, 4, 2, 2), 10), truth, atol=1e-3)


def test_fold_statistics_keeps_pictures_and_normalises():
    torch.manual_seed(0)
    model = models.Autoencoder(SMALL.vae_model).eval()
    pictures = (np.random.default_rng(0).random((6, 32, 32, 3)) * 255).astype(np.uint8)
    before = vae.encode(model, pictures, "no")
    decoded = model.decode(before).detach()
    vae.fold_statistics(model, before)
    after = vae.encode(model, pictures, "no")
    assert torch.allclose(model.decode(after).detach(), decoded, atol=1e-3)
    scaled = after * models.SCALE_FACTOR
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(scaled.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_tokenizer_is_clips(tmp_path):
    words = tokenizer.load(tmp_path / "clip", SMALL.text_model)
    ids = tokenizer.encode(words, ["a photo of a cat", ""])
    assert ids.shape == (2, 77)
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert ids[1].tolist() == [49406] + [49407] * 76


def test_hosts_mean_is_not_zero():
    torch.manual_seed(0)
    text = models.build_text_encoder(SMALL.text_model)
    out = text(input_ids=torch.randint(0, 49000, (2, 77))).last_hidden_state
    assert out.mean() > 0.1


def test_recipe_round_trip_and_sentences(tmp_path):
    assert Recipe.from_json(Recipe().to_json()) == Recipe()
    with pytest.raises(ValueError, match="no field 'stepz'"):
        Recipe.from_json({"vae": {"stepz": 3}})
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match="r.json is not JSON"):
        Recipe.load(tmp_path / "r.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("tqdm")
    from lib_attn.learn.scenes.render import RenderError
    from lib_attn.learn.scenes.renderers import open_renderer

    try:
        open_renderer(32).close()
    except RenderError as error:
        pytest.skip(str(error))
    work = tmp_path_factory.mktemp("run") / "work"
    assert main([str(work), "--small"]) == 0
    return work


def test_one_command_from_nothing_to_checkpoint(finished):
    path = finished / "export" / "reference.safetensors"
    with safe_open(str(path), "pt") as file:
        keys, about = set(file.keys()), file.metadata()
    assert "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight" in keys
    assert "first_stage_model.decoder.conv_out.weight" in keys
    assert "cond_stage_model.transformer.text_model.final_layer_norm.bias" in keys
    assert about["modelspec.prediction_type"] == "epsilon" and "CC0" in about["modelspec.license"]
    assert Recipe.from_json(json.loads(about["attention_lab.recipe"])) == SMALL
    yaml = pytest.importorskip("yaml")
    host = yaml.safe_load((finished / "export" / "reference.yaml").read_text())
    params = host["model"]["params"]
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(**params["unet_config"]["params"])
    prefix = "model.diffusion_model."
    assert {k[len(prefix) :] for k in keys if k.startswith(prefix)} == set(network.state_dict())
    assert (finished / "export" / "models" / "reference-clip" / "vocab.json").exists()
    assert list((finished / "unet-64" / "log").glob("preview-*.png"))


def test_a_run_exports_what_differs_and_starts_from_it(finished, tmp_path, capsys):
    whole, name = finished / "export" / "reference.safetensors", "model.diffusion_model.out.2.bias"
    weights = state.load_tensors(whole)
    state.save_tensors(tmp_path / "base.safetensors", weights | {name: weights[name] + 1})
    assert main([str(finished), "--stages", "export", "--beside", str(tmp_path / "base.safetensors")]) == 0
    small = (finished / "export" / "beside.safetensors").rename(tmp_path / "small.safetensors")
    assert set(state.load_tensors(small)) == {name}
    work = tmp_path / "again"
    assert main([str(work), "--small", "--start-from", str(small), "--stages", "vae"]) == 0
    began = state.load_tensors(work / start.WEIGHTS)
    assert torch.equal(began["unet.out.2.bias"], weights[name].float())
    (tmp_path / "base.safetensors").unlink()
    capsys.readouterr()
    assert main([str(tmp_path / "third"), "--small", "--start-from", str(small), "--stages", "vae"]) != 0
    assert "differs from base.safetensors, which is not beside it" in capsys.readouterr().err


def test_finished_run_is_left_alone(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("*.safetensors")}
    assert main([str(finished), "--stages", "scenes,vae,latents,unet,polish"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in finished.glob("*.safetensors")}


def test_a_run_starts_from_a_finished_checkpoint(finished, tmp_path, capsys):
    path = finished / "export" / "reference.safetensors"
    work = tmp_path / "again"
    assert main([str(work), "--small", "--start-from", str(path), "--stages", "vae,polish"]) == 0
    checkpoint = state.load_tensors(path)
    began = state.load_tensors(work / start.WEIGHTS)
    name = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(began[f"unet.{name}"], checkpoint[f"model.diffusion_model.{name}"].float())
    name = "text_model.embeddings.token_embedding.weight"
    assert torch.equal(began[f"text.{name}"], checkpoint[f"cond_stage_model.transformer.{name}"].float())
    # Without a step of training the export is the checkpoint itself: nothing was drawn anew.
    recipe = dataclasses.replace(SMALL, phases=(dataclasses.replace(SMALL.phases[0], steps=0),))
    (work / "recipe.json").write_text(json.dumps(recipe.to_json()))
    (work / "scenes").symlink_to(finished / "scenes")
    (work / "latents-64").symlink_to(finished / "latents-64")
    assert main([str(work), "--start-from", str(path), "--stages", "vae,latents,unet,polish,export"]) == 0
    assert same(checkpoint, state.load_tensors(work / "export" / "reference.safetensors"))
    with safe_open(str(work / "export" / "reference.safetensors"), "pt") as file:
        assert Recipe.from_json(json.loads(file.metadata()["attention_lab.recipe"])) == recipe
        assert Recipe.from_json(json.loads(file.metadata()["attention_lab.started_from"])) == SMALL
    capsys.readouterr()
    assert main([str(finished), "--start-from", str(path)]) == 1
    assert "was started from nothing" in capsys.readouterr().err
    assert main([str(tmp_path / "other"), "--start-from", str(path)]) == 1
    message = capsys.readouterr().err
    assert "reference.safetensors does not fit the recipe's U-Net and text encoder" in message
    assert message.count("\n") == 1 and not (tmp_path / "other" / "vae.safetensors").exists()
    assert main([str(tmp_path / "none"), "--start-from", str(tmp_path / "none.safetensors")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_answers_say_what_stands_where():
    red, blue = Thing("cube", "red", "small"), Thing("cone", "blue")
    nothing = [len(text.SHAPES), len(text.COLOURS), len(text.SIZES)]
    cube, cone = [1, 0, 0], [2, 2, 1]
    assert text.answers(layout.scene_of([red, blue], relation="left of")) == [*cube, *nothing, *cone, 1, 0]
    assert text.answers(layout.scene_of([red, blue], relation="right of")) == [*cone, *nothing, *cube, 1, 0]
    assert text.answers(layout.scene_of([blue], background="black")) == [*nothing, *cone, *nothing, 0, 2]
    assert text.answers(layout.scene_of([blue], count=3), coloured=False) == [2, text.UNKNOWN, 1] * 3 + [2, 0]


def test_questions_hold_no_held_out_caption():
    mix = layout.Mix(kinds=(0.4, 0.5, 0.1))
    captions, rows = text.questions(3, 2, 32, mix)
    assert not any(is_held_out(layout.sample_scene(3, 64 + i, mix).things) for i in range(32))
    assert captions.count("") == 2 and (rows[15] == text.UNKNOWN).all()
    assert (captions, rows.tolist()) == (lambda c, r: (c, r.tolist()))(*text.questions(3, 2, 32, mix))


def test_only_padding_is_asked_and_each_place_in_turn(tmp_path):
    words = tokenizer.load(tmp_path / "clip", SMALL.text_model)
    scene = layout.scene_of([Thing("cube", "red")], background="white")
    tokens = tokenizer.encode(words, [scene.caption, ""])
    rows = torch.tensor([text.answers(scene), [text.UNKNOWN] * 11])
    place, whole, still = text.wanted(tokens, rows)
    end = int((tokens[0] == 49407).int().argmax())
    asked = whole[0, :, 2] != text.UNKNOWN
    assert asked.nonzero().flatten().tolist() == list(range(end, 77))
    centre = [p for p in range(end, 77) if p % 4 == 1]
    assert (place[0, centre] == torch.tensor([1, 0, 1])).all()
    assert still[0].tolist() == [p < end or p % 4 == 3 for p in range(77)]
    assert (place[1] == text.UNKNOWN).all() and (whole[1] == text.UNKNOWN).all() and still[1].all()


def test_text_stage_learns_grammar_and_leaves_words_alone(tmp_path):
    """The places are named where nothing was named before, and the words' own features stay."""
    words = tokenizer.load(tmp_path / "clip", SMALL.text_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = models.build_text_encoder(models.TextConfig(width=64, layers=1, heads=2))
    mix = layout.Mix(kinds=(1.0, 0.0, 0.0))
    tokens = tokenizer.encode(words, ["a red cube, grey background"])
    before = encoder(input_ids=tokens).last_hidden_state.detach()
    scenes = single_prompts(6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untaught = text.accuracy(text.Reader(encoder), words, scenes)
    settings = loop.LoopConfig(steps=150, batch=16, lr=4e-3, warmup=10, decay=0.3, precision="no")
    run = text.train(tmp_path / "run", encoder, words, settings, mix, keep=1.0)
    assert untaught == 0 and text.accuracy(run.module, words, scenes) > 0.5
    after = encoder(input_ids=tokens).last_hidden_state.detach()
    end = int((tokens[0] == 49407).int().argmax())
    moved = (after - before).square().mean(-1)[0]
    assert moved[:end].mean() < 0.2 * moved[end:].mean()


def test_every_column_has_the_token_of_its_place():
    owners = gaze.owners(torch.tensor([0, 1, 2, 3]), 6)
    assert (owners[0] == 0).all()
    assert owners[1:].argmax(-1).tolist() == [[1] * 6, [0, 0, 0, 2, 2, 2], [0, 0, 1, 1, 2, 2]]
    tokens = torch.full((1, 77), 49407)
    tokens[0, :4] = torch.tensor([49406, 5, 6, 7])
    roles = gaze.roles(tokens)
    assert (roles[0, :4] == 0).all() and torch.equal(roles[0, 4:8], torch.eye(4)[:, :3])


def test_gaze_is_0_where_every_place_looks_at_its_own_token():
    tokens = torch.full((1, 77), 49407)
    tokens[0, 0] = 49406
    watcher = gaze.Gaze()
    right, left = torch.zeros(1, 2, 16, 77), torch.zeros(1, 2, 16, 77)
    for place in range(16):
        right[..., place, 4 if place % 4 < 2 else 6] = 1.0
    left[..., 4] = 1.0
    for attention, expected in ((right, 0.0), (torch.full((1, 2, 16, 77), 1 / 77), np.log(3)), (left, 4.6)):
        watcher.begin(tokens, torch.tensor([2]))
        watcher.see(attention)
        assert float(watcher.loss()) == pytest.approx(expected, abs=0.05)
    watcher.begin(tokens, torch.tensor([0]))
    watcher.see(left)
    assert float(watcher.loss()) == 0


def test_gaze_trains_and_a_text_stage_comes_before_its_phase(finished, tmp_path):
    phase = dataclasses.replace(
        SMALL.phases[0], steps=2, gaze=0.05, train_text=False, text=text.TextStage(steps=2, batch=4, warmup=1)
    )
    recipe = dataclasses.replace(SMALL, phases=(phase,))
    work = tmp_path / "work"
    work.mkdir()
    (work / "recipe.json").write_text(json.dumps(recipe.to_json()))
    for name in ("scenes", "latents-64", "vae.safetensors", "decoder.safetensors"):
        (work / name).symlink_to(finished / name)
    assert main([str(work), "--stages", "unet"]) == 0
    taught = state.load_tensors(work / "text-64.safetensors")
    trained = state.load_tensors(work / "unet-64.safetensors")
    # The pictures leave the text encoder as the captions made it.
    kept = [key for key in trained if key.startswith("text.")]
    assert kept and all(torch.equal(trained[key], taught[key]) for key in kept)


def test_blend_lies_between_two_phases(finished, tmp_path, capsys):
    first = dataclasses.replace(SMALL.phases[0], name="first", steps=1, lr=0.1, warmup=0, decay=0.0)
    rest = [
        dataclasses.replace(first, name=name, steps=0, blend=0.25, blend_with=other)
        for name, other in (("second", ""), ("third", "first"))
    ]
    recipe = dataclasses.replace(SMALL, phases=(first, *rest))
    work = tmp_path / "work"
    command = [str(work), "--start-from", str(finished / "export" / "reference.safetensors"), "--stages", "unet"]
    work.mkdir()
    (work / "recipe.json").write_text(json.dumps(recipe.to_json()))
    (work / "latents-64").symlink_to(finished / "latents-64")
    assert main(command) == 0
    began, one, two, three = (
        state.load_tensors(work / name)["unet.out.2.weight"]
        for name in (start.WEIGHTS, "unet-first.safetensors", "unet-second.safetensors", "unet-third.safetensors")
    )
    assert not torch.equal(began, one)
    assert torch.allclose(two, 0.75 * one + 0.25 * began, atol=1e-6)
    assert torch.allclose(three, 0.75 * two + 0.25 * one, atol=1e-6)
    wrong = dataclasses.replace(recipe, phases=(dataclasses.replace(rest[0], name="x", blend_with="third"),))
    (work / "recipe.json").write_text(json.dumps(wrong.to_json()))
    capsys.readouterr()
    assert main(command) == 1
    assert "Phase 'x' blends with 'third', which is no phase before it." in capsys.readouterr().err


def test_sentences_of_the_command(tmp_path, finished, capsys):
    assert main([str(tmp_path / "w"), "--small", "--stages", "paint"]) == 1
    assert "There is no stage 'paint'" in capsys.readouterr().err
    assert main([str(tmp_path / "w"), "--small", "--stages", "vae"]) == 1
    assert "holds no shards" in capsys.readouterr().err
    assert main([str(tmp_path / "w"), "--stages", "export"]) == 1
    assert "holds no trained U-Net yet" in capsys.readouterr().err


def test_truncated_latents_and_state_are_one_sentence(tmp_path):
    rows = tmp_path / "latents-00000.safetensors"
    state.save_tensors(rows, {"latents": torch.zeros(2, 4, 2, 2)}, {"captions": '["a", "b"]'})
    assert data.load_latents(tmp_path, 9)[1] == ["a", "b"]
    rows.write_bytes(rows.read_bytes()[:-20])
    with pytest.raises(state.StateError, match="truncated or damaged"):
        data.load_latents(tmp_path, 9)
    with pytest.raises(state.StateError, match="truncated or damaged"):
        state.load_tensors(rows)
    with pytest.raises(state.StateError, match="does not exist"):
        state.load_tensors(tmp_path / "none.safetensors")


def test_full_disk_keeps_the_state_before(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state.save_state(tmp_path, 1, {"model": model.state_dict()}, optimizer, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(state.StateError, match="the disk is full"):
        state.save_state(tmp_path, 2, {"model": model.state_dict()}, optimizer, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    path, info = state.load_state(tmp_path)
    again = torch.optim.AdamW(model.parameters())
    state.restore_optimizer(again, state.load_tensors(path / "optimizer.safetensors"), info["numbers"])
    for a, b in zip(optimizer.state_dict()["state"].values(), again.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
