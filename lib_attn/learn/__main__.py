"""Make a learned file from pictures that a checkpoint draws: python -m lib_attn.learn KIND FILE.

Blocks that draw depth maps are trained on renders: python -m lib_attn.learn depth WORK.

Ctrl-C stops it; the same command goes on from the last picture that was drawn whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib_attn.lab.commands.options import add_model_options, describe, model_of
from lib_attn.lab.drawing import embedded
from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.encoder import encoded, picture_files, read_picture
from lib_attn.lab.drawing.sampling import SAMPLERS, Request, evaluations, predictor, sample
from lib_attn.lab.drawing.variants import watched
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.machine import keep_memory
from lib_attn.lab.shared.results import file_hash
from lib_attn.lab.shared.sizes import check_size
from lib_attn.learn import shown
from lib_attn.learn.depth import __main__ as depth
from lib_attn.learn.learners import learners
from lib_attn.learn.run import PROMPTS, Pictures, Plan, Run
from lib_attn.learned.files import LearnedFile
from lib_attn.learned.folders import SUFFIX
from lib_attn.names import is_learned
from lib_attn.schema import Group
from lib_attn.unet.families import find_layers

UNFINISHED = " (unfinished)"


def build_parser() -> argparse.ArgumentParser:
    """A subcommand for each kind of learned file; its options come from the schema of what is learned."""
    parser = argparse.ArgumentParser(
        prog="python -m lib_attn.learn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for name, learner in learners().items():
        options = kinds.add_parser(name, help=learner.about, description=learner.about)
        options.add_argument("file", type=Path, help=f"the file to make, ending with {SUFFIX}")
        options.add_argument(
            "--prompts", type=Path, metavar="FILE", help="a prompt a line (default: a list of our own)"
        )
        options.add_argument(
            "--sampler", metavar="NAME", default="Euler a", help=f"{', '.join(SAMPLERS)} (default Euler a)"
        )
        if learner.look:
            options.add_argument("--pictures", type=Path, metavar="FOLDER", help="learn from these, and draw none")
            options.add_argument("--caption", default="", metavar="TEXT", help="what is on them (default: nothing)")
        for group in (Pictures, learner.options):
            for parameter in group.params():
                shown = f"--{parameter.name.replace('_', '-')}"
                options.add_argument(shown, dest=parameter.key, metavar="VALUE", help=describe(parameter))
        add_model_options(options)
    return parser


def plan_of(args: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        LabError: when something in it is not understood.
    """
    spec = model_of(args)
    if args.file.suffix != SUFFIX or not is_learned(args.file.stem):
        raise LabError(f"{args.file.name} is no name of a learned file: it ends with {SUFFIX}.")
    checkpoint, options = (spec.file.stem, file_hash(spec.file)), _group(learners()[args.kind].options, args)
    pictures = _group(Pictures, args, {"width": spec.side, "height": spec.side})
    check_size(pictures.height, pictures.width)
    if files_of(args):
        names = [f"{file.name} {file_hash(file)}" for file in files_of(args)]
        return shown.plan_of(args.kind, names, options, args.caption, checkpoint, pictures)
    own = embedded.PROMPTS if spec.file in embedded.MODELS.values() else PROMPTS
    return Plan(args.kind, pictures, options, _prompts(args) or own, checkpoint)


def files_of(args: argparse.Namespace) -> list[Path]:
    """The user's own pictures to learn from.

    Raises:
        LabError: when there is none in the folder.
    """
    folder = getattr(args, "pictures", None)
    return [] if folder is None else picture_files(folder)


def _group(group: type[Group], args: argparse.Namespace, usual: dict[str, Any] | None = None) -> Any:
    asked = {p.name: getattr(args, p.key) for p in group.params() if getattr(args, p.key) is not None}
    read, messages = group.read((usual or {}) | asked)
    if messages:
        raise LabError(messages[0])
    return read


def _prompts(args: argparse.Namespace) -> tuple[str, ...]:
    if args.prompts is None:
        return ()
    try:
        lines = args.prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise LabError(f"{args.prompts} is no file with prompts.") from None
    return tuple(filter(None, map(str.strip, lines)))


def learn(
    plan: Plan, model: LabModel, path: Path, sampler: str, see: Callable[[Run], Iterator[None]] | None = None
) -> LearnedFile:
    """Draw what `plan` wants and write the file; goes on from an unfinished run beside it.

    Args:
        see: ``see(run)`` shows the model what the run lacks and yields after each picture; None: pictures are drawn.

    Raises:
        LabError: with one sentence, when it cannot be learned.
    """
    try:
        run = Run(plan, find_layers(model.unet), path.with_name(f"{path.stem}{UNFINISHED}{SUFFIX}"))
        if run.dropped:
            print("An unfinished run of other settings is begun anew.", file=sys.stderr)
        if see is None:
            _draw(run, model, sampler)
        else:
            left = plan.pictures.count - run.done
            for _ in tqdm(see(run), total=left, desc="pictures", file=sys.stderr):
                pass
        return run.finish(path)
    except ValueError as error:
        raise LabError(f"{str(error).rstrip('.')}.") from None
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}.") from None


def _draw(run: Run, model: LabModel, sampler: str) -> None:
    pictures, said = run.plan.pictures, []
    size = pictures.height, pictures.width

    def request(prompt: str, seed: int) -> Request:
        return Request((prompt,), (seed,), "", *size, pictures.steps, sampler, pictures.cfg)

    steps = evaluations(model, request("", 0))
    with tqdm(total=steps * pictures.count, initial=steps * run.done, desc="steps", file=sys.stderr) as bar:
        for prompt, seed in run.pictures():
            variant = watched(run.capture.observer)
            sample(model, request(prompt, seed), variant, say=said.append, progress=bar.update)
            if said:
                raise ValueError(said[0])
            run.drawn()


def show_files(run: Run, model: LabModel, args: argparse.Namespace) -> Iterator[None]:
    """Show a model the user's own pictures that a run still lacks."""
    wanted = run.plan.pictures
    side = (wanted.width * wanted.height) ** 0.5
    pictures = (read_picture(file, side) for file in files_of(args)[run.done :])
    return shown.show(run, model.unet, predictor(model, args.caption), encoded(model_of(args), pictures))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    keep_memory()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["depth"]:  # trained on renders, not learned from pictures
        return depth.main(arguments[1:])
    try:
        args = build_parser().parse_args(arguments)
        plan = plan_of(args)
        model = model_of(args).load()
        see = (lambda run: show_files(run, model, args)) if files_of(args) else None
        file = learn(plan, model, args.file, args.sampler, see)
        size, seconds = args.file.stat().st_size / 2**20, file.about["learned"]["seconds"]
        print(f"Written: {args.file} ({size:.1f} MiB, {seconds:.0f} s, {file.family}).")
        return 0
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last whole picture.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
