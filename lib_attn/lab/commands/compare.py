"""``compare``: one grid of pictures, without and with each technique, at the same seeds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, model_of
from lib_attn.lab.drawing import pictures
from lib_attn.lab.drawing.generate import picture_request
from lib_attn.lab.drawing.sampling import SAMPLERS, Request
from lib_attn.lab.drawing.variants import FULL, parse_setting, preset_variants, technique_variants
from lib_attn.lab.measuring.compare import CompareSpec, compare
from lib_attn.lab.reports.tables import caption, compare_table
from lib_attn.lab.shared.results import write_text
from lib_attn.settings import TECHNIQUES

#: What ./demo.sh draws, the embedded model at the size it was trained at.
PROMPTS = ("a large red sphere left of a small blue cube", "a green cone", "a yellow torus, black background")
EMBEDDED_SIZE, CHECKPOINT_SIZE = 256, 512
#: And once larger, where near-sighted attention has something to gain. The model then repeats what it draws.
LARGE_PROMPT, LARGE_SIZE = "a purple torus, white background", 512


def add_commands(commands) -> None:
    """Add ``compare``."""
    options = commands.add_parser("compare", help="a labelled grid: off, and each technique")
    options.add_argument("--prompt", action="append", default=[], help="may be given several times")
    options.add_argument("--negative", default="", help="negative prompt")
    options.add_argument("--seed", type=int, default=1, help="(default 1)")
    for side in ("--width", "--height"):
        text = f"pixels, a multiple of 8 (default {EMBEDDED_SIZE}, with --checkpoint {CHECKPOINT_SIZE})"
        options.add_argument(side, type=int, default=None, help=text)
    options.add_argument("--steps", type=int, default=20, help="(default 20)")
    options.add_argument("--sampler", default="DDIM", help=f"{', '.join(SAMPLERS)} (default DDIM)")
    options.add_argument("--cfg", type=float, default=5.0, help="strength of the prompt (default 5)")
    options.add_argument("--setting", action="append", default=[], metavar="'NAME: tile=16 pool=4'",
                         help="compare this instead of each technique; may be given several times")  # fmt: skip
    names = [technique.name for technique in TECHNIQUES]
    options.add_argument("--presets", metavar="TECHNIQUE", choices=names,
                         help=f"compare the shipped presets of one technique: {', '.join(names)}")  # fmt: skip
    options.add_argument("--out", type=Path, default=Path("out"), help="folder (default out)")
    add_model_options(options)
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> CompareSpec:
    """Raises `LabError` when an option makes no sense."""
    own = [parse_setting(text) for text in args.setting]
    variants = (preset_variants(args.presets) if args.presets else []) + own or technique_variants()
    return CompareSpec(model_of(args), tuple(variants), tuple(requests_of(args)), args.out)


def requests_of(args: argparse.Namespace) -> Iterator[Request]:
    """One picture for each prompt, and the larger one unless something else is asked for."""
    side = CHECKPOINT_SIZE if args.checkpoint else EMBEDDED_SIZE
    asked = [(prompt, args.width or side, args.height or side) for prompt in args.prompt or PROMPTS]
    if not (args.prompt or args.width or args.height or args.checkpoint):
        asked.append((LARGE_PROMPT, LARGE_SIZE, LARGE_SIZE))
    for prompt, width, height in asked:
        yield picture_request(prompt, negative=args.negative, seed=args.seed, width=width, height=height,
                              steps=args.steps, sampler=args.sampler, cfg=args.cfg)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Draw everything, write grid and table, print the table."""
    spec = spec_of(args)
    rows = compare(spec.model.load(), spec.variants, spec.requests)
    cell_size = rows[0][0].picture.size
    shown = [[cell.picture.resize(cell_size) for cell in row] for row in rows]
    left = [r.prompts[0] + f", {r.width} x {r.height}" * (r.width != cell_size[0]) for r in spec.requests]
    every = (FULL, *spec.variants)
    sheet = pictures.grid(shown, [v.label for v in every], left, [[caption(cell) for cell in row] for row in rows])
    text = compare_table(rows, every)
    path = pictures.save(sheet, spec.out / "compare.png")
    write_text(spec.out / "compare.md", text + "\n")
    print(text)
    print(f"Written: {path}, {spec.out / 'compare.md'}")
    return 0
