"""Scenes: exact captions, exact seeds, both renderers alike, sets that survive interruption and damage."""

import json

import numpy as np
import pytest

from lib_attn.learn.scenes import layout, meshes, render, renderers, shards, sources, vocabulary
from lib_attn.learn.scenes.__main__ import main
from lib_attn.learn.scenes.vocabulary import Thing

trimesh = pytest.importorskip("trimesh")


@pytest.fixture(scope="module")
def drawer():
    try:
        renderer = renderers.open_renderer(64)
    except render.RenderError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer


def fake(scene):
    value = int(sum(p.x for p in scene.placed) * 1000) % 255
    rgb = np.full((16, 16, 3), value, np.uint8)
    return render.Maps(rgb, np.zeros((16, 16), np.float32), np.zeros((16, 16, 3), np.float32), rgb[..., 0])


def spec(scenes=7, **more):
    return shards.SetSpec(seed=3, scenes=scenes, size=16, mix=layout.Mix(), shard_scenes=3, **more)


def test_captions():
    red, orange = Thing("cube", "red", "large"), Thing("torus", "orange")
    assert vocabulary.caption([red], 1, "", "grey") == "a large red cube, grey background"
    assert vocabulary.caption([orange], 1, "", "grey", style=1) == "an orange torus on a grey background"
    assert vocabulary.caption([orange], 3, "", "grey", style=2) == "three orange toruses"
    text = vocabulary.caption([red, orange], 1, "left of", "white")
    assert text == "a large red cube left of an orange torus, white background"
    assert vocabulary.without_colours(text) == "a large cube left of a torus, white background"
    assert vocabulary.without_colours("an orange cube") == "a cube"


def test_every_shape_and_colour_is_seen_in_training():
    held_out = [(c, s) for c in vocabulary.COLOURS for s in vocabulary.SHAPES if vocabulary.pair_is_held_out(c, s)]
    assert sorted(s for _, s in held_out) == sorted(vocabulary.SHAPES)
    assert len({c for c, _ in held_out}) == len(vocabulary.SHAPES)


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_splits_do_not_mix(split):
    mix = layout.Mix(split=split)
    for index in range(60):
        scene = layout.sample_scene(0, index, mix)
        assert vocabulary.is_held_out(scene.things) == scene.held_out == (split == "held-out")


def test_scene_depends_on_seed_and_index_alone():
    before = np.random.get_state()[1].copy()
    assert layout.sample_scene(5, 11) == layout.sample_scene(5, 11)
    assert layout.sample_scene(5, 11) != layout.sample_scene(6, 11)
    assert np.array_equal(before, np.random.get_state()[1])


def test_relation_is_drawn_as_said():
    for index in range(40):
        scene = layout.sample_scene(1, index, layout.Mix(kinds=(0, 1, 0)))
        if scene.relation:
            left = scene.placed[0] if scene.placed[0].x < scene.placed[1].x else scene.placed[1]
            first = scene.things[0] if scene.relation == "left of" else scene.things[1]
            assert left.mesh == first.name


def test_a_split_without_scenes_is_said():
    with pytest.raises(ValueError, match="No scene of split"):
        layout.sample_scene(0, 0, layout.Mix(kinds=(1, 0, 0), names=("cube",), colours=("red",), split="held-out"))


@pytest.mark.parametrize("name", meshes.PRIMITIVES)
def test_primitives_are_closed_and_face_outwards(name):
    mesh = meshes.primitive(name)
    solid = trimesh.Trimesh(mesh.positions, np.arange(len(mesh.positions)).reshape(-1, 3), process=True)
    solid.merge_vertices(merge_norm=True)
    assert solid.is_watertight and solid.volume > 0.3
    assert abs(mesh.positions[:, 1].min()) < 1e-6
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)
    faces = solid.face_normals
    corner = mesh.normals.reshape(-1, 3, 3).mean(1)
    assert len(faces) == len(corner) and (np.einsum("ij,ij->i", faces, corner) > 0.5).all()


def test_maps_fit_together(drawer):
    scene = layout.scene_of([Thing("sphere", "red"), Thing("cube", "blue")], relation="left of")
    maps = drawer.render(scene)
    assert maps.rgb.shape == (64, 64, 3) and maps.rgb.dtype == np.uint8
    seen = maps.mask > 0
    assert set(np.unique(maps.mask)) == {0, 1, 2}
    assert np.allclose(np.linalg.norm(maps.normals[seen], axis=1), 1, atol=1e-3)
    assert (maps.normals[seen][:, 2] >= 0).all()
    assert (maps.inverse_depth[seen] > 0.05).all() and (maps.inverse_depth[~seen] == 0).all()
    columns = np.arange(64)[None] * np.ones((64, 1))
    assert columns[maps.mask == 1].mean() < columns[maps.mask == 2].mean()
    middle = maps.rgb[maps.mask == 1].mean(0)
    assert middle[0] > 2 * middle[1] and middle[0] > 2 * middle[2]


def test_both_renderers_draw_the_same():
    try:
        gl, rays = render.GLRenderer(64), renderers.open_renderer(64, "trimesh")
    except render.RenderError as error:
        pytest.skip(str(error))
    with gl, rays:
        for index in range(3):
            scene = layout.sample_scene(2, index)
            a, b = gl.render(scene), rays.render(scene)
            both = (a.mask > 0) & (b.mask > 0)
            assert (a.mask != b.mask).mean() < 0.01
            assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 1.5
            assert np.abs(a.inverse_depth - b.inverse_depth)[both].max() < 0.02
            assert ((a.normals * b.normals).sum(-1)[both] > 0.98).mean() > 0.97


def test_unknown_renderer_words(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "moderngl", None)
    with pytest.raises(render.RenderError, match="pip install moderngl"):
        render.GLRenderer(32)


def test_set_round_trip(tmp_path, drawer):
    shards.write_set(tmp_path / "s", shards.SetSpec(1, 3, 64, layout.Mix(), shard_scenes=2), drawer.render)
    everything = list(shards.read_set(tmp_path / "s", ("rgb", "json", "depth", "normal", "mask")))
    assert [s["key"] for s in everything] == ["00000000", "00000001", "00000002"]
    scene = layout.sample_scene(1, 2, layout.Mix())
    maps = drawer.render(scene)
    last = everything[-1]
    assert np.array_equal(last["rgb"], maps.rgb) and np.array_equal(last["mask"], maps.mask)
    assert np.abs(last["depth"] - maps.inverse_depth).max() < 1e-4
    assert np.abs(last["normal"] - maps.normals).max() < 0.01
    assert last["json"] == json.loads(json.dumps(scene.attributes()))


def test_interrupted_set_goes_on_and_gives_the_same_bytes(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    shards.write_set(whole, spec(), fake)
    calls = []

    def stop_at_five(scene):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return fake(scene)

    with pytest.raises(KeyboardInterrupt):
        shards.write_set(cut, spec(), stop_at_five)
    assert [p.name for p in shards.shard_paths(cut)] == ["shard-00000.tar"] and not list(cut.glob("*.part"))
    drawn = []
    shards.write_set(cut, spec(), lambda s: (drawn.append(1), fake(s))[1])
    assert len(drawn) == 4
    for a, b in zip(shards.shard_paths(whole), shards.shard_paths(cut), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_other_settings_are_refused(tmp_path):
    shards.write_set(tmp_path, spec(), fake)
    with pytest.raises(shards.ShardError, match="other settings"):
        shards.write_set(tmp_path, spec(scenes=8), fake)


@pytest.mark.parametrize("share", [0.2, 0.55, 0.9])
def test_truncated_shard_is_one_sentence(tmp_path, share):
    path = shards.write_set(tmp_path, spec(3), fake)[0]
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    path.write_bytes(data[: int(end * share)])
    with pytest.raises(shards.ShardError, match="truncated or damaged") as caught:
        list(shards.read_shard(path))
    assert "\n" not in str(caught.value)


def test_full_disk_keeps_finished_shards(tmp_path, monkeypatch):
    import errno
    import tarfile

    whole = tarfile.TarFile.addfile

    def full(self, info, *rest):
        if info.name.startswith("00000004"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(self, info, *rest)

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(shards.ShardError, match="The disk is full"):
        shards.write_set(tmp_path, spec(), fake)
    assert [p.name for p in shards.shard_paths(tmp_path)] == ["shard-00000.tar"] and not list(tmp_path.glob("*.part"))


def test_empty_set_folder(tmp_path):
    with pytest.raises(shards.ShardError, match="holds no shards"):
        list(shards.read_set(tmp_path / "nothing"))


def test_users_meshes(tmp_path, drawer):
    trimesh.creation.box().export(tmp_path / "bigBox_01.stl")
    trimesh.creation.icosphere().export(tmp_path / "ball.obj")
    trimesh.creation.cylinder(1, 2).export(tmp_path / "tin.glb")
    (tmp_path / "broken.obj").write_text("v 0 0\nf 1 2 9\n")
    (tmp_path / "captions.json").write_text(json.dumps({"tin.glb": "tin can"}))
    library = sources.folder(tmp_path)
    assert list(library.all_names) == ["ball", "big box", "tin can"]
    assert len(library.problems) == 1 and library.problems[0].startswith("broken.obj")
    mesh = library.mesh("tin can")
    assert np.isclose(np.ptp(mesh.positions, axis=0).max(), 2.0, atol=1e-5)
    drawer_of_users = type(drawer)(64, library.mesh)
    maps = drawer_of_users.render(layout.scene_of([Thing("big box", "green")]))
    assert (maps.mask == 1).sum() > 50


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "holds no triangles|cannot be read"),
        ("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "has no size"),
        ("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    ],
)
def test_bad_meshes_are_one_sentence(tmp_path, content, words):
    path = tmp_path / "bad.obj"
    path.write_text(content)
    with pytest.raises(meshes.MeshError, match=words) as caught:
        meshes.load_mesh(path)
    assert "\n" not in str(caught.value) and "bad.obj" in str(caught.value)


def test_empty_and_missing_mesh_folders(tmp_path):
    with pytest.raises(meshes.MeshError, match="holds no meshes"):
        sources.folder(tmp_path)
    with pytest.raises(meshes.MeshError, match="is not a folder"):
        sources.folder(tmp_path / "missing")
    with pytest.raises(meshes.MeshError, match="No CC0 furniture"):
        sources.furniture_catalogue(tmp_path)


def test_furniture_takes_the_free_part_only(tmp_path):
    import zipfile

    cube = trimesh.creation.box().export(file_type="obj")
    for archive, licence in (("free", "Public domain"), ("by", "Creative Commons Attribution 3.0")):
        with zipfile.ZipFile(tmp_path / f"{archive}.sh3f", "w") as pack:
            pack.writestr(
                "PluginFurnitureCatalog.properties",
                f"license={licence}\nname#1=Ch\\u00e2teau {archive}\ncategory#1=Office\nmodel#1=/a/a.obj\n",
            )
            pack.writestr("a/a.obj", cube)
    library = sources.furniture(tmp_path)
    assert list(library.all_names) == ["château free"]
    assert library.mesh("château free").faces == 12


def test_command_line(tmp_path, capsys):
    pytest.importorskip("tqdm")
    out = tmp_path / "set"
    try:
        renderers.open_renderer(32).close()
    except render.RenderError as error:
        pytest.skip(str(error))
    assert main([str(out), "--scenes", "3", "--size", "32", "--maps", "rgb"]) == 0
    assert len(list(shards.read_set(out))) == 3
    rows = tmp_path / "rows"
    assert (
        main([str(rows), "--scenes", "4", "--size", "32", "--maps", "rgb", "--kinds", "0,0,0,1", "--textured", "1"])
        == 0
    )
    assert all(s["json"]["caption"].startswith(("a row of", "a grid of")) for s in shards.read_set(rows))
    assert main([str(out), "--scenes", "4", "--size", "32", "--maps", "rgb"]) == 1
    assert "other settings" in capsys.readouterr().err
    assert main([str(tmp_path / "b"), "--meshes", str(tmp_path / "missing")]) == 1
