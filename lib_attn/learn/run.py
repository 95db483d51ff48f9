"""One run of learning: pictures are drawn by whatever host there is, and a file is made of what was seen meanwhile.

    run = Run(plan, layers, folder)
    for prompt, seed in run.pictures():
        draw(prompt, seed, observers=[run.capture.observer()])  # whole, or the run is given up here
        run.drawn()
    run.finish(path)

What was seen is kept on the disk between pictures. A run with the same plan goes on from there, and learns the same as
if it had never been given up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from lib_attn.learn.capture import Capture
from lib_attn.learn.learners import learners
from lib_attn.learned.files import LearnedFile, family_of_layers, load, save
from lib_attn.learned.folders import MAX_BYTES, Folders
from lib_attn.learned.header import Refused
from lib_attn.schema import Group, param
from lib_attn.techniques.base import Context
from lib_attn.techniques.facts import chosen_by
from lib_attn.unet.layers import Layer, layer_keys, parse_selector

LICENCE = "as the checkpoint's"
UNFINISHED = "unfinished run"  # kind of file that a run goes on from
MEMORY = MAX_BYTES - (64 << 20)  # for what was seen, so that it can be kept in a file
AT_MOST = 0.1  # share of the time that may go into keeping what was seen

#: Of many kinds, for a run without prompts of the user's own.
PROMPTS = tuple(Path(__file__).with_name("prompts.txt").read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class Pictures(Group):
    """The pictures that are drawn to learn from."""

    name: ClassVar[str] = "pictures"
    label: ClassVar[str] = "Pictures"

    count: int = param(
        16,
        "Pictures",
        "How many pictures are drawn to learn from. They take the prompts in turn, and begin again after the last.",
        1,
        1000,
    )
    steps: int = param(20, "Steps", "Sampling steps of each picture.", 1, 150)
    width: int = param(
        512,
        "Width",
        "Width of the pictures. Best the one at which you are going to draw later.",
        64,
        2048,
        8,
        unit="px",
    )
    height: int = param(
        512,
        "Height",
        "Height of the pictures. Best the one at which you are going to draw later.",
        64,
        2048,
        8,
        unit="px",
    )
    cfg: float = param(
        7.0,
        "CFG scale",
        "How closely the pictures follow their prompts. At 1 the model draws without a negative prompt, "
        "so nothing is learned from that half of its work.",
        1.0,
        30.0,
        0.5,
    )
    seed: int = param(1, "Seed", "Seed of the first picture; each one after it has the next number.", 0, 2**32 - 1)
    layers: str = param(
        "all",
        "Layers",
        "The layers of the model that are learned from: all, in, mid, out, in4, out6-11, d0, d1-2, !mid; "
        "separated by commas.",
        blocks=True,
    )


@dataclass(frozen=True)
class Plan:
    """What is learned from what.

    kind: one of `lib_attn.learn.learners.learners`. options: of that learner. checkpoint: name and hash.
    """

    kind: str
    pictures: Pictures
    options: Group
    prompts: tuple[str, ...] = PROMPTS
    checkpoint: tuple[str, str] = ("", "")

    @property
    def text(self) -> str:
        """The same for the same plan."""
        return json.dumps(asdict(self))


class Run:
    """A run of learning, see the module.

    Args:
        plan: what is learned. layers: of the model, all of them. unfinished: file to keep what was seen in.

    Attributes:
        capture: what was seen. done: pictures drawn so far. kept: those that a run to come need not draw again.
        dropped: an unfinished run of another plan was in the file.

    Raises:
        ValueError: with one sentence, when the plan fits neither the model nor the memory.
    """

    def __init__(self, plan: Plan, layers: Sequence[Layer], unfinished: Path):
        self.plan, self._layers, self._unfinished = plan, tuple(layers), unfinished
        self._learner = learners()[plan.kind]
        chosen, wants = chosen_by(plan.pictures.layers, parse_selector("all")), self._learner.wants(plan.options)
        wants["memory"] = min(wants.get("memory", MEMORY), MEMORY)
        self.capture = Capture(layers, blocks=chosen.matches, **wants)
        if not self.capture.shapes:
            raise ValueError(f"This model has no attention in the layers {chosen.text}")
        self.done, self.kept, self.dropped = 0, 0, False
        self._seconds, self._kept_at, self._cost = 0.0, float("-inf"), 0.0
        self._go_on()
        self._since = time.monotonic()

    def _go_on(self) -> None:
        try:
            kept = load(self._unfinished.stem, UNFINISHED, Folders([self._unfinished.parent]))
            if kept.about.get("plan") == self.plan.text:
                self.capture.load_state(kept.tensors)
                self.done, self._seconds = int(kept.about["done"]), float(kept.about["seconds"])
                self.kept = self.done
            else:
                self.dropped = True
        except (Refused, ValueError, KeyError, TypeError):
            self.dropped = self._unfinished.exists()

    def pictures(self) -> Iterator[tuple[str, int]]:
        """Prompt and seed of each picture still to be drawn; `drawn` is to be called after each."""
        while self.done < self.plan.pictures.count:
            yield self.plan.prompts[self.done % len(self.plan.prompts)], self.plan.pictures.seed + self.done

    def drawn(self) -> None:
        """A picture was drawn whole.

        Raises:
            ValueError, OSError: when what was seen cannot be kept, see `lib_attn.learned.files.save`.
        """
        self.done += 1
        now = time.monotonic()
        if self._cost <= AT_MOST * (now - self._kept_at):
            self._keep()
            self._kept_at = time.monotonic()
            self._cost = self._kept_at - now

    def _keep(self) -> None:
        told = {"plan": self.plan.text, "done": self.done, "seconds": self.seconds, **self._model()}
        save(self._unfinished, UNFINISHED, self.capture.state(), told)
        self.kept = self.done

    @property
    def seconds(self) -> float:
        """Time that the run has taken, earlier parts of it included."""
        return self._seconds + time.monotonic() - self._since

    def finish(self, path: Path) -> LearnedFile:
        """Learn from what was seen, and write the file.

        Raises:
            ValueError, OSError: see `lib_attn.learned.files.save`.
        """
        layers = dict(zip(layer_keys(self._layers), self._layers, strict=True))
        tensors, about = self._learner.learn(self.capture, self.plan.options, layers)
        pictures = self.plan.pictures.to_dict() | {"prompts": len(self.plan.prompts)}
        learned = {"pictures": pictures, "options": self.plan.options.to_dict(), "seconds": round(self.seconds, 1)}
        told = {
            **self._model(),
            "checkpoint": list(self.plan.checkpoint),
            "learned": learned,
            "licence": LICENCE,
            **about,
        }
        save(path, self.plan.kind, tensors, told)
        self._unfinished.unlink(missing_ok=True)
        return load(path.stem, self.plan.kind, Folders([path.parent]))

    def _model(self) -> dict[str, Any]:
        """Family of the model, and widths of the layers looked at."""
        widths = dict(Context(layers=self._layers).layout)
        return {"family": family_of_layers(self._layers), "layers": {key: widths[key] for key in self.capture.shapes}}
