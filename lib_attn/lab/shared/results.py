"""Result files: rows of a measurement as JSON, with the command that made them.

A row is a frozen dataclass. Fields with None as their default are optional: they are left out of the file where there
is nothing to say. Fields of a file that a row does not know are passed over, so older files can be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from lib_attn.lab.shared.errors import LabError

Row = TypeVar("Row")


def to_json(row: Any) -> dict[str, Any]:
    """A row (a dataclass) as it stands in a result file."""
    values = {f: getattr(row, f.name) for f in dataclasses.fields(row)}
    return {f.name: value for f, value in values.items() if value is not None or f.default is not None}


def from_json(kind: type[Row], value: Mapping[str, Any]) -> Row:
    """The row of class `kind` that stands in a result file.

    Raises:
        LabError: when it is no such row.
    """
    names = {f.name for f in dataclasses.fields(kind)}
    try:
        return kind(**{name: v for name, v in value.items() if name in names})
    except (TypeError, AttributeError):
        raise LabError("A result file is damaged: a row of it is incomplete.") from None


def write_json(path: Path, value: dict) -> None:
    """Write a result file; see `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, value: str) -> None:
    """Write a file and the folders above it.

    Raises:
        LabError: when it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value, encoding="utf-8")
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}.") from None


def read_result(path: Path, kind: str) -> dict:
    """A result file of the measurement `kind`.

    Raises:
        LabError: when it is missing or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise LabError(f"There is no result file {path}.") from None
    except ValueError:
        raise LabError(f"{path} is no result file: it is damaged or no JSON.") from None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise LabError(f"{path} is no result of bench {kind}.")
    return value


def file_hash(path: Path) -> str:
    """The first 12 digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]


def command_line(program: str = "lib_attn.lab") -> str:
    """The command as it would be typed again, with file names instead of this machine's folders."""
    words, hide = [], False
    for word in sys.argv[1:]:
        name, equals, value = word.partition("=")
        if hide or (equals and name in ("--webui", "--slothful")):
            word = "FOLDER" if hide else f"{name}=FOLDER"
        elif os.path.isabs(word):
            word = os.path.basename(word)
        elif equals and os.path.isabs(value):
            word = f"{name}={os.path.basename(value)}"
        hide = word in ("--webui", "--slothful")
        words.append(f"'{word}'" if " " in word else word)
    return f"python -m {program} " + " ".join(words)
