"""Training of map blocks: what is trained, exact resume, and the file that comes out of it."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("ldm", reason="the networks are ldm's")
pytest.importorskip("accelerate", reason="training runs on accelerate")

from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.embedded import EMBEDDED
from lib_attn.lab.drawing.sampling import decode
from lib_attn.lab.judging import geometry
from lib_attn.lab.judging.prompts import pair_prompts, single_prompts
from lib_attn.lab.reports.maps import choices_block
from lib_attn.learn.depth import ablation, choices
from lib_attn.learn.depth.__main__ import main
from lib_attn.learn.depth.base import Base
from lib_attn.learn.depth.recipe import Recipe
from lib_attn.learn.depth.run import schedule
from lib_attn.learn.reference_model import unet as attention
from lib_attn.learn.scenes import layout, renderers
from lib_attn.learn.scenes.guides import FARTHEST, depth_of, depth_picture, normal_picture, normals_of
from lib_attn.learned.files import load
from lib_attn.learned.folders import Folders
from lib_attn.learned.foreign import VAE
from lib_attn.techniques.depth_guide.underdraw import drawing
from lib_attn.unet.families import find_layers
from lib_attn.unet.replace import replaced
from tests.unets import tiny_unet

SMALL = ["--scenes", "8", "--size", "64", "--batch", "2", "--head-scenes", "8", "--head-steps", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    assert main([str(folder), "--steps", "4", *SMALL]) == 0
    return folder


def read(folder, name="depth-out"):
    return load(name, "depth", Folders([folder]))


def test_the_file_holds_the_out_blocks_and_what_they_are(work):
    file = read(work)
    blocks = {name for name in file.tensors if not name.startswith("head.")}
    assert blocks and all(name.startswith(("output_blocks.", "out.")) for name in blocks)
    assert set(file.tensors) - blocks, "the network that reads maps"
    assert file.about["map"] == "depth" and "near is white" in file.about["values"]
    assert file.about["checkpoint"].startswith(EMBEDDED.stem) and file.about["recipe"]["steps"] == 4
    from lib_attn.lab.drawing.checkpoint import load as load_checkpoint

    unet = load_checkpoint(EMBEDDED).unet
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    seen = []
    hook = unet.time_embed.register_forward_pre_hook(lambda *_: seen.append(unet.out[-1].weight))
    with torch.no_grad(), replaced(unet, {k: v for k, v in file.tensors.items() if k in blocks}):
        unet(torch.zeros(1, 4, 8, 8), torch.tensor([500.0]), context=torch.zeros(1, 8, 128))
    hook.remove()
    assert not torch.equal(seen[0], before["out.2.weight"])
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def test_a_stopped_run_ends_as_an_unbroken_one(work, tmp_path):
    assert main([str(tmp_path), "--steps", "2", *SMALL]) == 0
    (tmp_path / "depth-out.json").write_text(
        json.dumps(json.loads((tmp_path / "depth-out.json").read_text()) | {"steps": 4})
    )
    # The learning rate of the first steps depends on the length, so only the first two steps are compared by it.
    state = sorted((tmp_path / "depth-out").glob("step-*"))[-1]
    assert state.name == "step-00000002"
    assert main([str(tmp_path), *SMALL]) == 0
    again = read(tmp_path)
    assert again.about["learned"]["steps"] == 4
    assert again.tensors.keys() == read(work).tensors.keys()


def test_the_first_steps_may_read_averaged_keys_and_nothing_else_does(work, tmp_path, monkeypatch):
    """At 64 px the finest level has 64 tokens; maps drawn at a save, and the model afterwards, read all keys."""
    monkeypatch.setattr(attention, "POOLED_ABOVE", 16)
    averaged, models, load_base = [], [], Base.load
    average = attention._averaged
    monkeypatch.setattr(attention, "_averaged", lambda x: (averaged.append(len(x)), average(x))[1])
    monkeypatch.setattr(Base, "load", lambda *a: (models.append(load_base(*a)), models[-1])[1])
    assert main([str(tmp_path / "all"), "--steps", "4", *SMALL]) == 0
    assert not averaged
    assert main([str(tmp_path / "pooled"), "--steps", "4", "--pooled", "0.5", *SMALL]) == 0
    unet = models[-1].model.unet
    finest = sum(layer.depth == 0 for layer in find_layers(unet))
    assert averaged == [2] * finest * 2, "a batch of 2, in two of four steps"
    assert not any(getattr(module, "pooled", False) for module in unet.modules())
    pooled, full = read(tmp_path / "pooled").tensors, read(tmp_path / "all").tensors
    assert not torch.equal(pooled["out.2.weight"], full["out.2.weight"])
    assert main([str(tmp_path / "more"), "--pooled", "1.5", *SMALL]) == 1


def test_noise_may_have_a_part_that_is_constant_over_a_map(work, tmp_path):
    assert main([str(tmp_path), "--steps", "4", "--offset", "1", *SMALL]) == 0
    loud, plain = read(tmp_path), read(work)
    assert loud.about["recipe"]["noise"]["offset"] == 1.0 and plain.about["recipe"]["noise"]["offset"] == 0.0
    assert not torch.equal(loud.tensors["out.2.bias"], plain.tensors["out.2.bias"])
    assert main([str(tmp_path / "less"), "--offset", "-1", *SMALL]) == 1


def test_a_file_may_have_a_decoder_of_its_own_which_draws_its_maps(work, tmp_path):
    """The same run with one: the same blocks, and maps that the base's decoder would show otherwise."""
    out = tmp_path / "own.safetensors"
    assert main([str(work), "--steps", "4", *SMALL, "--decoder-steps", "2", "--out", str(out)]) == 0
    own, plain = load("own", "depth", Folders([tmp_path])), read(work)
    decoder = {name.removeprefix(VAE) for name in own.tensors.keys() - plain.tensors.keys()}
    model = ModelSpec().load()
    assert decoder == model.decoder.state_dict().keys()
    assert all(torch.equal(own.tensors[name], value) for name, value in plain.tensors.items())
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    before = decode(model, latents)[0]
    with drawing(own, model.unet, model.decoder, "epsilon"):
        assert decode(model, latents)[0].tobytes() != before.tobytes()
    assert decode(model, latents)[0].tobytes() == before.tobytes()


@pytest.mark.parametrize("choice", choices.CHOICES)
def test_what_is_trained_is_what_is_written_and_put_on(choice):
    unet, start = tiny_unet(0), tiny_unet(0)
    choices.prepare(unet, choice, rank=2, seed=1)
    x, context = torch.randn(1, 4, 16, 16), torch.randn(1, 8, 16)
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        unet(x, torch.tensor([500.0]), context=context).square().mean().backward()
        optimizer.step()
    tensors = choices.written(unet, unet.state_dict(), torch.float32)
    names = {name.split(".")[0] for name in tensors}
    if choice == "out":
        assert names == {"output_blocks", "out"}
    if choice == "lora":
        assert all(name.endswith((".up", ".down")) for name in tensors)
    with torch.no_grad():
        wanted = unet(x, torch.tensor([500.0]), context=context)
        assert not torch.allclose(start(x, torch.tensor([500.0]), context=context), wanted, atol=1e-4)
        with replaced(start, tensors):
            torch.testing.assert_close(start(x, torch.tensor([500.0]), context=context), wanted, atol=1e-5, rtol=1e-4)


def test_depth_and_normals_as_controlnet_reads_them():
    depth, mask = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint8)
    depth[2:6, 2:6], mask[2:6, 2:6] = np.linspace(0.1, 0.2, 4)[:, None], 1
    picture = depth_of(depth_picture(depth, mask))
    assert picture[0, 0] == 0 and picture[5, 3] == 1.0 and picture[2, 3] == pytest.approx(FARTHEST, abs=0.01)
    normals = np.zeros((8, 8, 3), np.float32)
    normals[2:6, 2:6] = (-1.0, 0.0, 0.0)  # a face to the left, x to the right
    drawn = normal_picture(normals, mask)
    assert tuple(drawn[3, 3]) == (255, 128, 128), "red is left"
    assert tuple(drawn[0, 0]) == (128, 128, 255), "nothing faces the viewer"
    np.testing.assert_allclose(normals_of(drawn)[3, 3], (-1, 0, 0), atol=0.01)


def test_a_schedule_that_ends_in_noise_alone():
    bar, plain = schedule(Recipe(zero_snr=True)), schedule(Recipe())
    assert bar[-1] == 0 and bar[0] == pytest.approx(float(plain[0])) and (bar[1:] < bar[:-1]).all() and plain[-1] > 0


def test_a_run_of_another_checkpoint_is_refused(work, capsys):
    path = work / "depth-out.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"checkpoint": "other 0123456789"}))
    try:
        assert main([str(work), *SMALL]) == 1
    finally:
        path.write_text(kept)
    assert "holds a run of another checkpoint" in capsys.readouterr().err


def test_every_choice_is_trained_for_the_same_time_and_judged(work, monkeypatch):
    monkeypatch.setattr(ablation, "TRIAL", 4)
    monkeypatch.setattr(geometry, "BANK", 1)
    monkeypatch.setattr(geometry, "RENDERS", 2)
    out, asked = work / "choices.json", [str(work), "--judged", "1", *SMALL]
    monkeypatch.setattr(choices, "CHOICES", ("lora",))
    assert main([*asked, "--ablation", "0.1", "--out", str(out)]) == 0
    (known,) = json.loads(out.read_text())["rows"]
    monkeypatch.setattr(choices, "CHOICES", ("lora", "out"))
    assert main([*asked, "--ablation", "0.1", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    first, second = result["rows"]
    assert first == known, "the same command goes on"
    assert (first["train"], second["train"]) == ("lora", "out") and second["weights"] > 5 * first["weights"]
    assert all(row["steps"] >= 1 and row["maps"]["all"]["maps"] == 2 for row in (first, second))
    assert result["command"].startswith("python -m lib_attn.learn ") and str(work) not in out.read_text()
    table = choices_block(result)
    assert "`out`" in table and "`lora`" in table and "of 8 scenes at 64 px" in table
    assert not list(work.glob("tmp*")), "what was only trained to be judged is gone"
    assert main([*asked, "--ablation", "0.2", "--out", str(out)]) == 1, "rows of another time are not mixed"


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_a_judge_names_rendered_things_and_finds_them_nearer_than_others(kind, monkeypatch):
    monkeypatch.setattr(geometry, "BANK", 6)
    monkeypatch.setattr(geometry, "RENDERS", 6)
    with renderers.open_renderer(128) as renderer:
        judge = geometry.MapJudge(renderer, kind)
        scenes = [*single_prompts(3, 5), *pair_prompts(3, 5)]
        drawn = [
            judge.picture(layout.scene_of(s.things, s.count, s.relation, seed=4242, index=i))
            for i, s in enumerate(scenes)
        ]
        assert geometry.score_maps(judge, drawn, scenes).relation >= 0.8
        assert geometry.score_maps(judge, drawn, [*scenes[1:], scenes[0]]).relation <= 0.2
        own = np.array([judge.nearest(m, s) for m, s in zip(drawn, scenes, strict=True)])
        other = np.array([judge.nearest(m, s) for m, s in zip(drawn, [*scenes[1:], scenes[0]], strict=True)])
        assert own[:, 0].mean() > other[:, 0].mean() + 0.1 and own[:, 1].mean() < other[:, 1].mean()
        render = judge.renders(scenes[0])[0]
        assert judge.nearest(render, scenes[0])[0] == 1.0
        assert judge.nearest(render, scenes[0])[1] == pytest.approx(0, abs=0.1)
