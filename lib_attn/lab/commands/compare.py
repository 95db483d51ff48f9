"""``compare``: the same seeds without and with a technique.

With nothing named, each technique where it has something to do, as pairs (what ./demo.sh draws); with a prompt, a
setting or presets, one labelled grid.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lib_attn.lab.commands.options import add_model_options, model_of, size_of
from lib_attn.lab.drawing import pictures
from lib_attn.lab.drawing.generate import picture_request
from lib_attn.lab.drawing.pictures import Pair, pair_sheet, stack
from lib_attn.lab.drawing.sampling import SAMPLERS, Request
from lib_attn.lab.drawing.variants import FULL, parse_setting, preset_variants, technique_variants
from lib_attn.lab.measuring.compare import Cell, CompareSpec, compare
from lib_attn.lab.measuring.showcase import CFG, SAMPLER, STEPS, Show, draw_shows, shows, steps_of
from lib_attn.lab.reports.tables import caption, compare_table, show_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.results import command_line, write_text
from lib_attn.settings import TECHNIQUES

#: Drawn when a setting or presets are named without a prompt.
PROMPTS = ("a large red sphere left of a small blue cube", "a green cone", "a yellow torus, black background")
#: The options that make it one grid of the user's own.
OWN = ("prompt", "negative", "seed", "width", "height", "steps", "sampler", "cfg", "setting", "presets")


def add_commands(commands) -> None:
    """Add ``compare``."""
    options = commands.add_parser(
        "compare",
        help="the same seeds without and with each technique",
        description="The same seeds without and with each technique, where it has something to do, as pairs. With any "
        "of the options of the second group: one labelled grid of pictures of your own.",
    )
    names = ", ".join(show.name for show in shows())
    options.add_argument("--only", default="", metavar="NAMES", help=f"only these pairs, separated by commas: {names}")
    options.add_argument("--out", type=Path, default=Path("out"), help="folder (default out)")
    options.add_argument("--format", choices=("png", "jpg"), default="png", help="(default png)")
    text = "pairs: count the process's seconds, not the clock's; for a machine that is busy"
    options.add_argument("--cpu-time", action="store_true", help=text)
    own = options.add_argument_group("one grid of your own")
    own.add_argument("--prompt", action="append", help="may be given several times")
    own.add_argument("--negative", help="negative prompt")
    own.add_argument("--seed", type=int, help="(default 1)")
    for side in ("--width", "--height"):
        own.add_argument(side, type=int, help="pixels, a multiple of 8 (default: as the model was trained)")
    own.add_argument("--steps", type=int, help=f"(default {STEPS})")
    own.add_argument(
        "--sampler", choices=tuple(SAMPLERS), metavar="NAME", help=f"{', '.join(SAMPLERS)} (default {SAMPLER})"
    )
    own.add_argument("--cfg", type=float, help=f"strength of the prompt (default {CFG:g})")
    own.add_argument("--setting", action="append", metavar="'NAME: tile=16 pool=4'",
                     help="compare this instead of each technique; may be given several times")  # fmt: skip
    techniques = [technique.name for technique in TECHNIQUES]
    own.add_argument("--presets", metavar="TECHNIQUE", choices=techniques,
                     help=f"compare the shipped presets of one technique: {', '.join(techniques)}")  # fmt: skip
    add_model_options(options)
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw everything, write picture and table, print the table."""
    if any(getattr(args, name) is not None for name in OWN):
        if args.only:
            raise LabError("--only chooses among the pairs; with options of your own there are none.")
        return _grid(args)
    return _pairs(args)


def chosen_shows(text: str) -> tuple[Show, ...]:
    """The pairs that `text` names, all that can be told apart when it is empty.

    Raises:
        LabError: when there is no such pair.
    """
    every = {show.name: show for show in shows()}
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    wanted = wanted or [name for name, show in every.items() if show.seen]
    for name in wanted:
        if name not in every:
            raise LabError(f"There is no pair {name}: there are {', '.join(every)}.")
    return tuple(every[name] for name in dict.fromkeys(wanted))


def _pairs(args: argparse.Namespace) -> int:
    begin, chosen, spec = time.perf_counter(), chosen_shows(args.only), model_of(args)
    side, clock = spec.side, time.process_time if args.cpu_time else time.perf_counter
    print(f"Drawing {len(chosen)} pairs, without and with: {', '.join(show.name for show in chosen)}.", file=sys.stderr)
    found: list[tuple[Show, list[Cell]]] = []
    sheets = []
    model = spec.load()
    with tqdm(total=steps_of(chosen), desc="steps", file=sys.stderr) as bar:
        for show, cells in draw_shows(model, chosen, bar.update, side, clock):
            found.append((show, cells))
            sheets.append(pair_sheet(_pair(show, cells, side), side))
            pictures.save(sheets[-1], args.out / f"compare-{show.name}.{args.format}")
    path = pictures.save(stack(sheets), args.out / f"compare.{args.format}")
    told, whole = machine(spec.device), time.perf_counter() - begin
    seconds = "of CPU time, all threads together" if args.cpu_time else "by the clock"
    note = (
        f"Model: {model.name}. Seconds {seconds}, on {told['device']}, torch {told['torch']}; the model is loaded. "
        f"All of it took {whole:.0f} s by the clock, loading and saving included."
    )
    left = [_left_out(show) for show in shows() if not show.seen and not args.only]
    text = "\n\n".join([show_table(found, side), *left, note])
    page = f"# The same seeds without and with each technique\n\n{text}\n\nWritten by `{command_line()}`.\n"
    write_text(args.out / "compare.md", page)
    print(text)
    print(f"Written: {path}, each pair beside it, {args.out / 'compare.md'}")
    return 0


def _left_out(show: Show) -> str:
    return f"Not drawn, since nobody can see what it does: {show.claim} (`--only {show.name}`)."


def _pair(show: Show, cells: list[Cell], side: int) -> Pair:
    off, on = cells
    captions = f"without: {off.seconds:.1f} s", f"with {show.variant.label}: {on.seconds:.1f} s"
    return Pair(f"{show.claim} ({show.technique.label})", show.conditions(side), off.pictures, on.pictures, captions)


def spec_of(args: argparse.Namespace) -> CompareSpec:
    """The grid. Raises `LabError` when an option makes no sense."""
    own = [parse_setting(text) for text in args.setting or ()]
    variants = (preset_variants(args.presets) if args.presets else []) + own or technique_variants()
    return CompareSpec(model_of(args), tuple(variants), tuple(requests_of(args)), args.out)


def requests_of(args: argparse.Namespace) -> Iterator[Request]:
    """One picture for each prompt, at the model's own size unless another is asked for."""
    width, height = size_of(args)
    given = {name: getattr(args, name) for name in ("negative", "seed", "steps", "sampler", "cfg")}
    values = {"steps": STEPS, "sampler": SAMPLER, "cfg": CFG} | {k: v for k, v in given.items() if v is not None}
    for prompt in args.prompt or PROMPTS:
        yield picture_request(prompt, width=width, height=height, **values)


def _grid(args: argparse.Namespace) -> int:
    spec = spec_of(args)
    rows = compare(spec.model.load(), spec.variants, spec.requests)
    every = (FULL, *spec.variants)
    shown, left = [[cell.pictures[0] for cell in row] for row in rows], [r.prompts[0] for r in spec.requests]
    sheet = pictures.grid(shown, [v.label for v in every], left, [[caption(cell) for cell in row] for row in rows])
    text = compare_table(rows, every)
    path = pictures.save(sheet, spec.out / f"compare.{args.format}")
    write_text(spec.out / "compare.md", text + "\n")
    print(text)
    print(f"Written: {path}, {spec.out / 'compare.md'}")
    return 0
