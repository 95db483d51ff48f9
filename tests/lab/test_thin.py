"""bench thin: errors against plain formulas, pictures that do what their setting says, tables."""

import json

import pytest
import torch

from lib_attn.lab.commands import bench_thin, cli
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import ours, watched
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.measuring.thin import (
    SHARES,
    Errors,
    measure_errors,
    measure_pictures,
    picture_cases,
    scenes_of,
    time_cases,
)
from lib_attn.lab.reports.thin import thin_block
from lib_attn.lab.shared.errors import LabError
from lib_attn.settings import Settings
from lib_attn.unet.families import find_layers

ASKED = [Request((text,), (i,), "", 64, 64, 2, "Euler a", 5.0) for i, text in enumerate(("a", "b"), 1)]


def test_errors_of_one_layer_against_the_plain_formula(model):
    """Half the channels as they are, and none at all, which makes every point the mean of all values."""
    first, seen = find_layers(model.unet)[0].attn1, {}
    width = first.to_q.out_features // first.heads
    half = torch.eye(width)[: width // 2].mT @ torch.eye(width)[: width // 2]
    kinds = {"half": half, "nothing": torch.zeros(width, width)}
    kinds = {name: lambda key, stretch, m=m: (m.expand(first.heads, -1, -1),) * 2 for name, m in kinds.items()}
    errors = Errors(kinds, {0: "IN01.0"}, 4)
    names = {first.to_q: "q", first.to_k: "k", first.to_v: "v"}
    handles = [m.register_forward_hook(lambda m, a, out: seen.__setitem__(names[m], out)) for m in names]

    def only_first():
        runtime = errors.observer()
        runtime.wants_self = lambda layer: layer.index == 0
        return runtime

    sample(model, Request(("a",), (1,), "", 64, 64, 1, "Euler a", 5.0), watched(only_first))
    for handle in handles:
        handle.remove()
    q, k, v = (seen[name].unflatten(-1, (first.heads, -1)).transpose(1, 2).double() for name in "qkv")

    def out(channels):
        weights = (q[..., :channels] @ k[..., :channels].mT * width**-0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(-2) @ first.to_out[0].weight.double().mT

    whole = out(width)
    for name, channels in (("half", width // 2), ("nothing", 0)):
        expected = float((out(channels) - whole).norm() / whole.norm())
        assert errors.relative(name, 0.75) == pytest.approx(expected, rel=1e-3), name


def test_maps_learned_from_pictures_beat_those_of_weights(model):
    rows = {(r.name, r.share): r for r in measure_errors(model, ASKED[1:], ASKED[:1])}
    assert len(rows) == 6 * len(SHARES) and all(r.images == 1 for r in rows.values())
    for share in SHARES:
        assert rows["pair", share].l2 < rows["pair from the weights", share].l2
    for name in {name for name, _ in rows}:
        assert rows[name, 0.75].l2 < rows[name, 0.25].l2, name


def test_pictures_beside_those_of_full_attention(model):
    case = next(c for c in picture_cases("none") if "weights" in c.name)
    scenes, kept = scenes_of(2), []
    assert [len(s.things) for s in scenes] == [1, 2]
    rows = measure_pictures(model, Judge.load(JUDGE), [case], scenes, ASKED[0], keep=kept.append)
    assert [r.name for r in rows] == ["full", case.name] and rows[0].l2 == 0 < rows[1].l2 and rows[1].images == 2
    assert len(kept) == 2 and rows[1].settings["thin_qk.when"] == "always"
    with pytest.raises(LabError, match="none of this name"):
        measure_pictures(model, Judge.load(JUDGE), picture_cases("none")[:1], scenes, ASKED[0])


def test_the_command_keeps_the_other_parts(model, tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "thin.json"
    monkeypatch.setattr(bench_thin, "time_cases", lambda: time_cases()[:1])
    common = ["--out", str(out), "--checkpoint", str(tiny), "--images", "1", "--size", "64", "--steps", "2"]
    assert cli.main(["bench", "thin", "errors", *common]) == 0
    assert cli.main(["bench", "thin", "time", *common, "--model", "toy"]) == 0
    result = json.loads(out.read_text())
    assert result["kind"] == "thin" and {"errors", "time"} <= result.keys() and "pictures" not in result
    assert [row["name"] for row in result["time"]["rows"]][0] == "full"
    block = thin_block(result)
    assert "| maps |" in block and "| setting | one step |" in block and block in capsys.readouterr().out
    assert cli.main(["bench", "thin", "errors", *common, "--images", "0"]) == 2


def test_cases_are_settings_that_are_understood():
    for case in (*picture_cases("some"), *time_cases()):
        assert case.techniques and ours("", "", case.settings).settings == case.settings != Settings()
    assert sum("near_sighted" in c.techniques for c in time_cases()) == 2
