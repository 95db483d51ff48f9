"""The command line: options from the schema, one sentence and exit code 2 for bad input, and the README."""

import json
import re
import subprocess
import sys

import pytest

from lib_attn.lab.commands import cli, options
from lib_attn.lab.commands import compare as compare_command
from lib_attn.lab.drawing import embedded, pictures
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.drawing.variants import preset_variants, technique_variants
from lib_attn.lab.measuring.compare import compare
from lib_attn.lab.reports import readme
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import command_line
from lib_attn.settings import TECHNIQUES, Settings, all_params
from tests.conftest import ROOT


def parse(*words):
    return cli.build_parser().parse_args(["generate", *words])


def test_every_parameter_is_an_option():
    for p in all_params():
        word = {"bool": "on", "choice": (p.choices or [""])[0], "blocks": "d0"}.get(p.kind, str(p.default))
        settings = options.settings_of(parse(f"--{p.key}", word))
        assert getattr(settings[p.technique], p.name) == p.read(word)


def test_an_option_switches_its_technique_on():
    assert not list(options.settings_of(parse()).active())
    settings = options.settings_of(parse("--near_sighted.tile", "8", "--near_sighted.blocks", "in,!d1"))
    assert settings.general.enabled and settings["near_sighted"].enabled and settings["near_sighted"].tile == 8
    assert not list(options.settings_of(parse("--near_sighted.enabled", "off", "--near_sighted.tile", "8")).active())
    assert options.settings_of(parse("--near_sighted.enabled"))["near_sighted"].enabled


def test_presets_are_a_start():
    name = next(iter(preset_variants("near_sighted"))).name
    settings = options.settings_of(parse("--preset", name, "--near_sighted.halo", "3"))
    assert settings["near_sighted"].halo == 3 and list(settings.active())
    with pytest.raises(LabError, match="no preset"):
        options.settings_of(parse("--preset", "nonsense"))


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--checkpoint", "none.safetensors"],
        ["generate", "--width", "100"],
        ["generate", "--height", "16"],
        ["generate", "--sampler", "Euler b"],
        ["generate", "--steps", "0"],
        ["generate", "--seed", "-5"],
        ["generate", "--cfg", "nan"],
        ["generate", "--batch", "0"],
        ["generate", "--near_sighted.tile", "cat"],
        ["generate", "--near_sighted.tile", "1000"],
        ["compare", "--setting", "tile=cat"],
        ["bench", "speed", "--sizes", "12"],
        ["bench", "speed", "--sizes", "cat"],
        ["bench", "speed", "--sizes", ","],
        ["bench", "speed", "--only", "nonsense"],
        ["bench", "speed", "--setting", "a: tile=8", "--setting", "a: tile=9"],
        ["bench", "deviation", "--images", "0"],
        ["bench", "report", "--speed", "none.json", "--deviation", "none.json"],
        ["docs", "--file", "none.md"],
        ["ui", "--port", "0"],
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEBUI_DIR", raising=False)
    assert cli.main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" not in line]
    assert len(said) == 1 and said[0].endswith("."), said


def test_generate_writes_a_picture_that_can_be_read_back(tiny, tmp_path, capsys):
    words = ["--checkpoint", str(tiny), "--prompt", "a, b", "--steps", "2", "--width", "128", "--height", "64"]
    words += ["--batch", "2", "--near_sighted.tile", "8", "--near_sighted.blocks", "all", "--out", str(tmp_path / "o")]
    assert cli.main(["generate", *words]) == 0
    files = sorted((tmp_path / "o").iterdir())
    assert [f.name for f in files] == ["00000-1.png", "00001-2.png"]
    pairs = pictures.parse_infotext(pictures.read_parameters(files[1]))
    assert pairs["Prompt"] == "a, b" and pairs["Seed"] == "2" and pairs["Size"] == "128x64"
    assert Settings.from_infotext(pairs)[0]["near_sighted"].tile == 8


def test_compare_writes_grid_and_table(tiny, tmp_path, capsys):
    words = ["--checkpoint", str(tiny), "--prompt", "a", "--steps", "2", "--width", "128", "--height", "64"]
    assert cli.main(["compare", *words, "--setting", "x: tile=8 blocks=all", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "compare.png").is_file() and "| x |" in (tmp_path / "compare.md").read_text()


@pytest.mark.parametrize(
    "words, sizes",
    [
        ([], [256, 256, 256, 512]),
        (["--prompt", "a"], [256]),
        (["--width", "384", "--height", "384"], [384] * 3),
        (["--checkpoint", "x", "--prompt", "a"], [512]),
    ],
)
def test_sizes_that_compare_draws(words, sizes):
    """The embedded model at its own size; without further words once larger too."""
    args = cli.build_parser().parse_args(["compare", *words])
    assert [(r.width, r.height) for r in compare_command.requests_of(args)] == [(side, side) for side in sizes]


def test_pictures_of_two_sizes_make_one_grid(tiny, tmp_path, monkeypatch):
    for name, value in {"EMBEDDED_SIZE": 64, "LARGE_SIZE": 128, "PROMPTS": ("a", "b")}.items():
        monkeypatch.setattr(compare_command, name, value)
    monkeypatch.setattr("lib_attn.lab.drawing.embedded.EMBEDDED", tiny)
    assert cli.main(["compare", "--steps", "1", "--setting", "x: tile=8", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "compare.png").is_file() and "| x |" in (tmp_path / "compare.md").read_text()


def test_compare_shows_every_technique(model):
    """What is compared when nothing is named changes a single picture."""
    variants = technique_variants()
    assert [v.name for v in variants] == [technique.name for technique in TECHNIQUES]
    row = compare(model, variants, [Request(("a",), (1,), width=384, height=384, steps=3)])[0]
    assert row[0].l2 == 0 and all(cell.l2 > 0 for cell in row[1:])
    for technique in ("near_sighted", "key_mix"):
        assert all(v.settings[technique].enabled for v in preset_variants(technique))


def test_bench_speed_writes_its_result(tmp_path, capsys, monkeypatch):
    typed = ["lab", "bench", "speed", "--webui", "/a/b", "--out=/c/d.json", "--setting", "a: b"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command_line() == "python -m lib_attn.lab bench speed --webui FOLDER --out=d.json --setting 'a: b'"
    out = tmp_path / "s.json"
    words = ["--model", "toy", "--sizes", "64", "--repeats", "1", "--precision", "fp32", "--only", "todo2"]
    words += ["--out", str(out)]
    assert cli.main(["bench", "speed", *words]) == 0
    assert [r["name"] for r in json.loads(out.read_text())["results"]] == ["full", "todo2"]


def test_readme_is_up_to_date():
    assert cli.main(["docs", "--check"]) == 0


def test_docs_say_when_a_marker_is_missing():
    with pytest.raises(LabError, match="missing"):
        readme.update("# nothing")


def test_readme_example_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_without_an_embedded_model_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "none")
    with pytest.raises(LabError, match="--checkpoint"):
        embedded.default_checkpoint()
