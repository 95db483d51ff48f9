"""``bench negative``: what Negative skip, Contrast and Key mix do, and what they cost.

Parts, each of which writes a result file of its own (`lib_attn.lab.reports.negative.PARTS`):

- *cost*: time and arithmetic of a full-size SD 1.5 U-Net with random weights, against guidance with two rows.
- *estimate*: how far the final latents move from full guidance when the negative is left out of most steps.
- *effect*: prompts that leave the colour open, and negatives that name the colour seen without one.
- *contrast*: the same under weak guidance, for contrast alone.
- *mix*: batches of pictures that take keys, values or features from their first one.
- *pictures*: a labelled grid.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.drawing import pictures
from lib_attn.lab.drawing.sampling import SAMPLERS
from lib_attn.lab.drawing.variants import parse_setting
from lib_attn.lab.judging.judge import JUDGE
from lib_attn.lab.measuring.negative.grid import TITLES, grid_rows
from lib_attn.lab.measuring.negative.studio import CostSpec, NegativeSpec, Studio
from lib_attn.lab.measuring.speed import MODELS, BenchSpec
from lib_attn.lab.reports import negative
from lib_attn.lab.reports.negative import PARTS
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import write_json
from lib_attn.lab.shared.sizes import check_size, parse_sizes

GRID = "pictures"
NAMES = (*(part.name for part in PARTS), GRID)


def add_commands(inner) -> None:
    """Add ``negative`` to the subcommands of ``bench``."""
    options = inner.add_parser("negative", help="negative skip, contrast and key mix: effect, deviation, cost")
    options.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(NAMES)} (default: all of them)")
    options.add_argument("--results", type=Path, default=Path("out/negative"), metavar="FOLDER",
                         help="where result files are written (default out/negative)")  # fmt: skip
    for name, value in (("images", 24), ("size", 256), ("steps", 20), ("seed", 1), ("batch", 8)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--sampler", default="DDIM", help=f"{', '.join(SAMPLERS)} (default DDIM)")
    options.add_argument("--setting", action="append", default=[], metavar="'NAME: strength=1; penalty=NASA'",
                         help="all but cost: measure these instead of the built-in ones")  # fmt: skip
    options.add_argument("--cfg", type=float, default=5.0,
                         help="guidance scale of --setting in effect and contrast (default 5)")  # fmt: skip
    options.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    options.add_argument("--cost-sizes", default="512", help="cost: 512,1024 (default 512)")
    options.add_argument("--repeats", type=int, default=3, help="cost: interleaved repeats (default 3)")
    options.add_argument("--words", type=int, default=16, help="cost: words of the negative prompt (default 16)")
    options.add_argument("--only", default="", help="only the first of each part and these, separated by semicolons")
    options.add_argument("--no-count", action="store_true", help="cost: time only")
    options.add_argument("--model", choices=tuple(MODELS), default="sd15", help="cost: toy is for trying it out")
    add_model_options(options)
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> NegativeSpec:
    """Raises `LabError` when an option makes no sense."""
    if args.images < 1 or args.repeats < 1 or args.batch < 1 or not 1 <= args.words <= 75:
        raise LabError("--images, --repeats, --batch and --words are 1 at least, --words 75 at most.")
    check_size(args.size, args.size)
    model = model_of(args)
    only = tuple(name for name in (word.strip() for word in args.only.split(";")) if name)
    bench = BenchSpec(args.model, model.device, args.precision)
    cost = CostSpec(bench, tuple(parse_sizes(args.cost_sizes)), args.repeats, args.words, not args.no_count)
    return NegativeSpec(
        model, args.judge, args.results, cost, tuple(parse_setting(text) for text in args.setting), args.cfg, only,
        args.images, args.size, args.steps, args.sampler, args.seed, args.batch,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure the parts, write a result file each, print tables."""
    unknown = [name for name in args.parts if name not in NAMES]
    if unknown:
        raise LabError(f"There is no part {unknown[0]!r}: there are {', '.join(NAMES)}.")
    studio, parts = Studio(spec_of(args)), {part.name: part for part in PARTS}
    negative.check_only([parts[name] for name in args.parts or NAMES if name in parts], studio.spec)
    for name in args.parts or NAMES:
        if name == GRID:
            print(f"Written: {write_grid(studio, args.results)}")
            continue
        result = negative.run_part(parts[name], studio)
        file = args.results / f"negative-{name}.json"
        write_json(file, result)
        print(negative.table(parts[name], result))
        print(f"Written: {file}")
    return 0


def write_grid(studio: Studio, folder: Path) -> Path:
    """Draw the labelled grid: a row for each technique."""
    with progress_bar(len(TITLES)) as progress:
        rows = grid_rows(studio.model, studio.judge, studio.how, progress)
    top = [""] * len(rows[0].pictures)
    sheet = pictures.grid([r.pictures for r in rows], top, [r.heading for r in rows], [r.captions for r in rows])
    return pictures.save(sheet, folder / "negative.png")
