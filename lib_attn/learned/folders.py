"""Where learned files are looked for.

Nothing that a user, a picture or an API client names is ever put into a path: a folder is listed, and what is found
there is compared with the name.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib_attn.learned.header import LENGTH, Damaged, Refused, header_length, read_header, read_json
from lib_attn.names import is_learned

SUFFIX = ".safetensors"
#: Files that come with the project, for the embedded model.
SHIPPED = Path(__file__).parents[1] / "lab" / "model" / "learned"
MAX_BYTES = 1 << 30  # of a file
MAX_ENTRIES = 2000  # of a folder that are looked at

TOO_LARGE = "it is larger than 1 GiB"
NOT_THERE = "there is none of this name in the folders for learned files"


class Folders:
    """Folders with learned files; of two files with one name the earlier folder's is used.

    Args:
        paths: folders that may be missing; empty names are passed over.
    """

    def __init__(self, paths: Iterable[str | os.PathLike]):
        self._paths = [Path(path) for path in dict.fromkeys(map(os.fspath, paths)) if path]

    def names(self, kind: str) -> list[str]:
        """Names of the files of a kind, in alphabetical order; what is no file of ours is passed over."""
        return sorted((name for name, paths in self._found().items() if kind_of(paths[0]) == kind), key=str.casefold)

    def find(self, name: str) -> Path:
        """The file of this name.

        Raises:
            Refused: when there is none.
        """
        paths = self._found().get(unicodedata.normalize("NFC", name))
        if not paths:
            raise Refused(name, NOT_THERE)
        return paths[0]

    def several(self, name: str) -> bool:
        """Whether more than one folder has a file of this name."""
        return len(self._found().get(unicodedata.normalize("NFC", name), ())) > 1

    def _found(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for folder in self._paths:
            for entry in _entries(folder):
                name = unicodedata.normalize("NFC", entry.name.removesuffix(SUFFIX))
                if entry.name.endswith(SUFFIX) and is_learned(name):
                    found.setdefault(name, []).append(Path(entry.path))
        return found


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry, _ in zip(entries, range(MAX_ENTRIES), strict=False))
    except OSError:
        return


def open_file(path: Path) -> tuple[int, int]:
    """A descriptor for reading `path`, and the file's size.

    Raises:
        Refused: when it is no ordinary file of its folder, or too large.
    """
    # A link may lead to another file of the folder; the file itself is opened, and no further link followed.
    real = Path(os.path.realpath(path))
    if real.parent != Path(os.path.realpath(path.parent)) or real.suffix != SUFFIX:
        raise Refused(path.stem, "it is a link that leads elsewhere")
    # Not waiting for the other end of a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(real, flags)
    except OSError:
        raise Refused(path.stem, "it cannot be opened") from None
    status = os.fstat(handle)
    is_file = stat.S_ISREG(status.st_mode)
    if is_file and status.st_size <= MAX_BYTES:
        return handle, status.st_size
    os.close(handle)
    raise Refused(path.stem, TOO_LARGE if is_file else "it is no file")


def kind_of(path: Path) -> str | None:
    """What kind of learned file `path` says it is; None when it is none. Only its header is read."""
    try:
        handle, size = open_file(path)
        with os.fdopen(handle, "rb") as stream:
            start = stream.read(LENGTH)
            start += stream.read(header_length(start, size))
        return read_json(read_header(start, size).metadata.get("kind", "null"))
    except (Refused, Damaged, OSError):
        return None
