"""The judge: a small network that names the objects of a picture from left to right and marks their pixels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from lib_attn.lab.shared.errors import LabError
from lib_attn.learn.scenes import vocabulary
from lib_attn.learn.scenes.layout import Scene

EDGE = 64
SLOTS = 3
SHAPES = vocabulary.SHAPES
COLOURS = tuple(vocabulary.COLOURS)
BACKGROUNDS = tuple(vocabulary.BACKGROUNDS)
#: Per slot: which shape or none, which colour or none; then the background.
HEADS = [len(SHAPES) + 1, len(COLOURS) + 1] * SLOTS + [len(BACKGROUNDS)]
#: The judge that comes with the project.
JUDGE = Path(__file__).parents[1] / "model" / "judge.safetensors"


class JudgeError(LabError):
    """The judge's file is missing or damaged; the message is one sentence."""


class JudgeNet(nn.Module):
    """Pictures (B, 3, 64, 64) in 0..1 -> (answers (B, sum of HEADS), mask logits (B, 32, 32))."""

    def __init__(self, width: int = 24):
        super().__init__()

        def block(a: int, b: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

        w = width
        self.high = nn.Sequential(block(3, w, 2), block(w, w))
        self.middle = nn.Sequential(block(w, 2 * w, 2), block(2 * w, 2 * w))
        self.low = nn.Sequential(block(2 * w, 4 * w, 2), block(4 * w, 4 * w))
        self.answers = nn.Sequential(
            nn.Conv2d(4 * w, w, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(w * 64, 192),
            nn.ReLU(inplace=True),
            nn.Linear(192, sum(HEADS)),
        )
        self.mask = nn.Conv2d(7 * w, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        high = self.high(x * 2 - 1)
        middle = self.middle(high)
        low = self.low(middle)
        stack = [high, functional.interpolate(middle, scale_factor=2.0), functional.interpolate(low, scale_factor=4.0)]
        return self.answers(low), self.mask(torch.cat(stack, 1))[:, 0]


@dataclass(frozen=True)
class Verdict:
    """What the judge sees: objects from left to right as (colour, shape), and the background's name."""

    objects: tuple[tuple[str, str], ...]
    background: str


def shrink(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) of any size -> float (B, 3, 64, 64) in 0..1, averaged over areas."""
    x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 255
    return x if x.shape[-2:] == (EDGE, EDGE) else functional.interpolate(x, (EDGE, EDGE), mode="area")


class Judge:
    """A trained judge. `accuracy` holds its own figures on held-out renders, by kind of answer."""

    def __init__(self, net: JudgeNet, accuracy: dict[str, float] | None = None):
        self.net, self.accuracy = net.eval(), accuracy or {}

    @staticmethod
    def load(path: Path) -> Judge:
        """Raises JudgeError when the file is missing, damaged, or not a judge."""
        try:
            with safe_open(str(path), "pt") as file:
                weights = {key: file.get_tensor(key) for key in file.keys()}
                accuracy = json.loads((file.metadata() or {}).get("accuracy", "{}"))
            net = JudgeNet(weights["high.0.0.weight"].shape[0])
            net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        except Exception as error:  # safetensors and torch raise types of their own
            raise JudgeError(f"{Path(path).name} cannot be used as a judge ({error}).") from None
        return Judge(net, accuracy)

    def save(self, path: Path) -> None:
        weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in self.net.state_dict().items()}
        save_file(weights, str(path), {"accuracy": json.dumps(self.accuracy), "license": "CC0-1.0"})

    @torch.no_grad()
    def look(self, pictures: np.ndarray) -> tuple[list[Verdict], np.ndarray]:
        """Pictures uint8 (B, H, W, 3) -> one verdict each, and masks bool (B, 32, 32) of the objects."""
        verdicts, masks = [], []
        for first in range(0, len(pictures), 64):
            answers, mask = self.net(shrink(pictures[first : first + 64]))
            verdicts += read_answers(answers)
            masks.append((mask > 0).numpy())
        return verdicts, np.concatenate(masks)


def read_answers(answers: torch.Tensor) -> list[Verdict]:
    """The network's answers (B, sum of HEADS) as verdicts."""
    picks = [part.argmax(1).tolist() for part in answers.split(HEADS, dim=1)]
    verdicts = []
    for row in zip(*picks, strict=False):
        objects = [
            (COLOURS[c], SHAPES[s])
            for s, c in zip(row[0 : 2 * SLOTS : 2], row[1 : 2 * SLOTS : 2], strict=False)
            if s < len(SHAPES) and c < len(COLOURS)
        ]
        verdicts.append(Verdict(tuple(objects), BACKGROUNDS[row[-1]]))
    return verdicts


def expected(scene: Scene) -> Verdict:
    """What a right picture of the scene's caption shows, from left to right."""
    things = list(scene.things) if len(scene.things) == 2 else list(scene.things) * scene.count
    if scene.relation == "right of":
        things.reverse()
    return Verdict(tuple((t.colour, t.name) for t in things), scene.background)


def labels(scene: Scene) -> list[int]:
    """Class numbers in the order of HEADS."""
    verdict, out = expected(scene), []
    for slot in range(SLOTS):
        if slot < len(verdict.objects):
            colour, shape = verdict.objects[slot]
            out += [SHAPES.index(shape), COLOURS.index(colour)]
        else:
            out += [len(SHAPES), len(COLOURS)]
    return out + [BACKGROUNDS.index(verdict.background)]
