"""Learning on the lab's model: ``python -m lib_attn.learn KIND``, from prompts, or from pictures where a kind can."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib_attn.attach import attach
from lib_attn.lab.commands.options import add_model_options, describe, model_of
from lib_attn.lab.drawing.checkpoint import LabModel, ModelSpec
from lib_attn.lab.drawing.encoder import encoded, picture_files, read_picture
from lib_attn.lab.drawing.sampling import Request, predictor, sample
from lib_attn.lab.drawing.variants import SamplingPass, Variant
from lib_attn.lab.shared.errors import LabError
from lib_attn.lab.shared.results import file_hash
from lib_attn.lab.shared.sizes import check_size
from lib_attn.learn.dictionary.pictures import plan_of, show
from lib_attn.learn.learners import learners
from lib_attn.learn.run import PROMPTS, Pictures, Plan, Run
from lib_attn.learned.files import HASH
from lib_attn.learned.folders import SUFFIX
from lib_attn.names import is_learned
from lib_attn.schema import Group
from lib_attn.unet.families import find_layers

FROM_PICTURES = "dictionary"  # the kind that learns a look


def parser() -> argparse.ArgumentParser:
    """A command for each kind of learned file, with the options of its learner."""
    found = argparse.ArgumentParser(
        prog="python -m lib_attn.learn", description="Learn a file from a model's pictures."
    )
    kinds = found.add_subparsers(dest="kind", required=True, metavar="|".join(learners()))
    for kind, learner in learners().items():
        options = kinds.add_parser(kind, help=learner.about)
        options.add_argument("out", type=Path, help=f"the file to make; its name ends with {SUFFIX}")
        options.add_argument("--prompts", type=Path, metavar="FILE", help="one a line (default: a list of our own)")
        for group in (Pictures, learner.options):
            section = options.add_argument_group(group.label)
            for parameter in group.params():
                section.add_argument(f"--{parameter.name.replace('_', '-')}", help=describe(parameter))
        if kind == FROM_PICTURES:
            section = options.add_argument_group("From pictures of your own")
            section.add_argument("--pictures", type=Path, metavar="FOLDER", help="learn from these instead of prompts")
            section.add_argument("--caption", default="", help="what is on them (default: nothing said)")
        add_model_options(options)
    return found


def _group(group: type[Group], args: argparse.Namespace) -> Any:
    """Raises `LabError` when a value is not understood."""
    given = {p.name: value for p in group.params() if (value := getattr(args, p.name)) is not None}
    read, messages = group.read(given)
    if messages:
        raise LabError(messages[0])
    return read


def plan_and_pictures(args: argparse.Namespace, spec: ModelSpec) -> tuple[Plan, list[Path]]:
    """What is learned, and the files of the pictures that it is learned from, none when they are drawn.

    Raises:
        LabError: when an option makes no sense.
    """
    if args.out.suffix != SUFFIX or not is_learned(args.out.stem):
        raise LabError(
            f"{args.out.name} is no name of a learned file: letters, digits and spaces, and {SUFFIX} behind."
        )
    options, checkpoint = _group(learners()[args.kind].options, args), (spec.file.stem, file_hash(spec.file)[:HASH])
    if getattr(args, "pictures", None) is not None:
        files = picture_files(args.pictures)
        names = [f"{file.name} {file_hash(file)[:HASH]}" for file in files]
        return plan_of(names, options, args.caption, checkpoint), files
    pictures = _group(Pictures, args)
    check_size(pictures.height, pictures.width)
    try:
        lines = args.prompts.read_text(encoding="utf-8").splitlines() if args.prompts else PROMPTS
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{args.prompts} cannot be read: {error}.") from None
    prompts = tuple(filter(None, map(str.strip, lines)))
    if not prompts:
        raise LabError(f"There is no prompt in {args.prompts}.")
    return Plan(args.kind, pictures, options, prompts, checkpoint), []


class Watched(Variant):
    """Full attention while a capture looks on."""

    @contextlib.contextmanager
    def on(self, unet: Any, ahead: SamplingPass, *told: Any) -> Iterator[Any]:
        """As `Variant.on`."""
        with attach(unet, [], seeds=ahead.seeds, steps=ahead.steps, observers=[self.put.observer()]) as attachment:
            yield attachment.begin_step


def draw(model: LabModel, run: Run) -> Iterator[None]:
    """Draw what a run still lacks; yields after each picture."""
    asked, watched = run.plan.pictures, Watched("watched", "watched", "full", run.capture)
    for prompt, seed in run.pictures():
        size = asked.height, asked.width
        sample(model, Request((prompt,), (seed,), "", *size, asked.steps, "Euler a", asked.cfg), watched)
        run.drawn()
        yield


def show_files(spec: ModelSpec, model: LabModel, run: Run, files: Sequence[Path], caption: str) -> Iterator[None]:
    """Show a model the pictures in `files` that a run still lacks; yields after each."""
    latents = encoded(spec, (read_picture(file, model.side) for file in files[run.done :]))
    return show(run, model.unet, predictor(model, caption), latents)


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn one file; returns the exit code."""
    try:
        args = parser().parse_args(arguments)
        spec = model_of(args)
        plan, files = plan_and_pictures(args, spec)
        model = spec.load()
        run = Run(plan, find_layers(model.unet), args.out.with_name(f"{args.out.stem} unfinished{SUFFIX}"))
        with tqdm(total=plan.pictures.count, initial=run.done, desc="pictures", file=sys.stderr) as bar:
            steps = show_files(spec, model, run, files, args.caption) if files else draw(model, run)
            for _ in steps:
                bar.update()
        file = run.finish(args.out)
        print(f"Written: {args.out} ({file.bytes >> 10} KiB, {run.seconds:.0f} s)")
        return 0
    except (LabError, ValueError) as error:
        print(str(error).rstrip(".") + ".", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
