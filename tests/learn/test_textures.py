"""Patterns, floors, rows, and what has to agree: words, records and pictures of the textured scenes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lib_attn.learn.scenes import layout, render, renderers, shards, texture, vocabulary
from lib_attn.learn.scenes.layout import Extras, Mix
from lib_attn.learn.scenes.texture import AROUND, FACING, FLOOR, PATTERNS, Texture
from lib_attn.learn.scenes.vocabulary import Thing

MIX = Mix(kinds=(0.3, 0.3, 0.2, 0.2), textured=0.8)


@pytest.fixture(scope="module")
def drawer():
    try:
        renderer = renderers.open_renderer(96)
    except render.RenderError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer


def scenes(count=150, mix=MIX, seed=4):
    return [layout.sample_scene(seed, index, mix) for index in range(count)]


def test_captions_name_a_part_and_leave_a_part_open():
    red = Thing("cube", "red", "large", "striped")
    blue = Thing("cone", "blue", "", "dotted")
    assert vocabulary.caption([red], 1, "", "grey") == "a large red striped cube, grey background"
    assert (
        vocabulary.caption([red], 3, "", "white", floor="checked", unnamed=("colour",))
        == "three large striped cubes on a checked floor, white background"
    )
    assert (
        vocabulary.caption([red], 5, "", "grey", order="row", unnamed=("pattern",))
        == "a row of five large red patterned cubes, grey background"
    )
    assert (
        vocabulary.caption([red, blue], 1, "left of", "black", unnamed=("colour", "pattern"), same=("colour",))
        == "a large patterned cube left of a patterned cone of the same colour, black background"
    )
    # With a floor, "on a … background" would be a second "on".
    assert vocabulary.caption([red], 1, "", "grey", 1, floor="brick").endswith("cube on a brick floor, grey background")


def test_plain_scenes_are_what_they_were():
    """The draws of the new parts must not move those of a mix without them."""
    scene = layout.sample_scene(1, 0, Mix())
    assert (scene.caption, scene.floor, scene.shared, scene.order) == (
        "a large cyan torus left of a pink star, white background",
        None,
        (),
        "",
    )
    numbers = [scene.placed[0].x, scene.placed[0].yaw, *scene.light]
    assert np.allclose(numbers, [-1.054054, -0.236166, -0.381962, 0.688912, 0.61604], atol=1e-6)


def test_sets_from_before_there_were_patterns_go_on(tmp_path):
    plain, textured = (shards.SetSpec(3, 2, 16, mix, ("rgb",)) for mix in (Mix(), Mix(textured=0.5)))
    assert "textured" not in plain.to_json()["mix"] and textured.to_json()["mix"]["textured"] == 0.5
    (tmp_path / "set.json").write_text(json.dumps(plain.to_json()))
    with pytest.raises(shards.ShardError, match="other settings"):
        shards.write_set(tmp_path, textured, None)


def test_records_say_what_agrees():
    seen = set()
    for scene in scenes(300):
        things = [scene.things[0]] * len(scene.placed) if len(scene.things) == 1 else list(scene.things)
        things = things[::-1] if scene.relation == "right of" else things
        for shared in scene.shared:
            assert shared.objects == tuple(range(1, len(scene.placed) + 1)) and len(shared.objects) > 1
            values = {getattr(thing, shared.what) for thing in things}
            assert len(values) == 1
            word = values.pop()
            assert shared.named == (word in scene.caption.split("floor")[0].split(" on ")[0].split(" "))
            if shared.what == "pattern":
                assert {p.texture.pattern for p in scene.placed} == {word}
                assert len({p.texture.second for p in scene.placed}) == 1
            else:
                albedo = np.array([p.albedo for p in scene.placed])
                assert np.abs(albedo - albedo[0]).max() <= 0.051
            seen.add((shared.what, shared.named, scene.order or len(scene.things)))
    assert {(what, named) for what, named, _ in seen} == {(w, n) for w in vocabulary.OPEN for n in (True, False)}
    assert {kind for _, _, kind in seen} == {1, 2, "row", "grid"}


def test_objects_of_a_kind_look_alike_with_patterns():
    for scene in scenes(200):
        if len(scene.things) == 1 and len(scene.placed) > 1 and (scene.order or scene.placed[0].texture):
            assert len({(p.albedo, p.scale, p.yaw, p.texture) for p in scene.placed}) == 1


def test_records_are_json_and_complete():
    scene = next(s for s in scenes() if s.floor and s.shared)
    record = json.loads(json.dumps(scene.attributes()))
    assert record["shared"][0]["objects"] == list(range(1, len(scene.placed) + 1))
    assert record["floor"]["texture"]["pattern"] in PATTERNS
    assert record["floor"]["texture"]["pattern"] in scene.caption


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_pairs_painted_alike_stay_on_their_side(split):
    for scene in scenes(200, replace(MIX, kinds=(0, 1, 0), textured=1.0, split=split)):
        assert vocabulary.is_held_out(scene.things) == scene.held_out == (split == "held-out")


@pytest.mark.parametrize("order, count", [("row", 4), ("row", 5), ("grid", 4), ("grid", 6), ("grid", 9)])
@pytest.mark.parametrize("size", ["small", "", "large"])
def test_rows_and_grids_fit_the_picture(drawer, order, count, size):
    things = [Thing("cube", "red", size)]
    mask = drawer.render(layout.scene_of(things, count, order=order, seed=count)).mask
    assert set(np.unique(mask)) == set(range(count + 1))
    assert not mask[:, [0, -1]].any() and not mask[[0, -1]].any()


def test_symmetric_objects_are(drawer):
    found = 0
    for scene in scenes(60, Mix(kinds=(1, 0, 0), textured=1.0)):
        if scene.symmetric and scene.placed[0].x == 0.0:
            mask = drawer.render(scene).mask > 0
            assert (mask & mask[:, ::-1]).sum() / (mask | mask[:, ::-1]).sum() > 0.95
            found += 1
    assert found > 10


def test_patterns_change_nothing_but_the_colours(drawer):
    """Depth, normals and masks are those of the bare scene."""
    for scene in scenes(12, replace(MIX, textured=1.0)):
        bare = replace(scene, floor=None, placed=tuple(replace(p, texture=None) for p in scene.placed))
        a, b = drawer.render(scene), drawer.render(bare)
        assert np.array_equal(a.mask, b.mask) and np.array_equal(a.inverse_depth, b.inverse_depth)
        assert np.array_equal(a.normals, b.normals)
        if scene.floor or any(p.texture for p in scene.placed):
            assert not np.array_equal(a.rgb, b.rgb)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mesh", ["sphere", "cube"])
def test_both_renderers_draw_the_same_patterns(pattern, mesh):
    try:
        gl, rays = render.GLRenderer(96), renderers.open_renderer(96, "trimesh")
    except render.RenderError as error:
        pytest.skip(str(error))
    with gl, rays:
        scene = layout.scene_of([Thing(mesh, "red")], extras=Extras((pattern,), floor=pattern), seed=3)
        a, b = gl.render(scene).rgb.astype(int), rays.render(scene).rgb.astype(int)
        assert np.abs(a - b).mean() < 4
        # Where an edge lies within a pixel is a matter of samples; whole cells must not differ.
        assert (np.abs(a - b).max(-1) > 90).mean() < 0.01


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_close_around_an_axis(pattern):
    """On both sides of the seam the pattern is the same."""
    height = np.linspace(0.1, 1.9, 500)
    dress = Texture(pattern, (1, 1, 1), 8.0, (0.3, 0.7))
    sides = []
    for angle in (-np.pi + 1e-9, np.pi - 1e-9):
        points = np.stack([np.sin(angle) * np.ones_like(height), height, np.cos(angle) * np.ones_like(height)], -1)
        sides.append(texture.share(pattern, texture.coordinates(dress, AROUND, points, points)))
    assert (sides[0] == sides[1]).mean() > 0.99


@pytest.mark.parametrize(
    "pattern, share", [("striped", 0.5), ("checked", 0.5), ("dotted", np.pi * 0.34**2), ("brick", 0.12 + 0.88 * 0.06)]
)
def test_shares_of_the_second_colour(pattern, share):
    places = np.random.default_rng(0).uniform(0, 40, (40000, 3))
    uv = texture.coordinates(Texture(pattern, (1, 1, 1), 1.7, (0.2, 0.4), np.pi / 4), FLOOR, places, places)
    assert abs(texture.share(pattern, uv).mean() - share) < 0.02


def test_a_face_has_the_pattern_of_its_own_two_axes():
    points = np.array([[0.8, 0.3, 0.2], [0.1, 0.8, 0.2], [0.1, 0.3, 0.8]])
    uv = texture.coordinates(Texture("checked", (1, 1, 1), 1.0), FACING, points, np.eye(3))
    assert np.allclose(uv, [[0.2, 0.3], [0.1, 0.2], [0.1, 0.3]])
