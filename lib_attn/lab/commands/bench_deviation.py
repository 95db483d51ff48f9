"""``bench deviation``: how far pictures move from full attention."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.commands.options import add_request_options, add_variant_options, model_of, requests_of, variants_of
from lib_attn.lab.measuring.deviation import DeviationSpec, measure
from lib_attn.lab.reports.tables import deviation_table
from lib_attn.lab.shared.machine import machine
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, file_hash, to_json, write_json
from lib_attn.lab.shared.sizes import parse_sizes


def add_commands(inner) -> None:
    """Add ``deviation`` to the subcommands of ``bench``."""
    options = inner.add_parser("deviation", help="relative L2 of the final latents against full attention")
    add_variant_options(options)
    add_request_options(options)
    options.add_argument("--sizes", default="512,512x768", help="512 or 512x768, separated by commas")
    options.add_argument("--out", type=Path, default=Path("deviation.json"), help="(default deviation.json)")
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> DeviationSpec:
    """Raises `LabError` when an option makes no sense."""
    variants, requests = variants_of(args, free=False), requests_of(args, parse_sizes(args.sizes))
    return DeviationSpec(model_of(args), requests, variants)


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the result file."""
    spec = spec_of(args)
    model, first = spec.model.load(), spec.requests[0]
    result = {"kind": "deviation", "command": command_line(), "checkpoint": model.name}
    result |= {"sha256": file_hash(spec.model.file), "machine": machine(spec.model.device), "images": args.images}
    result |= {"seed": first.seeds[0], "steps": first.steps, "sampler": first.sampler, "cfg": first.cfg}
    result |= {"precision": spec.model.precision}

    def keep(rows):
        write_json(args.out, result | {"results": [to_json(row) for row in rows]})

    with progress_bar(len(spec.requests) * (len(spec.variants) + 1)) as progress:
        rows = measure(model, spec.variants, spec.requests, progress=progress, keep=keep)
    print(deviation_table(rows))
    print(f"Written: {args.out}")
    return 0
