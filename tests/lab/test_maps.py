"""Maps in the lab: a map of one's own, what is said of ControlNet, ``bench maps`` and what pages show of it."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ldm", reason="the networks are ldm's")

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing import pictures
from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.embedded import MODELS
from lib_attn.lab.drawing.sampling import Request, decode, sample
from lib_attn.lab.drawing.variants import FULL, preset
from lib_attn.lab.judging import geometry
from lib_attn.lab.measuring.gradient import steered
from lib_attn.lab.measuring.maps import MapsSpec, agreement, head_in, of_the_pass, off_map, through_the_autoencoder
from lib_attn.lab.reports.figures import RESULTS
from lib_attn.lab.reports.maps import maps_block, maps_short
from lib_attn.lab.shared.errors import LabError
from lib_attn.learn.scenes import renderers
from lib_attn.learn.scenes.guides import normals_of
from lib_attn.preview import preview
from lib_attn.settings import positional_params
from lib_attn.store import Store
from lib_attn.techniques.base import Context
from lib_attn.techniques.depth_guide.head import error
from lib_attn.techniques.depth_guide.maps import Map, maps_in
from lib_attn.techniques.depth_guide.normals import normal_map
from lib_attn.techniques.facts import Facts
from lib_attn.unet.families import find_layers


def test_a_picture_that_follows_a_map_s_pass_follows_that_of_the_map_named():
    model = ModelSpec().load()
    asked = Request(("a large red sphere", "a small blue cube"), (3, 4), "", 64, 64, 2, "DDIM", 5.0)
    plain, variant = sample(model, asked, FULL), preset("Underdrawing")
    own, another = (of_the_pass(model, asked, variant, other) for other in (0, 1))
    assert own.shape == plain.shape and not torch.allclose(own, plain) and not torch.allclose(own, another)
    alone = of_the_pass(model, replace(asked, prompts=asked.prompts[:1], seeds=asked.seeds[:1]), variant, 0)
    torch.testing.assert_close(alone[0], own[0])
    assert torch.equal(sample(model, asked, FULL), plain), "the blocks are off again"


def test_the_gradient_through_the_u_net_brings_the_map_nearer_and_ends_where_it_is_told_to():
    model, height = ModelSpec().load(), np.linspace(0, 255, 128).astype(np.uint8)
    asked = Request(("a large red sphere",), (3,), "", 128, 128, 3, "DDIM", 5.0)
    wanted = Map(np.repeat(np.repeat(height[:, None], 128, 1)[..., None], 3, -1))
    head, plain = head_in(model, preset("Underdrawing")), sample(model, asked, FULL)

    def far(latents):
        return float(error(head(latents), wanted.wanted((16, 16))[None]))

    miss = off_map(head, [wanted])
    followed = steered(model, asked, miss)
    assert far(followed) < far(plain) - 0.01
    assert torch.equal(steered(model, asked, miss, until=0), plain)
    assert torch.equal(sample(model, asked, FULL), plain)
    with pytest.raises(LabError, match="guided pictures"):
        steered(model, replace(asked, cfg=1.0), miss)


def test_maps_of_normals_are_held_against_depth():
    """A ball's normals agree with its own depth and not with those of one elsewhere."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]

    def ball(right):
        inside = 0.4 - (x - right) ** 2 - y**2
        height = np.sqrt(inside.clip(0))
        grey = np.where(inside > 0, 64 + 191 * height / height.max(), 0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)

    middle, aside = ball(0.0), ball(0.3)
    found = agreement([normal_map(middle), normal_map(aside)], [middle, aside])
    assert found["agreement"]["mean"] < 2 < 20 < found["agreement_shuffled"]["mean"]
    result = json.loads((RESULTS / "maps.json").read_text())
    table = maps_block(result | {"maps": result["maps"] | found})
    assert "of the depth map of the same prompt and seed" in table and "AbsRel" in table


def test_the_embedded_autoencoder_cannot_show_normals_and_a_faithful_one_could(monkeypatch):
    """It has only ever seen few colours; a map of normals has hundreds."""
    model, spec = ModelSpec().load(), MapsSpec(2, 0, size=128)
    with renderers.open_renderer(128) as renderer:
        assert through_the_autoencoder(model, spec, renderer)["mean"] > 20
        monkeypatch.setattr("lib_attn.lab.measuring.maps.load_encoder", lambda spec: lambda values: values)
        monkeypatch.setattr("lib_attn.lab.measuring.maps.decode", lambda model, values: as_pictures(values))
        assert through_the_autoencoder(model, spec, renderer)["mean"] < 1


def as_pictures(values):
    return [np.rint((v.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8) for v in values]


def test_whole_things_of_a_map_of_normals_have_the_faces_that_look_at_the_viewer():
    picture = np.full((32, 32, 3), (128, 128, 255), np.uint8)
    picture[8:24, 8:24] = (255, 128, 128)
    picture[12:20, 12:20] = (128, 128, 255)
    assert geometry.outline(picture, "normal").sum() == 16 * 16 - 8 * 8
    assert geometry.standing(picture, "normal").sum() == 16 * 16


def test_normals_are_drawn_where_their_file_is_chosen_and_only_there(tmp_path):
    """The embedded model has a file of each; a map that shows nothing faces the viewer."""
    model = ModelSpec().load()
    assert Context(layers=tuple(find_layers(model.unet)), files=model.files).fitting("depth") == ["reference-depth"]
    asked, store = Request(("a large red sphere",), (3,), "", 128, 128, 1, "DDIM", 5.0), Store()
    before = decode(model, torch.zeros(1, 4, 8, 8))[0].tobytes()
    sample(model, asked, preset("Underdrawing", **{"depth_guide.file": "reference-normal"}), store=store)
    (drawn,) = maps_in(store).current
    assert drawn.kind == "normal" and drawn.normals is drawn.picture
    assert normals_of(drawn.picture[:16])[..., 2].mean() > 0.98
    assert decode(model, torch.zeros(1, 4, 8, 8))[0].tobytes() == before, "its decoder is off again"
    chosen = preset("Underdrawing", **{"depth_guide.file": "reference-normal", "depth_guide.normals": True})
    told = [
        sentence.text for sentence in preview(chosen.settings, Facts(files=model.files)).techniques["depth_guide"].lines
    ]
    assert "These blocks draw normals." in told and any("As normals changes nothing" in text for text in told)


def test_the_model_of_512_px_has_blocks_of_its_own(monkeypatch):
    """Drawn in few steps, on black ground, which is what offset noise was for: one round thing."""
    model = ModelSpec(MODELS["reference-512"]).load()
    assert Context(layers=tuple(find_layers(model.unet)), files=model.files).fitting("depth") == ["reference-512-depth"]
    asked, store = Request(("a large red sphere",), (3,), "", 512, 512, 1, "DDIM", 5.0), Store()
    sample(model, asked, preset("Underdrawing", **{"depth_guide.file": "reference-512-depth"}), store=store)
    (drawn,) = maps_in(store).current
    monkeypatch.setattr(geometry, "BANK", 6)
    with renderers.open_renderer(512) as renderer:
        assert geometry.MapJudge(renderer).look(drawn.picture) == ("sphere",)


def test_no_time_is_told_where_it_is_less_than_what_times_vary_by():
    result = json.loads((RESULTS / "maps.json").read_text(encoding="utf-8"))
    result["cost"]["following"] = -0.2
    assert maps_block(result).endswith("of following it too little to be told on a busy machine.")


def test_rows_of_ways_that_were_measured_alone_are_shown():
    result = json.loads((RESULTS / "maps.json").read_text())
    assert "by key mix" not in maps_block(result)
    result["pictures"]["keys"] = result["pictures"]["guided"]
    short = maps_short(result)
    assert "with its map's pass, by key mix" in short and "AbsRel" not in short


def drawn(folder, capsys, *words):
    """What is said of one small picture, and its text."""
    size = ("--width", "64", "--height", "64", "--steps", "2")
    assert cli.main(["generate", *size, "--out", str(folder), *words]) == 0
    return capsys.readouterr().out, pictures.parse_infotext(pictures.read_parameters(next(folder.glob("*.png"))))


def test_a_map_of_one_s_own_on_the_command_line(tmp_path, capsys):
    """Twice as wide as the picture: a quarter is left out on each side. Its hash stands in the picture's text."""
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[8:24, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    own = ("--depth_guide.own_map", str(tmp_path / "wide.png"), "--depth_guide.guide", "first steps")
    said, pairs = drawn(tmp_path / "out", capsys, *own)
    assert "The map is wider than the picture: 25 % of it are cut off" in said and "without its map" not in said
    assert f"map hash: {hashlib.sha256(wide.tobytes()).hexdigest()[:10]}" in pairs["Attn depth-guide"]
    assert cli.main(["generate", "--depth_guide.own_map", str(tmp_path / "none.png")]) != 0
    assert "none.png cannot be read" in capsys.readouterr().err


def test_controlnet_is_not_there_on_the_command_line(tmp_path, capsys):
    said, _ = drawn(tmp_path, capsys, "--depth_guide.guide", "ControlNet")
    assert "none is drawn: ControlNet is an extension of the webui." in said


def test_the_page_fills_in_the_last_map_of_its_own(monkeypatch):
    page = pytest.importorskip("lib_attn.lab.drawing.page", reason="the page needs gradio")
    monkeypatch.setattr("gradio.Progress", lambda: lambda *a, **k: None)
    actions, key = page.Actions(ModelSpec().load()), "depth_guide.map_hash"
    assert actions.surroundings().latest(key) == ""
    values = preset("Underdrawing").settings.flat()
    fields = {"prompt": "a red cube", "negative": "", "sampler": "DDIM", "steps": 2, "width": 64, "height": 64}
    actions.draw(fields | {"cfg": 5.0, "seed": 1, "batch": 1}, [values[p.key] for p in positional_params()], False)
    assert len(actions.surroundings().latest(key)) == 10
