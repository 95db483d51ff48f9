"""A training command that may be stopped at any time, by Ctrl-C or by SIGTERM, and goes on when it is given again."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


def carried_out(train: Callable[[], None], faults: tuple[type[Exception], ...]) -> int:
    """Run `train`; returns the exit code.

    Args:
        faults: whose text is one sentence for the user.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        train()
    except faults as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last save.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stop(*_) -> None:
    raise KeyboardInterrupt
