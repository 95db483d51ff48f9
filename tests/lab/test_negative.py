"""The measurements of the negative stream: arithmetic, and what is made of a judge's verdicts."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lib_attn.lab.commands.cli import main
from lib_attn.lab.drawing import unet
from lib_attn.lab.drawing.variants import FULL, parse_setting, setting
from lib_attn.lab.judging import metrics
from lib_attn.lab.judging.judge import BACKGROUNDS, COLOURS, SHAPES, Verdict
from lib_attn.lab.measuring import cost, speed
from lib_attn.lab.measuring.cost import Case
from lib_attn.lab.measuring.negative import drawn, effect, grid, mix
from lib_attn.lab.measuring.negative.cases import every, penalty
from lib_attn.lab.measuring.negative.drawn import DrawSpec
from lib_attn.lab.measuring.negative.estimate import measure_estimate
from lib_attn.lab.reports import figures, negative
from lib_attn.lab.reports.negative_tables import cost_table, effect_table, estimate_table, mix_table
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import file_hash
from lib_attn.learn.scenes import vocabulary
from tests.lab.conftest import UNET

HOW = DrawSpec(size=64, steps=2, batch=2)


@pytest.fixture(scope="module")
def bench():
    return speed.Bench(unet.random_unet(UNET, precision="fp32"), UNET, precision="fp32")


def quiet(text):
    pass


def test_arithmetic_is_what_torch_counts(bench):
    x, context = bench.inputs(64, 128)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as torchs:
        bench.call(x, 500, context)
    with cost.Arithmetic() as ours:
        out = bench.call(x, 500, context)
    assert ours.macs == torchs.get_total_flops() / 2 > 0
    assert out.shape == x.shape


def test_cost_counts_the_rows_that_are_left_out(bench):
    chosen = [Case("CFG 5"), Case(cost.ONE_ROW, cfg=1.0), Case("NAG", penalty("NAG"), 1.0),
              Case("third", setting("", every(3, "early=0")), steps=3)]  # fmt: skip
    rows = {r.name: r for r in cost.measure(bench, chosen, 64, 64, repeats=2, words=5)}
    assert rows["CFG 5"].ratio == 1 and rows["CFG 1"].macs_ratio == 0.5
    assert rows["third"].macs_ratio == pytest.approx(4 / 6)
    # Five words more for the queries of cross-attention, no projection once they are kept.
    queries = sum(n * c for n, c in ((64, 32), (64, 32), (64, 32), (16, 64), (16, 64), (16, 64), (16, 64)))
    assert (rows["NAG"].macs_one_row - 1) * rows["CFG 1"].macs == pytest.approx(2 * 5 * queries, rel=1e-6)
    assert all(r.seconds > 0 and r.low <= r.ratio <= r.high for r in rows.values())
    assert "| 64x64 | NAG |" in cost_table(list(rows.values()))


def test_pictures_come_in_order_and_out_of_the_cache(model, tmp_path, monkeypatch):
    how = DrawSpec(size=64, steps=2, batch=2, cache=tmp_path, model="x")
    asked = (["a", "b", "c"], ["red", "", "red"], [3, 4, 5])
    pictures = drawn.draw(model, how, *asked, 5.0)
    for i in range(3):
        alone = drawn.draw(model, HOW, *([part[i]] for part in asked), 5.0)[0]
        assert np.abs(pictures[i].astype(int) - alone).max() <= 1
    monkeypatch.setattr(drawn, "sample", lambda *a: pytest.fail("drawn again"))
    assert np.array_equal(drawn.draw(model, how, *asked, 5.0), pictures)
    monkeypatch.setattr(drawn, "sample", lambda model, request, variant: torch.zeros(len(request.seeds), 4, 8, 8))
    for other in (how, DrawSpec(size=64, steps=2, batch=2, cache=tmp_path, model="y")):
        variant = FULL if other.model == "y" else parse_setting("key_every=2")
        assert not np.array_equal(drawn.draw(model, other, *asked, 5.0, variant), pictures)


def test_estimate(model):
    texts = {"every": "key_every=1", "copy": every(2, "fill=copy; early=0")}
    chosen = [Case(name, setting("", text)) for name, text in texts.items()]
    how = DrawSpec(size=64, steps=4, batch=2)
    rows = {r.name: r for r in measure_estimate(model, chosen, how, 3, quiet)}
    assert rows["every"].l2 == 0 and rows["every"].rows == 1 and len(rows["copy"].l2_all) == 3
    assert rows["copy"].rows == 0.75 and rows["copy"].l2 > 0
    table = estimate_table(list(rows.values()))
    assert f"| {max(rows['copy'].l2_all):.3f} | 1.00 |" in table
    assert "| copy | 0.750 | 1.33x |" in table and table.splitlines()[3].endswith("| 1.00 |")


class Scripted:
    """A judge that says what it is told to, call by call."""

    def __init__(self, *verdicts):
        self.verdicts = list(verdicts)

    def look(self, pictures):
        said = self.verdicts.pop(0)
        masks = np.zeros((len(said), 32, 32), bool)
        for i, verdict in enumerate(said):
            masks[i, :, : 8 * (1 + SHAPES.index(verdict.objects[0][1]) % 4)] = True
        return said, masks


def paint(*names):
    """Pictures ``[n, 64, 64, 3]`` all over in one colour each, half of it in the shade."""
    colours = [[round(255 * c) for c in vocabulary.COLOURS[name]] for name in names]
    pictures = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in colours])
    pictures[:, 32:] //= 2
    return pictures


def see(*objects, background=BACKGROUNDS[0]):
    return Verdict(tuple(tuple(o.split()) for o in objects), background)


def test_effect_counts_what_the_negative_names(monkeypatch):
    asked = []

    def draw(model, how, prompts, negatives, *rest):
        asked.append((negatives, rest))
        return paint("red", "green") if len(asked) == 2 else paint("red", "blue")

    monkeypatch.setattr(effect, "draw", draw)
    first, second = SHAPES[:2]
    rest = [see(f"red {first}"), see(f"blue {first}")]
    judge = Scripted([see(f"red {first}"), see(f"blue {second}")], [see(f"green {first}"), see(f"blue {first}")],
                     [see(f"red {first}"), see(f"pink {first}")],
                     [see(f"red {first}", f"red {first}"), see(f"pink {second}", background="white")],
                     *[rest] * 7)  # fmt: skip
    cases = [effect.Effect("a"), effect.Effect("b", cfg=3.0), effect.Effect("c", cfg=8.0)]
    # A technique at its defaults, two times: none is what another is compared with.
    cases += [effect.Effect(name, parse_setting("contrast.feature=0.3")) for name in "de"]
    base, a, b, c, d, e = effect.measure_effect(None, judge, cases, HOW, 2, quiet)
    assert [d[0] for d in asked[:2] + asked[3:4]] == [["", ""], ["red", "blue"], ["red", "blue"]]
    assert asked[2][0] == asked[4][0] and not set(asked[2][0]) & {"red", "blue"}
    assert [d[1][1] for d in asked] == [5.0, 5.0, 5.0, 3.0, 3.0, 8.0, 8.0, 5.0, 5.0, 5.0, 5.0]
    assert (base.control, a.control, b.control) == (1, 0.5, 1)
    assert (base.named, base.prompt) == (1, 1) and (a.named, a.shape, a.prompt) == (0.5, 0.5, 0.5)
    assert (b.named, b.shape, b.background, b.prompt) == (0.5, 0.5, 0.5, 0)
    assert base.area == b.area == 1 and a.areas == [1, 0] and a.area_control == 1
    table = effect_table([base, a, b, c, d, e])
    assert "| a | 50 % | 50 % | 50.0 % | 100.0 % | -50.0 ± 50.0 points | 50 % |" in table
    # All four are compared with a: the plain case of their guidance scale, or of their base where there is none.
    assert "| b | 50 % | 100 % | 100.0 % | 100.0 % | +50.0 ± 50.0 points | 0 % |" in table
    assert table.count("+50.0 ± 50.0") == 4


def test_what_is_read_off_a_picture():
    picture = paint("orange")[0]
    mask = np.zeros((32, 32), bool)
    mask[10:20, 10:20] = True
    picture[20:22] = (128, 128, 128)  # a rim of background
    pixels = metrics.object_pixels(picture, mask)
    assert len(pixels) == 4 * 64 and metrics.colour_shares(pixels)[COLOURS.index("orange")] == 1
    picture[30:32] = [(240, 240, 240)] * 32 + [(10, 0, 0)] * 32
    assert metrics.colour_shares(metrics.object_pixels(picture, mask)).sum() == pytest.approx(7 / 8)
    assert len(metrics.object_pixels(picture[:60, :60], mask)) > 0, "a size that no multiple of the mask's"
    mask[:], mask[5, 5] = False, True
    assert len(metrics.object_pixels(picture, mask)) == 4, "an object that is all rim is kept"
    none = metrics.object_pixels(picture, np.zeros((32, 32), bool))
    assert np.isnan(metrics.colour_shares(none)).all() and np.isnan(metrics.colour_distance(none, pixels))
    assert metrics.colour_distance(np.array([[0, 0, 0], [6, 8, 0]]), np.array([[3, 4, 5]])) == 5
    for name in COLOURS:
        assert metrics.colour_shares(paint(name)[0].reshape(-1, 3))[COLOURS.index(name)] == 1
    assert mean_and_error([1.0, 3.0, float("nan")]) == (2.0, 1.0)
    assert np.isnan(mean_and_error([4.0])[1]) and np.isnan(mean_and_error([])[0])


def test_groups_of_mixed_pictures_come_in_pairs_with_the_same_prompts():
    wanted, prompts = mix.mix_prompts(4)
    assert {len(group) for kind in mix.KINDS for group in prompts[kind]} == {mix.GROUP}
    for g in range(4):
        assert prompts["open"][g] == prompts["open"][g ^ 1] and len(set(prompts["open"][g])) == 1
        assert len({v.objects[0][0] for v in wanted[g]}) == len({v.objects[0][1] for v in wanted[g]}) == mix.GROUP
        assert len({text.split(",")[0].split()[-1] for text in prompts["coloured"][g]}) == 1
        assert not any(colour in prompts["open"][g][0].split(",")[0] for colour in COLOURS)
    assert prompts["open"][0] != prompts["open"][2]
    for groups in (0, 1, 3):
        with pytest.raises(LabError, match="even number"):
            mix.measure_mix(None, None, [], HOW, groups, quiet)


def test_mix_compares_with_the_own_source_and_with_another(monkeypatch):
    drawn = []

    def draw_group(model, how, prompts, group, variant):
        drawn.append(prompts)
        return paint(*(["red"] * 4 if group == 0 else ["blue"] * 4))

    monkeypatch.setattr(mix, "draw_group", draw_group)
    wanted, prompts = mix.mix_prompts(2)
    same = [[see("red sphere")] * mix.GROUP, [see("blue cube")] * mix.GROUP]
    (row,) = mix.measure_mix(None, Scripted(*wanted, *same, *wanted), [Case("x")], HOW, 2, quiet)
    assert drawn == [group for kind in mix.KINDS for group in prompts[kind]]
    assert row.colour == row.other_colour == row.other_shape == row.agree == 1 and row.shape == 0
    assert row.agree_control == 0 and row.open_shape == 0.5 and row.pictures == 6
    assert row.distance == 0 and row.distance_control > 100
    # Silhouettes are stripes whose width goes with the shape.
    width = [1 + SHAPES.index(v.objects[0][1]) % 4 for v in wanted[0] + wanted[1]]
    share = lambda a, b: min(a, b) / max(a, b)  # noqa: E731
    for name, source in (("overlap", (0, 4)), ("overlap_control", (4, 0))):
        expected = [share(width[g * 4 + i], width[source[g]]) for g in range(2) for i in range(1, 4)]
        assert getattr(row, name) == pytest.approx(np.mean(expected)) and row.all[name] == pytest.approx(expected)
    # Errors are those of the batches' means: 10 and 14 more in the two batches.
    other = replace(row, name="y", all=row.all | {"distance": [9.0, 10.0, 11.0, 14.0, 14.0, 14.0]})
    table = mix_table([row, other])
    control = f"{row.distance_control:.0f}"
    assert f"| x | 100 % | 0 % | 0 | {control} | - |" in table
    assert f"| y | 100 % | 0 % | 0 | {control} | +12 ± 2 |" in table


def test_pictures_without_an_object_are_left_out(monkeypatch):
    class Blind(Scripted):
        def look(self, pictures):
            said, masks = super().look(pictures)
            masks[1] = False
            return said, masks

    monkeypatch.setattr(mix, "draw_group", lambda *a: paint(*["red"] * 4))
    wanted, _ = mix.mix_prompts(2)
    (row,) = mix.measure_mix(None, Blind(*wanted, *wanted, *wanted), [Case("x")], HOW, 2, quiet)
    for name in ("overlap", "distance", "overlap_control", "distance_control"):
        assert np.isnan(row.all[name]).tolist() == [True, False, False] * 2 and np.isfinite(getattr(row, name))


def test_the_command_writes_results_that_pages_show(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lab", "bench", "negative", "--results", str(tmp_path / "r")])
    common = ["bench", "negative", "--results", str(tmp_path / "r")]
    drawing = ["--checkpoint", str(tiny), "--size", "64", "--steps", "2", "--images", "2", "--cfg", "1"]
    only, fp32 = f"{cost.ONE_ROW}; CFG 1, NAG", ["--precision", "fp32"]
    own = ["--setting", "mine: negative_skip.penalty=value sign flip; negative_skip.strength=3"]
    assert main([*common, "effect", "estimate", "contrast", "mix", *drawing, *own]) == 0
    assert main([*common, "cost", "--model", "toy", "--cost-sizes", "64", "--repeats", "1", "--only", only, *fp32]) == 0
    names = [f"negative-{part.name}.json" for part in negative.PARTS]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "r").glob("*.json"))
    marks = "\n".join(f"<!-- {name} -->\n\n<!-- /{name} -->" for name in names)
    page, digest = figures.filled(marks, tmp_path / "r"), file_hash(tiny)
    assert digest in page and "| mine |" in page and "penalty=value sign flip strength=3.0" in page
    assert (
        str(tmp_path) not in page and "toy U-Net with random weights" in page and "bench negative --results r" in page
    )
    assert json.loads((tmp_path / "r" / "negative-effect.json").read_text())["sha256"] == digest
    assert main([*common, "estimate", *drawing, "--only", "every 5: copy"]) == 0
    rows = json.loads((tmp_path / "r" / "negative-estimate.json").read_text())["results"]
    assert [row["name"] for row in rows] == ["every 3: copy, even", "every 5: copy"]
    assert main([*common, "mix", "--only", "every 5: copy"]) == 2
    assert "There is no case 'every 5: copy': there are off; Layout only;" in capsys.readouterr().err
    assert main([*common, "nothing"]) == 2 and "There is no part 'nothing'" in capsys.readouterr().err


def test_grid(model):
    judge = Scripted([see("red cube")], [see("green cube")])
    rows = grid.grid_rows(model, judge, HOW, quiet)
    assert [row.heading.partition(":")[0] for row in rows] == list(grid.TITLES)
    assert {len(row.pictures) for row in rows} == {len(row.captions) for row in rows} == {5}
    assert rows[0].captions[1].endswith("red") and rows[0].captions[4].endswith("green")
