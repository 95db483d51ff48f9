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
from lib_attn.unet.layers import layer_keys

ASKED = [Request((text,), (i,), "", 64, 64, 2, "Euler a", 5.0) for i, text in enumerate(("a", "b"), 1)]


def test_a_map_of_ones_has_no_error_and_none_the_whole(model):
    """With every channel kept nothing is lost; with maps of zeros every point is the mean of all values."""
    layers = find_layers(model.unet)
    keys = dict(zip((x.index for x in layers), layer_keys(layers), strict=True))
    width = {key: x.attn1.to_q.out_features // x.attn1.heads for x, key in zip(layers, keys.values(), strict=True)}

    def half(key, stretch):
        one = torch.eye(width[key])
        ordered = torch.cat([one[:, : width[key] // 2], torch.zeros_like(one)], 1)
        return ordered[None].expand(2, -1, -1), ordered[None].expand(2, -1, -1)

    kinds = {"half": half, "nothing": lambda key, stretch: (torch.zeros(2, width[key], width[key]),) * 2}
    errors, seen = Errors(kinds, keys, 4), []
    first = layers[0].attn1
    handles = [
        m.register_forward_hook(lambda m, a, out: seen.append(out)) for m in (first.to_q, first.to_k, first.to_v)
    ]
    sample(model, ASKED[0], watched(errors.observer))
    for handle in handles:
        handle.remove()
    # One step of the bench's own projections comes before the model's; both give the same.
    q, k, v = (seen[i].unflatten(-1, (2, -1)).transpose(1, 2).double() for i in range(3))
    scale, to_out = q.shape[-1] ** -0.5, first.to_out[0].weight.double()

    def out(part):
        weights = (q[..., part] @ k[..., part].mT * scale).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(-2) @ to_out.mT

    whole, halved, mean = out(slice(None)), out(slice(width["IN01.0"] // 2)), out(slice(0))
    once = Errors(kinds, {0: "IN01.0"}, 4)
    once._sums = {}
    sample(model, Request(("a",), (1,), "", 64, 64, 1, "Euler a", 5.0), watched(_only_first(once)))
    assert once.relative("half", 0.5) == pytest.approx(float((halved - whole).norm() / whole.norm()), rel=1e-3)
    assert once.relative("nothing", 0.5) == pytest.approx(float((mean - whole).norm() / whole.norm()), rel=1e-3)


def _only_first(errors):
    def make():
        runtime = errors.observer()
        runtime.wants_self = lambda layer: layer.index == 0
        return runtime

    return make


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
    assert block.count("| --- | --- | --- |") == 2 and "bench thin errors" in block and block in capsys.readouterr().out
    assert cli.main(["bench", "thin", "errors", *common, "--images", "0"]) == 2


def test_cases_are_settings_that_are_understood():
    for case in (*picture_cases("some"), *time_cases()):
        assert case.techniques and ours("", "", case.settings).settings == case.settings != Settings()
    assert sum("near_sighted" in c.techniques for c in time_cases()) == 2
