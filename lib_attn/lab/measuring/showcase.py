"""What each technique is for, shown: the same seeds without and with it, where it has something to do.

One grid of one prompt cannot show them all: near-sighted attention needs a large picture, Negative skip CFG scale 1 or
a guided picture, Contrast weak guidance, Key mix a batch. Seeds are chosen so that the effect is easy to see; how often
it comes is measured elsewhere (docs/negative-skip.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lib_attn.lab.drawing.checkpoint import LabModel
from lib_attn.lab.drawing.sampling import Request
from lib_attn.lab.drawing.variants import Variant, load_presets, preset
from lib_attn.lab.measuring.compare import Cell, compare_one
from lib_attn.schema import Technique

STEPS, SAMPLER, CFG = 20, "DDIM", 5.0
#: Steps of a comparison, fewer than usual: all of them together have to be drawn while one waits.
FEW = 15
BATCH = 4
LARGEST = 1024  # pixels; beyond it a model of the usual size takes very long without a GPU


@dataclass(frozen=True)
class Show:
    """One comparison.

    name: as it is asked for on the command line and in file names. claim: what to look for. variant: what is put on.
    scale: side of the pictures, in sides that the model was trained at, as far as `LARGEST`. batch: how many. seen:
    whether one sees what it does; else it is drawn where it is named.
    """

    name: str
    claim: str
    variant: Variant
    prompt: str
    negative: str = ""
    cfg: float = CFG
    scale: float = 1.0
    batch: int = BATCH
    seed: int = 1
    steps: int = FEW
    seen: bool = True

    @property
    def technique(self) -> type[Technique]:
        """Whose it is."""
        return type(next(iter(self.variant.settings.active())))

    @property
    def file(self) -> str:
        """The learned file that it looks up, empty when there is none."""
        group = next(iter(self.variant.settings.active()))
        return next((getattr(group, p.name) for p in group.params() if p.file), "")

    def request(self, side: int) -> Request:
        """The pictures, on a model trained at `side` pixels."""
        seeds = tuple(self.seed + i for i in range(self.batch))
        own = self.side(side)
        return Request((self.prompt,), seeds, self.negative, own, own, self.steps, SAMPLER, self.cfg)

    def side(self, side: int) -> int:
        """Side of its pictures in pixels, on a model trained at `side` pixels."""
        return max(side, min(round(self.scale * side), LARGEST))

    def conditions(self, side: int) -> str:
        """Under which conditions, in one line."""
        group = next(iter(self.variant.settings.active()))
        drawn_first = getattr(group, "map_prompt", "")
        parts = [f"“{self.prompt}”", f"negative “{self.negative}”" if self.negative else "",
                 f"map of “{drawn_first}”" if drawn_first else "", f"CFG {self.cfg:g}"]  # fmt: skip
        if self.batch > 1:
            parts.append(f"{self.batch} pictures in a batch")
        parts.append(f"{self.side(side)} × {self.side(side)} px, {self.steps} steps")
        return ", ".join(filter(None, parts))


def shows() -> tuple[Show, ...]:
    """One for each technique, two for Negative skip; first those that are seen at a glance."""
    return (
        Show("same-style", "Pictures of a batch that belong together", preset("Same style (StyleAligned)"),
             "a cone, grey background"),
        Show("large-picture", "The same large picture in less time", preset("Faster large pictures"),
             "a purple torus, grey background", scale=2.5, batch=1, steps=12),
        Show("negative-at-cfg-1", "A negative prompt that acts at CFG 1", preset("Negative prompt at CFG 1 (VSF)"),
             "a sphere, grey background", "pink", cfg=1.0, seed=5),
        Show("negative-every-3rd-step", "The same pictures, the negative computed less often",
             preset("Negative every 3rd step"), "a yellow star, grey background"),
        Show("every-2nd-step", "The same pictures, fewer steps computed", preset("Every 2nd step"),
             "a green cone, white background"),
        Show("weak-guidance", "A negative prompt that acts more at a low CFG scale",
             preset("Negative acts more (Contrast)"), "a cone, grey background", "pink", cfg=1.5, seed=5),
        Show("same-look", "New pictures with the look of some that were learned from",
             _moved("Same look as a dictionary", file="embedded-warm"), "a torus, white background"),
        Show("underdrawing", "A picture laid out by a depth map that is drawn first, here of another prompt",
             _moved("Underdrawing", file="reference-depth", map_prompt="two cones, white background"),
             "a green cone, white background"),
        Show("fewer-channels", "The same pictures, attention with fewer channels",
             _moved("Fewer channels", when="always", blocks="all"),
             "a blue cube, white background", seen=False),
    )  # fmt: skip


def _moved(name: str, **values) -> Variant:
    """A shipped preset with other values of its first technique."""
    first = next(iter(load_presets()[name].active())).name
    return preset(name, **{f"{first}.{key}": value for key, value in values.items()})


def draw_shows(
    model: LabModel, chosen: Sequence[Show], progress: Callable[[int], Any], side: int, clock: Callable[[], float]
) -> Iterator[tuple[Show, list[Cell]]]:
    """Each of `chosen` with what was drawn without and with the technique.

    Args:
        progress: takes a number of steps done. side: pixels that the model was trained at. clock: gives seconds.
    """
    for show in chosen:
        yield show, compare_one(model, show.request(side), [show.variant], progress, clock)


def steps_of(chosen: Sequence[Show]) -> int:
    """Sampling steps that `draw_shows` makes, those of the warming up included."""
    return sum(1 + 2 * show.steps for show in chosen)
