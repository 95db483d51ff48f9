"""One folder a technique: ``settings.py`` (what the user can set, no torch), its maths, and ``runtime.py`` with the
`lib_attn.techniques.base.Runtime` that acts on a U-Net, named there as ``RUNTIME``.

The order of `ORDER` is the order in which techniques act: whether a step is computed at all is decided before which of
its rows are, and what is skipped is decided and learnt from before contrast changes the negative's prediction. Runtimes are loaded when they are needed, so that reading settings takes no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib_attn.techniques.base import Runtime

ORDER = ("step_skip", "near_sighted", "negative_skip", "contrast", "key_mix")


def load(name: str) -> type[Runtime]:
    """The runtime of the technique `name`."""
    return import_module(f"{__name__}.{name}.runtime").RUNTIME
