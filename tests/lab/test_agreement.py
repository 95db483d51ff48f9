"""Agreement against scenes whose answers are known: as rendered, and with what agrees broken."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lib_attn.lab.commands.cli import main
from lib_attn.lab.judging import agreement as ag
from lib_attn.lab.judging import prompts
from lib_attn.lab.judging.judge import JUDGE
from lib_attn.lab.measuring.renders import broken, cut
from lib_attn.lab.reports.figures import filled
from lib_attn.learn.scenes import layout, render, renderers, texture
from lib_attn.learn.scenes.layout import Extras, Mix
from lib_attn.learn.scenes.vocabulary import Thing


@pytest.fixture(scope="module")
def drawer():
    try:
        renderer = renderers.open_renderer(192)
    except render.RenderError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer


def repainted(scene, **colours):
    """The scene with the last object in another colour or pattern."""
    return replace(scene, placed=(*scene.placed[:-1], replace(scene.placed[-1], **colours)))


def two(pattern="", unnamed=("colour",), **more):
    extras = Extras((pattern,) if pattern else (), unnamed)
    return layout.scene_of([Thing("cube", "blue")], 2, extras=extras, **more)


def test_objects_are_numbered_from_left_to_right_and_specks_left_out():
    mask = np.zeros((32, 32), bool)
    mask[4:10, 20:28], mask[15:25, 3:9], mask[30, 30] = True, True, True
    mask[25, 9] = True  # touches the left one at a corner only
    labels = ag.objects(mask)
    assert labels.max() == 2 and labels[20, 5] == 1 and labels[6, 22] == 2
    assert not labels[30, 30] and not labels[25, 9]
    assert not ag.objects(np.zeros((8, 8), bool)).any()


def test_a_mask_of_cells_is_enlarged_to_pixels():
    labels = ag.enlarge(np.array([[1, 0], [0, 2]]), 4, 6)
    assert labels.shape == (4, 6) and (labels[:2, :3] == 1).all() and (labels[2:, 3:] == 2).all()


@pytest.mark.parametrize("pattern", ["", "striped", "checked"])
def test_colours_that_agree_and_that_do_not(drawer, pattern):
    scene = two(pattern)
    maps = drawer.render(scene)
    found = ag.agreement(maps.rgb, maps.mask, scene.attributes())
    assert found["colour"] > 0.95 and np.isnan(found["floor"])
    other = drawer.render(repainted(scene, albedo=(0.95, 0.85, 0.12)))
    assert ag.agreement(other.rgb, other.mask, scene.attributes())["colour"] < 0.1


def test_one_object_cannot_say_whether_two_agree(drawer):
    scene = two()
    maps = drawer.render(scene)
    assert np.isnan(ag.agreement(maps.rgb, (maps.mask == 1).astype(np.uint8), scene.attributes())["colour"])
    named = two(unnamed=())
    assert np.isnan(ag.agreement(maps.rgb, maps.mask, named.attributes())["colour"])


def test_patterns_that_agree_more_than_others(drawer):
    same, different = [], []
    for seed in range(12):
        scene = two("striped", ("pattern",), seed=seed, order="row")
        maps = drawer.render(scene)
        same.append(ag.pattern_agreement(maps.rgb, maps.mask))
        dress = replace(scene.placed[0].texture, pattern="dotted", repeats=2.4)
        maps = drawer.render(repainted(scene, texture=dress))
        different.append(ag.pattern_agreement(maps.rgb, maps.mask))
        maps = drawer.render(repainted(scene, texture=None))
        different.append(ag.pattern_agreement(maps.rgb, maps.mask))
    assert np.median(same) > 0.85 and np.median(different) < 0.65


def test_symmetry_of_outlines():
    y, x = np.mgrid[:40, :40]
    assert ag.symmetry((x - 20) ** 2 + (y - 20) ** 2 < 150) == 1.0
    assert ag.symmetry((x > y / 2) & (x < 30)) < 0.8
    assert np.isnan(ag.symmetry(np.zeros((4, 4), bool)))


def test_symmetry_of_rendered_objects(drawer):
    scene = layout.scene_of([Thing("sphere", "red")])
    maps = drawer.render(scene)
    assert ag.agreement(maps.rgb, maps.mask, scene.attributes())["symmetry"] > 0.95


def test_the_ground_is_where_the_renderer_draws_it(drawer):
    """Every pixel of a bare floor has the colour that the pattern has at its place."""
    floor = layout.sample_scene(3, 0, Mix(textured=1.0)).floor
    index = 0
    while floor is None or floor.texture.pattern != "checked":
        index += 1
        floor = layout.sample_scene(3, index, Mix(textured=1.0)).floor
    tiny = replace(layout.scene_of([Thing("cube", "red")]), floor=floor)
    tiny = replace(tiny, placed=(replace(tiny.placed[0], scale=0.01),))
    rgb = drawer.render(tiny).rgb
    places = ag.ground(192, 192)
    near = places[..., 1] > floor.edge + 0.3
    points = np.stack([places[near][:, 0], np.zeros(near.sum()), places[near][:, 1]], -1)
    want = texture.colours(floor.texture, texture.FLOOR, floor.albedo, points, points)
    assert np.median(np.abs(rgb[near] / 255 - want).max(-1)) < 0.01


def test_a_floor_goes_on_behind_a_thing_or_does_not(drawer):
    whole, broken = [], []
    scenes = [s for s in (layout.sample_scene(9, i, Mix(kinds=(1, 0, 0), textured=1.0)) for i in range(40)) if s.floor]
    for scene, other in zip(scenes[:8], scenes[1:9], strict=True):
        maps, right = drawer.render(scene), drawer.render(other).rgb[:, 96:]
        name = scene.floor.texture.pattern
        whole.append(ag.floor_agreement(maps.rgb, maps.mask, name))
        cut = maps.rgb.copy()
        cut[:, 96:] = right
        broken.append(ag.floor_agreement(cut, maps.mask, name))
    assert np.mean(whole) > 0.65 and np.mean(broken) < 0.2
    flat = np.full((192, 192, 3), 128, np.uint8)
    assert ag.floor_agreement(flat, np.zeros((192, 192), np.uint8), "checked") == 0.0


def test_only_what_has_to_agree_is_broken():
    scene = two("striped", ("pattern",))
    other = broken(scene)
    assert other.placed[0] == scene.placed[0] and other.placed[1].texture.pattern != "striped"
    assert (other.placed[1].x, other.placed[1].mesh) == (scene.placed[1].x, scene.placed[1].mesh)
    assert np.abs(np.subtract(other.placed[1].albedo, scene.placed[1].albedo)).max() > 0.3
    scenes = prompts.agreement_prompts(8)
    pictures = np.stack([np.full((4, 6, 3), i, np.uint8) for i in range(8)])
    halves = [tuple(picture[0, [0, 5], 0]) for picture in cut(pictures, scenes)]
    assert halves == [(0, 0), (1, 1), (2, 2), (3, 7), (4, 4), (5, 5), (6, 6), (7, 3)]


def test_the_command_tells_whole_renders_from_broken_ones(drawer, tmp_path, capsys):
    out = tmp_path / "renders.json"
    assert main(["scenebench", "renders", "--scenes", "8", "--size", "128", "--out", str(out)]) == 0
    exact, seen, spoiled = (row["figures"] for row in json.loads(out.read_text())["results"])
    assert exact["all"][0] > 0.85 and seen["all"][0] > 0.8 and spoiled["all"][0] < 0.4
    assert exact["all"][2] == 8 and exact["floor"][2] == 2 and "symmetry" not in spoiled
    page = filled("<!-- renders.json -->\n<!-- /renders.json -->", tmp_path)
    assert f"| broken, the judge's masks | {spoiled['all'][0]:.2f} ± " in page
    assert main(["scenebench", "renders", "--scenes", "7"]) == 2
    assert main(["scenebench", "renders", "--judge", str(JUDGE.with_name("none")), "--scenes", "8"]) == 2
    assert "cannot be used as a judge" in capsys.readouterr().err


def test_figures_say_of_how_many_pictures_they_are():
    none = float("nan")
    found = ag.figures(
        [{"colour": 0.2, "floor": none}, {"colour": 0.6, "floor": none}, {"colour": none, "floor": none}]
    )
    assert found["pictures"] == found["colour_pictures"] == 2 and found["all"] == pytest.approx(0.4)
    assert found["colour"] == pytest.approx(0.4) and found["colour_error"] == pytest.approx(0.2)
    assert not {"floor", "floor_error", "floor_pictures"} & set(found)


def test_prompts_leave_something_open():
    scenes = prompts.agreement_prompts(16)
    assert [s.caption for s in scenes] == [s.caption for s in prompts.agreement_prompts(16)]
    assert all(s.held_out for s in scenes)
    for scene in scenes:
        assert any(not shared.named for shared in scene.shared) or scene.floor
    assert sum(bool(scene.floor) for scene in scenes) == 4
    assert sum(any(s.what == "pattern" for s in scene.shared) for scene in scenes) >= 4
