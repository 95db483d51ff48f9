"""A checkpoint that holds only what differs from the one beside it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import beside, checkpoint, install
from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.embedded import EMBEDDED, MODELS, checkpoint_file
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.shared.errors import LabError

LARGER = MODELS["reference-512"]


@pytest.fixture
def pair(tmp_path):
    """(whole file, the one beside it, what differs)."""
    same, moved, own = torch.arange(6.0), torch.zeros(3), torch.ones(2, 2)
    base, whole = tmp_path / "base.safetensors", tmp_path / "whole.safetensors"
    save_file({"same": same, "moved": moved, "gone": own}, base, {"title": "base"})
    save_file({"same": same, "moved": moved + 1, "own": own}, whole, {"title": "whole"})
    beside.write_beside(whole, base, tmp_path / "small.safetensors")
    return whole, base, tmp_path / "small.safetensors"


def test_it_is_completed_to_what_it_was(pair):
    whole, _, small = pair
    assert set(load_file(small)) == {"moved", "own"}
    wanted, found = load_file(whole), beside.completed(small, load_file(small))
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert beside.completed(whole, wanted).keys() == wanted.keys(), "a whole one is left as it is"
    beside.write_whole(small, small.with_name("again.safetensors"))
    again = load_file(small.with_name("again.safetensors"))
    assert all(torch.equal(wanted[name], again[name]) for name in wanted) and again.keys() == wanted.keys()
    assert beside.metadata_of(small.with_name("again.safetensors")) == {"title": "whole"}


def test_the_other_file_has_to_be_the_one_it_was_made_beside(pair):
    whole, base, small = pair
    shutil.copy(whole, base)
    with pytest.raises(LabError, match=r"another base\.safetensors than the one"):
        beside.base_of(small)
    base.unlink()
    with pytest.raises(LabError, match=r"differs from base\.safetensors, which is not beside it"):
        beside.base_of(small)


@pytest.mark.parametrize("name", ["../base.safetensors", "/etc/base.safetensors", "small.safetensors"])
def test_only_another_file_of_its_folder_is_read(pair, name):
    _, base, small = pair
    told = beside.metadata_of(small)
    save_file(load_file(small), small, told | {beside.BASE: name})
    if name == small.name:
        with pytest.raises(LabError, match="not beside it"):
            beside.base_of(small)
    else:
        assert beside.base_of(small) == base


def test_the_larger_model_draws_at_its_own_size_and_is_told_by_its_name():
    spec = ModelSpec(checkpoint_file("reference-512"))
    assert spec.file == LARGER and spec.side == 512 and checkpoint_file("a/b.safetensors").name == "b.safetensors"
    model = spec.load()
    assert model.name == "reference-512" and model.side == 512
    latents = sample(model, Request(("a red cube",), (1,), "", 64, 64, 1, "DDIM", 5.0))
    assert latents.shape == (1, 4, 8, 8) and torch.isfinite(latents).all()
    with pytest.raises(LabError, match="no checkpoint"):
        ModelSpec(checkpoint_file("reference-1024")).load()


def test_a_webui_gets_it_whole(tmp_path, capsys):
    for mark in install.MARKS:
        (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mark).write_text("")
    assert cli.main(["install-model", "--webui", str(tmp_path), "--model", "reference-512"]) == 0
    assert "draw at 512 x 512" in capsys.readouterr().err
    target = tmp_path / install.CHECKPOINTS / LARGER.name
    assert beside.base_of(target) is None and target.with_suffix(".yaml").is_file()
    found, wanted = load_file(target), checkpoint.read_weights(LARGER)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert LARGER.stat().st_size < target.stat().st_size / 2 and EMBEDDED.stat().st_size < 64 * 2**20
