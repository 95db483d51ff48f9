"""The command line: options from the schema, one sentence and exit code 2 for bad input, and the README."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from lib_attn.lab.commands import cli, options
from lib_attn.lab.commands import compare as compare_command
from lib_attn.lab.drawing import embedded, pictures
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.drawing.variants import preset_variants, technique_variants
from lib_attn.lab.measuring.compare import compare, compare_one
from lib_attn.lab.measuring.showcase import shows
from lib_attn.lab.reports import figures, parameters
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import command_line
from lib_attn.learned.files import save
from lib_attn.learned.folders import SHIPPED
from lib_attn.settings import TECHNIQUES, Settings, all_params, positional_params
from tests.conftest import ROOT


def parse(*words):
    return cli.build_parser().parse_args(["generate", *words])


def test_every_parameter_is_an_option():
    kinds = {"bool": lambda p: "on", "choice": lambda p: p.choices[0], "blocks": lambda p: "d0"}
    words = {p: kinds.get(p.kind, lambda p: str(p.default))(p) for p in all_params()}
    settings = options.settings_of(parse(*(text for p, word in words.items() for text in (f"--{p.key}", word))))
    for p, word in words.items():
        assert getattr(settings[p.technique], p.name) == p.read(word), p.key


def test_a_folder_of_learned_files(tiny, tmp_path):
    save(tmp_path / "of mine.safetensors", "some kind", {}, {"family": "other", "layers": {}})
    for words, names in (("--learned", str(tmp_path)), ["of mine"]), ((), []):
        model = options.model_of(parse("--checkpoint", str(tiny), *words)).load()
        assert model.files.folders().names("some kind") == names


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
        ["compare", "--only", "nonsense"],
        ["compare", "--only", "same-style", "--prompt", "a"],
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
    "words, side",
    [
        (["--prompt", "a"], 256),
        (["--width", "384", "--height", "384"], 384),
        (["--checkpoint", "x", "--prompt", "a"], 512),
    ],
)
def test_sizes_that_compare_draws(words, side):
    """A grid of one's own is drawn at the size the model was trained at, unless another is asked for."""
    args = cli.build_parser().parse_args(["compare", *words])
    sizes = {(r.width, r.height) for r in compare_command.requests_of(args)}
    assert sizes == {(side, side)}


def test_generate_draws_at_the_models_own_size(tmp_path):
    size = options.size_of(parse())
    assert size == (256, 256)
    assert options.size_of(parse("--height", "384")) == (256, 384)
    head = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params: "
    (tmp_path / "a.yaml").write_text(head + "{image_size: 96}")
    assert options.size_of(parse("--checkpoint", str(tmp_path / "a.safetensors"))) == (768, 768)
    for wrong in ("true", "96.5", "5000", "[]", "big"):
        (tmp_path / "a.yaml").write_text(f"{head}{{image_size: {wrong}}}")
        with pytest.raises(LabError, match="image_size"):
            options.size_of(parse("--checkpoint", str(tmp_path / "a.safetensors")))


@pytest.mark.parametrize(
    "words, why",
    [
        (["--near_sighted.tile", "8"], "Near-sighted changed nothing. At this size nothing is left to gain"),
        (["--preset", "Same style (StyleAligned)"], "Key mix changed nothing. Needs batch size 2 or more."),
        (["--contrast.feature", "0"], "Contrast changed nothing. All strengths are 0"),
        (["--negative_skip.key_every", "1"], "Negative skip changed nothing. Every step computes the negative"),
    ],
)
def test_generate_says_why_nothing_happened(words, why, tiny, tmp_path, capsys):
    size = ["--steps", "3", "--width", "64", "--height", "64", "--checkpoint", str(tiny), "--out", str(tmp_path)]
    assert cli.main(["generate", *size, *words]) == 0
    assert why in capsys.readouterr().out


def test_compare_says_why_pictures_are_identical(tiny, tmp_path, capsys):
    words = ["--checkpoint", str(tiny), "--prompt", "a", "--steps", "3", "--width", "64", "--height", "64"]
    words += ["--setting", "mine: tile=8 pool=4 exact_every=3", "--out", str(tmp_path)]
    assert cli.main(["compare", *words]) == 0
    said = capsys.readouterr().out
    assert "| mine |" in said and "identical" in said
    assert "Near-sighted changed nothing. At this size nothing is left to gain" in said
    assert "Near-sighted changed nothing" in (tmp_path / "compare.md").read_text()


def test_the_readmes_compare_example_shows_an_effect(model):
    """At the size that the README names its setting acts; at the embedded model's own size it would not."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"lib_attn\.lab (compare .*--setting .*)", text)
    args = cli.build_parser().parse_args(shlex.split(line))
    (request,), (variant,) = compare_command.requests_of(args), compare_command.spec_of(args).variants
    assert request.width == request.height == 512
    off, on = compare_one(model, replace(request, steps=4), [variant], lambda steps: None)
    assert on.l2 > 0 and not on.said


def test_with_nothing_named_compare_draws_each_technique_as_a_pair(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lib_attn.lab.drawing.embedded.EMBEDDED", tiny)
    monkeypatch.setattr("lib_attn.lab.drawing.checkpoint.ModelSpec.side", 64)
    every = [replace(show, steps=2, scale=1) for show in shows()]
    short = [show for show in every if show.seen]
    monkeypatch.setattr(compare_command, "shows", lambda: every)
    assert cli.main(["compare", "--format", "jpg", "--out", str(tmp_path)]) == 0
    written, said = {path.name for path in tmp_path.iterdir()}, capsys.readouterr()
    assert written == {"compare.jpg", "compare.md", *(f"compare-{show.name}.jpg" for show in short)}
    assert said.err.startswith(f"Drawing {len(short)} pairs")
    table = (tmp_path / "compare.md").read_text()
    assert all(show.claim in table for show in short)
    assert table.startswith("# ") and "CPU threads" in table and "Model: tiny" in table
    assert re.search(r"All of it took \d+ s by the clock", table)
    assert [show.name for show in every if not show.seen] == ["fewer-channels"] and "`--only fewer-channels`" in table
    with Image.open(tmp_path / "compare.jpg") as sheet, Image.open(tmp_path / f"compare-{short[0].name}.jpg") as first:
        assert sheet.format == "JPEG" and sheet.height == len(short) * first.height and sheet.width == first.width


def test_a_large_picture_stays_within_reason():
    """Two and a half times its own size on `reference`, twice on one of 512 px, never below the model's own size."""
    (large,) = [show for show in shows() if show.scale > 1]
    assert [large.side(side) for side in (256, 512, 768, 1024, 1536)] == [640, 1024, 1024, 1024, 1536]
    assert large.request(512).width == large.request(512).height == 1024 and "1024 × 1024 px" in large.conditions(512)


def test_pairs_show_every_technique_where_it_acts(model):
    """Each at the conditions that it needs: the pictures differ, and nobody has to explain why they do not."""
    assert {show.technique for show in shows()} == set(TECHNIQUES)
    assert [show.name for show in shows() if "map of “two cones" in show.conditions(256)] == ["underdrawing"]
    for show in shows():
        if show.file:
            assert show.file in {path.stem for path in SHIPPED.glob("*.safetensors")}, "it comes with the lab"
            continue
        # The tiny model has three levels: near-sighted attention has something to gain from 384 px on.
        side = 384 if show.technique.by_size else 64
        off, on = compare_one(model, replace(show, steps=4, scale=1).request(side), [show.variant], lambda steps: None)
        assert off.l2 == 0 and on.l2 > 0 and not any("changed nothing" in s for s in on.said), show.name
        assert len(on.pictures) == show.batch


def test_compare_shows_every_technique(model):
    """What is compared when nothing is named changes a single picture."""
    variants = technique_variants()
    assert [v.name for v in variants] == [technique.name for technique in TECHNIQUES]
    row = compare(model, variants, [Request(("a",), (1,), width=384, height=384, steps=8)])[0]
    # Thin QK may save nothing on this machine, and maps are drawn for the model that comes with the lab alone.
    silent = [v.name for v, cell in zip(variants, row[1:], strict=True) if not cell.l2 and not cell.said]
    assert row[0].l2 == 0 and not silent and sum(cell.l2 > 0 for cell in row) >= len(variants) - 2
    for technique in ("near_sighted", "key_mix"):
        assert all(v.settings[technique].enabled for v in preset_variants(technique))


@pytest.mark.parametrize("words, kept", [
    ("front --no-time", True), ("ablation", True), ("steps", True), ("front", False), ("speed", False),
    ("memory", False), ("negative cost", False), ("thin time", False)])  # fmt: skip
def test_memory_is_left_alone_where_time_is_taken(words, kept, monkeypatch):
    told = []
    monkeypatch.setattr(cli, "keep_memory", lambda: told.append(True))
    args = cli.build_parser().parse_args(["bench", *words.split()])
    monkeypatch.setattr(cli, "build_parser", lambda: SimpleNamespace(parse_args=lambda arguments: args))
    args.run = lambda args: 0
    assert cli.main([]) == 0 and bool(told) == kept


def test_bench_speed_writes_its_result(tmp_path, capsys, monkeypatch):
    typed = ["lab", "bench", "speed", "--webui", "/a/b", "--out=/c/d.json", "--setting", "a: b"]
    monkeypatch.setattr(sys, "argv", typed)
    assert command_line() == "python -m lib_attn.lab bench speed --webui FOLDER --out=d.json --setting 'a: b'"
    out = tmp_path / "s.json"
    words = ["--model", "toy", "--sizes", "64", "--repeats", "1", "--precision", "fp32", "--only", "todo2"]
    words += ["--out", str(out)]
    assert cli.main(["bench", "speed", *words]) == 0
    assert [r["name"] for r in json.loads(out.read_text())["results"]] == ["full", "todo2"]


def test_pages_are_up_to_date():
    """Parameters as the settings have them, every figure as its result file has it."""
    assert cli.main(["docs", "--check"]) == 0


def test_every_parameter_that_may_be_given_has_a_row():
    page = parameters.page()
    for number, param in enumerate(positional_params()):
        (row,) = (line for line in page.splitlines() if f"| `{param.key}` |" in line)
        assert f"| {number} |" in row and param.help.replace("|", "\\|") in row
        assert ("For one job" in row) is param.transient
    assert "| `depth_guide.own_map` |" in page and "| `general.compare` |" in page


#: What a command writes into a page: the result file's name, and its text.
BLOCK = re.compile(r"<!-- ([\w-]+\.json(?:: short)?) -->(.*?)<!-- /\1 -->", re.DOTALL)


def test_no_figure_with_an_error_is_written_by_hand():
    """What was measured well enough to have an error stands in a block, which its command writes."""
    for page in figures.pages():
        found = re.findall(r"[\d.]+ ± [\d.]+", BLOCK.sub("", page.read_text(encoding="utf-8")))
        assert not found, f"{page.name}: {found}"


def test_every_table_of_drawn_pictures_names_its_model():
    named = re.compile(r"\b(by|model) reference(-512)?\b|\breference(-512)?(, \d+ px| \(SHA)")
    found = [block for page in figures.pages() for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    # Renders are drawn by no model.
    drawn = [(name, text) for name, text in found if "±" in text and not name.startswith("renders")]
    assert len(drawn) > 15
    assert [name for name, text in drawn if not named.search(re.sub(r"`[^`]*`|```.*?```", "", text))] == []


def test_pages_are_written_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parameters, "PAGE", tmp_path / "p.md")
    monkeypatch.setattr(figures, "pages", lambda: [tmp_path / "p.md"])
    assert cli.main(["docs", "--check"]) == 1 and "p.md is old" in capsys.readouterr().out
    assert cli.main(["docs"]) == 0 and (tmp_path / "p.md").read_text(encoding="utf-8") == parameters.page()
    assert cli.main(["docs", "--check"]) == 0


@pytest.mark.parametrize(
    "text",
    ["<!-- a.json -->\n", "<!-- a.json -->\n<!-- /b.json -->", "<!-- none.json -->\n<!-- /none.json -->",
     "<!-- a.json -->\n<!-- /a.json -->", "<!-- b.json -->\n<!-- /b.json -->"],
)  # fmt: skip
def test_figures_without_a_result_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text('{"kind": "unheard of"}')
    (tmp_path / "b.json").write_text("[1, 2")
    with pytest.raises(LabError):
        figures.filled(text, tmp_path)


def test_the_page_of_parameters_has_every_parameter_and_its_place():
    """What an API client counts by: rows name the place, and the list at the end has all places in order."""
    page = parameters.page()
    for place, p in enumerate(positional_params()):
        if p in all_params():
            assert f"| `{p.key}` | {place} |" in page
    (listed,) = re.findall(r"```\n(.*?)\n```", page, re.S)
    assert re.findall(r"(\d+) ([\w.]+)", listed) == [(str(i), p.key) for i, p in enumerate(positional_params())]
    assert listed.startswith("0 general.enabled, 1 general.inner_passes, 2 near_sighted.enabled")


def test_pages_link_to_pages_that_are_there():
    """Every relative link and picture of the README and the docs; an anchor is a heading of its page."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
                slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
                assert anchor in slugs, f"{page.name}: {target}"


def test_each_technique_has_a_page():
    for technique in TECHNIQUES:
        text = (ROOT / "docs" / parameters.page_of(technique)).read_text(encoding="utf-8")
        assert re.search(rf"^##? {technique.label}\b", text, re.M), technique.name
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_help_begins_with_what_people_use(capsys):
    """Prompt, size, steps, preset first; techniques after that, each in a group; choices stand with the option."""
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["generate", "--help"])
    text = capsys.readouterr().out
    places = [
        text.index(f"\n  {word}") for word in ("--prompt", "--width", "--steps", "--batch", "--preset", "--checkpoint")
    ]
    places += [text.index(f"\n{technique.label}:\n") for technique in TECHNIQUES]
    assert places == sorted(places) and text.index("\n  --general.enabled") > places[-1]
    assert len(text.partition("\n\n")[0].splitlines()) <= 2
    for p in all_params():
        assert not p.choices or f"--{p.key} {'|'.join(p.choices)}" in text


def test_readme_example_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_without_an_embedded_model_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path / "none")
    with pytest.raises(LabError, match="--checkpoint"):
        embedded.default_checkpoint()
