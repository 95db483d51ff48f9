"""The header of a safetensors file, read strictly and without torch.

The format: eight bytes with the length of the header, little-endian; the header, a JSON object of tensors with dtype,
shape and offsets, and texts in ``__metadata__``; then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

MAX_HEADER = 4 << 20
MAX_TENSORS = 20000
MAX_DIMENSIONS = 8
MAX_TENSOR_NAME = 200
LENGTH = 8  # bytes of the number in front
#: Bytes of an element.
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class Refused(Exception):
    """A learned file that is not used. Its text is one sentence for the user.

    name: as asked for. why: the end of the sentence.
    """

    TEXT = "The learned file {name} is not used: {why}."

    def __init__(self, name: str, why: str):
        self.name, self.why = shown(name), why
        super().__init__(self.TEXT.format(name=self.name, why=why))


class Damaged(ValueError):
    """What is wrong with a file's bytes, as the end of a sentence."""


@dataclass(frozen=True)
class Entry:
    """A tensor as the header has it: bytes ``begin`` to ``end`` behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """Tensors and texts by name."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def shown(name: str) -> str:
    """`name` as a sentence may show it: without folders, control characters and excess length."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in last)[:80] or "?"


def header_length(start: bytes, size: int) -> int:
    """Bytes of the header's text.

    Args:
        start: the file's first bytes. size: of the file.

    Raises:
        Damaged: when there can be no header of that length.
    """
    if len(start) < LENGTH:
        raise Damaged("it is cut off")
    length = int.from_bytes(start[:LENGTH], "little")
    if not 2 <= length <= MAX_HEADER:
        raise Damaged("its header is too long to be one" if length > MAX_HEADER else "it has no header")
    if LENGTH + length > size:
        raise Damaged("it is cut off")
    return length


def read_header(start: bytes, size: int) -> Header:
    """The header of a file of `size` bytes whose first ones, header included, are `start`.

    Raises:
        Damaged: when anything in it is not as it has to be.
    """
    length = header_length(start, size)
    found = read_json(start[LENGTH : LENGTH + length])
    if not isinstance(found, dict) or len(found) > MAX_TENSORS:
        raise Damaged("its header is no list of tensors")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Damaged("what it says of itself is no text")
    tensors = {name: _entry(name, value) for name, value in found.items()}
    end = 0
    for entry in sorted(tensors.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != end:
            raise Damaged("its tensors overlap or leave gaps")
        end = entry.end
    total = size - LENGTH - length
    if end != total:
        raise Damaged("it is cut off" if end > total else "there is more in it than its header says")
    return Header(tensors, metadata)


def read_json(data: bytes | str) -> Any:
    """JSON in which every key stands once and every number is finite.

    Raises:
        Damaged: when it is none.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except Damaged:
        raise
    except (ValueError, RecursionError):
        raise Damaged("its header is no JSON") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Damaged("something stands twice in its header")
    return found


def _no_constant(text: str) -> Any:
    raise Damaged("a number in its header is not finite")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


def _entry(name: str, value: Any) -> Entry:
    if not 0 < len(name) <= MAX_TENSOR_NAME or not name.isprintable():
        raise Damaged("a tensor in it has no usable name")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise Damaged("a tensor in it is not described")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Damaged("a tensor in it has an unknown type of numbers")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS or not _counts(offsets) or len(offsets) != 2:
        raise Damaged("a tensor in it has no usable shape or place")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype]:
        raise Damaged("a tensor in it is not as large as its shape says")
    return Entry(dtype, tuple(shape), begin, end)


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in values)
