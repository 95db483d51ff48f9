"""X/Y/Z plot: axes for presets and parameters, their values kept on the cell's own processing object."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lib_attn.learned.files import Loader
from lib_attn.presets import ALL_OFF, Presets
from lib_attn.settings import GROUPS, TECHNIQUES, General, Group, Param, Settings

PREFIX = "[Attn] "
PRESET = f"{PREFIX}Preset"
PRESET_KEY = "preset"
GRID = "attention_lab_grid"
ATTRIBUTE = "attention_lab_overrides"
MAX_CELLS, MAX_NAMED = 2000, 4
GRID_MODULES = ("xyz_grid.py", "scripts.xyz_grid", "xyz_grid")


def label(group: type[Group], param: Param) -> str:
    """``[Attn] Near-sighted: Tile size``; switches go by their technique's name alone."""
    if group is General or param.name == "enabled":
        return PREFIX + param.label
    return f"{PREFIX}{group.label}: {param.label}"


def set_override(p: Any, key: str, value: Any) -> None:
    """Note an axis value on `p`. The dictionary is made anew: cells are shallow copies and would share it."""
    setattr(p, ATTRIBUTE, {**getattr(p, ATTRIBUTE, {}), key: value})


def apply_overrides(p: Any, settings: Settings) -> tuple[Settings, list[str]]:
    """`settings` with the axis values of this cell on top, and a sentence for each that was refused.

    A parameter's axis implies nothing about on and off. A technique's own on/off axis, where the master switch is
    off, switches on this technique and no other; the master switch has an axis of its own, which wins.
    """
    return overridden(settings, dict(getattr(p, ATTRIBUTE, None) or {}))


def overridden(settings: Settings, overrides: dict[str, Any]) -> tuple[Settings, list[str]]:
    """See `apply_overrides`. A preset comes first: parameters of other axes move its values."""
    if not overrides:
        return settings, []
    messages: list[str] = []
    found = overrides.pop(PRESET_KEY, None)
    if found is not None:
        presets, name = found
        try:
            settings, messages = presets.apply(name, settings)
        except ValueError as error:
            messages = [f"{error}."]
    values = settings.flat()
    switches = [f"{g.name}.enabled" for g in GROUPS if g is not General]
    master = "general.enabled"
    if master not in overrides and not values[master] and any(_is_true(overrides.get(key)) for key in switches):
        values.update(dict.fromkeys(switches, False))
        values[master] = True
    settings, more = Settings.read({**values, **overrides})
    return settings, [*messages, *more]


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() == "true"


def _apply(key: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, x: Any, xs: Any) -> None:
        set_override(p, key, x)

    apply.attention_lab_key = key
    return apply


def _apply_preset(presets: Presets) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, x: Any, xs: Any) -> None:
        set_override(p, PRESET_KEY, (presets, x))

    apply.attention_lab_key, apply.attention_lab_presets = PRESET_KEY, presets
    return apply


def _confirm_preset(presets: Presets) -> Callable[[Any, Iterable[Any]], None]:
    def confirm(p: Any, xs: Iterable[Any]) -> None:
        for x in xs:
            try:
                if x != ALL_OFF:
                    presets.read(x)
            except ValueError as error:
                raise RuntimeError(f"{error}.") from None
        _note_grid(p)

    return confirm


def _note_grid(p: Any) -> None:
    """All cells are copies of `p` and share this: the first one tells what is to be told of the whole grid."""
    if p is not None and getattr(p, GRID, None) is None:
        setattr(p, GRID, {"told": False})


def tell_grid(
    p: Any, settings: Settings, axes: Iterable[Any], reasons: Callable[[Settings], Iterable[str]]
) -> list[str]:
    """Sentences on cells of ours in which nothing happens; empty in every cell but the first.

    Args:
        settings: the panel's, before any axis.
        axes: the host's ``AxisInfo`` (axis, values) of X, Y and Z, once they are known.
        reasons: gives what keeps the techniques of some settings from acting.
    """
    grid = getattr(p, GRID, None)
    if grid is None or grid["told"]:
        return []
    grid["told"] = True
    ours = [(info.axis, list(info.values)) for info in axes if info is not None and _key(info.axis)]
    found: dict[str, list[str]] = {}
    for cell in itertools.islice(itertools.product(*([(axis, x) for x in values] for axis, values in ours)), MAX_CELLS):
        for reason in _reasons(cell, settings, reasons):
            found.setdefault(reason, []).append(
                ", ".join(f"{axis.label.removeprefix(PREFIX)} = {x}" for axis, x in cell)
            )
    return [f"X/Y/Z: {reason} Cells: {_some(cells)}." for reason, cells in found.items()]


def _reasons(cell: Any, settings: Settings, reasons: Callable[[Settings], Iterable[str]]) -> Iterator[str]:
    overrides = {
        _key(axis): (axis.apply.attention_lab_presets, x) if _key(axis) == PRESET_KEY else x for axis, x in cell
    }
    made, _ = overridden(settings, dict(overrides))
    on = {group.name for group in made.active()}
    labels = {group.name: group.label for group in TECHNIQUES}
    for technique in dict.fromkeys(key.partition(".")[0] for key in overrides):
        if technique in labels and technique not in on and f"{technique}.enabled" not in overrides:
            yield f"{labels[technique]} is off, so its axis changes nothing."
    yield from reasons(made)


def _some(cells: list[str]) -> str:
    more = len(cells) - MAX_NAMED
    return "; ".join(cells[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _key(axis: Any) -> str:
    return getattr(getattr(axis, "apply", None), "attention_lab_key", "")


def _confirm(param: Param, files: Loader) -> Callable[[Any, Iterable[Any]], None]:
    """The host calls this with all values of an axis before the first picture."""

    def confirm(p: Any, xs: Iterable[Any]) -> None:
        for x in xs:
            if param.kind in ("int", "float") and not param.low <= x <= param.high:
                raise RuntimeError(f"{param.out_of_range(x)}.")
            if param.read(x) and param.kind == "file":
                files.load(param.file, x)
        _note_grid(p)

    return confirm


def make_axes(
    grid: Any, presets: Presets | None = None, everything: bool = True, files: Loader | None = None
) -> list[Any]:
    """Axis options, made with the classes of the host's X/Y/Z module `grid`.

    Args:
        presets: for an axis of presets.
        everything: an axis for every parameter; otherwise for those that are not advanced.
        files: for the names of learned files.
    """
    kinds, files = {"int": int, "float": float}, files or Loader()
    axes = []
    if presets is not None:
        axes.append(
            grid.AxisOption(
                PRESET, str, _apply_preset(presets), confirm=_confirm_preset(presets),
                choices=lambda: [ALL_OFF, *presets.names()],
            )
        )  # fmt: skip
    for group in GROUPS:
        for param in group.params():
            if param.advanced and not everything:
                continue
            choices = None
            if param.kind == "bool":
                choices = grid.boolean_choice(reverse=True)
            elif param.kind == "choice":
                choices = _choices(param)
            elif param.kind == "file":
                choices = _names(param, files)
            name = label(group, param)
            axes.append(
                grid.AxisOption(
                    name, kinds.get(param.kind, str), _apply(param.key), confirm=_confirm(param, files), choices=choices
                )
            )
    return axes


def _choices(param: Param) -> Callable[[], list[str]]:
    return lambda: list(param.choices)


def _names(param: Param, files: Loader) -> Callable[[], list[str]]:
    return lambda: files.folders().names(param.file)


def install(
    scripts_data: Iterable[Any], presets: Presets | None = None, everything: bool = True, files: Loader | None = None
) -> int:
    """Add our axes to the host's X/Y/Z script; returns how many are new. Doing it twice adds nothing.

    Args:
        presets, everything, files: see `make_axes`.
    """
    for data in scripts_data:
        if data.script_class.__module__ in GRID_MODULES:
            known = {axis.label for axis in data.module.axis_options}
            new = [axis for axis in make_axes(data.module, presets, everything, files) if axis.label not in known]
            data.module.axis_options.extend(new)
            return len(new)
    return 0
