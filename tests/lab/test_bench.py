"""Measurements at toy sizes, the peers' adapters, and the report."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import unet, variants
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.drawing.variants import SamplingPass
from lib_attn.lab.measuring import borders, deviation, memory, peers, speed
from lib_attn.lab.reports import figures
from lib_attn.lab.reports.tables import deviation_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import from_json, read_result, to_json, write_json
from tests.lab.conftest import UNET

NODE = """
class Node:
    FUNCTION = "patch_model"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "stride": ("INT", {"default": 2})}}
    def patch_model(self, model, stride):
        model = model.clone()
        width = model.model.model_config.unet_config["model_channels"]
        def patch(q, k, v, extra):
            assert float(model.model.model_sampling.timestep(extra["sigmas"][0]).item()) == 500
            assert extra["block"][0] in ("input", "middle", "output") and extra["original_shape"][1] == 4
            return (q, k[:, ::stride], v[:, ::stride]) if q.shape[2] == width else (q, k, v)
        model.set_model_attn1_patch(patch)
        model.set_model_attn1_output_patch(lambda out, extra: out)
        return (model,)
NODE_CLASS_MAPPINGS = {"NearSightedAttention": Node, "NearSightedTile": Node}
"""
HYPERTILE = """
seeds = []
set_hypertile_seed = seeds.append
def hypertile_hook_model(model, width, height, *, enable, tile_size_max, swap_size, max_depth):
    assert (width, height, enable, tile_size_max, swap_size, max_depth) == (128, 64, True, 256, 3, 3)
    for module in model.modules():
        if hasattr(module, "attn1"):
            before = module.attn1.forward
            module.attn1.__webui_hypertile_params = 1
            module.attn1.forward = lambda x, context=None, f=before: f(x.flip(1)).flip(1) * 2
    model.__webui_hypertile_layers = {}
"""


@pytest.fixture(scope="module")
def bench():
    return speed.Bench(unet.random_unet(UNET, precision="fp32"), UNET, precision="fp32")


@pytest.fixture
def folders(tmp_path):
    """Stand-ins for a webui folder and a checkout of the ComfyUI nodes."""
    tile = tmp_path / "webui" / "extensions-builtin" / "hypertile"
    tile.mkdir(parents=True)
    (tile / "hypertile.py").write_text(HYPERTILE)
    (tmp_path / "slothful_attention.py").write_text(NODE)
    return str(tmp_path / "webui"), str(tmp_path)


def state(network):
    return [(name, type(m), sorted(vars(m))) for name, m in network.named_modules()]


def test_every_variant_changes_the_output_and_comes_off(bench, folders):
    found, missing = peers.peer_variants(*folders)
    assert not missing and {"todo2", "hypertile", "comfy_near", "comfy_tile"} <= {v.name for v in found}
    before = state(bench.unet)
    x, context = bench.inputs(64, 128)
    full = bench.call(x, 500, context)
    for variant in [*found, peers.FREE, variants.parse_setting("tile=8 blocks=all")]:
        with variant.on(bench.unet, SamplingPass(64, 128)) as begin:
            begin(bench.plan(), 0, 1)
            assert not torch.equal(bench.call(x, 500, context), full), variant.name
        assert state(bench.unet) == before, variant.name
        with pytest.raises(RuntimeError), variant.on(bench.unet, SamplingPass(64, 128)):
            raise RuntimeError
        assert state(bench.unet) == before, variant.name
    assert torch.equal(bench.call(x, 500, context), full)


def test_todo_is_our_limit_without_tiles(bench):
    # ToDo takes the first token of each square, we the middle one: the same for a factor of 2.
    x, context = bench.inputs(128, 64)
    outputs = []
    for variant in (variants.parse_setting("tile=0 pool=2 global_keys=subsample blocks=d0"),
                    variants.Variant("todo", "", "peer", peers.todo(2))):  # fmt: skip
        with variant.on(bench.unet, SamplingPass(128, 64)) as begin:
            begin(bench.plan(), 0, 1)
            outputs.append(bench.call(x, 500, context))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_had_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tomesd", None)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    found, missing = peers.peer_variants()
    assert [p.name for p in found] == ["todo2", "todo3"] and len(missing) == 3
    monkeypatch.undo()
    for function in (peers.hypertile, peers.comfy_node):
        with pytest.raises(LabError, match="was not found"):
            function(tmp_path)
    (tmp_path / "slothful_attention.py").write_text("1/0")
    with pytest.raises(LabError, match="cannot be imported"):
        peers.comfy_node(tmp_path)


def test_speed_charges_the_residual_mode_for_its_whole_cycle(bench, monkeypatch):
    clock = iter([0.0, 9.0, 9.0, 10.0])  # the exact step takes 9, the one between 1
    monkeypatch.setattr(speed.time, "process_time", lambda: next(clock))
    bench = replace(bench, clock="cpu")
    variant = variants.parse_setting("tile=8 exact_every=4 blocks=all")
    x, context = bench.inputs(64, 128)
    found = speed.time_once(bench, variant, x, 500, context, SamplingPass(64, 128))
    assert found == speed.StepTime(seconds=(9 + 3 * 1) / 4, exact=9, step=1)


def test_speed_results(bench):
    own = ("a: tile=8 blocks=all", "todo: tile=0 pool=2 blocks=d0")
    chosen = [peers.FREE, *map(variants.parse_setting, own)]
    said = []
    rows = {r.name: r for r in speed.measure(bench, chosen, 128, 128, repeats=2, progress=said.append)}
    assert set(rows) == {"full", "free", "a", "todo"} and len(said) == 8 and rows["full"].ratio == 1
    assert rows["full"].keys == {"d0": 256, "d1": 64} and rows["todo"].keys == {"d0": 64, "d1": 64}
    assert rows["free"].keys == {} and rows["a"].keys["d0"] == 64 + 16
    assert all(r.seconds > 0 and r.low <= r.ratio <= r.high for r in rows.values())
    json.dumps([to_json(row) for row in rows.values()])


def test_memory_is_the_growth_over_the_weights(bench):
    found = memory.peak_memory(bench, variants.FULL, 256, 256)
    assert found.weights > 0 and 0 <= found.growth < 4096


def test_live_bytes_are_those_alive_at_once():
    with torch.inference_mode(), memory.LiveBytes() as live:
        a = torch.zeros(1000)
        assert live.now == live.peak == 4000
        b = a.view(10, 100) + 1
        a.add_(1)  # no new tensor
        assert live.now == 8000
        del a
        assert live.now == 4000
        c = b.double()
        assert live.now == live.peak == 12000
        del b, c
    assert live.now == 0 and live.peak == 12000


def test_counted_memory_needs_no_data_and_sees_what_is_kept():
    """The same count as on real tensors; what the residual mode keeps is in it."""
    network = memory.meta_unet(UNET, "fp32")
    rows = {name: memory.count(network, UNET, variant, 256, 128).growth for name, variant in (
        ("full", variants.FULL), ("near", variants.parse_setting("tile=8 blocks=all")),
        ("kept", variants.parse_setting("tile=8 blocks=all exact_every=3")))}  # fmt: skip
    assert 0 < rows["full"] <= rows["near"] < rows["kept"]
    real, plain = unet.random_unet(UNET, precision="fp32"), torch.zeros(2, 4, 32, 16)
    with torch.inference_mode(), memory.fused_attention(), memory.LiveBytes() as live:
        real(plain, torch.full((2,), 600.0), context=torch.zeros(2, 77, UNET["context_dim"]))
    assert live.peak / 2**20 == pytest.approx(rows["full"], rel=0.02)


def test_deviation_is_zero_for_neutral_settings(model):
    chosen = [variants.parse_setting("neutral: tile=256 blocks=all"), variants.parse_setting("near: tile=8 blocks=all")]
    small = {"height": 64, "steps": 2}
    asked = [Request(("a",), (1, 2), width=128, **small), Request(("b",), (3,), width=64, **small)]
    rows = {(r.name, r.width): r for r in deviation.measure(model, chosen, asked)}
    assert rows["neutral", 128].l2 == 0 and rows["neutral", 128].psnr is None
    assert rows["near", 128].l2 > 0 and rows["near", 128].images == 2 and rows["near", 64].images == 1
    assert "| near |" in deviation_table(list(rows.values()))


def test_border_jumps():
    flat = torch.zeros(1, 16, 24)
    stairs = flat.clone()
    stairs[:, 8:] += 1
    found = borders.border_jumps(stairs, 8)
    assert found.inside == 0 and found.across > 0
    ramp = flat + torch.arange(24) + torch.arange(16)[:, None]
    assert borders.border_jumps(ramp, 8).ratio == pytest.approx(1)


def test_seams_needs_a_border(model):
    asked = [Request(("a",), (1,), height=128, width=128, steps=1)]
    found = borders.measure(model, variants.parse_setting("tile=8 pool=8 shift=0 blocks=all"), asked)
    assert found.across > 0 and found.images == 1
    with pytest.raises(LabError, match="no tile border"):
        borders.measure(model, variants.parse_setting("tile=0 pool=2 blocks=all"), asked)


@pytest.mark.parametrize("text", ["tile", "tle=3", "tile=cat", "near_sighted.blocks=xyz", "tile=999", "blocks=d"])
def test_bad_settings_are_one_sentence(text):
    with pytest.raises(LabError, match="^[^\n]+$"):
        variants.parse_setting(text)


def result(kind, rows):
    common = {"kind": kind, "command": f"python -m lib_attn.lab bench {kind}"}
    machine = {"machine": {"device": "2 CPU threads", "torch": "2.13.0", "python": "3.11"}, "precision": "fp32"}
    extra = {"model": "sd15", "rows": 2, "repeats": 3, "memory": []} if kind == "speed" else {
        "checkpoint": "tiny", "images": 1, "seed": 1, "steps": 2, "sampler": "DDIM", "cfg": 5.0}  # fmt: skip
    return common | machine | extra | {"results": rows}


def test_blocks_of_pages():
    size = {"height": 512, "width": 512, "kind": "ours", "source": ""}
    times = [size | {"name": n, "label": n, "seconds": 1.0, "ratio": r, "low": r, "high": r, "keys": {}, "settings": s}
             for n, r, s in (("a", 2.0, {"near_sighted.tile": 8}), ("b", 1.5, {}))]  # fmt: skip
    moved = [size | {"psnr": 30.0, "images": 2, "name": "a", "label": "a", "l2": 0.1, "l2_all": [0.08, 0.12]}]
    grown = [size | {"name": n, "label": n, "growth": g} for n, g in (("full", 100.0), ("a", 105.0))]
    text = figures.BLOCKS["speed"](result("speed", times))
    assert "| a | 1 | 2.00x |" in text and "| a | near_sighted.tile=8 |" in text and "| b | defaults |" in text
    text = figures.BLOCKS["deviation"](result("deviation", moved) | {"sha256": "0123456789ab"})
    assert "| a | 0.1000 ± 0.0200 | 30.0 |" in text and "0123456789ab" in text and "2 pictures a size" in text
    text = figures.BLOCKS["memory"](result("memory", grown) | {"model": "sd15", "rows": 2})
    assert "| 512x512 | a | 105 | 1.050x |" in text and "SD 1.5" in text


def test_a_result_of_another_measurement_is_refused(tmp_path):
    write_json(tmp_path / "d.json", result("deviation", []))
    for bad in ("none.json", "d.json"):
        with pytest.raises(LabError):
            read_result(tmp_path / bad, "speed")


def test_rows_of_older_and_of_damaged_files():
    row = deviation.DeviationRow("a", "A", "ours", "", 64, 64, images=1, l2=0.0, psnr=None)
    kept = to_json(row)
    # Identical pictures are told from ones that were not measured; what is optional and not there takes no room.
    assert kept["psnr"] is None and not {"l2_all", "said", "settings"} & set(kept)
    assert from_json(deviation.DeviationRow, json.loads(json.dumps(kept)) | {"of another version": 1}) == row
    for bad in ({"name": "a"}, [], None):
        with pytest.raises(LabError, match="damaged"):
            from_json(deviation.DeviationRow, bad)


def test_seams_takes_a_parameter_that_several_techniques_have(tiny, capsys):
    words = ["bench", "seams", "--checkpoint", str(tiny), "--sizes", "128", "--images", "1", "--steps", "1"]
    assert cli.main([*words, "--setting", "a: tile=8 pool=8 blocks=all shift=1"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == ["0", "0.5", "1"]


def test_memory_is_measured_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "s.json"
    words = ["--model", "toy", "--sizes", "64", "--precision", "fp32", "--only", "near", "--setting", "near: tile=8"]
    assert cli.main(["bench", "speed", *words, "--memory", "--no-time", "--out", str(out)]) == 0
    result = read_result(out, "speed")
    assert [row["name"] for row in result["memory"]] == ["full", "near"] and result["results"] == []
    assert all(row["weights"] > 0 for row in result["memory"])
