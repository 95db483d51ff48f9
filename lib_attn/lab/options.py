"""Command-line options made from the settings schema."""

from __future__ import annotations

import argparse
from typing import Any

from lib_attn.lab.errors import LabError
from lib_attn.lab.variants import load_presets, read_settings
from lib_attn.settings import GROUPS, Param, Settings

_PREFIX = "setting:"


def add_settings_options(options: argparse.ArgumentParser) -> None:
    """Add ``--near_sighted.tile 16`` and so on for every parameter, and ``--preset``."""
    options.add_argument("--preset", help=f"start from a preset: {', '.join(load_presets())}")
    for group in GROUPS:
        section = options.add_argument_group(group.label)
        for parameter in group.params():
            shown = _nargs(parameter) | {"help": describe(parameter)}
            section.add_argument(f"--{parameter.key}", dest=_PREFIX + parameter.key, default=None, **shown)


def _nargs(parameter: Param) -> dict[str, Any]:
    if parameter.kind == "bool":
        return {"nargs": "?", "const": "true", "metavar": "on|off"}
    return {"metavar": {"int": "N", "float": "X"}.get(parameter.kind, "TEXT")}


def describe(parameter: Param) -> str:
    """Help text: what it does, range or choices, default."""
    reach = f" {parameter.low:g} … {parameter.high:g}." if parameter.low is not None else ""
    reach = f" One of {', '.join(parameter.choices)}." if parameter.choices else reach
    default = {True: "on", False: "off"}.get(parameter.default) if parameter.kind == "bool" else parameter.default
    return f"{parameter.help}{reach} Default {default}.".replace("%", "%%")


def settings_of(args: argparse.Namespace) -> Settings:
    """The preset's settings with the options over them. A technique with any option given is switched on.

    Raises:
        LabError: when the preset or a value is not understood.
    """
    values: dict[str, Any] = {}
    if args.preset is not None:
        presets = load_presets()
        if args.preset not in presets:
            raise LabError(f"There is no preset {args.preset!r}: there are {', '.join(presets)}.")
        values.update(presets[args.preset].flat())
    given = {k.removeprefix(_PREFIX): v for k, v in vars(args).items() if k.startswith(_PREFIX) and v is not None}
    for key in given:
        technique = key.partition(".")[0]
        if technique != "general":
            values.update({f"{technique}.enabled": True, "general.enabled": True})
    return read_settings(values | given)
