"""Presets: what is shipped works, and no name leads out of the folder."""

import dataclasses
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_attn.presets import ALL_OFF, MAX_BYTES, MAX_FILES, Presets, check_name, shipped
from lib_attn.settings import TECHNIQUES, NearSighted, Settings
from lib_attn.unet.layers import Layer, parse_selector
from lib_attn.unet.profile import FAMILIES
from tests.strategies import settings

BAD_NAMES = [
    "", " ", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "C:", "C:x", "a\0b", "a\nb", ".hidden", "con",
    "NUL", "com1", "LPT9", "a" * 61, "あ" * 67, "-x", "x ;", "x*", "x?", '"x"', "<x>", "|", "~", "$HOME", None, 3, [],
    {"a": 1}, b"x", "x\u202e", "a:b", "a..b", "x.", "con.txt", ".x", "All off", "all OFF",
]  # fmt: skip


@pytest.fixture
def presets(tmp_path):
    return Presets(tmp_path / "presets")


def test_shipped_presets_are_valid_and_on():
    for name, fields in shipped().items():
        value, messages = Settings.read(fields)
        assert not messages and any(value.active()), name


def test_the_preset_that_made_a_picture_is_known_by_its_text(presets):
    """By its values alone, files aside; none where another technique is on, a value was moved or nothing is on."""
    for name in presets.names():
        text = presets.apply(name, Settings())[0].to_infotext()
        assert presets.matching(Settings.from_infotext(text)[0]) == name
    look, _ = presets.apply("Same look as a dictionary", Settings())

    def changed(**values):
        return look.replace(dictionary=dataclasses.replace(look["dictionary"], **values))

    assert presets.matching(changed(file="mine#0123456789")) == "Same look as a dictionary"
    both, _ = presets.apply("Fast 512", look)
    for other in (changed(strength=2.0), both, Settings()):
        assert presets.matching(other) is None
    presets.save("mine", changed(file="warm", strength=2.0))
    assert presets.matching(changed(file="warm#0123456789", strength=2.0)) == "mine"
    assert presets.matching(changed(file="cool#0123456789", strength=2.0)) is None


@pytest.mark.parametrize("family, expected", [("SD 1, 2", {6, 7, 8, 9, 10, 11}), ("SDXL", {3, 4, 5})])
def test_masactrl_acts_in_the_last_layers_of_each_family(family, expected):
    """Six of sixteen layers of SD 1.x, six of seventy of SDXL, as its authors' programs have it."""
    selector = parse_selector(Presets().read("Same subject (MasaCtrl)")[0]["key_mix"].blocks)
    chosen, layers = set(), 0
    for section, numbers, depth, count in FAMILIES[family]:
        for number in numbers:
            if selector.matches(Layer("", section, number, depth, 0, None, None)):
                assert section == "out"
                chosen.add(number)
                layers += count
    assert chosen == expected and layers == 6


def test_save_read_delete(presets):
    value, _ = Settings.read({"near_sighted": {"enabled": True, "tile": 24}})
    assert presets.save("  Mine (1024 px) ", value) == "Mine (1024 px)"
    assert presets.own_names() == ["Mine (1024 px)"] and presets.names()[-1] == "Mine (1024 px)"
    assert presets.read("Mine (1024 px)") == (value, [])
    assert presets.delete("Mine (1024 px)") == "Mine (1024 px)" and presets.own_names() == []


@given(settings())
def test_any_settings_come_back(tmp_path_factory, value):
    presets = Presets(tmp_path_factory.mktemp("presets"))
    presets.save("x", value)
    assert presets.read("x") == (value, [])


@pytest.mark.parametrize(
    "name", ["v1.2", "SD1.5 fast", "my_snake_preset", "4x fast", "(paren)", "Été à Paris", "x.json", "a-b+c"]
)
def test_ordinary_names_are_kept_as_they_are(presets, name):
    assert presets.save(name, Settings()) == name and presets.own_names() == [name]
    assert presets.has_own(name) and presets.delete(name) == name and presets.own_names() == []


def test_a_name_written_with_accents_of_their_own_is_found(presets, tmp_path):
    """As some systems store it."""
    presets.save("x", Settings())
    (tmp_path / "presets" / "x.json").rename(tmp_path / "presets" / "e\u0301te\u0301.json")
    assert presets.own_names() == ["été"] and presets.read("été")[1] == []
    presets.delete("été")
    assert presets.own_names() == []


def test_every_shipped_preset_says_what_it_is_for():
    presets = Presets()
    for name in shipped():
        about = presets.about(name)
        assert about and all(text.endswith(".") for text in about)
        groups, messages = presets.techniques(name)
        assert not messages and groups
        by_batch = any(getattr(group, "source", "") in ("first image", "batch mean") for group in groups)
        assert by_batch == ("Needs batch size 2 or more." in about)
    assert {group.name for n in shipped() for group in presets.techniques(n)[0]} == {t.name for t in TECHNIQUES}


def test_names_of_before_are_still_read():
    presets = Presets()
    for old, new in (
        ("Default", "Faster large pictures"),
        ("Fast 1024 (SD 1.x)", "Near-sighted 1024 (SD 1.x)"),
        ("SDXL", "SDXL from 1536 px"),
    ):
        assert presets.read(old) == presets.read(new) and presets.about(old) == presets.about(new) != []


def test_a_preset_sets_only_the_techniques_it_switches_on(presets):
    own, _ = Settings.read({"contrast": {"enabled": True, "keys": 0.5}, "near_sighted.tile": 99})
    first, _ = presets.apply("Near-sighted 1024 (SD 1.x)", own)
    both, _ = presets.apply("Negative every 3rd step", first)
    assert [g.name for g in both.active()] == ["near_sighted", "negative_skip", "contrast"]
    assert (both["near_sighted"].tile, both["near_sighted"].pool, both["contrast"].keys) == (8, 8, 0.5)
    assert not presets.changed("Near-sighted 1024 (SD 1.x)", both) and not presets.changed(
        "Negative every 3rd step", both
    )
    moved = both.replace(near_sighted=NearSighted(enabled=True, tile=9))
    assert presets.changed("Near-sighted 1024 (SD 1.x)", moved) and not presets.changed(
        "Negative every 3rd step", moved
    )
    off, _ = presets.apply(ALL_OFF, both)
    assert list(off.active()) == [] and off["near_sighted"].tile == 8
    presets.save("mine", own)
    assert [g.name for g in presets.techniques("mine")[0]] == ["contrast"]
    assert presets.apply("mine", first)[0]["near_sighted"].tile == 8


def test_names_of_any_script(presets):
    presets.save("高速プリセット", Settings())
    assert presets.own_names() == ["高速プリセット"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_names_are_refused_everywhere(presets, name, tmp_path):
    for action in (presets.read, presets.delete, lambda n: presets.save(n, Settings())):
        with pytest.raises(ValueError) as error:
            action(name)
        assert len(str(error.value)) < 200
    assert list(tmp_path.rglob("*")) == []


@given(st.text(max_size=80))
def test_an_accepted_name_is_a_plain_file_name(name):
    try:
        name = check_name(name)
    except ValueError:
        return
    assert (
        os.path.basename(name) == name
        and not set(name) & set('/\\:*?"<>|\0\n')
        and ".." not in name
        and name.strip() == name
    )


@pytest.mark.parametrize("name", ["Default", "default", "SDXL", "sdxl", "Layout only", "fast 1024 (sd 1.X)"])
def test_shipped_presets_are_read_only(presets, name):
    for action in (presets.delete, lambda n: presets.save(n, Settings())):
        with pytest.raises(ValueError, match="comes with the extension"):
            action(name)


def test_damaged_files_are_one_sentence(presets, tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    (folder / "deep.json").write_text("[" * 60000)
    (folder / "large.json").write_text(" " * (MAX_BYTES + 1))
    (folder / "folder.json").mkdir()
    for name in ("broken", "deep", "large", "folder", "missing"):
        with pytest.raises(ValueError) as error:
            presets.read(name)
        assert name in str(error.value)
    (folder / "list.json").write_text("[1]")
    (folder / "wild.json").write_text(json.dumps({"near_sighted": {"tile": "x"}, "y": 1}))
    assert presets.read("list")[0] == Settings() and len(presets.read("wild")[1]) == 2


def test_a_failed_write_leaves_the_old_preset(presets, monkeypatch, tmp_path):
    presets.save("mine", Settings())
    before = (tmp_path / "presets" / "mine.json").read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match="could not be written"):
        presets.save("mine", Settings.read({"near_sighted": {"enabled": True}})[0])
    assert [f.name for f in (tmp_path / "presets").iterdir()] == ["mine.json"]
    assert (tmp_path / "presets" / "mine.json").read_bytes() == before


def test_the_number_of_presets_is_bounded(presets, tmp_path):
    (tmp_path / "presets").mkdir()
    for i in range(MAX_FILES):
        (tmp_path / "presets" / f"p{i}.json").write_text("{}")
    with pytest.raises(ValueError, match="delete one first"):
        presets.save("one more", Settings())
    presets.save("p7", Settings())


def test_no_folder():
    presets = Presets()
    assert presets.names() == list(shipped()) and presets.read("Default")[1] == []
    with pytest.raises(ValueError):
        presets.save("mine", Settings())


def test_choosing_the_file_that_a_preset_leaves_open_is_no_change(tmp_path):
    presets = Presets(tmp_path)
    settings, _ = presets.apply("Same look as a dictionary", Settings())
    chosen = settings.replace(dictionary=dataclasses.replace(settings["dictionary"], file="mine"))
    assert not presets.changed("Same look as a dictionary", chosen)
    moved = chosen.replace(dictionary=dataclasses.replace(chosen["dictionary"], strength=0.5))
    assert presets.changed("Same look as a dictionary", moved)
    settings, _ = presets.apply("Underdrawing", Settings())
    other = settings.replace(depth_guide=dataclasses.replace(settings["depth_guide"], file="mine"))
    assert not presets.changed("Underdrawing", other)
    presets.save("my look", chosen)
    assert not presets.changed("my look", chosen) and presets.changed("my look", settings)
    another = chosen.replace(dictionary=dataclasses.replace(chosen["dictionary"], file="another"))
    assert presets.changed("my look", another)
