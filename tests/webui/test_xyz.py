"""X/Y/Z axes."""

from types import SimpleNamespace

import pytest

from lib_attn.presets import Presets, shipped
from lib_attn.settings import Settings, all_params
from tests.conftest import fake_grid_data


@pytest.fixture
def xyz(host):
    from lib_attn.webui import xyz

    return xyz


@pytest.fixture
def axes(xyz):
    return {axis.label: axis for axis in xyz.make_axes(fake_grid_data().module)}


def settings_of(xyz, p, fields=None):
    return xyz.apply_overrides(p, Settings.read(fields or {})[0])


def test_an_axis_for_every_parameter(axes):
    assert len(axes) == len(all_params())
    assert all(label.startswith("[Attn] ") for label in axes)
    assert {"[Attn] Attention Lab", "[Attn] Near-sighted", "[Attn] Near-sighted: Tile size"} <= set(axes)


@pytest.mark.parametrize("module", ["xyz_grid.py", "scripts.xyz_grid"])
def test_installing_twice_adds_once(xyz, module):
    data = [SimpleNamespace(script_class=object, module=None), fake_grid_data(module)]
    assert xyz.install(data) == len(all_params()) and xyz.install(data) == 0
    labels = [axis.label for axis in data[1].module.axis_options]
    assert len(labels) == len(set(labels)) == len(all_params()) + 1


def test_without_the_grid_script(xyz):
    assert xyz.install([]) == 0


def test_every_axis_sets_its_parameter(xyz, axes):
    for param, axis in zip(all_params(), axes.values(), strict=True):
        low = param.low or 0
        values = {"int": max(3, low), "float": max(0.5, low), "bool": "True", "blocks": "in4;out6-11", "file": ""}
        value = values.get(param.kind, "some text")
        value = param.choices[-1] if param.kind == "choice" else value
        assert axis.type in (int, float, str)
        axis.confirm(None, [axis.type(value)])
        p = SimpleNamespace()
        axis.apply(p, axis.type(value), [value])
        settings, messages = settings_of(xyz, p)
        assert not messages and settings.flat()[param.key] == param.read(value), param.key


def test_values_are_confirmed_before_the_first_picture(axes):
    for label, value in [
        ("[Attn] Near-sighted: Tile size", 999), ("[Attn] Near-sighted: Shift", float("nan")),
        ("[Attn] Near-sighted: Hires pass", "perhaps"), ("[Attn] Near-sighted: Blocks", "in4)("),
        ("[Attn] Near-sighted", "perhaps"),
    ]:  # fmt: skip
        with pytest.raises((RuntimeError, ValueError)):
            axes[label].confirm(None, [value])


def test_choices(axes):
    assert axes["[Attn] Near-sighted: Hires pass"].choices() == ["same", "off", "only"]
    assert axes["[Attn] Near-sighted"].choices() == ["False", "True"]
    assert axes["[Attn] Near-sighted: Tile size"].choices is None


def test_an_axis_wins_over_the_panel(xyz):
    p = SimpleNamespace()
    xyz.set_override(p, "near_sighted.tile", 64)
    settings, _ = settings_of(xyz, p, {"near_sighted": {"enabled": True, "tile": 8, "pool": 2}})
    assert [(g.tile, g.pool) for g in settings.active()] == [(64, 2)]


def test_overrides_are_a_new_dictionary_each_time(xyz):
    first = SimpleNamespace()
    xyz.set_override(first, "near_sighted.tile", 8)
    second = SimpleNamespace(**vars(first))
    xyz.set_override(second, "near_sighted.tile", 16)
    assert getattr(first, xyz.ATTRIBUTE) == {"near_sighted.tile": 8}


@pytest.mark.parametrize(
    "overrides, panel, active",
    [
        ({"near_sighted.tile": 8}, {}, False),
        ({"near_sighted.tile": 8}, {"near_sighted": {"enabled": True}}, True),
        ({"near_sighted.enabled": "True"}, {}, True),
        ({"near_sighted.enabled": "False"}, {"near_sighted": {"enabled": True}}, False),
        ({"general.enabled": "True"}, {}, False),
        ({"general.enabled": "True"}, {"enabled": False, "near_sighted": {"enabled": True}}, True),
        ({"general.enabled": "False", "near_sighted.enabled": "True"}, {}, False),
        ({"general.enabled": "False"}, {"near_sighted": {"enabled": True}}, False),
    ],
)
def test_what_switches_on(xyz, overrides, panel, active):
    p = SimpleNamespace()
    for key, value in overrides.items():
        xyz.set_override(p, key, value)
    assert any(settings_of(xyz, p, panel)[0].active()) == active


@pytest.fixture
def presets(tmp_path):
    return Presets(tmp_path / "presets")


def test_basic_axes_and_presets(xyz, presets):
    labels = [axis.label for axis in xyz.make_axes(fake_grid_data().module, presets, everything=False)]
    assert labels[0] == "[Attn] Preset" and len(labels) == 1 + sum(not p.advanced for p in all_params())
    assert "[Attn] Near-sighted: Tile size" in labels and "[Attn] Near-sighted: Halo" not in labels
    assert len(xyz.make_axes(fake_grid_data().module, presets)) == 1 + len(all_params())


def test_the_preset_axis(xyz, presets):
    axis = xyz.make_axes(fake_grid_data().module, presets)[0]
    presets.save("mine", Settings.read({"contrast.enabled": True})[0])
    assert axis.choices() == ["All off", *shipped(), "mine"]
    panel = {"near_sighted": {"enabled": True, "tile": 24}}
    active = {}
    for name in ("All off", "Layout only", "mine", "Fast 1024 (SD 1.x)"):
        axis.confirm(SimpleNamespace(), [name])
        p = SimpleNamespace()
        axis.apply(p, name, [name])
        settings, messages = settings_of(xyz, p, panel)
        assert not messages
        active[name] = [(g.name, getattr(g, "tile", None)) for g in settings.active()]
    own = ("near_sighted", 24)
    assert active == {
        "All off": [], "Layout only": [own, ("key_mix", None)], "mine": [own, ("contrast", None)],
        "Fast 1024 (SD 1.x)": [("near_sighted", 8)],
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="no preset"):
        axis.confirm(SimpleNamespace(), ["Layout only", "gone"])


def test_a_parameters_axis_moves_the_presets_value(xyz, presets, axes):
    p = SimpleNamespace()
    axes["[Attn] Near-sighted: Tile size"].apply(p, 32, [32])
    xyz.make_axes(fake_grid_data().module, presets)[0].apply(p, "Fast 1024 (SD 1.x)", [])
    settings, _ = settings_of(xyz, p)
    assert [(g.tile, g.pool) for g in settings.active()] == [(32, 8)]


def cells(xyz, axes, values, panel, host, **job):
    """What the first and the second cell of a grid are told."""
    from lib_attn.webui import grid

    p = SimpleNamespace(width=512, height=512, steps=20, cfg_scale=7.0, batch_size=1, negative_prompt="", **job)
    infos = []
    for label, found in values.items():
        axes[label].confirm(p, found)
        infos.append(SimpleNamespace(axis=axes[label], values=found))
    for name, info in zip("xyz", [*infos, None, None, None], strict=False):
        setattr(host.shared.state, f"xyz_plot_{name}", info)
    settings, _ = Settings.read(panel)
    return grid.told(p, settings, False), grid.told(SimpleNamespace(**vars(p)), settings, False)


def test_an_axis_over_a_technique_that_is_off_is_told_with_its_cells(xyz, axes, host):
    tile = {"[Attn] Near-sighted: Tile size": [8, 16]}
    first, second = cells(xyz, axes, tile, {"enabled": True}, host)
    told = "X/Y/Z: Near-sighted is off, so its axis changes nothing. "
    assert first == [told + "Cells: Near-sighted: Tile size = 8; Near-sighted: Tile size = 16."] and second == []
    on = {"near_sighted.enabled": True}
    assert cells(xyz, axes, tile, on, host)[0] == []
    switched = tile | {"[Attn] Near-sighted": ["False", "True"]}
    assert cells(xyz, axes, switched, {"enabled": True}, host)[0] == []


def test_a_cell_that_cannot_act_is_told(xyz, axes, host):
    source = {"[Attn] Key mix: Source": ["first image", "blurred"]}
    told, _ = cells(xyz, axes, source, {"key_mix.enabled": True}, host)
    assert told == ["X/Y/Z: Key mix: Needs batch size 2 or more. Cells: Key mix: Source = first image."]
    assert cells(xyz, axes, source, {"key_mix.enabled": True}, host) != ([], [])


def test_a_job_without_our_axes_is_told_nothing(xyz, host):
    from lib_attn.webui import grid

    assert grid.told(SimpleNamespace(), Settings(), False) == []
