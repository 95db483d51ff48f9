"""The embedded model's way into a webui."""

import shutil

import pytest
from safetensors import safe_open

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import checkpoint, install
from lib_attn.lab.drawing.embedded import EMBEDDED


@pytest.fixture
def webui(tmp_path):
    root = tmp_path / "webui"
    for mark in install.MARKS:
        (root / mark).parent.mkdir(parents=True, exist_ok=True)
        (root / mark).write_text("")
    return root


def names(root):
    return sorted(str(p.relative_to(root)) for p in (root / "models").rglob("*"))


def test_everything_arrives_and_can_be_loaded_from_there(webui, capsys):
    assert cli.main(["install-model", "--webui", str(webui)]) == 0
    target = webui / "models/Stable-diffusion/reference.safetensors"
    assert target.read_bytes() == EMBEDDED.read_bytes()
    assert str(target) in capsys.readouterr().out.splitlines()
    # The yaml names the text encoder's folder from the webui's root.
    version = checkpoint.read_config(target.with_suffix(".yaml"))["cond_stage_config"]["params"]["version"]
    assert {p.name for p in (webui / version).iterdir()} == {p.name for p in (EMBEDDED.parent / version).iterdir()}
    before = names(webui)
    target.write_bytes(EMBEDDED.read_bytes())
    (target.with_suffix(".yaml")).write_text("old")
    assert cli.main(["install-model", "--webui", str(webui)]) == 0
    assert names(webui) == before and target.with_suffix(".yaml").read_text() != "old"


def test_what_is_no_webui_is_one_sentence(tmp_path, capsys):
    assert cli.main(["install-model", "--webui", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"{tmp_path} is no stable-diffusion-webui: it has no launch.py.\n"
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_files_are_left_alone(webui, capsys):
    target = webui / "models/Stable-diffusion/reference.safetensors"
    target.parent.mkdir(parents=True)
    target.write_text("somebody's")
    assert cli.main(["install-model", "--webui", str(webui)]) == 2
    assert "is another model: rename it first." in capsys.readouterr().err
    assert target.read_text() == "somebody's" and len(names(webui)) == 2
    target.unlink()
    (webui / "models/reference-clip").mkdir()
    assert cli.main(["install-model", "--webui", str(webui)]) == 2
    assert "something else than this model's text encoder" in capsys.readouterr().err
    assert not target.exists()


def test_a_full_disk_leaves_what_was_there(webui, capsys, monkeypatch):
    assert cli.main(["install-model", "--webui", str(webui)]) == 0
    target = webui / "models/Stable-diffusion/reference.safetensors"
    before = names(webui)
    copy = shutil.copyfile

    def full(source, part, **options):
        if source == EMBEDDED:
            raise OSError(28, "No space left on device")
        return copy(source, part, **options)

    monkeypatch.setattr(install.shutil, "copyfile", full)
    capsys.readouterr()
    assert cli.main(["install-model", "--webui", str(webui)]) == 2
    assert capsys.readouterr().err == f"The model could not be copied to {webui} (the disk is full).\n"
    assert names(webui) == before
    with safe_open(str(target), "pt") as file:
        assert file.metadata()["modelspec.title"].startswith("Attention Lab")
