"""X/Y/Z plot: an axis for every parameter, its values kept on the cell's own processing object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lib_attn.settings import GROUPS, General, Group, Param, Settings

PREFIX = "[Attn] "
ATTRIBUTE = "attention_lab_overrides"
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
    overrides = dict(getattr(p, ATTRIBUTE, None) or {})
    if not overrides:
        return settings, []
    values = settings.flat()
    switches = [f"{g.name}.enabled" for g in GROUPS if g is not General]
    master = "general.enabled"
    if master not in overrides and not values[master] and any(_is_true(overrides.get(key)) for key in switches):
        values.update(dict.fromkeys(switches, False))
        values[master] = True
    return Settings.read({**values, **overrides})


def _is_true(value: Any) -> bool:
    return str(value).strip().lower() == "true"


def _apply(key: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, x: Any, xs: Any) -> None:
        set_override(p, key, x)

    return apply


def _confirm(param: Param) -> Callable[[Any, Iterable[Any]], None]:
    """The host calls this with all values of an axis before the first picture."""

    def confirm(p: Any, xs: Iterable[Any]) -> None:
        for x in xs:
            if param.kind in ("int", "float") and not param.low <= x <= param.high:
                raise RuntimeError(f"{param.label} goes from {param.low:g} to {param.high:g}, not to {x}")
            param.read(x)

    return confirm


def make_axes(grid: Any) -> list[Any]:
    """Axis options, made with the classes of the host's X/Y/Z module `grid`."""
    kinds = {"int": int, "float": float}
    axes = []
    for group in GROUPS:
        for param in group.params():
            choices = None
            if param.kind == "bool":
                choices = grid.boolean_choice(reverse=True)
            elif param.kind == "choice":
                choices = _choices(param)
            name = label(group, param)
            axes.append(
                grid.AxisOption(
                    name, kinds.get(param.kind, str), _apply(param.key), confirm=_confirm(param), choices=choices
                )
            )
    return axes


def _choices(param: Param) -> Callable[[], list[str]]:
    return lambda: list(param.choices)


def install(scripts_data: Iterable[Any]) -> int:
    """Add our axes to the host's X/Y/Z script; returns how many are new. Doing it twice adds nothing."""
    for data in scripts_data:
        if data.script_class.__module__ in GRID_MODULES:
            known = {axis.label for axis in data.module.axis_options}
            new = [axis for axis in make_axes(data.module) if axis.label not in known]
            data.module.axis_options.extend(new)
            return len(new)
    return 0
