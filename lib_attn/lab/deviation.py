"""How far pictures move from full attention at the same seeds, and how visible tile borders are."""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from lib_attn.lab.errors import LabError
from lib_attn.lab.sampling import SAMPLERS, Request, decode, sample
from lib_attn.lab.variants import FULL, Variant, full_key

#: Drawn when no prompt is given; the embedded model knows these words.
PROMPTS = (
    "a large red sphere",
    "a small blue cube, white background",
    "a green cone left of a yellow cylinder",
    "a purple torus, black background",
    "a small orange cube right of a large cyan sphere",
    "a yellow star, grey background",
)


def relative_l2(latents: torch.Tensor, reference: torch.Tensor) -> float:
    """||latents - reference|| / ||reference|| over everything."""
    return float((latents - reference).norm() / reference.norm())


def psnr(picture, reference) -> float:
    """Peak signal-to-noise ratio of two PIL pictures in dB; infinite when they are equal."""
    import numpy

    difference = numpy.asarray(picture, dtype=float) - numpy.asarray(reference, dtype=float)
    error = float((difference**2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def measure(
    model,
    variants: Sequence[Variant],
    requests: Iterable[Request],
    *,
    progress: Callable[[str], None] = lambda text: None,
    keep: Callable[[list[dict]], None] = lambda results: None,
) -> list[dict]:
    """Draw every request with full attention and with each variant, one image at a time.

    Args:
        keep: takes what there is after each image, so that a long run that is stopped leaves something.

    Returns:
        one dictionary per variant and size: l2 (mean over the images), l2_all, psnr (mean of the finite ones), images,
        height, width, said (what the technique had to tell).
    """
    found: dict[tuple, dict] = {}
    for request in requests:
        for index in range(len(request.seeds)):
            one = request.one(index)
            reference = sample(model, one, FULL)
            picture = decode(model, reference)[0]
            progress(f"{one.width}x{one.height} {FULL.label}")
            for variant in variants:
                said: list[str] = []
                latents = sample(model, one, variant, say=said.append)
                row = found.setdefault((variant.name, one.height, one.width), _empty(variant, one))
                row["l2_all"].append(relative_l2(latents, reference))
                row["psnr_all"].append(psnr(decode(model, latents)[0], picture))
                row["said"] = sorted({*row["said"], *said})
                progress(f"{one.width}x{one.height} {variant.label}")
            keep([_finish(row) for row in found.values()])
    return [_finish(row) for row in found.values()]


def _empty(variant: Variant, request: Request) -> dict:
    from lib_attn.lab.speed import changed

    out = {"name": variant.name, "label": variant.label, "kind": variant.kind, "source": variant.source}
    if variant.settings is not None:
        out["settings"] = changed(variant.settings)
    return out | {"height": request.height, "width": request.width, "l2_all": [], "psnr_all": [], "said": []}


def _finish(row: dict) -> dict:
    finite = [value for value in row["psnr_all"] if math.isfinite(value)]
    return {name: value for name, value in row.items() if name != "psnr_all"} | {
        "l2": statistics.fmean(row["l2_all"]),
        "psnr": statistics.fmean(finite) if finite else None,  # None: every picture is identical
        "images": len(row["l2_all"]),
    }


def border_jumps(difference: torch.Tensor, tile: int, offset: tuple[int, int] = (0, 0)) -> dict:
    """Mean jump between neighbours across tile borders against inside tiles.

    Args:
        difference: ``[..., h, w]``, best the difference to full attention, where the picture itself has gone.
        tile: side of a tile; offset: where the first border lies (y, x), 0: at `tile`.

    Returns:
        across, inside (mean absolute jump) and their ratio: 1 where no border can be seen.
    """
    across, inside = [], []
    for axis, start in zip((-2, -1), offset, strict=True):
        size = difference.shape[axis]
        jumps = difference.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
        # Jump i lies between tokens i and i + 1.
        border = torch.zeros(size - 1, dtype=torch.bool)
        border[[cut - 1 for cut in range(start or tile, size, tile)]] = True
        across.append(jumps[border])
        inside.append(jumps[~border])
    out = {"across": float(torch.cat(across).mean()), "inside": float(torch.cat(inside).mean())}
    return out | {"ratio": out["across"] / out["inside"] if out["inside"] else math.nan}


def seams(model, variant: Variant, requests: Iterable[Request]) -> dict:
    """`border_jumps` of the final latents' difference to full attention, averaged over images, for fixed borders.

    Borders are looked for where they lie without shift, so a moving border shows as a ratio near 1.
    """
    near = variant.settings["near_sighted"]
    found = []
    for request in requests:
        for index in range(len(request.seeds)):
            one = request.one(index)
            difference = sample(model, one, variant) - sample(model, one, FULL)
            longer = max(one.height, one.width) // 8
            tile = math.ceil(longer / near.tile_count) if near.tile_count else near.tile
            if not 0 < tile < longer:
                raise LabError(f"{variant.label} has no tile border at {one.width}x{one.height}, so there is no seam.")
            found.append(border_jumps(difference, tile))
    means = {key: statistics.fmean(f[key] for f in found) for key in ("across", "inside")}
    return means | {"name": variant.name, "label": variant.label, "images": len(found),
                    "ratio": means["across"] / means["inside"] if means["inside"] else math.nan}  # fmt: skip


def add_request_options(options: argparse.ArgumentParser, *, steps: int = 20, sampler: str = "DDIM") -> None:
    """Options that say what is drawn on which checkpoint."""
    options.add_argument("--checkpoint", type=Path, default=None, help="safetensors file of the SD 1.x layout")
    options.add_argument("--prompt", action="append", default=[], help="may be given several times")
    options.add_argument("--negative", default="")
    options.add_argument("--images", type=int, default=6, help="pictures, over the prompts in turn (default 6)")
    options.add_argument("--seed", type=int, default=1, help="seed of the first picture (default 1)")
    options.add_argument("--steps", type=int, default=steps, help=f"(default {steps})")
    options.add_argument("--sampler", default=sampler, help=f"{', '.join(SAMPLERS)} (default {sampler})")
    options.add_argument("--cfg", type=float, default=5.0, help="(default 5)")
    options.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(default fp32)")
    options.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")


def requests_of(args, sizes: Sequence[tuple[int, int]]) -> list[Request]:
    """One request per image and size from the options.

    Raises:
        LabError: when an option makes no sense.
    """
    if args.images < 1:
        raise LabError("--images is 1 at least.")
    prompts = tuple(args.prompt) or PROMPTS
    how = (args.steps, args.sampler, args.cfg)
    return [
        Request((prompts[i % len(prompts)],), (args.seed + i,), args.negative, *size, *how)
        for size in sizes
        for i in range(args.images)
    ]


def chosen_checkpoint(args) -> Path:
    """The checkpoint of the options, the embedded one when none is named."""
    from lib_attn.lab.embedded import default_checkpoint

    return args.checkpoint or default_checkpoint()


def load_model(args):
    """`chosen_checkpoint`, loaded."""
    from lib_attn.lab import checkpoint
    from lib_attn.lab.bench import pick_device

    return checkpoint.load(chosen_checkpoint(args), device=pick_device(args.device), precision=args.precision)


def file_hash(path: Path) -> str:
    """The first 12 digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


def add_commands(inner) -> None:
    """Add ``deviation`` and ``seams`` to the subcommands of ``bench``."""
    from lib_attn.lab.bench import add_variant_options

    options = inner.add_parser("deviation", help="relative L2 of the final latents against full attention")
    add_variant_options(options)
    add_request_options(options)
    options.add_argument("--sizes", default="512,512x768", help="512 or 512x768, separated by commas")
    options.add_argument("--out", type=Path, default=Path("deviation.json"), help="(default deviation.json)")
    options.set_defaults(run=run_deviation)
    options = inner.add_parser("seams", help="jumps across tile borders against inside, with and without shift")
    add_request_options(options)
    options.add_argument("--sizes", default="512", help="512 or 512x768, separated by commas")
    options.add_argument("--setting", default="tile=16 pool=8", help="setting to look at (default 'tile=16 pool=8')")
    options.set_defaults(run=run_seams)


def run_deviation(args) -> int:
    """Measure, print a table, write the result file."""
    from tqdm import tqdm

    from lib_attn.lab.bench import chosen_variants, command_line, machine, parse_sizes, pick_device, write_json

    variants, requests = chosen_variants(args, free=False), requests_of(args, parse_sizes(args.sizes))
    model = load_model(args)
    result = {"kind": "deviation", "command": command_line(), "checkpoint": model.name}
    result["sha256"] = file_hash(chosen_checkpoint(args))
    result |= {"machine": machine(pick_device(args.device))}
    result |= {name: getattr(args, name) for name in ("images", "seed", "steps", "sampler", "cfg", "precision")}
    with tqdm(total=len(requests) * (len(variants) + 1), file=sys.stderr) as bar:
        def progress(text):
            bar.set_description(text)
            bar.update()

        def keep(results):
            write_json(args.out, result | {"results": results})

        results = measure(model, variants, requests, progress=progress, keep=keep)
    print(deviation_table(results))
    print(f"Written: {args.out}")
    return 0


def run_seams(args) -> int:
    """Print the jumps of one setting without and with shift."""
    from lib_attn.lab.bench import parse_sizes
    from lib_attn.lab.variants import parse_setting

    shift = full_key("near_sighted.shift")
    body = args.setting.partition(":")[2] or args.setting
    plain = " ".join(word for word in body.split() if full_key(word.partition("=")[0]) != shift)
    requests = requests_of(args, parse_sizes(args.sizes))
    model = load_model(args)
    print("| shift | jump across borders | inside | ratio |\n|---|---|---|---|")
    for value in (0, 0.5, 1):
        row = seams(model, parse_setting(f"shift {value}: {plain} shift={value}"), requests)
        print(f"| {value} | {row['across']:.4g} | {row['inside']:.4g} | {row['ratio']:.3f} |", flush=True)
    return 0


def deviation_table(results: Sequence[dict]) -> str:
    """Markdown table of `measure`, one row per variant, one pair of columns per size."""
    sizes = list(dict.fromkeys((r["height"], r["width"]) for r in results))
    head = " | ".join(f"{w}x{h} latent L2 | PSNR" for h, w in sizes)
    lines = [f"| variant | {head} |", "|---|" + "---|---|" * len(sizes)]
    for name in dict.fromkeys(r["name"] for r in results):
        rows = {(r["height"], r["width"]): r for r in results if r["name"] == name}
        cells = []
        for size in sizes:
            row = rows.get(size)
            decibel = "-" if row is None or row["psnr"] is None else f"{row['psnr']:.1f}"
            cells.append("- | -" if row is None else f"{row['l2']:.4f} | {decibel}")
        lines.append(f"| {next(iter(rows.values()))['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)
