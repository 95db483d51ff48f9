"""One folder a technique: ``settings.py`` (what the user can set, no torch), its maths, and ``runtime.py`` with the
`lib_attn.techniques.base.Runtime` that acts on a U-Net, named there as ``RUNTIME``.

The order of `TECHNIQUES` is the order in which techniques act: what is skipped is decided and learnt from before
contrast changes the negative's prediction. Where several leave rows out, `lib_attn.unet.batch` has the rule. Runtimes
are loaded when they are needed, so that reading settings takes no torch. A technique may have a ``preview.py`` with
what it says before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lib_attn.schema import Technique
from lib_attn.techniques.contrast.settings import Contrast
from lib_attn.techniques.depth_guide.settings import DepthGuide
from lib_attn.techniques.dictionary.settings import Dictionary
from lib_attn.techniques.key_mix.settings import KeyMix
from lib_attn.techniques.near_sighted.settings import NearSighted
from lib_attn.techniques.negative_skip.settings import NegativeSkip
from lib_attn.techniques.step_skip.settings import StepSkip
from lib_attn.techniques.thin_qk.settings import ThinQk

if TYPE_CHECKING:
    from lib_attn.store import Store
    from lib_attn.techniques.base import Runtime

TECHNIQUES: tuple[type[Technique], ...] = (
    NearSighted, NegativeSkip, Contrast, KeyMix, Dictionary, ThinQk, DepthGuide, StepSkip,
)  # fmt: skip
ORDER = tuple(technique.name for technique in TECHNIQUES)


def load(name: str) -> type[Runtime]:
    """The runtime of the technique `name`."""
    return import_module(f"{__name__}.{name}.runtime").RUNTIME


def first_pass_of(name: str) -> Callable[..., Any]:
    """``underdraw`` of the technique's ``underdraw.py``, which has something drawn before the picture."""
    return import_module(f"{__name__}.{name}.underdraw").underdraw


def stamped(settings: Any, store: Store) -> Any:
    """`lib_attn.settings.Settings` as a picture's text has them: what is given to a technique that draws first is named
    by its hash, see ``given.py`` in its folder."""
    first = [group for group in settings.active() if group.draws_first]
    return settings.replace(**{g.name: import_module(f"{__name__}.{g.name}.given").stamped(g, store) for g in first})


def latest_of(name: str, store: Store) -> str:
    """The hash of what a technique that draws first had drawn last, as `store` has it; empty when there is nothing."""
    return import_module(f"{__name__}.{name}.maps").maps_in(store).latest


def keeps(name: str, wanted: str, store: Store) -> bool:
    """Whether `store` still has what a technique that draws first has drawn under this hash."""
    return import_module(f"{__name__}.{name}.maps").maps_in(store).named(wanted) is not None


def lay_nothing_ready(name: str, store: Store) -> None:
    """Nothing of what a technique draws first is followed by the pass to come, until it is drawn or found."""
    import_module(f"{__name__}.{name}.maps").maps_in(store).current = ()


def forget_recorded(store: Store) -> None:
    """Drop what techniques have recorded. What they had drawn first stays: it is asked for by its hash."""
    for name in ORDER:
        store.clear(name)


def teller_of(name: str) -> Callable[..., None] | None:
    """``tell`` of the technique's ``preview.py``, what it says before drawing; None when it has no such file."""
    place = f"{__name__}.{name}.preview"
    try:
        return import_module(place).tell
    except ModuleNotFoundError as error:
        if error.name and place.startswith(error.name):
            return None
        raise
