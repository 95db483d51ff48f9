"""A learner for tests: mean inputs of each layer, times what the user has chosen."""

from dataclasses import dataclass
from typing import ClassVar

from lib_attn.learn.learners import Learner
from lib_attn.schema import Group, param


@dataclass(frozen=True)
class Means(Group):
    name: ClassVar[str] = "means"
    label: ClassVar[str] = "Means"

    factor: float = param(1.0, "Factor", "What they are multiplied by.", 0.0, 10.0)
    samples: int = param(64, "Tokens", "How many are looked at.", 1, 4096)


def learn(capture, options, layers):
    assert list(capture.shapes) == [key for key in layers if key in capture.shapes]
    means = {key: options.factor * capture.tokens(key)["x"].mean(0) for key in capture.shapes}
    moments = {f"{key}.q": capture.moment(key, "q") for key in capture.shapes}
    return means | moments, {"figures": {"norm": float(sum(x.norm() for x in means.values()))}}


LEARNER = Learner("Means", "Learns means.", Means, lambda options: {"samples": options.samples}, learn)
