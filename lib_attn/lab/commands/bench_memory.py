"""``bench memory``: peak memory of any picture size, counted without computing anything."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_attn.lab.commands.options import add_unet_options, add_variant_options, variants_of
from lib_attn.lab.measuring.memory import MemorySpec, count_sizes
from lib_attn.lab.reports.tables import memory_table
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, to_json, write_json
from lib_attn.lab.shared.sizes import parse_sizes


def add_commands(inner) -> None:
    """Add ``memory`` to the subcommands of ``bench``."""
    options = inner.add_parser("memory", help="peak memory of any picture size, counted without computing anything")
    add_variant_options(options)
    options.add_argument("--sizes", default="1024,2048", help="1024 or 768x512, separated by commas")
    add_unet_options(options, precision="fp16")
    options.add_argument("--out", type=Path, default=Path("memory.json"), help="result file (default memory.json)")
    options.set_defaults(run=run)


def spec_of(args: argparse.Namespace) -> MemorySpec:
    """Raises `LabError` when an option makes no sense."""
    sizes, variants = parse_sizes(args.sizes), variants_of(args, free=False)
    if args.rows < 1:
        raise LabError("--rows is 1 at least.")
    return MemorySpec(args.model, args.precision, variants, tuple(sizes), args.rows)


def run(args: argparse.Namespace) -> int:
    """Count, print a table, write the result file."""
    spec = spec_of(args)
    with progress_bar(len(spec.sizes) * (len(spec.variants) + 1)) as progress:
        rows = count_sizes(spec, progress)
    result = {"kind": "memory", "command": command_line(), "rows": spec.rows, "precision": spec.precision}
    write_json(args.out, result | {"model": spec.model, "results": [to_json(row) for row in rows]})
    print(memory_table(rows))
    print(f"Written: {args.out}")
    return 0
