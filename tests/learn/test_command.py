"""``python -m lib_attn.learn``: a file from pictures of a checkpoint, and a run that was stopped."""

import pytest
import torch

from lib_attn.lab.drawing import embedded
from lib_attn.learn import __main__ as command
from lib_attn.learned.files import load
from lib_attn.learned.folders import Folders
from tests.lab.conftest import tiny  # noqa: F401

pytest.importorskip("diffusers", reason="the lab needs the package diffusers")

NUMBERS = ["--count", "3", "--steps", "2", "--width", "64", "--height", "64"]


def asked(tiny, path, *more):  # noqa: F811
    return ["thin_qk", str(path), "--checkpoint", str(tiny), *NUMBERS, *more]


def test_a_run_that_was_stopped_goes_on_without_loss(tiny, tmp_path, monkeypatch, capsys):  # noqa: F811
    assert command.main(asked(tiny, tmp_path / "whole.safetensors")) == 0
    assert "Written" in capsys.readouterr().out
    drawn, sample = [], command.sample

    def stopping(*args, **options):
        drawn.append(args[1].seeds[0])
        if len(drawn) == 2:
            options["progress"] = stop  # in the middle of a picture
        return sample(*args, **options)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "sample", stopping)
    assert command.main(asked(tiny, tmp_path / "again.safetensors")) == 130
    assert "goes on" in capsys.readouterr().err and not (tmp_path / "again.safetensors").exists()
    assert command.main(asked(tiny, tmp_path / "again.safetensors")) == 0
    assert drawn == [1, 2, 2, 3]
    assert {f.name for f in tmp_path.glob("*.safetensors")} == {"whole.safetensors", "again.safetensors"}
    whole, again = (load(name, "thin_qk", Folders([tmp_path])) for name in ("whole", "again"))
    assert whole.tensors.keys() == again.tensors.keys() and len(whole.tensors) == 3 * len(whole.layers)
    for name, value in whole.tensors.items():
        assert torch.equal(value, again.tensors[name]), name
    assert whole.about["figures"] == again.about["figures"] and whole.family == "other"
    assert whole.about["checkpoint"][0] == "tiny" and whole.about["learned"]["pictures"]["count"] == 3


def test_prompts_of_a_file(tiny, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "prompts.txt").write_text("first\n\nsecond\n")
    seen, sample = [], command.sample
    monkeypatch.setattr(
        command, "sample", lambda model, request, *a, **o: seen.append(request) or sample(model, request, *a, **o)
    )
    assert command.main(asked(tiny, tmp_path / "a.safetensors", "--prompts", str(tmp_path / "prompts.txt"))) == 0
    assert [r.prompts[0] for r in seen] == ["first", "second", "first"] and {r.cfg for r in seen} == {7.0}


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--steps", "many"], "Steps is a number"),
        (["--layers", "d9"], "no attention in the layers d9"),
        (["--prompts", "nowhere.txt"], "no file with prompts"),
        (["--width", "100"], "no size"),
    ],
)
def test_what_is_not_understood_is_one_sentence(tiny, tmp_path, capsys, more, reason):  # noqa: F811
    assert command.main(asked(tiny, tmp_path / "a.safetensors", *more)) == 2
    assert reason in capsys.readouterr().err and not (tmp_path / "a.safetensors").exists()


def test_names_that_cannot_be(tiny, tmp_path, capsys):  # noqa: F811
    for name in ("a.bin", "nul.safetensors"):
        assert command.main(asked(tiny, tmp_path / name)) == 2
        assert "no name of a learned file" in capsys.readouterr().err


def test_a_model_that_comes_with_the_project_is_shown_prompts_of_its_own_words(tmp_path):
    file = str(tmp_path / "mine.safetensors")
    for words, side in (([], 256), (["--checkpoint", "reference-512"], 512)):
        plan = command.plan_of(command.build_parser().parse_args(["thin_qk", file, *words]))
        assert plan.prompts == embedded.PROMPTS and plan.pictures.width == side
