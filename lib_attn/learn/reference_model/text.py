"""Teach the text encoder what stands where, from captions alone.

Which of two objects has which colour is a matter of grammar, and a picture is an expensive way to learn grammar.
The encoder is therefore asked directly: the padding tokens behind a caption take turns in standing for the left, the
middle and the right of the picture and for the whole of it, and a linear read-out names the shape, colour and size of
what stands there. Two causal layers suffice: the first binds words to their noun, the second picks the noun by the
relation. A cross-attention then has one token per place to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ..scenes import layout, vocabulary
from ..scenes.layout import Mix, Scene
from . import tokenizer
from .loop import Loop, LoopConfig
from .models import VOCABULARY

#: What the padding token at position p stands for is PLACES[p % 4].
PLACES = ("left", "centre", "right", "whole")
#: Which of the places are taken, by the number of objects.
OCCUPIED = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}
SHAPES, COLOURS = tuple(vocabulary.SHAPES), tuple(vocabulary.COLOURS)
SIZES, BACKGROUNDS = tuple(vocabulary.SIZES), tuple(vocabulary.BACKGROUNDS)
#: Read-outs of one place, each with "nothing there" as the last class, and of the whole picture.
_PLACE = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)
_WHOLE = (3, len(BACKGROUNDS), len(PLACES))
UNKNOWN = -100


@dataclass(frozen=True)
class TextStage:
    """steps: 0 leaves the stage out; keep: weight of staying what the encoder was, on the caption's own words and
    on the tokens of the whole picture, so that a U-Net that reads it already goes on reading."""

    steps: int = 0
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 20
    decay: float = 0.4
    ema: float = 0.99
    keep: float = 1.0


def answers(scene: Scene, coloured: bool = True) -> list[int]:
    """Class numbers: shape, colour and size at the left, centre and right, then count and background.

    What the caption does not say is UNKNOWN.
    """
    things = list(scene.things) if len(scene.things) == 2 else list(scene.things) * scene.count
    if scene.relation == "right of":
        things.reverse()
    out = [len(SHAPES), len(COLOURS), len(SIZES)] * 3
    for place, thing in zip(OCCUPIED[len(things)], things, strict=True):
        colour = COLOURS.index(thing.colour) if coloured else UNKNOWN
        out[3 * place : 3 * place + 3] = [SHAPES.index(thing.name), colour, SIZES.index(thing.size)]
    named = scene.background in scene.caption
    return [*out, len(things) - 1, BACKGROUNDS.index(scene.background) if named else UNKNOWN]


def questions(seed: int, step: int, batch: int, mix: Mix) -> tuple[list[str], torch.Tensor]:
    """Captions of the training split, and their answers int64 (batch, 11); every twelfth has no colours, every
    sixteenth is empty and has no answers."""
    captions, rows = [], []
    for i in range(batch):
        number = step * batch + i
        scene = layout.sample_scene(seed, number, mix)
        if number % 16 == 15:
            captions.append("")
            rows.append([UNKNOWN] * 11)
        else:
            coloured = number % 12 != 11
            captions.append(scene.caption if coloured else vocabulary.without_colours(scene.caption))
            rows.append(answers(scene, coloured))
    return captions, torch.tensor(rows)


class Reader(nn.Module):
    """A text encoder with the read-outs: token ids (B, 77) -> features (B, 77, width), logits of the place each
    position stands for (B, 77, 20), logits of the whole (B, 77, 11)."""

    def __init__(self, text: nn.Module):
        super().__init__()
        width = text.config.hidden_size
        self.text, self.place, self.whole = text, nn.Linear(width, sum(_PLACE)), nn.Linear(width, sum(_WHOLE))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.text(input_ids=tokens).last_hidden_state
        return features, self.place(features), self.whole(features)


def _classes(logits: torch.Tensor, sizes: Sequence[int], want: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropies of the parts. logits (N, sum of sizes), want (N, len(sizes))."""
    parts = zip(logits.float().split(list(sizes), dim=1), want.unbind(1), strict=True)
    return sum(functional.cross_entropy(part, w, ignore_index=UNKNOWN, reduction="sum") for part, w in parts)


def wanted(tokens: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> place answers (B, 77, 3) and whole answers (B, 77, 3), UNKNOWN where nothing is asked, and bool (B, 77):
    the positions that stay as they were."""
    batch, length = tokens.shape
    role = (torch.arange(length) % len(PLACES)).expand(batch, length)
    first = (tokens == VOCABULARY - 1).int().argmax(1, keepdim=True)
    asked = (torch.arange(length) >= first) & (rows[:, 9] != UNKNOWN)[:, None]
    place = torch.full((batch, length, 3), UNKNOWN)
    for number in range(3):
        here = asked & (role == number)
        place[here] = rows[:, None, 3 * number : 3 * number + 3].expand(batch, length, 3)[here]
    whole = torch.full((batch, length, 3), UNKNOWN)
    whole[asked] = torch.cat([rows[:, None, 9:].expand(batch, length, 2), role[..., None]], 2)[asked]
    return place, whole, ~asked | (role == len(PLACES) - 1)


def train(
    folder: Path,
    text: nn.Module,
    words,
    config: LoopConfig,
    mix: Mix,
    keep: float,
    taught: dict[str, torch.Tensor] | None = None,
) -> Loop:
    """Train `text` (in place) on captions drawn from `mix`; nothing is rendered. words: the tokenizer; taught: the
    weights of an earlier stage, whose read-outs go on, so that what a place looks like stays the same."""
    import copy

    before = copy.deepcopy(text).eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        reader = Reader(text)
    if taught:
        reader.load_state_dict({k: v for k, v in taught.items() if not k.startswith("text.")}, strict=False)
    loop = Loop(folder, reader, config)
    before.to(loop.accelerator.device)

    def loss_of(network, step, part):
        # Other scenes than those of the pictures, by a seed of their own.
        captions, rows = questions(config.seed + 500_009, step, config.batch, mix)
        tokens, rows = tokenizer.encode(words, captions[part]), rows[part]
        place, whole, still = (t.to(loop.accelerator.device) for t in wanted(tokens, rows))
        tokens = tokens.to(loop.accelerator.device)
        features, a, b = network(tokens)
        asked = (whole[..., 2] != UNKNOWN).sum().clamp(min=1)
        loss = (
            _classes(a.flatten(0, 1), _PLACE, place.flatten(0, 1))
            + _classes(b.flatten(0, 1), _WHOLE, whole.flatten(0, 1))
        ) / asked
        if keep:
            with torch.no_grad():
                old = before(input_ids=tokens).last_hidden_state
            loss = loss + keep * (features.float() - old.float())[still].square().mean()
        return loss

    loop.run(loss_of, "text")
    return loop


@torch.no_grad()
def accuracy(reader: Reader, words, scenes: Sequence[Scene]) -> float:
    """Share of captions whose every place is named wholly right by most of the tokens that stand for it."""
    right = 0
    for first in range(0, len(scenes), 64):
        part = scenes[first : first + 64]
        tokens = tokenizer.encode(words, [s.caption for s in part])
        place, _, _ = wanted(tokens, torch.tensor([answers(s) for s in part]))
        picks = torch.stack([p.argmax(-1) for p in reader(tokens)[1].split(list(_PLACE), dim=-1)], -1)
        good = ((picks == place) | (place == UNKNOWN)).all(-1)
        role = torch.arange(tokens.shape[1]) % len(PLACES)
        asked = [(place[..., 0] != UNKNOWN) & (role == number) for number in range(3)]
        named = torch.stack([(good & mine).sum(1) > 0.5 * mine.sum(1) for mine in asked])
        right += int(named.all(0).sum())
    return right / len(scenes)
