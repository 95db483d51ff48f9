"""Progress bars on the standard error stream."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

#: Takes a word on what is about to be done.
Progress = Callable[[str], None]


def silent(text: str) -> None:
    """The `Progress` of whoever does not want to know."""


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[Progress]:
    """A bar of `total` steps, and the function that is called with what is about to be done before each of them."""
    begun = False
    with tqdm(total=total, file=sys.stderr) as bar:

        def progress(text: str) -> None:
            nonlocal begun
            bar.update(begun)
            begun = True
            bar.set_description(text)

        yield progress
        bar.update(begun)
