"""The U-Net's forward while techniques are on it: the only place where an error inside of it can be caught."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch

from lib_attn.unet.batch import Boundary
from lib_attn.unet.flight import Flight

FAILED_BEFORE = "another extension failed when a row was left out"

log = logging.getLogger("attention_lab")


class Guard:
    """Makes a failed U-Net call again, with all rows or without any technique.

    Args:
        boundary: knows whether rows are left out of the call in flight. flight: that call.
        whole: every row is to be computed, because a call with fewer has failed before.
        say: takes a sentence for the user.

    Attributes:
        failed_with_fewer: a call failed when a row was left out; from then on every row is computed.
        failed: a call failed all the same; from then on nothing is done.
        arguments: of the call in flight, as they came.
    """

    def __init__(self, boundary: Boundary, flight: Flight, whole: bool, say: Callable[[str], None]):
        self._boundary, self._flight, self._say = boundary, flight, say
        self.failed_with_fewer, self.failed, self.on = whole, False, False
        self.arguments: tuple[tuple, dict] = ((), {})

    def forward(self, unet: Any) -> tuple[Any, Any]:
        """(module, instance ``forward``) to be put on `unet`."""
        self.on = True
        return unet, _Forward(self, unet, vars(unet).get("forward"))

    def compute(self, plain: Callable, args: tuple, kwargs: dict) -> Any:
        """Run the U-Net's own forward `plain`; where it fails with ours in it, again with all rows, then without us.

        Where no row of the call is left to compute it is not run.
        """
        if self._boundary.empty:
            return self._boundary.nothing()
        if self._flight.rows is None and not self._boundary.fewer:
            return plain(*args, **kwargs)
        generators = _generators()
        try:
            return plain(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception:
            if self._boundary.fewer:
                log.exception("Attention Lab: a U-Net call failed with rows left out; it is made again with all rows")
                self.failed_with_fewer = True
                why = FAILED_BEFORE
                self._say(f"Attention Lab computes every row from now on: {why}. See the log.")
                args, kwargs = self.arguments
                try:
                    self._boundary.complete()
                    self._flight.rows = self._boundary.inner_rows
                    _restore(generators)
                    return plain(*args, **kwargs)
                except Exception:
                    log.exception("Attention Lab: it failed with all rows as well")
            self.stand_back()
        _restore(generators)
        return plain(*args, **kwargs)

    def stand_back(self) -> None:
        """After an error with ours in a U-Net call: do nothing any more, say so, and keep the error for the log."""
        log.exception("Attention Lab stands back after an error in a U-Net call")
        self.failed, self._flight.rows, self._boundary.call = True, None, None
        self._say(
            "Attention Lab stood back: a step of this picture failed with it, alone or beside another extension. "
            "See the log."
        )


def _generators() -> tuple:
    """The state of the global random generators."""
    return torch.random.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(generators: tuple) -> None:
    torch.random.set_rng_state(generators[0])
    if generators[1] is not None:
        torch.cuda.set_rng_state(generators[1])


class _Forward:
    """Instance ``forward`` of the U-Net. Holds the guard weakly: once that is gone it is inert."""

    def __init__(self, guard: Guard, unet: Any, before: Callable | None):
        self._guard, self._unet, self.before = weakref.ref(guard), weakref.ref(unet), before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        guard = self._guard()
        if guard is None or not guard.on:
            return self._plain(*args, **kwargs)
        return guard.compute(self._plain, args, kwargs)

    def _plain(self, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            return self.before(*args, **kwargs)
        unet = self._unet()
        return type(unet).forward(unet, *args, **kwargs)
