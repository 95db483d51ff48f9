"""Self-attention put out of action: what each way computes, that nothing stays behind, rows and table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_attn.lab.commands import bench_ablation, cli
from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import FULL, SamplingPass
from lib_attn.lab.judging.judge import Judge, JudgeNet
from lib_attn.lab.measuring import ablation
from lib_attn.lab.measuring.ablation import MODES, AblationRow, AblationSpec, ablated
from lib_attn.lab.measuring.prompted import Prompted
from lib_attn.lab.reports.scenes import ablation_block
from lib_attn.lab.reports.tables import ablation_table
from lib_attn.unet.families import find_layers

SPEC = AblationSpec(
    ModelSpec(Path("none"), "cpu", "fp32"), Path("none"), Prompted(1, 1, 4, size=64, steps=2), ("average", "out")
)


def outputs(unet, mode, level, size=16, seed=0):
    """Inputs and outputs of every self-attention in one evaluation of the U-Net."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, size, size, generator=generator)
    width = find_layers(unet)[0].attn2.to_k.in_features
    context, seen, handles = torch.randn(1, 5, width, generator=generator), {}, []
    variant = ablated(mode, level) if mode else FULL
    with torch.inference_mode(), variant.on(unet, SamplingPass(8 * size, 8 * size)):
        for layer in find_layers(unet):

            def note(module, args, kwargs, out, layer=layer):
                seen[layer.name] = (layer, args[0], out)

            handles.append(layer.attn1.register_forward_hook(note, with_kwargs=True))
        unet(x, torch.tensor([500]), context=context)
    for handle in handles:
        handle.remove()
    return seen


def alone(layer, x):
    return layer.attn1.to_out(layer.attn1.to_v(x))


def full(layer, x):
    q, k, v = (
        to(x).unflatten(-1, (layer.attn1.heads, -1)).transpose(1, 2)
        for to in (layer.attn1.to_q, layer.attn1.to_k, layer.attn1.to_v)
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return layer.attn1.to_out((weights @ v).transpose(1, 2).flatten(2))


def test_each_way_computes_what_it_says(model):
    with torch.inference_mode():
        for layer, x, out in outputs(model.unet, "average", "all").values():
            assert torch.allclose(out, layer.attn1.to_out(layer.attn1.to_v(x).mean(1, keepdim=True)), atol=1e-5)
        for layer, x, out in outputs(model.unet, "alone", "all").values():
            assert torch.allclose(out, alone(layer, x), atol=1e-5)
        for _, x, out in outputs(model.unet, "out", "all").values():
            assert out.shape == x.shape and not out.any()


def test_a_tile_sees_itself_alone(model):
    size = 2 * ablation.TILE
    with torch.inference_mode():
        for layer, x, out in outputs(model.unet, "tile", "all", size).values():
            edge = size >> layer.depth
            half = edge // 2
            for rows in (slice(0, half), slice(half, edge)):
                for columns in (slice(0, half), slice(half, edge)):
                    own = x.unflatten(1, (edge, edge))[:, rows, columns].flatten(1, 2)
                    part = out.unflatten(1, (edge, edge))[:, rows, columns].flatten(1, 2)
                    assert torch.allclose(part, full(layer, own), atol=1e-4)


def test_one_tile_that_holds_everything_is_full_attention(model):
    with torch.inference_mode():
        for layer, x, out in outputs(model.unet, "tile", "all", ablation.TILE).values():
            assert torch.allclose(out, full(layer, x), atol=1e-4)


def test_a_level_is_ablated_for_itself(model):
    depths = {layer.depth for layer in find_layers(model.unet)}
    for depth in depths:
        for layer, _, out in outputs(model.unet, "out", f"d{depth}").values():
            assert (not out.any()) == (layer.depth == depth), layer.name


def test_nothing_stays_behind(model):
    request = Request(("a cube",), (1,), height=64, width=256, steps=2)  # two tiles
    before = sample(model, request)
    for mode in MODES:
        assert not torch.equal(sample(model, request, ablated(mode)), before)
    assert torch.equal(sample(model, request), before)
    assert not any("forward" in layer.attn1.__dict__ for layer in find_layers(model.unet))


def test_rows_of_every_level_and_mode(model):
    kept = []
    torch.manual_seed(0)
    rows = ablation.measure(model, Judge(JudgeNet(24)), SPEC, keep=lambda rows: kept.append(len(rows)))
    depths = sorted({layer.depth for layer in find_layers(model.unet)})
    assert [(r.mode, r.level) for r in rows] == [("full", "all"), ("seed", "all")] + [
        (mode, level) for level in ("all", *(f"d{d}" for d in depths)) for mode in SPEC.modes]  # fmt: skip
    assert kept == list(range(1, len(rows) + 1))
    assert rows[0].l2 == 0 and all(r.l2 > 0 for r in rows[1:])
    assert all(r.pictures == 6 and 0 <= r.accuracy <= 1 and 0 <= r.agreement <= 1 for r in rows)
    only_all = ablation.variants_of(replace(SPEC, levels=False), model.unet)
    assert [(mode, level) for mode, level, _ in only_all] == [
        (mode, "all") for mode in ("full", "seed", "average", "out")]  # fmt: skip


def test_other_noise_is_other_noise_of_the_same_prompts(model, monkeypatch):
    seen = []
    before = ablation.draw
    monkeypatch.setattr(ablation, "draw", lambda *args: seen.append(args) or before(*args))
    rows = ablation.measure(model, Judge(JudgeNet(24)), replace(SPEC, modes=(), levels=False))
    assert [r.mode for r in rows] == ["full", "seed"] and rows[1].l2 > 0.5
    (_, how, asked, _), (_, other, again, _) = seen
    assert asked == again and other == replace(how, seed=other.seed)
    assert other.seed > how.seed + len(asked)


def test_figures_are_those_of_the_pictures(model, monkeypatch):
    """A judge that is always right, pictures without an object: all right, and no agreement that could be told."""
    scenes = []

    class Right:
        def look(self, pictures):
            from lib_attn.lab.judging.judge import expected

            return [expected(scene) for scene in scenes], np.zeros((len(pictures), 32, 32), bool)

    before = ablation.draw

    def draw(model, spec, asked, variant):
        scenes[:] = asked
        return before(model, spec, asked, variant)

    monkeypatch.setattr(ablation, "draw", draw)
    row = ablation.measure(model, Right(), replace(SPEC, modes=(), levels=False))[0]
    assert row.accuracy == 1.0 and row.accuracy_error == 0.0
    assert set(row.parts) <= {"floor"} and row.agreement_pictures <= 1


def test_table_says_every_error_it_knows():
    row, full = (
        AblationRow(
            mode=mode, level=level, pictures=8, accuracy=accuracy, accuracy_error=accuracy_error, agreement=agreement,
            agreement_error=agreement_error, agreement_pictures=count, l2=l2, l2_error=l2_error, parts={"floor": 0.2},
        )
        for mode, level, accuracy, accuracy_error, agreement, agreement_error, count, l2, l2_error in [
            ("average", "d0", 0.5, 0.18, 0.25, None, 1, 0.8, 0.021), ("full", "all", 1.0, 0.0, 0.9, 0.05, 6, 0.0, 0.0)
        ]
    )  # fmt: skip
    table = ablation_table([full, row])
    assert "| as it is | all | 1.00 ± 0.00 | 0.00 ± 0.00 | 0.90 ± 0.05 (6) | - | - | - | 0.20 |" in table
    told = "| average of all tokens | d0 | 0.50 ± 0.18 | 0.80 ± 0.02 | - (1) | - | - | - | 0.20 |"
    assert told in table, "one picture's agreement says nothing"
    assert "| as it is, from other noise | all | 1.00 ± 0.00 |" in ablation_table([replace(full, mode="seed")])


@pytest.mark.parametrize("options, words", [
    (["--modes", "median"], "no mode 'median'"), (["--singles", "-1"], "0 or more"), (["--seed", "-1"], "--seed"),
    (["--singles", "0", "--pairs", "0", "--agreements", "0"], "one at all"), (["--size", "100"], "100"),
    (["--batch", "0"], "--batch")])  # fmt: skip
def test_bad_options_are_one_sentence(options, words, capsys):
    assert cli.main(["bench", "ablation", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "\n" not in said


def test_result_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelSpec, "load", lambda self: model)
    monkeypatch.setattr(bench_ablation, "file_hash", lambda path: "0123456789ab")
    out = tmp_path / "ablation.json"
    command = ["bench", "ablation", "--singles", "1", "--pairs", "0", "--agreements", "1", "--modes", "out",
               "--no-levels", "--size", "64", "--steps", "1", "--out", str(out)]  # fmt: skip
    assert cli.main(command) == 0
    found = json.loads(out.read_text())
    assert found["kind"] == "ablation" and found["sha256"] == "0123456789ab" and str(tmp_path) not in out.read_text()
    assert [row["mode"] for row in found["results"]] == ["full", "seed", "out"]
    shown = ablation_block(found)
    assert "2 pictures a row of 64 px" in shown and "1 of them of held-out" in shown and "| left out | all |" in shown
