"""How techniques' learned files are made: a technique that has one has a package of its name here, and in its
``learner.py`` a `Learner` named ``LEARNER``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lib_attn.learn.capture import Capture
from lib_attn.schema import Group
from lib_attn.techniques import ORDER
from lib_attn.unet.layers import Layer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Learner:
    """What is learned from pictures of a model.

    label, about: as the user reads them. options: settings group of what can be chosen; its name is the technique's.
    wants: ``wants(options)`` gives by name what `Capture` takes beside layers and blocks.
    learn: ``learn(capture, options, layers)``, layers by key, gives the file's tensors by name, and figures and the
    like for what it says of itself (`lib_attn.learned.files.LearnedFile.about`); raises ValueError with one sentence.
    look: whether it learns the look of pictures, so that pictures of the user's own can be shown to the model instead
    (`lib_attn.learn.shown`).
    """

    label: str
    about: str
    options: type[Group]
    wants: Callable[[Any], dict[str, Any]]
    learn: Callable[[Capture, Any, Mapping[str, Layer]], tuple[dict[str, torch.Tensor], dict[str, Any]]]
    look: bool = False


def learners() -> dict[str, Learner]:
    """By the technique's name, in the order in which techniques act."""
    found = {name: _learner(f"{__package__}.{name}.learner") for name in ORDER}
    return {name: learner for name, learner in found.items() if learner is not None}


def _learner(place: str) -> Learner | None:
    try:
        return import_module(place).LEARNER
    except ModuleNotFoundError as error:
        if error.name and place.startswith(error.name):
            return None
        raise
