"""Loading and writing learned files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_attn.learned import foreign
from lib_attn.learned.folders import MAX_BYTES, SUFFIX, TOO_LARGE, Folders, head_of, open_file
from lib_attn.learned.header import Damaged, Refused, read_header, read_json
from lib_attn.names import split_hash
from lib_attn.unet.layers import Layer

if TYPE_CHECKING:
    import torch

VERSION = 1
HASH = 10  # hexadecimal digits of a file's sha256 that stand under a picture
FAMILIES = ("sd1", "sd2", "sdxl", "other")
#: Width of the first attention layer, its heads, and the number of layers.
LAYOUTS = {(320, 8, 16): "sd1", (320, 5, 16): "sd2", (640, 10, 70): "sdxl"}


@dataclass(frozen=True)
class LearnedFile:
    """What a learned file holds.

    name: of the file, without folder and suffix. kind: the technique it is for. version: of this format. family: one
    of `FAMILIES`, empty for a file of others (`lib_attn.learned.foreign`). hash: the first digits of its sha256. about:
    what it says of itself, see docs/learned-files.md. tensors: by name, on the CPU.
    """

    name: str
    kind: str
    version: int
    family: str
    hash: str
    about: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(repr=False)

    @property
    def layers(self) -> dict[str, int]:
        """Widths of the layers it was learned for, by `lib_attn.unet.layers.layer_keys`."""
        return self.about["layers"]

    @property
    def bytes(self) -> int:
        """Memory that its tensors take."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


def family_of_layers(layers: Iterable[Layer]) -> str:
    """Which of `FAMILIES` a model with these attention layers belongs to."""
    layers = list(layers)
    if not layers:
        return "other"
    first = layers[0]
    width = getattr(first.attn1.to_q, "in_features", 0)
    return LAYOUTS.get((width, first.family.heads(first.attn1), len(layers)), "other")


def load(name: str, kind: str, folders: Folders) -> LearnedFile:
    """The file `name` of a kind.

    Raises:
        Refused: when there is none, or it is not what it has to be.
    """
    path = folders.find(name)
    return _read(path, kind, folders.beside(path))


def _read(path: Path, kind: str, beside: Path | None = None) -> LearnedFile:
    try:
        handle, size = open_file(path, foreign.MAX_BYTES if kind == foreign.KIND else MAX_BYTES)
        with os.fdopen(handle, "rb") as stream:
            layout = None
            if kind == foreign.KIND:
                header = head_of(stream, size)
                layout = None if "kind" in header.metadata else foreign.recognised(header)
            if layout is not None:
                return _taken(path, kind, layout, (header, stream), beside)
            if size > MAX_BYTES:
                raise Damaged(TOO_LARGE)
            stream.seek(0)
            data = stream.read(MAX_BYTES + 1)
        return _parse(path.stem, kind, data)
    except Damaged as damage:
        raise Refused(path.stem, str(damage)) from None
    except OSError:
        raise Refused(path.stem, "it cannot be read") from None
    except MemoryError:
        raise Refused(path.stem, "there is not enough memory for it") from None


def _taken(path: Path, kind: str, layout: foreign.Layout, own: tuple, beside: Path | None) -> LearnedFile:
    """A file of others, with the autoencoder beside it."""
    with contextlib.ExitStack() as stack:
        other = None
        if beside is not None and not layout.changes:
            handle, size = open_file(beside, foreign.MAX_BYTES)
            stream = stack.enter_context(os.fdopen(handle, "rb"))
            other = head_of(stream, size), stream
        tensors, about, digest = foreign.read(path.stem, layout, *own, other)
    return LearnedFile(path.stem, kind, VERSION, "", digest[:HASH], about, tensors)


def _parse(name: str, kind: str, data: bytes) -> LearnedFile:
    """A file from its bytes, all of which are read once: what is checked is what is loaded.

    Raises:
        Damaged: when it is not what it has to be.
    """
    if len(data) > MAX_BYTES:
        raise Damaged(TOO_LARGE)
    metadata = read_header(data, len(data)).metadata
    if not _is_text(metadata.get("kind", "")):
        raise Damaged("it is no learned file of Attention Lab")
    about = {key: read_json(text) for key, text in metadata.items()}
    found, version = about.pop("kind"), about.pop("version", None)
    if type(version) is not int:
        raise Damaged("it is no learned file of Attention Lab")
    if version != VERSION:
        raise Damaged("it was made by another release of Attention Lab")
    if found != kind:
        raise Damaged("it was learned for another technique")
    layers = about.get("layers")
    if about.get("family") not in FAMILIES or not isinstance(layers, dict) or not all(map(_is_width, layers.values())):
        raise Damaged("it does not say which model it was learned for")
    return LearnedFile(name, found, version, about["family"], _hash(data), about, _tensors(data))


def _is_text(json: str) -> bool:
    """Whether a value of the metadata is a text; other people's files have none that is JSON."""
    try:
        return isinstance(read_json(json), str)
    except Damaged:
        return False


def _is_width(value: Any) -> bool:
    return type(value) is int and value > 0


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:HASH]


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, TypeError, RuntimeError):
        raise Damaged("its tensors cannot be read") from None
    if any(t.is_floating_point() and not torch.isfinite(t).all() for t in tensors.values()):
        raise Damaged("a number in it is not finite")
    return tensors


def save(path: Path, kind: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> Path:
    """Write a learned file, whole or not at all, over an older one if need be.

    Args:
        path: with the suffix ``.safetensors``. about: JSON values by name, family and layers among them.

    Raises:
        ValueError: when `load` would refuse the file; its text is the end of a sentence.
        OSError: when it cannot be written.
    """
    from safetensors.torch import save as to_bytes

    if path.suffix != SUFFIX:
        raise ValueError(f"its name has to end with {SUFFIX}")
    told = {"kind": kind, "version": VERSION, **about}
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
    data = to_bytes({name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}, metadata)
    _parse(path.stem, kind, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


class Loader:
    """Loads learned files and keeps those used last, so that a second picture does not read them again.

    Args:
        folders: gives the folders of the moment. limit: most bytes kept; the file used last is kept in any case.
    """

    def __init__(self, folders: Callable[[], Folders] = lambda: Folders(()), limit: int = 2 << 30):
        self.folders, self._limit = folders, limit
        self._kept: dict[tuple, LearnedFile] = {}
        # A host's page asks while a job draws; a large file is then read once, and not by both.
        self._lock = threading.Lock()

    def load(self, kind: str, value: str, say: Callable[[str], None] = lambda text: None) -> LearnedFile:
        """The file that `value`, ``name`` or ``name#hash``, means.

        Args:
            say: told when the file's hash is another one, and when there are several files of this name.

        Raises:
            Refused: see `load`.
        """
        name, wanted = split_hash(value)
        folders = self.folders()
        path = folders.find(name)
        beside = folders.beside(path) if kind == foreign.KIND else None
        key = (self._key(path, kind), beside and self._key(beside, kind))
        with self._lock:
            found = self._kept.pop(key, None) or _read(path, kind, beside)
            self._kept[key] = found
            while sum(file.bytes for file in self._kept.values()) > self._limit and len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
        if folders.several(name):
            say(f"There are several learned files {name}: that of the first folder is used.")
        if wanted and wanted != found.hash:
            say(f"The learned file {name} is not the one that was asked for: the picture will be another one.")
        return found

    def check(self, kind: str, value: str) -> list[str]:
        """What `load` would tell the user, a refusal included."""
        said: list[str] = []
        try:
            self.load(kind, value, said.append)
        except Refused as refused:
            said.append(str(refused))
        return said

    def stamped(self, kind: str, value: str) -> str:
        """``name#hash`` of the file that `value` means; `value` as it is where there is none."""
        try:
            file = self.load(kind, value)
        except Refused:
            return value
        return f"{file.name}#{file.hash}"

    @staticmethod
    def _key(path: Path, kind: str) -> tuple:
        try:
            status = path.stat()
        except OSError:
            raise Refused(path.stem, "it cannot be opened") from None
        return path, kind, status.st_size, status.st_mtime_ns
