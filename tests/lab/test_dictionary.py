"""The dictionary in the lab: what its benches measure, pictures encoded, and the command that learns."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import encoder
from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.encoder import encoded, picture_files, read_picture
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import setting
from lib_attn.lab.measuring.outputs import output_errors
from lib_attn.lab.reports import dictionary as reports
from lib_attn.lab.shared.errors import LabError
from lib_attn.learn import __main__ as command
from lib_attn.learn import shown
from lib_attn.learned.files import Loader, load
from lib_attn.learned.folders import Folders

ASKED = Request(("a",), (1,), "", 64, 64, 2, "DDIM", 5.0)
LIVE = "dictionary.mode=live; dictionary.blocks=all; dictionary.full_first=0; dictionary.atoms="


def test_errors_of_outputs_shrink_with_more_atoms_and_leave_the_picture_alone(model):
    plain = sample(model, ASKED)
    few, many = (output_errors(model, ASKED, setting("x", LIVE + str(n))) for n in (4, 32))
    assert few.keys() == many.keys() and all(len(errors) == 2 for errors in few.values())
    finest = [layer for layer in few if layer.startswith("OUT")][-1]
    assert 0 < max(many[finest]) < min(few[finest])
    assert output_errors(model, ASKED, setting("x", LIVE + "4; dictionary.blend=0")) == {}
    assert torch.equal(sample(model, ASKED), plain)
    assert not any("forward" in vars(module) for module in model.unet.modules())


def pictures(folder, count=2):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (90, 70), (40 * i, 200, 90)).save(folder / f"{i}.png")
    return folder


def test_pictures_are_found_and_read(tmp_path):
    (pictures(tmp_path, 3) / "notes.txt").write_text("no picture")
    files = picture_files(tmp_path)
    assert [f.name for f in files] == ["0.png", "1.png", "2.png"]
    assert read_picture(files[1], 128).shape == (128, 128, 3) and read_picture(files[1], 8).shape == (64, 64, 3)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(LabError, match="bad.png cannot be read"):
        read_picture(tmp_path / "bad.png", 64)
    with pytest.raises(LabError, match="no pictures"):
        picture_files(tmp_path / "none")


def test_an_encoded_picture_decodes_to_itself():
    """With the embedded model's own two halves."""
    from lib_attn.lab.drawing.sampling import decode

    spec = ModelSpec()
    model = spec.load()
    picture = np.full((64, 64, 3), 230, np.uint8)
    picture[20:50, 15:40] = (200, 40, 30)
    (latent,) = encoded(spec, [picture])
    assert latent.shape == (1, 4, 8, 8)
    back = np.asarray(decode(model, latent)[0]).astype(float)
    assert np.abs(back - picture).mean() < 12


def test_a_checkpoint_without_encoder(tiny):
    with pytest.raises(LabError, match="no encoder"):
        next(encoded(ModelSpec(tiny, "cpu"), [np.zeros((64, 64, 3), np.uint8)]))


@pytest.fixture
def with_encoder(monkeypatch, tiny):
    """The tiny checkpoint has half a VAE."""

    class Quarter(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.avg_pool2d(x, 8)[:, [0, 1, 2, 0]]

    monkeypatch.setattr(encoder, "load_encoder", lambda spec: Quarter())
    return ["--checkpoint", str(tiny), "--device", "cpu"]


def test_learning_from_pictures_by_the_command(tmp_path, with_encoder, capsys, monkeypatch):
    folder, out = pictures(tmp_path / "mine"), tmp_path / "files" / "look.safetensors"
    asked = ["dictionary", str(out), "--pictures", str(folder), "--atoms", "8", "--bank", "4", "--samples", "256"]
    asked += ["--caption", "green", *with_encoder]
    real, seen = shown.show, []

    def stopped(*args):
        for _ in real(*args):
            seen.append(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(shown, "show", stopped)
    assert command.main(asked) == 130 and not out.exists()
    monkeypatch.setattr(shown, "show", lambda *args: (seen.append(1) for _ in real(*args)))
    assert command.main(asked) == 0 and len(seen) == 2, "the first picture is not shown again"
    file = load("look", "dictionary", Folders([out.parent]))
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert file.about["learned"]["pictures"]["count"] == 2 and any(name.startswith("bank.") for name in file.tensors)
    assert "Written" in capsys.readouterr().out


@pytest.mark.parametrize(("more", "size"), [([], None), (["--width", "128", "--height", "64"], (128, 64))])
def test_pictures_are_shown_at_the_size_that_the_file_names(tmp_path, tiny, with_encoder, monkeypatch, more, size):
    folder, out = pictures(tmp_path / "mine"), tmp_path / "look.safetensors"
    real, sides = command.read_picture, []
    monkeypatch.setattr(command, "read_picture", lambda file, side: sides.append(side) or real(file, 64))
    asked = ["dictionary", str(out), "--pictures", str(folder), "--atoms", "8", "--bank", "4", "--samples", "256"]
    assert command.main([*asked, "--layers", "out", *more, *with_encoder]) == 0
    width, height = size or (ModelSpec(tiny).side,) * 2
    file = load("look", "dictionary", Folders([tmp_path]))
    said = file.about["learned"]["pictures"]
    assert (said["width"], said["height"], said["layers"]) == (width, height, "out")
    assert sides == [(width * height) ** 0.5] * 2
    assert all(key.startswith("OUT") for key in file.about["layers"]), "layers were asked for with pictures, too"


def test_learning_from_prompts_by_the_command(tmp_path, model, tiny):
    (tmp_path / "prompts.txt").write_text("a cube\n\na cone\n")
    out = tmp_path / "own.safetensors"
    asked = ["dictionary", str(out), "--prompts", str(tmp_path / "prompts.txt"), "--count", "2", "--steps", "2"]
    asked += ["--width", "64", "--height", "64", "--atoms", "8", "--bank", "4", "--samples", "256"]
    assert command.main([*asked, "--checkpoint", str(tiny), "--device", "cpu"]) == 0
    own = replace(model, files=Loader(lambda: Folders([tmp_path])))
    on = setting("x", "dictionary.file=own; dictionary.mode=full; dictionary.strength=1")
    assert not torch.equal(sample(own, ASKED, on), sample(own, ASKED))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["a/b.ckpt"], "no name of a learned file"),
        (["x.safetensors", "--atoms", "many"], "Atoms is a number from 4 to 4096"),
        (["x.safetensors", "--prompts", "nowhere.txt"], "no file with prompts"),
        (["x.safetensors", "--pictures", "nowhere"], "no pictures"),
    ],
)
def test_what_cannot_be_learned_is_one_sentence(tiny, capsys, options, said):
    assert command.main(["dictionary", *options, "--checkpoint", str(tiny), "--device", "cpu"]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and "\n" not in told


def test_bench_atoms_keeps_what_is_not_measured_anew(tmp_path, tiny):
    out = tmp_path / "atoms.json"
    asked = ["bench", "atoms", "--images", "1", "--size", "64", "--steps", "2", "--out", str(out)]
    asked += ["--checkpoint", str(tiny), "--device", "cpu"]
    assert cli.main([*asked, "--parts", "errors", "--only", "live 64,near-sighted"]) == 0
    assert cli.main([*asked, "--parts", "errors", "--only", "global 64"]) == 0
    result = json.loads(out.read_text())
    assert [row["name"] for row in result["errors"]] == ["near-sighted", "live 64", "global 64"]
    assert all(row["layers"] == 0 and row["error"] is None for row in result["errors"]), "a small map stays exact"
    assert "live 64" in reports.shortcut_block(result)
    assert cli.main([*asked, "--parts", "colours"]) == 2


def test_bench_look(tmp_path, tiny, with_encoder):
    out = tmp_path / "look.json"
    asked = ["bench", "look", "--shown", "2", "--pictures", "2", "--named", "1", "--steps", "2", "--size", "64"]
    assert cli.main([*asked, "--strengths", "0.5,2", "--out", str(out), *with_encoder]) == 0
    result = json.loads(out.read_text())
    found = [(row["learned_from"], row["strength"]) for row in result["rows"]]
    assert found == [("none", 0.0), ("warm", 0.5), ("cool", 0.5), ("warm", 2.0), ("cool", 2.0)]
    assert "colours like warm" in reports.look_block(result)
    files = tmp_path / "files"
    files.mkdir()
    assert cli.main([*asked, "--strengths", "1", "--files", str(files), "--out", str(out), *with_encoder]) == 0
    said = load("warm", "dictionary", Folders([files])).about["learned"]["pictures"]
    assert (said["width"], said["height"]) == (64, 64)
    assert cli.main([*asked, "--strengths", "a", "--out", str(out), *with_encoder]) == 2
