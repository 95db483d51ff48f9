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
from typing import Any, BinaryIO

from lib_attn.learned import foreign
from lib_attn.learned.header import LENGTH, Damaged, Header, Refused, header_length, read_header, read_json
from lib_attn.names import is_learned

SUFFIX = ".safetensors"
#: Files that come with the project, for the embedded model.
SHIPPED = Path(__file__).parents[1] / "lab" / "model" / "learned"
MAX_BYTES = 1 << 30  # of a file of ours
MAX_ENTRIES = 2000  # of a folder that are looked at

TOLD = ("kind", "family", "layers", "map")  # by a header, on what the file is for

TOO_LARGE = "it is larger than 1 GiB"
TOO_LARGE_A_MODEL = "it is larger than 4 GiB"
NOT_THERE = "there is none of this name in the folders for learned files"


class Folders:
    """Folders with learned files; of two files with one name the earlier folder's is used.

    Args:
        paths: folders that may be missing; empty names are passed over.
        loras: the same, of the host's LoRAs, which come last. Any of them is found; only those are told of whose names
            say that they draw maps.
    """

    def __init__(self, paths: Iterable[str | os.PathLike], loras: Iterable[str | os.PathLike] = ()):
        self._paths = [Path(path) for path in dict.fromkeys(map(os.fspath, paths)) if path]
        self._loras = [Path(path) for path in dict.fromkeys(map(os.fspath, loras)) if path]

    def names(self, kind: str) -> list[str]:
        """Names of the files of a kind, in alphabetical order; what is no such file is passed over."""
        found = (name for name, paths in self._found().items() if self._told(name, paths[0], kind))
        return sorted(found, key=str.casefold)

    def _told(self, name: str, path: Path, kind: str) -> bool:
        if path.parent in self._loras and not any(word in name.lower() for word in foreign.CHANNELS):
            return False
        return kind_of(path) == kind

    def beside(self, path: Path) -> Path | None:
        """The autoencoder that belongs to a file of others."""
        name = f"{path.stem}{foreign.BESIDE}{SUFFIX}"
        return next((Path(entry.path) for entry in _entries(path.parent) if entry.name == name), None)

    def find(self, name: str) -> Path:
        """The file of this name.

        Raises:
            Refused: when there is none.
        """
        paths = self._found().get(unicodedata.normalize("NFC", name))
        if not paths:
            raise Refused(name, NOT_THERE)
        return paths[0]

    def told_by(self, name: str) -> dict[str, Any]:
        """Kind, family, layers and kind of map as a file's header tells them, the kind alone where others have made it;
        empty where there is no such file."""
        paths = self._found().get(unicodedata.normalize("NFC", name))
        return _told_by(paths[0]) if paths else {}

    def several(self, name: str) -> bool:
        """Whether more than one folder has a file of this name."""
        return len(self._found().get(unicodedata.normalize("NFC", name), ())) > 1

    def _found(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for folder in (*self._paths, *self._loras):
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


def open_file(path: Path, limit: int = MAX_BYTES) -> tuple[int, int]:
    """A descriptor for reading `path`, and the file's size, which is at most `limit` bytes.

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
    if is_file and status.st_size <= limit:
        return handle, status.st_size
    os.close(handle)
    if is_file:
        raise Refused(path.stem, TOO_LARGE if limit == MAX_BYTES else TOO_LARGE_A_MODEL)
    raise Refused(path.stem, "it is no file")


def head_of(stream: BinaryIO, size: int) -> Header:
    """The header of an opened file of `size` bytes.

    Raises:
        Damaged: when it has none that is as it has to be.
    """
    start = stream.read(LENGTH)
    start += stream.read(header_length(start, size))
    return read_header(start, size)


def kind_of(path: Path) -> str | None:
    """What kind of learned file `path` says it is, or is taken for; None when it is none. Only its header is read."""
    return _told_by(path).get("kind")


def _told_by(path: Path) -> dict[str, Any]:
    try:
        handle, size = open_file(path, foreign.MAX_BYTES)
        with os.fdopen(handle, "rb") as stream:
            header = head_of(stream, size)
        if "kind" in header.metadata:
            return {name: read_json(header.metadata[name]) for name in TOLD if name in header.metadata}
        return {"kind": foreign.KIND} if foreign.recognised(header) else {}
    except (Refused, Damaged, OSError):
        return {}
