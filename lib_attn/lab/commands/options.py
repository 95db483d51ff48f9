"""Options that commands share, and the specifications they describe; those of techniques come from the schema."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.embedded import MODELS as EMBEDDED
from lib_attn.lab.drawing.embedded import PROMPTS, checkpoint_file
from lib_attn.lab.drawing.generate import picture_request
from lib_attn.lab.drawing.sampling import SAMPLERS, Request
from lib_attn.lab.drawing.unet import DTYPES
from lib_attn.lab.drawing.variants import Variant, load_presets, read_settings
from lib_attn.lab.measuring.choice import VariantChoice
from lib_attn.lab.measuring.speed import MODELS
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import pick_device
from lib_attn.settings import TECHNIQUES, General, Param, Settings

_PREFIX = "setting:"
#: Parameters that take a picture; here the name of its file.
PICTURES = {p.key for group in TECHNIQUES for p in group.all_params() if p.kind == "picture"}


def add_preset_option(options: argparse._ActionsContainer) -> None:
    """``--preset``."""
    options.add_argument("--preset", metavar="NAME", help=f"start from a preset: {'; '.join(load_presets())}")


def add_settings_options(options: argparse.ArgumentParser) -> None:
    """Add ``--near_sighted.tile 16`` and so on for every parameter, a group for each technique, its advanced ones last.

    Any of them switches its technique on.
    """
    for group in (*TECHNIQUES, General):
        section = options.add_argument_group(group.label, group.about.replace("%", "%%") or None)
        named = [p for p in group.all_params() if p.kind == "picture" or not p.transient]
        for parameter in sorted(named, key=lambda p: p.advanced):
            shown = _nargs(parameter) | {"help": describe(parameter)}
            section.add_argument(f"--{parameter.key}", dest=_PREFIX + parameter.key, default=None, **shown)


def _nargs(parameter: Param) -> dict[str, Any]:
    if parameter.kind == "bool":
        return {"nargs": "?", "const": "true", "metavar": "on|off"}
    if parameter.choices:
        return {"metavar": "|".join(parameter.choices)}
    return {
        "metavar": {"int": "N", "float": "X", "blocks": "BLOCKS", "file": "NAME", "picture": "FILE"}.get(
            parameter.kind, "TEXT"
        )
    }


def describe(parameter: Param) -> str:
    """Help text: what it does, range, default; choices stand with the option's name."""
    reach = f" {parameter.low:g} … {parameter.high:g}." if parameter.low is not None else ""
    default = {True: "on", False: "off"}.get(parameter.default) if parameter.kind == "bool" else parameter.default
    return f"{parameter.help}{reach} Default {'none' if default == '' else default}.".replace("%", "%%")


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
        if key in PICTURES:
            given[key] = _as_base64(Path(given[key]))
        if technique != "general":
            values.update({f"{technique}.enabled": True, "general.enabled": True})
    return read_settings(values | given)


def _as_base64(file: Path) -> str:
    """Raises `LabError` when it cannot be read."""
    try:
        return base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise LabError(f"{file} cannot be read: {error.strerror}.") from None


def add_picture_options(options: argparse.ArgumentParser) -> None:
    """Prompt, size and so on."""
    options.add_argument("--prompt", metavar="TEXT", default="a large red sphere left of a small blue cube",
                         help="what to draw (default: a large red sphere left of a small blue cube)")  # fmt: skip
    options.add_argument("--negative", metavar="TEXT", default="", help="what not to draw")
    for side in ("--width", "--height"):
        text = "pixels, a multiple of 8 (default: as the model was trained, 256 for the embedded one)"
        options.add_argument(side, type=int, metavar="N", help=text)
    options.add_argument("--steps", type=int, metavar="N", default=20, help="(default 20)")
    options.add_argument(
        "--sampler", metavar="NAME", default="Euler a", help=f"{', '.join(SAMPLERS)} (default Euler a)"
    )
    options.add_argument("--cfg", type=float, metavar="X", default=5.0,
                         help="strength of the prompt; 1: no negative (default 5)")  # fmt: skip
    options.add_argument("--seed", type=int, metavar="N", default=1, help="-1 draws one (default 1)")


def request_of(args: argparse.Namespace, batch: int = 1) -> Request:
    """The pictures that `add_picture_options` describe.

    Raises:
        LabError: when an option makes no sense.
    """
    width, height = size_of(args)
    return picture_request(
        args.prompt, negative=args.negative, seed=args.seed, width=width, height=height, steps=args.steps,
        sampler=args.sampler, cfg=args.cfg, batch=batch,
    )  # fmt: skip


def size_of(args: argparse.Namespace) -> tuple[int, int]:
    """(width, height) in pixels: as asked for, and what is not asked for as the model was trained."""
    asked = args.width, args.height
    return asked if None not in asked else tuple(model_of(args).side if n is None else n for n in asked)


def add_model_options(options: argparse.ArgumentParser) -> None:
    """Checkpoint, precision and device."""
    options = options.add_argument_group("the model")
    options.add_argument(
        "--checkpoint",
        type=checkpoint_file,
        metavar="FILE",
        help=f"safetensors, its yaml beside it, or {' or '.join(EMBEDDED)}, which come with the project (default: the "
        "first)",
    )
    options.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default fp32)")
    options.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    _add_learned_option(options)


def _add_learned_option(options: argparse._ActionsContainer) -> None:
    options.add_argument("--learned", type=Path, metavar="FOLDER", help="looked at first for learned files")


def model_of(args: argparse.Namespace) -> ModelSpec:
    """The model that `add_model_options` describe.

    Raises:
        LabError: when there is no such device here.
    """
    return ModelSpec(args.checkpoint, pick_device(args.device), args.precision, args.learned)


def add_variant_options(options: argparse.ArgumentParser) -> None:
    """Options that say what is compared."""
    options.add_argument("--setting", action="append", default=[], metavar="'NAME: tile=16 pool=4'",
                         help="a setting of ours to measure; may be given several times")  # fmt: skip
    options.add_argument("--presets", action="store_true", help="measure the shipped presets of near-sighted attention")
    options.add_argument("--only", default="", help="only these variants, by name, separated by commas")
    folders = {"webui": "webui folder, for its Hypertile", "slothful": "checkout of comfyui_slothful_attention"}
    for name, what in folders.items():
        variable = f"{name.upper()}_DIR"
        options.add_argument(
            f"--{name}", default=os.environ.get(variable), metavar="FOLDER", help=f"{what} (or {variable})"
        )


def choice_of(args: argparse.Namespace) -> VariantChoice:
    """What `add_variant_options` describe."""
    only = tuple(dict.fromkeys(name.strip() for name in args.only.split(",") if name.strip()))
    return VariantChoice(tuple(args.setting), args.presets, only, args.webui, args.slothful)


def variants_of(args: argparse.Namespace, *, free: bool = True) -> tuple[Variant, ...]:
    """The variants of `choice_of`; what cannot be had is said on the standard error stream."""
    variants, missing = choice_of(args).variants(free=free)
    for sentence in missing:
        print(sentence, file=sys.stderr)
    return tuple(variants)


def add_request_options(options: argparse.ArgumentParser) -> None:
    """Options that say what is drawn on which checkpoint."""
    options.add_argument(
        "--checkpoint", type=checkpoint_file, default=None, help="safetensors file of the SD 1.x layout"
    )
    options.add_argument("--prompt", action="append", default=[], help="may be given several times")
    options.add_argument("--negative", default="")
    options.add_argument("--images", type=int, default=6, help="pictures, over the prompts in turn (default 6)")
    options.add_argument("--seed", type=int, default=1, help="seed of the first picture (default 1)")
    options.add_argument("--steps", type=int, default=20, help="(default 20)")
    options.add_argument("--sampler", default="DDIM", help=f"{', '.join(SAMPLERS)} (default DDIM)")
    options.add_argument("--cfg", type=float, default=5.0, help="(default 5)")
    options.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default fp32)")
    options.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    _add_learned_option(options)


def requests_of(args: argparse.Namespace, sizes: Sequence[tuple[int, int]]) -> tuple[Request, ...]:
    """One request per image and size, as `add_request_options` describe.

    Raises:
        LabError: when an option makes no sense.
    """
    if args.images < 1:
        raise LabError("--images is 1 at least.")
    prompts = tuple(args.prompt) or PROMPTS
    how = (args.steps, args.sampler, args.cfg)
    return tuple(
        Request((prompts[i % len(prompts)],), (args.seed + i,), args.negative, *size, *how)
        for size in sizes
        for i in range(args.images)
    )


def add_unet_options(options: argparse.ArgumentParser, precision: str) -> None:
    """Options of a full-size U-Net with random weights."""
    options.add_argument("--rows", type=int, default=2, help="rows of a U-Net batch (default 2: one guided picture)")
    text = f"autocast (default {precision})"
    options.add_argument("--precision", choices=tuple(DTYPES), default=precision, help=text)
    options.add_argument("--model", choices=tuple(MODELS), default="sd15", help="toy is for trying out the command")
