"""Presets: some shipped with the extension, read-only, and the user's own as small JSON files in one folder.

A preset's name becomes a file name, so it is checked before anything is done with it: no name is ever a path.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from lib_attn.settings import Settings

SHIPPED_FILE = Path(__file__).with_name("presets.json")
MAX_NAME = 60
MAX_BYTES = 65536
MAX_FILES = 200
_NAME = re.compile(r"\w(?:[\w ()+,'-]*[\w)+'])?")
_RESERVED = {"con", "prn", "aux", "nul", "clock$", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def check_name(name: Any) -> str:
    """Return `name` in its one spelling when it may be a preset's name.

    Raises:
        ValueError: with one sentence, for everything else (paths, dots, control characters, device names, …).
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError("A preset needs a name")
    name = unicodedata.normalize("NFC", name.strip())
    if len(name) > MAX_NAME or len(name.encode("utf-8", "replace")) > 200:
        raise ValueError(f"A preset's name may have {MAX_NAME} characters at most")
    if not _NAME.fullmatch(name) or os.path.basename(name) != name:
        raise ValueError("A preset's name may have letters, digits, spaces and _ - + , ' ( ), and starts with a letter")
    if name.casefold() in _RESERVED:
        raise ValueError(f"{name} is a name that Windows keeps for itself")
    return name


def shipped() -> dict[str, dict[str, Any]]:
    """The presets that come with the extension, by name, as `Settings.read` takes them."""
    return json.loads(SHIPPED_FILE.read_text(encoding="utf-8"))


class Presets:
    """Shipped presets and those in `folder` (made when the first is saved; None: only the shipped ones)."""

    def __init__(self, folder: str | os.PathLike | None = None):
        self._folder = Path(folder) if folder is not None else None
        self._shipped = shipped()

    def names(self) -> list[str]:
        """All names, the shipped ones first."""
        return [*self._shipped, *self.own_names()]

    def own_names(self) -> list[str]:
        """Names of the user's presets in alphabetical order; files that are no presets are passed over."""
        try:
            files = sorted(self._folder.glob("*.json"), key=lambda file: file.stem.casefold()) if self._folder else []
        except OSError:
            return []
        names = []
        for file in files[:MAX_FILES]:
            try:
                if check_name(file.stem) == file.stem and not self._is_shipped(file.stem):
                    names.append(file.stem)
            except ValueError:
                continue
        return names

    def read(self, name: Any) -> tuple[Settings, list[str]]:
        """Settings of a preset, and a sentence for each value in it that was not understood.

        Raises:
            ValueError: with one sentence, when there is no such preset or its file is damaged.
        """
        if isinstance(name, str) and name in self._shipped:
            return Settings.read(self._shipped[name])
        file = self._file(name)
        try:
            with file.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError:
            raise ValueError(f"There is no preset named {file.stem}") from None
        if len(data) > MAX_BYTES:
            raise ValueError(f"The preset {file.stem} is too large to be one")
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError(f"The preset {file.stem} is damaged: it is no JSON") from None
        return Settings.read(values)

    def save(self, name: Any, settings: Settings) -> str:
        """Write a preset, over an older one of that name if need be; returns the name as it is kept.

        Raises:
            ValueError: with one sentence, when the name cannot be used or the file cannot be written.
        """
        file = self._file(name)
        if not file.exists() and len(self.own_names()) >= MAX_FILES:
            raise ValueError(f"There are {MAX_FILES} presets already: delete one first")
        text = json.dumps(settings.to_dict(), indent=2, ensure_ascii=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # In the same folder, so that the replacement is one step: nobody ever sees half a preset.
            handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(text)
                os.replace(temporary, file)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise ValueError(f"The preset {file.stem} could not be written: {error.strerror}") from None
        return file.stem

    def delete(self, name: Any) -> str:
        """Remove one of the user's presets; returns its name.

        Raises:
            ValueError: with one sentence, when there is no such preset or it is one of the shipped ones.
        """
        file = self._file(name)
        try:
            file.unlink()
        except OSError:
            raise ValueError(f"There is no preset named {file.stem}") from None
        return file.stem

    def _is_shipped(self, name: str) -> bool:
        return name.casefold() in {shipped_name.casefold() for shipped_name in self._shipped}

    def _file(self, name: Any) -> Path:
        name = check_name(name)
        if self._is_shipped(name):
            raise ValueError(f"{name} comes with the extension and stays as it is: take another name")
        if self._folder is None:
            raise ValueError("There is no folder for presets here")
        return self._folder / f"{name}.json"
