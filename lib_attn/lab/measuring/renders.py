"""What the part "agreement" says of pictures in which everything agrees, and of pictures in which it is broken.

The benchmark's own prompts are rendered, so the first figure is the most that a model's pictures can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib_attn.lab.judging.agreement import PARTS, agreement, judged, wholes
from lib_attn.lab.judging.judge import Judge
from lib_attn.lab.judging.prompts import agreement_prompts
from lib_attn.lab.shared.distances import mean_and_error
from lib_attn.lab.shared.errors import LabError
from lib_attn.learn.scenes import vocabulary
from lib_attn.learn.scenes.layout import Scene
from lib_attn.learn.scenes.render import RenderError
from lib_attn.learn.scenes.renderers import open_renderer
from lib_attn.learn.scenes.texture import PATTERNS

ALL = "all"


@dataclass(frozen=True)
class RenderedRow:
    """figures: by name of a part, and of "all", mean, standard error and number of the pictures that can say."""

    name: str
    figures: dict[str, tuple[float, float, int]]


def measure_renders(judge: Judge, count: int, size: int, seed: int = 0) -> list[RenderedRow]:
    """`count` prompts of the part "agreement" as renders of `size` px: with exact masks, with the judge's, and broken.

    Raises:
        LabError: when nothing can be rendered here.
    """
    scenes = agreement_prompts(count, seed)
    try:
        with open_renderer(size) as renderer:
            whole = [renderer.render(scene) for scene in scenes]
            others = [renderer.render(broken(scene)) for scene in scenes]
    except RenderError as error:
        raise LabError(str(error)) from None
    pictures = np.stack([maps.rgb for maps in whole])
    apart = cut(np.stack([maps.rgb for maps in others]), scenes)
    # A mirror image is not broken, so it says nothing there.
    unsaid = {"symmetry": float("nan")}
    exact = [agreement(m.rgb, m.mask, scene.attributes()) for m, scene in zip(whole, scenes, strict=True)]
    seen, spoiled = (judged(some, judge.look(some)[1], scenes) for some in (pictures, apart))
    return [
        RenderedRow("everything agrees, exact masks", _figures(exact)),
        RenderedRow("everything agrees, the judge's masks", _figures(seen)),
        RenderedRow("broken, the judge's masks", _figures([one | unsaid for one in spoiled])),
    ]


def broken(scene: Scene) -> Scene:
    """The scene with its last object in the colour farthest from its own, and in another pattern where it has one."""
    last = scene.placed[-1]
    far = max(vocabulary.COLOURS.values(), key=lambda colour: float(np.linalg.norm(np.subtract(colour, last.albedo))))
    dress = last.texture
    if dress is not None:
        other = PATTERNS[(PATTERNS.index(dress.pattern) + 1) % len(PATTERNS)]
        dress = replace(dress, pattern=other, repeats=2 * dress.repeats)
    return replace(scene, placed=(*scene.placed[:-1], replace(last, albedo=far, texture=dress)))


def cut(pictures: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Pictures uint8 ``[n, H, W, 3]``; each with a floor gets its right half from the next one with a floor."""
    out, half = pictures.copy(), pictures.shape[2] // 2
    floors = [i for i, scene in enumerate(scenes) if scene.floor]
    for own, other in zip(floors, [*floors[1:], *floors[:1]], strict=True):
        out[own, :, half:] = pictures[other, :, half:]
    return out


def _figures(found: Sequence[dict[str, float]]) -> dict[str, tuple[float, float, int]]:
    values = {part: [one[part] for one in found if one[part] == one[part]] for part in PARTS}
    return {name: (*mean_and_error(some), len(some)) for name, some in {ALL: wholes(found), **values}.items() if some}
