"""``bench front``: time of whole pictures against deviation, accuracy and agreement; fewer steps beside everything."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from lib_attn.lab.commands.options import add_model_options, add_variant_options, choice_of
from lib_attn.lab.drawing.checkpoint import ModelSpec
from lib_attn.lab.drawing.sampling import SAMPLERS
from lib_attn.lab.drawing.variants import parse_setting
from lib_attn.lab.judging.judge import JUDGE, Judge
from lib_attn.lab.measuring.front import FULL_CASE, QualityRow, TimeRow, front_cases, measure_quality, measure_time
from lib_attn.lab.measuring.prompted import Prompted
from lib_attn.lab.measuring.speed import MODELS, Bench, BenchSpec
from lib_attn.lab.measuring.steps import StepCase
from lib_attn.lab.reports.front import front_block, plot
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import machine, pick_device
from lib_attn.lab.shared.progress import progress_bar
from lib_attn.lab.shared.results import command_line, read_result, to_json, write_json
from lib_attn.lab.shared.sizes import parse_sizes

OWN = "own"  # times the U-Net that draws
#: Rows of a result, and what has to be the same for all of them, since the page says it once.
KINDS = {
    "time": ("machine", "model", "precision", "clock", "repeats", "steps", "cfg"),
    "quality": ("checkpoint", "steps", "cfg"),
}


def add_commands(inner) -> None:
    """Add ``front`` to the subcommands of ``bench``."""
    options = inner.add_parser("front", help="whole pictures: time against deviation, with fewer steps beside it")
    add_variant_options(options)
    time = options.add_argument_group("time")
    time.add_argument(
        "--model", choices=(*MODELS, OWN), default="sd15", help="whose U-Net is timed; own: the checkpoint"
    )
    time.add_argument("--sizes", default="512", help="512 or 768x512, separated by commas")
    time.add_argument("--batch", default="1", help="pictures at once, separated by commas: 1,4")
    time.add_argument("--repeats", type=int, default=3, help="all cases interleaved (default 3)")
    time.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time of this process")
    time.add_argument("--share", action="store_true", help="time evaluations that are alike once in a repeat")
    time.add_argument("--whole", default="", metavar="'NAME;NAME'", help="run these cases' pictures as a whole too")
    time.add_argument("--no-time", action="store_true", help="only what the pictures look like")
    drawn = options.add_argument_group("pictures")
    drawn.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    for name, what in (("singles", "one object"), ("pairs", "two objects"), ("agreements", "what has to agree")):
        drawn.add_argument(f"--{name}", type=int, default=8, help=f"how many prompts of {what} (default 8)")
    drawn.add_argument("--size", type=int, default=256, help="(default 256)")
    drawn.add_argument("--samplers", default="DDIM", help=f"of {', '.join(SAMPLERS)}")
    drawn.add_argument("--together", type=int, default=4, help="pictures drawn at once (default 4)")
    drawn.add_argument("--seed", type=int, default=0, help="(default 0)")
    drawn.add_argument("--no-pictures", action="store_true", help="only time")
    options.add_argument(
        "--cases", default="", metavar="'NAME;NAME'", help="cases by name, done in this order (default: all)"
    )
    options.add_argument("--steps", type=int, default=20, help="(default 20)")
    options.add_argument("--cfg", type=float, default=7.0, help="(default 7)")
    options.add_argument(
        "--add",
        type=Path,
        nargs="*",
        default=[],
        help="result files whose rows come first; later rows of a case replace earlier ones; where nothing is "
        "measured, --cases chooses among them",
    )
    options.add_argument("--out", type=Path, default=Path("out/front.json"), help="(default out/front.json)")
    options.add_argument("--plot", type=Path, default=None, metavar="FILE", help="draw the front as PNG")
    add_model_options(options)
    options.set_defaults(run=run)


@dataclass(frozen=True)
class FrontSpec:
    """What is measured. pictures: what is drawn with each sampler. batches: pictures at once that are timed."""

    model: ModelSpec
    cases: tuple[StepCase, ...]
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    pictures: tuple[Prompted, ...]


def spec_of(args: argparse.Namespace) -> FrontSpec:
    """Raises `LabError` when an option makes no sense."""
    device = pick_device(args.device)
    if args.clock == "cpu" and device != "cpu":
        raise LabError("--clock cpu says nothing about a GPU.")
    if min(args.repeats, args.steps, args.together) < 1:
        raise LabError("--repeats, --steps and --together are 1 at least.")
    if args.agreements < 1 or args.singles + args.pairs < 1:
        raise LabError("There has to be a prompt that is judged, and one that leaves something open.")
    try:
        batches = tuple(int(count) for count in args.batch.split(","))
    except ValueError:
        raise LabError(f"--batch is one number or several: 1,4, not {args.batch[:20]!r}.") from None
    if min(batches) < 1:
        raise LabError("--batch is 1 at least.")
    choice = choice_of(args)
    own = [parse_setting(text) for text in choice.settings]
    cases, missing = front_cases(args.steps, own, choice.webui, choice.slothful)
    for sentence in missing:
        print(sentence, file=sys.stderr)
    wanted = wanted_of(args)
    named = {case.name: case for case in cases}
    unknown = [name for name in wanted if name not in named] if _measures(args) else []
    if unknown:
        raise LabError(f"There is no case {unknown[0]!r}: there are {'; '.join(named)}.")
    if wanted:
        cases = [named[name] for name in dict.fromkeys([cases[0].name, *wanted]) if name in named]
    pictures = tuple(
        Prompted(args.singles, args.pairs, args.agreements, args.size, args.steps, name.strip(), args.cfg, args.seed,
                 args.together)
        for name in args.samplers.split(",")
    )  # fmt: skip
    model = ModelSpec(args.checkpoint, device, args.precision)
    return FrontSpec(model, tuple(cases), tuple(parse_sizes(args.sizes)), batches, () if args.no_pictures else pictures)


def wanted_of(args: argparse.Namespace) -> list[str]:
    """The names of ``--cases``, none for all."""
    return [name.strip() for name in args.cases.split(";") if name.strip()]


def _measures(args: argparse.Namespace) -> bool:
    return not (args.no_time and args.no_pictures)


def run(args: argparse.Namespace) -> int:
    """Measure, write the result file, print the tables."""
    spec = spec_of(args)
    drawer = spec.model.load() if spec.pictures or args.model == OWN else None
    result = {"kind": "front", "commands": [command_line()], "machine": machine(spec.model.device)}
    result |= {"model": args.model, "precision": args.precision, "clock": args.clock, "repeats": args.repeats}
    result |= {"steps": args.steps, "cfg": args.cfg, "checkpoint": drawer.name if drawer else ""}
    result |= {"time": [], "quality": []}
    kept = [] if _measures(args) else wanted_of(args)
    has = {"time": not args.no_time, "quality": bool(spec.pictures)}
    for path in reversed(args.add):
        earlier = read_result(path, "front")
        _check_alike(path.name, earlier, result, has)
        rows = {kind: newest([*_of(kept, earlier[kind]), *result[kind]]) for kind in KINDS}
        rows["commands"] = [*earlier["commands"], *result["commands"]]
        told = {key: earlier[key] for kind in KINDS if earlier[kind] and not has[kind] for key in KINDS[kind]}
        has = {kind: has[kind] or bool(earlier[kind]) for kind in KINDS}
        result |= told | rows
    found = {row["name"] for name in ("time", "quality") for row in result[name]}
    if absent := [name for name in kept if name not in found]:
        raise LabError(f"No added file has a case {absent[0]!r}.")

    def keep(kind: str, before: list, rows: list[TimeRow] | list[QualityRow]) -> None:
        result[kind] = newest([*before, *(to_json(row) for row in rows)])
        write_json(args.out, result)  # a long run that is stopped leaves what it has

    timed = [] if args.no_time else [(batch, size) for batch in spec.batches for size in spec.sizes]
    names = tuple(name.strip() for name in args.whole.split(";"))
    with progress_bar(len(spec.cases) * (len(timed) * args.repeats + len(spec.pictures))) as progress:
        for batch, (height, width) in timed:
            bench = _bench(args, spec.model.device, drawer, 2 * batch)
            rows = measure_time(
                bench, spec.cases, height, width, steps=args.steps, cfg=args.cfg, repeats=args.repeats,
                share=args.share, whole=names, progress=progress,
            )  # fmt: skip
            keep("time", result["time"], rows)
        for how in spec.pictures:
            before, judge = result["quality"], Judge.load(args.judge)
            measure_quality(drawer, judge, spec.cases, how, progress=progress,
                            keep=lambda rows, before=before: keep("quality", before, rows))  # fmt: skip
    write_json(args.out, result)
    print(front_block(result))
    print(f"Written: {args.out}")
    if args.plot:
        plot(result, args.plot)
        print(f"Written: {args.plot}")
    return 0


def _check_alike(name: str, earlier: dict, result: dict, has: dict[str, bool]) -> None:
    """Raises `LabError` when rows of `earlier` cannot stand beside those of `result`.

    Args:
        name: of the file of `earlier`.
        has: which rows `result` has or will have.
    """
    ours = [kind for kind in KINDS if has[kind]]
    theirs = [kind for kind in KINDS if earlier[kind]]
    common = {key for kind in ours for key in KINDS[kind]} & {key for kind in theirs for key in KINDS[kind]}
    for key in sorted(common):
        if earlier[key] != result[key]:
            raise LabError(f"The rows of {name} are of another {key} ({earlier[key]}) than the others ({result[key]}).")


def _of(wanted: list[str], rows: list[dict]) -> list[dict]:
    """Those of the wanted cases and of all steps, or all where nothing is named."""
    return [row for row in rows if not wanted or row["name"] in (FULL_CASE, *wanted)]


def newest(rows: list[dict]) -> list[dict]:
    """Of rows for the same case, size, batch and sampler the last one, where the first one stood."""
    same = ("name", "height", "width", "images", "size", "sampler")
    return list({tuple(row.get(key) for key in same): row for row in rows}.values())


def _bench(args: argparse.Namespace, device: str, drawer, rows: int) -> Bench:
    """The U-Net that is timed, with `rows` rows an evaluation."""
    if args.model != OWN:
        return BenchSpec(args.model, device, args.precision, rows, args.clock).build()
    params = {"in_channels": drawer.unet.in_channels, "context_dim": drawer.text([""]).shape[-1]}
    return Bench(drawer.unet, params, device, args.precision, rows, args.clock)
