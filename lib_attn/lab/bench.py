"""``python -m lib_attn.lab bench …``: options and output of the measurements."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from lib_attn.lab import deviation, memory, negative, report, speed, unet
from lib_attn.lab.errors import LabError
from lib_attn.lab.variants import FREE, FULL, Variant, parse_setting, peer_variants, preset_variants


def add_commands(commands) -> None:
    """Add ``bench`` with its own subcommands."""
    bench = commands.add_parser("bench", help="measure speed, deviation and seams, and write the report")
    kinds = "speed|memory|deviation|seams|negative|report"
    inner = bench.add_subparsers(dest="measurement", required=True, metavar=kinds)
    options = inner.add_parser("speed", help="time and memory of a full-size SD 1.5 U-Net with random weights")
    add_variant_options(options)
    options.add_argument("--sizes", default="512,1024", help="pictures in pixels: 1024 or 768x512, separated by commas")
    options.add_argument("--repeats", type=int, default=3, help="repeats, all variants interleaved (default 3)")
    options.add_argument("--rows", type=int, default=2, help="rows of a U-Net batch (default 2: one guided picture)")
    options.add_argument("--precision", choices=tuple(unet.DTYPES), default="bf16", help="autocast (default bf16)")
    options.add_argument("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
    options.add_argument("--model", choices=("sd15", "toy"), default="sd15", help="toy is for trying out the command")
    busy = "cpu: processor time of this process, for a machine that has other things to do"
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=busy)
    options.add_argument("--memory", action="store_true", help="peak memory too, each variant in a process of its own")
    options.add_argument("--no-time", action="store_true", help="with --memory: only that")
    options.add_argument("--out", type=Path, default=Path("speed.json"), help="result file (default speed.json)")
    options.set_defaults(run=run_speed)
    one = inner.add_parser("memory-of-one")  # what --memory starts
    for name in ("--variant", "--size", "--precision", "--device", "--model", "--webui", "--slothful"):
        one.add_argument(name)
    one.add_argument("--rows", type=int)
    one.add_argument("--setting", action="append", default=[])
    one.set_defaults(run=run_memory_of_one)
    options = inner.add_parser("memory", help="peak memory of any picture size, counted without computing anything")
    add_variant_options(options)
    options.add_argument("--sizes", default="1024,2048", help="1024 or 768x512, separated by commas")
    options.add_argument("--rows", type=int, default=2, help="rows of a U-Net batch (default 2: one guided picture)")
    options.add_argument("--precision", choices=tuple(unet.DTYPES), default="fp16", help="(default fp16)")
    options.add_argument("--model", choices=("sd15", "toy"), default="sd15", help="toy is for trying out the command")
    options.add_argument("--out", type=Path, default=Path("memory.json"), help="result file (default memory.json)")
    options.set_defaults(run=run_memory)
    deviation.add_commands(inner)
    negative.add_commands(inner)
    report.add_commands(inner)


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


def chosen_variants(args, *, free: bool = True) -> list[Variant]:
    """The variants that the options name; what cannot be had is said on the standard error stream."""
    peers, missing = peer_variants(args.webui, args.slothful)
    own = [parse_setting(text) for text in args.setting]
    if args.presets or not own:
        own = preset_variants("near_sighted") + own
    variants = [*peers, *([FREE] if free else []), *own]
    if args.only:
        wanted = {name.strip() for name in args.only.split(",") if name.strip()}
        unknown = wanted - {v.name for v in variants} - {"full"}
        if unknown:
            known = ", ".join(v.name for v in variants)
            raise LabError(f"There is no variant {sorted(unknown)[0]!r}: there are {known}.")
        variants = [v for v in variants if v.name in wanted]
    else:
        for sentence in missing:
            print(sentence, file=sys.stderr)
    names = [v.name for v in variants]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise LabError(f"Two variants are named {twice!r}: give one another name ('NAME: tile=16').")
    return variants


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """``512,768x512`` (width x height) as a list of (height, width).

    Raises:
        LabError: when a size is no size, not a multiple of 8, or out of range.
    """
    sizes = []
    for item in (part.strip() for part in text.split(",") if part.strip()):
        width, _, height = item.lower().partition("x")
        try:
            sizes.append(check_size(int(height or width), int(width)))
        except LabError:
            raise
        except ValueError:
            raise LabError(f"'{item}' is no size: write 512 or 768x512.") from None
    if not sizes:
        raise LabError("No size is given: write 512 or 768x512.")
    return sizes


def check_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) when a picture can have that size.

    Raises:
        LabError: when not.
    """
    if height % 8 or width % 8 or not (64 <= height <= 8192 and 64 <= width <= 8192):
        raise LabError(f"{width}x{height} is no size a picture can have: both are multiples of 8 from 64 to 8192.")
    return height, width


def pick_device(name: str | None) -> str:
    """``cuda`` or ``cpu``, checked.

    Raises:
        LabError: for anything else, and for cuda where there is none.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise LabError(f"The device is cpu or cuda, not {name[:20]!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise LabError("There is no CUDA device here.")
    return name


def machine(device: str) -> dict:
    """What a measurement ran on, without names."""
    model = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {"device": model, "torch": torch.__version__.split("+")[0], "python": platform.python_version()}


def make_bench(args) -> speed.Bench:
    params = unet.SD15 if args.model == "sd15" else unet.TOY
    device = pick_device(args.device)
    model = unet.random_unet(params, precision=args.precision, device=device)
    return speed.Bench(model, params, device, args.precision, args.rows, getattr(args, "clock", "wall"))


def run_speed(args) -> int:
    """Measure, print a table, write the result file."""
    from tqdm import tqdm

    sizes, variants = parse_sizes(args.sizes), chosen_variants(args)
    if args.repeats < 1 or args.rows < 1:
        raise LabError("--repeats and --rows are 1 at least.")
    if args.clock == "cpu" and pick_device(args.device) != "cpu":
        raise LabError("--clock cpu says nothing about a GPU.")
    results, resident = [], []
    result = {"kind": "speed", "command": command_line(), "machine": machine(pick_device(args.device))}
    result |= {name: getattr(args, name) for name in ("model", "rows", "precision", "repeats", "clock")}

    def save():
        write_json(args.out, result | {"results": results, "memory": resident})

    if not args.no_time:
        bench = make_bench(args)
        for height, width in sizes:
            with tqdm(total=args.repeats * (len(variants) + 1), file=sys.stderr) as bar:
                def progress(text, bar=bar):
                    bar.set_description(text)
                    bar.update()

                results += speed.measure(bench, variants, height, width, repeats=args.repeats, progress=progress)
            save()  # a long run that is stopped leaves what it has
        del bench
        print(speed_table(results))
    if args.memory:
        for height, width in sizes:
            for variant in tqdm([FULL, *variants], desc=f"memory {width}x{height}", file=sys.stderr):
                resident.append(memory_in_subprocess(args, variant, height, width))
                save()
        print(memory_table(resident))
    print(f"Written: {args.out}")
    return 0


def run_memory(args) -> int:
    """Count, print a table, write the result file."""
    from tqdm import tqdm

    sizes, variants = parse_sizes(args.sizes), chosen_variants(args, free=False)
    if args.rows < 1:
        raise LabError("--rows is 1 at least.")
    params = unet.SD15 if args.model == "sd15" else unet.TOY
    network = memory.meta_unet(params, args.precision)
    found = [
        memory.count(network, params, variant, height, width, args.rows)
        for height, width in sizes
        for variant in tqdm([FULL, *variants], desc=f"{width}x{height}", file=sys.stderr)
    ]
    result = {"kind": "memory", "command": command_line(), "rows": args.rows, "precision": args.precision}
    write_json(args.out, result | {"model": args.model, "results": found})
    print(memory_table(found))
    print(f"Written: {args.out}")
    return 0


def write_json(path: Path, value: dict) -> None:
    """Write a result file; see `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, value: str) -> None:
    """Write a file and the folders above it.

    Raises:
        LabError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value, encoding="utf-8")
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}.") from None


def memory_in_subprocess(args, variant: Variant, height: int, width: int) -> dict:
    """`speed.peak_memory` in a fresh process, so that nobody's leftovers count for anybody else."""
    command = [sys.executable, "-m", "lib_attn.lab", "bench", "memory-of-one", "--variant", variant.name]
    command += ["--size", f"{width}x{height}", "--precision", args.precision, "--model", args.model]
    command += ["--rows", str(args.rows)]
    for name in ("device", "webui", "slothful"):
        if getattr(args, name):
            command += [f"--{name}", getattr(args, name)]
    for text in args.setting:
        command += ["--setting", text]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise LabError(f"Measuring the memory of {variant.label} failed: {why}")
    return json.loads(done.stdout.splitlines()[-1])


def run_memory_of_one(args) -> int:
    args.presets, args.only = True, ""
    variants = {v.name: v for v in [FULL, *chosen_variants(args)]}
    bench = make_bench(args)
    height, width = parse_sizes(args.size)[0]
    # The same kernels at a small size first: libraries' own start-up memory is not the variant's.
    bench.call(*_warm(bench))
    found = speed.peak_memory(bench, variants[args.variant], height, width)
    print(json.dumps(found | {"label": variants[args.variant].label}))
    return 0


def _warm(bench):
    x, context = bench.inputs(128, 128)
    return x, 500, context


def command_line() -> str:
    """The command as it would be typed again, with file names instead of this machine's folders."""
    words, hide = [], False
    for word in sys.argv[1:]:
        name, equals, value = word.partition("=")
        if hide or (equals and name in ("--webui", "--slothful")):
            word = "FOLDER" if hide else f"{name}=FOLDER"
        elif os.path.isabs(word):
            word = os.path.basename(word)
        elif equals and os.path.isabs(value):
            word = f"{name}={os.path.basename(value)}"
        hide = word in ("--webui", "--slothful")
        words.append(f"'{word}'" if " " in word else word)
    return "python -m lib_attn.lab " + " ".join(words)


def speed_table(results: list[dict]) -> str:
    """Markdown table of `speed.measure` results, one row per variant and size."""
    lines = ["| size | variant | seconds a step | speed-up | range | keys d0 / d1 / d2 |", "|---|---|---|---|---|---|"]
    for r in results:
        seconds = f"{r['seconds']:.3g}"
        if "cycle" in r:
            seconds += f" (exact {r['exact_seconds']:.3g}, between {r['step_seconds']:.3g}, every {r['cycle']})"
        keys = " / ".join(str(r["keys"].get(f"d{d}", "-")) for d in range(3)) if r["keys"] else "-"
        lines.append(f"| {r['width']}x{r['height']} | {r['label']} | {seconds} | {r['ratio']:.2f}x | "
                     f"{r['low']:.2f} … {r['high']:.2f} | {keys} |")  # fmt: skip
    return "\n".join(lines)


def memory_table(memory: list[dict]) -> str:
    """Markdown table of `speed.peak_memory` results, against full attention at the same size."""
    full = {(m["height"], m["width"]): m["growth"] for m in memory if m["name"] == "full"}
    lines = ["| size | variant | MiB on top of the weights | against full |", "|---|---|---|---|"]
    for m in memory:
        share = m["growth"] / max(full[m["height"], m["width"]], 1e-9)
        lines.append(f"| {m['width']}x{m['height']} | {m['label']} | {m['growth']:.0f} | {share:.3f}x |")
    return "\n".join(lines)
