"""Whole pictures: schedules, their time as a sum, fewer steps beside everything, and the command."""

import json
import re
from dataclasses import replace

import pytest
import torch

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing.unet import SDXL, TOY, build_unet, random_unet
from lib_attn.lab.drawing.variants import load_presets, ours, setting
from lib_attn.lab.measuring.front import (
    FULL_CASE,
    QualityRow,
    TimeRow,
    evaluations,
    front_cases,
    inside,
    kinds,
    measure_time,
    time_kinds,
)  # fmt: skip
from lib_attn.lab.measuring.speed import Bench
from lib_attn.lab.measuring.steps import StepCase, thinned
from lib_attn.lab.reports import figures
from lib_attn.lab.reports.front import between, front_block, front_table, join, plot
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import to_json
from lib_attn.unet.families import find_layers
from tests.unets import probe

SKIP = setting("skip", "step_skip.key_every=2; step_skip.early=0")
NEGATIVE = setting("negative", "negative_skip.key_every=2; negative_skip.early=0; negative_skip.penalty=off")


@pytest.fixture(scope="module")
def bench():
    return Bench(random_unet(TOY, precision="fp32"), TOY, precision="fp32", clock="cpu")


def test_kinds_are_what_is_computed(bench):
    def rows(variant, **case):
        return [kind[:2] for kind in kinds(bench, StepCase("", variant, **case), 6, 7.0)]

    assert rows(setting("", "near_sighted.enabled=true")) == [(2, 2)] * 6
    assert rows(SKIP) == [(2, 2), (2, 2), (0, 0), (2, 2), (0, 0), (2, 2)]
    assert rows(NEGATIVE) == [(2, 2), (1, 1)] * 3
    assert rows(thinned(50, deep=True)) == [(2, 2)] * 2 + [(2, 0)] * 4
    assert rows(SKIP, steps=3) == [(2, 2), (2, 2), (0, 0)]
    exact = kinds(bench, StepCase("", setting("", "near_sighted.exact_every=3")), 6, 7.0)
    assert [kind[2] for kind in exact] == [True, False, False] * 2


def test_each_kind_is_carried_out_once_and_the_others_are_passed(bench):
    """Evaluations that are not timed go on without arithmetic, so that the techniques come to those that are."""
    computed, module = [], bench.unet.middle_block
    handle = module.register_forward_hook(probe(lambda m, a, out: computed.append(bool(out.any()))))
    try:
        case = StepCase("", SKIP)
        plan = kinds(bench, case, 6, 7.0)
        computed.clear()
        found = time_kinds(bench, case, plan, {}, 64, 64, 6, 7.0)
        assert set(found) == set(plan) and computed == [True, False] and min(found.values()) > 0
        assert time_kinds(bench, case, plan, found, 64, 64, 6, 7.0) == found and len(computed) == 2
    finally:
        handle.remove()
    assert "forward" not in vars(bench.unet)


def test_a_picture_is_the_sum_of_its_evaluations(bench):
    cases = [StepCase(FULL_CASE), StepCase("3 steps", steps=3), StepCase("skip", SKIP), StepCase("negative", NEGATIVE)]
    rows = {r.name: r for r in measure_time(bench, cases, 64, 64, steps=6, repeats=1, whole=("skip",))}
    for row in rows.values():
        assert row.seconds == pytest.approx(sum(count * seconds for count, seconds in row.parts))
        assert row.steps == sum(count for count, _ in row.parts) and row.low == row.ratio == row.high
    assert rows[FULL_CASE].ratio == 1.0 and rows["3 steps"].steps == 3 and rows["skip"].computed == 4
    assert rows["skip"].whole > 0 and rows["negative"].whole is None and len(rows["negative"].parts) == 2


def test_what_is_alike_inside_is_timed_once(bench):
    cases = [StepCase(FULL_CASE), StepCase("3 steps", steps=3), StepCase("skip", SKIP)]
    rows = {r.name: r for r in measure_time(bench, cases, 64, 64, steps=6, repeats=1, share=True)}
    assert rows["3 steps"].ratio == pytest.approx(2.0) and rows["skip"].parts[0][1] == rows[FULL_CASE].parts[0][1]
    near = "near_sighted.enabled=true"
    assert inside(SKIP) == inside(NEGATIVE) == inside(thinned(3)) == ()
    assert inside(setting("", near)) == inside(setting("", f"{near}; step_skip.key_every=2")) != ()
    others = [case.variant for case in front_cases(20)[0] if case.variant.kind == "peer"]
    assert len({inside(variant) for variant in others if variant.source != "formula"}) > 1


def test_a_batch_has_as_many_rows(bench):
    four = Bench(bench.unet, TOY, precision="fp32", rows=8)
    assert [kind[:2] for kind in kinds(four, StepCase("", NEGATIVE), 2, 7.0)] == [(8, 8), (4, 4)]
    shapes = []
    handle = bench.unet.register_forward_pre_hook(probe(lambda m, args: shapes.append(args[0].shape)))
    next(evaluations(four, StepCase(""), 64, 96, 2, 7.0))()
    handle.remove()
    assert shapes == [torch.Size((8, 4, 8, 12))]


def test_the_layout_of_sdxl():
    unet = build_unet(SDXL, meta=True)
    layers = find_layers(unet)
    assert sum(p.numel() for p in unet.parameters()) / 1e9 == pytest.approx(2.565, abs=0.01)
    assert {layer.depth for layer in layers} == {1, 2} and len(layers) == 4 + 20 + 10 + 30 + 6
    small = SDXL | {"model_channels": 32, "num_head_channels": 16, "context_dim": 32, "transformer_depth": [1, 1, 2]}
    with torch.inference_mode():
        out = random_unet(small, precision="fp32")(torch.randn(1, 4, 16, 16), torch.zeros(1), torch.randn(1, 7, 32))
    assert out.shape == (1, 4, 16, 16) and out.isfinite().all()


def test_cases_have_all_rows_and_names_of_their_own():
    cases, missing = front_cases(20, [SKIP])
    names = [case.name for case in cases]
    assert len(set(names)) == len(names) and names[0] == FULL_CASE and names[-1] == "skip"
    for word in (
        "10 steps",
        "near-sighted",
        "negative",
        "step skip",
        "ToDo",
        "DeepCache",
        "T-GATE",
        "Spectrum",
        "Fast",
    ):
        assert any(name.startswith(word) for name in names), word
    assert all("left out" in sentence for sentence in missing)


def time_row(name, seconds):
    return TimeRow(name, 64, 64, 1, 4, 4, seconds, 4 / seconds, 4 / seconds, 4 / seconds, [[4, seconds / 4]])


def quality_row(name, l2):
    return QualityRow(
        name=name, sampler="DDIM", size=64, pictures=8, accuracy=0.5, accuracy_error=0.1, agreement=0.75,
        agreement_error=None, agreement_pictures=4, l2=l2, l2_error=0.01,
    )  # fmt: skip


def test_fewer_steps_in_the_same_time():
    assert between([(0.25, 0.4), (0.5, 0.2), (1.0, 0.0)], 0.75) == pytest.approx(0.1)
    assert between([(0.25, 0.4), (1.0, 0.0)], 0.2) is None
    times = [time_row(FULL_CASE, 4), time_row("2 steps", 2), time_row("good", 3), time_row("bad", 3.2)]
    moved = [
        quality_row(FULL_CASE, 0.0),
        quality_row("2 steps", 0.2),
        quality_row("good", 0.05),
        quality_row("bad", 0.3),
    ]
    points = {p.quality.name: p for p in join(times, moved)}
    assert points["good"].fewer == pytest.approx(0.1) and points["good"].best and not points["bad"].best
    table = front_table(list(points.values()))
    assert "| good | 1.33x | 0.050 ± 0.010 | 0.100 | yes | 0.50 ± 0.10 | 0.75 (4) | yes |" in table
    assert "| bad | 1.25x | 0.300 ± 0.010 | 0.080 | **no** |" in table


@pytest.mark.parametrize("drawn, shown", [((64, 128), [64, 128]), ((64,), [64, 64])])
def test_a_size_is_shown_with_the_pictures_of_that_size(drawn, shown):
    """Where none were drawn at a size that was timed, those of another one stand beside it."""
    result = {"checkpoint": "mine", "clock": "cpu", "steps": 4, "cfg": 7, "precision": "fp32", "repeats": 1}
    result |= {"machine": {"device": "cpu"}, "model": "toy", "commands": []}
    result["time"] = [to_json(replace(time_row(FULL_CASE, 4), height=n, width=n)) for n in (64, 128)]
    result["quality"] = [to_json(replace(quality_row(FULL_CASE, 0.0), size=n)) for n in drawn]
    assert [int(size) for size in re.findall(r"pictures: mine, (\d+) px", front_block(result))] == shown


def test_the_short_table_has_ours_and_fewer_steps(tmp_path):
    result = {"kind": "front", "checkpoint": "mine", "model": "sd15", "repeats": 3, "precision": "fp32"}
    rows = [time_row(FULL_CASE, 4), time_row("2 steps", 2), time_row("near-sighted", 3), time_row("ToDo 2", 3.2)]
    rows[2] = replace(rows[2], low=1.2, high=1.5)
    result["time"] = [to_json(replace(row, height=64 * n, images=n)) for row in rows for n in (1, 2)][:-2]
    result["quality"] = [to_json(quality_row(name, 0.2)) for name in ("2 steps", "ToDo 2")]
    (tmp_path / "f.json").write_text(json.dumps(result))
    text = figures.filled("<!-- f.json: short -->\n<!-- /f.json: short -->", tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "|  | speed-up at 64 x 64 | speed-up at 64 x 128, 2 at once | moves the picture, 64 px by mine |"
    near = "1.33x (1.20 … 1.50)"
    assert lines[2:] == ["| 2 steps | 2.00x | 2.00x | 0.20 ± 0.01 |", f"| near-sighted | {near} | {near} | - |"]
    assert "Speed-ups of SD 1.5 U-Net, 3 interleaved repeats, fp32." in text


def test_the_command(tiny, tmp_path, capsys):
    out, picture = tmp_path / "front.json", tmp_path / "front.png"
    words = ["--checkpoint", str(tiny), "--model", "own", "--sizes", "64", "--batch", "1,2", "--repeats", "1"]
    words += ["--singles", "1", "--pairs", "0", "--agreements", "1", "--size", "64", "--steps", "4", "--cases"]
    words += ["2 steps;step skip 2", "--out", str(out), "--plot", str(picture)]
    assert cli.main(["bench", "front", *words]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    names = [FULL_CASE, "2 steps", "step skip 2"]
    assert [row["name"] for row in result["quality"]] == names
    assert [(row["images"], row["name"]) for row in result["time"]] == [(n, name) for n in (1, 2) for name in names]
    text = figures.filled("<!-- front.json -->\n<!-- /front.json -->", tmp_path)
    assert "2 pictures at once" in text
    assert picture.read_bytes()[:4] == b"\x89PNG" and str(tmp_path) not in text
    again = ["--no-time", "--no-pictures", "--add", str(out), "--out", str(tmp_path / "both.json")]
    assert cli.main(["bench", "front", *again]) == 0
    both = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))
    assert (both["time"], both["quality"]) == (result["time"], result["quality"])
    other = result | {"quality": [result["quality"][1] | {"accuracy": 0.25}]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    again[3:4] = [str(out), str(tmp_path / "other.json")]
    assert cli.main(["bench", "front", *again]) == 0
    rows = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))["quality"]
    assert [row["name"] for row in rows] == names and rows[1]["accuracy"] == 0.25
    (tmp_path / "other.json").write_text(json.dumps(result | {"checkpoint": "another"}))
    assert cli.main(["bench", "front", *again]) == 2
    assert (
        "The rows of front.json are of another checkpoint (tiny) than the others (another)." in capsys.readouterr().err
    )
    assert cli.main(["bench", "front", *words[: words.index("--plot")], "--add", str(tmp_path / "other.json")]) == 2
    assert (
        "The rows of other.json are of another checkpoint (another) than the others (tiny)." in capsys.readouterr().err
    )
    some = ["--no-time", "--no-pictures", "--add", str(out), "--cases", "2 steps", "--out", str(tmp_path / "some")]
    assert cli.main(["bench", "front", *some]) == 0
    rows = json.loads((tmp_path / "some").read_text(encoding="utf-8"))["quality"]
    assert [row["name"] for row in rows] == [FULL_CASE, "2 steps"]
    some[some.index("2 steps")] = "mine"
    assert cli.main(["bench", "front", *some]) == 2
    assert "No added file has a case 'mine'." in capsys.readouterr().err
    fewer = [*words[: words.index("--plot")], "--no-time", "--add", str(out)]
    fewer[fewer.index("2 steps;step skip 2")] = "2 steps"
    fewer[fewer.index("--out") + 1] = str(tmp_path / "again.json")
    assert cli.main(["bench", "front", *fewer]) == 0
    rows = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))["quality"]
    assert [row["name"] for row in rows] == names, "what is not measured again stays"
    words[words.index("2 steps;step skip 2")] = "step skip 2;2 steps;step skip 2"
    assert cli.main(["bench", "front", *words[: words.index("--plot")], "--no-time"]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["quality"]
    assert [row["name"] for row in rows] == [FULL_CASE, "step skip 2", "2 steps"]
    with pytest.raises(LabError, match="both time and quality"):
        plot(result | {"time": []}, picture)


def test_joined_files_say_what_their_own_rows_are_of(tmp_path, capsys):
    """Each kind of rows brings what it is of, and rows of two kinds of runs do not stand in one table."""
    drawn = {"kind": "front", "commands": [], "machine": {"device": "cpu"}, "model": "toy", "precision": "fp32"}
    drawn |= {"clock": "cpu", "repeats": 1, "cfg": 7.0, "checkpoint": "tiny"}
    drawn["time"] = [to_json(time_row(FULL_CASE, 4))]
    drawn["quality"] = [to_json(quality_row(FULL_CASE, 0.0))]
    times, pictures, out = tmp_path / "times.json", tmp_path / "pictures.json", tmp_path / "both.json"
    times.write_text(json.dumps(drawn | {"quality": [], "steps": 4, "repeats": 3, "checkpoint": ""}))
    pictures.write_text(json.dumps(drawn | {"time": [], "steps": 4, "repeats": 1, "checkpoint": "tiny"}))
    join = ["bench", "front", "--no-time", "--no-pictures", "--out", str(out), "--add"]
    for files in ([times, pictures], [pictures, times]):
        assert cli.main([*join, *map(str, files)]) == 0
        both = json.loads(out.read_text(encoding="utf-8"))
        assert (both["steps"], both["repeats"], both["checkpoint"]) == (4, 3, "tiny")
        assert both["time"] == drawn["time"] and both["quality"] == drawn["quality"]
    for key, value in (("steps", 5), ("cfg", 1.0)):
        pictures.write_text(json.dumps(drawn | {"time": [], "steps": 4} | {key: value}))
        assert cli.main([*join, str(times), str(pictures)]) == 2
        assert f"are of another {key} (" in capsys.readouterr().err
    pictures.write_text(times.read_text().replace('"cpu"}', '"cuda"}'))
    assert cli.main([*join, str(times), str(pictures)]) == 2
    assert "are of another machine (" in capsys.readouterr().err


@pytest.mark.parametrize("options, words", [
    (["--cases", "nobody"], "no case 'nobody'"), (["--batch", "one"], "--batch"), (["--batch", "0"], "--batch"),
    (["--repeats", "0"], "1 at least"), (["--agreements", "0"], "leaves something open")])  # fmt: skip
def test_bad_options_are_one_sentence(options, words, capsys):
    assert cli.main(["bench", "front", *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said


def test_presets_made_for_speed_are_cases():
    fast = [name for name in load_presets() if name.startswith("Fast ")]
    assert len(fast) >= 3 and all(ours(n, n, load_presets()[n]).techniques for n in fast)
