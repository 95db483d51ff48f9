"""``python -m lib_attn.lab compare``: one grid of pictures, without and with each technique, at the same seeds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lib_attn.lab.generate import add_model_options, request_of
from lib_attn.lab.sampling import SAMPLERS, Request, decode, sample
from lib_attn.lab.variants import FULL, Variant, parse_setting, preset_variants, technique_variants
from lib_attn.techniques import ORDER

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
    options.add_argument("--presets", metavar="TECHNIQUE", choices=ORDER,
                         help=f"compare the shipped presets of one technique: {', '.join(ORDER)}")  # fmt: skip
    options.add_argument("--out", type=Path, default=Path("out"), help="folder (default out)")
    add_model_options(options)
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw everything, write grid and table, print the table."""
    from lib_attn.lab import pictures
    from lib_attn.lab.bench import write_text
    from lib_attn.lab.deviation import load_model

    own = [parse_setting(text) for text in args.setting]
    variants = (preset_variants(args.presets) if args.presets else []) + own or technique_variants()
    requests = list(requests_of(args))
    model = load_model(args)
    rows = compare(model, variants, requests)
    captions = [[caption(cell) for cell in row] for row in rows]
    cell_size = rows[0][0]["picture"].size
    shown = [[cell["picture"].resize(cell_size) for cell in row] for row in rows]
    left = [r.prompts[0] + f", {r.width} x {r.height}" * (r.width != cell_size[0]) for r in requests]
    sheet = pictures.grid(shown, [v.label for v in (FULL, *variants)], left, captions)
    text = table(rows, [FULL, *variants])
    path = pictures.save(sheet, args.out / "compare.png")
    write_text(args.out / "compare.md", text + "\n")
    print(text)
    print(f"Written: {path}, {args.out / 'compare.md'}")
    return 0


def requests_of(args: argparse.Namespace) -> Iterator[Request]:
    """One picture for each prompt, and the larger one unless something else is asked for."""
    side = CHECKPOINT_SIZE if args.checkpoint else EMBEDDED_SIZE
    asked = [(prompt, args.width or side, args.height or side) for prompt in args.prompt or PROMPTS]
    if not (args.prompt or args.width or args.height or args.checkpoint):
        asked.append((LARGE_PROMPT, LARGE_SIZE, LARGE_SIZE))
    for prompt, width, height in asked:
        one = vars(args) | {"prompt": prompt, "width": width, "height": height}
        yield request_of(argparse.Namespace(**one), 1)


def compare(model, variants: list[Variant], requests: list[Request]) -> list[list[dict]]:
    """For every request, full attention and each variant: picture, seconds, l2 and psnr against full attention."""
    from tqdm import tqdm

    from lib_attn.lab.deviation import psnr, relative_l2

    rows = []
    every = [FULL, *variants]
    with tqdm(total=len(requests) * len(every) * requests[0].steps, desc="steps", file=sys.stderr) as bar:
        for number, request in enumerate(requests):
            row: list[dict] = []
            if not number or request.width != requests[number - 1].width:
                # What a process sets up once at a new size would be charged to full attention, which comes first.
                sample(model, replace(request, steps=1))
            for variant in every:
                said: list[str] = []
                start = time.perf_counter()
                latents = sample(model, request, variant, say=said.append, progress=bar.update)
                cell = {"seconds": time.perf_counter() - start, "latents": latents, "said": said}
                cell["picture"] = decode(model, latents)[0]
                first = row[0] if row else cell
                cell["l2"] = relative_l2(latents, first["latents"])
                cell["psnr"] = psnr(cell["picture"], first["picture"])
                row.append(cell)
            rows.append(row)
    return rows


def caption(cell: dict) -> str:
    """One line for below a picture."""
    decibel = "" if cell["psnr"] == float("inf") else f", {cell['psnr']:.1f} dB"
    return f"{cell['seconds']:.1f} s, L2 {cell['l2']:.3f}{decibel}"


def table(rows: list[list[dict]], variants: list[Variant]) -> str:
    """Markdown table of the means over all pictures."""
    lines = ["| | seconds a picture | latent L2 | PSNR |", "|---|---|---|---|"]
    for column, variant in enumerate(variants):
        cells = [row[column] for row in rows]
        mean = {key: sum(cell[key] for cell in cells) / len(cells) for key in ("seconds", "l2")}
        finite = [cell["psnr"] for cell in cells if cell["psnr"] != float("inf")]
        decibel = f"{sum(finite) / len(finite):.1f} dB" if finite else "identical"
        lines.append(f"| {variant.label} | {mean['seconds']:.2f} | {mean['l2']:.3f} | {decibel} |")
    said = sorted({sentence for row in rows for cell in row for sentence in cell["said"]})
    return "\n".join([*lines, *said])
