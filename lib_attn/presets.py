"""Presets: some shipped with the extension, read-only, and the user's own as small JSON files in one folder.

A preset sets the techniques it switches on and leaves the others as they are, so two of them can be combined.
A preset's name becomes a file name, so it is checked before anything is done with it: no name is ever a path.
"""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_attn.names import is_reserved, is_well_formed, split_hash
from lib_attn.settings import TECHNIQUES, General, Group, Settings

SHIPPED_FILE = Path(__file__).with_name("presets.json")
MAX_NAME = 60
MAX_BYTES = 65536
MAX_FILES = 200
ALL_OFF = "All off"

#: What a preset may need, by the word in ``presets.json``.
NEEDS = {
    "large": "Needs at least 768 px with SD 1.x and 2.x, 1536 px with SDXL.",
    "768 px": "Needs SD 1.x or 2.x and at least 768 px.",
    "1536 px (SD 1.x)": "Needs SD 1.x or 2.x and at least 1536 px.",
    "SDXL": "Needs SDXL.",
    "1536 px": "Needs SDXL and at least 1536 px.",
    "look": "Needs a learned dictionary.",
    "map blocks": "Needs learned map blocks, which draw depth with this checkpoint.",
    "batch": "Needs batch size 2 or more.",
    "CFG 1": "Needs CFG scale 1.",
    "above CFG 1": "Needs a CFG scale above 1.",
    "negative prompt": "Needs a negative prompt.",
}
OWN = "A preset of your own."


def check_name(name: Any) -> str:
    """Return `name` in its one spelling when it may be a preset's name.

    Raises:
        ValueError: with one sentence, for everything else (paths, control characters, device names, …).
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError("A preset needs a name")
    name = unicodedata.normalize("NFC", name.strip())
    if len(name) > MAX_NAME or len(name.encode("utf-8", "replace")) > 200:
        raise ValueError(f"A preset's name may have {MAX_NAME} characters at most")
    if not is_well_formed(name):
        raise ValueError(
            "A preset's name may have letters, digits, spaces and . _ - + , ' ( ); it begins with a letter, a digit or "
            "( and does not end with a dot"
        )
    if is_reserved(name) or name.casefold() == ALL_OFF.casefold():
        raise ValueError(f"{name} is a name that is taken: choose another one")
    return name


def _shipped() -> dict[str, dict[str, Any]]:
    return json.loads(SHIPPED_FILE.read_text(encoding="utf-8"))


def shipped() -> dict[str, dict[str, Any]]:
    """The settings of the presets that come with the extension, by name, as `Settings.read` takes them."""
    return {name: entry["settings"] for name, entry in _shipped().items()}


class Presets:
    """Shipped presets and those in `folder` (made when the first is saved; None: only the shipped ones)."""

    def __init__(self, folder: str | os.PathLike | None = None):
        self._folder = Path(folder) if folder is not None else None
        self._shipped = _shipped()
        self._was = {old.casefold(): name for name, entry in self._shipped.items() for old in entry.get("was", ())}

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
                name = check_name(file.stem)
                if not self._is_shipped(name) and name not in names:
                    names.append(name)
            except ValueError:
                continue
        return names

    def read(self, name: Any) -> tuple[Settings, list[str]]:
        """Settings of a preset, and a sentence for each value in it that was not understood.

        Raises:
            ValueError: with one sentence, when there is no such preset or its file is damaged.
        """
        entry = self._shipped.get(self._found(name))
        if entry is not None:
            return Settings.read(entry["settings"])
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

    def techniques(self, name: Any) -> tuple[tuple[Group, ...], list[str]]:
        """The techniques that a preset sets, those it switches on, and a sentence for each value not understood.

        Raises:
            ValueError: as `read`.
        """
        settings, messages = self.read(name)
        return tuple(settings[t.name] for t in TECHNIQUES if settings[t.name].enabled), messages

    def apply(self, name: Any, settings: Settings) -> tuple[Settings, list[str]]:
        """`settings` with the preset's techniques in place of theirs, everything else as it is, and what was not
        understood. `ALL_OFF` switches all techniques off and leaves their values.

        Raises:
            ValueError: as `read`.
        """
        if name == ALL_OFF:
            off = {t.name: replace(settings[t.name], enabled=False) for t in TECHNIQUES}
            return settings.replace(**off), []
        groups, messages = self.techniques(name)
        general = replace(settings[General.name], enabled=True) if groups else settings[General.name]
        return settings.replace(general=general, **{g.name: g for g in groups}), messages

    def changed(self, name: Any, settings: Settings) -> bool:
        """Whether `settings` are no longer what the preset `name` sets; False for a name that is none.

        A file is the user's to choose, unless it is a preset of his own that names one; a picture's text has its hash
        too.
        """
        try:
            groups, _ = self.techniques(name)
        except ValueError:
            return False
        left_open = self._is_shipped(name)

        def compared(group: Group, preset: Group) -> Group:
            named = {p.name: split_hash(getattr(group, p.name))[0] for p in group.params() if p.file}
            return replace(group, **{n: "" if left_open or not getattr(preset, n) else v for n, v in named.items()})

        return any(compared(settings[g.name], g) != compared(g, g) for g in groups)

    def matching(self, settings: Settings) -> str | None:
        """Name of the preset that does all that `settings` do, the first of several; None where there is none.

        Files are passed over as in `changed`.
        """
        active = {group.name for group in settings.active()}
        for name in self.names() if active else ():
            try:
                groups, _ = self.techniques(name)
            except ValueError:
                continue
            if {group.name for group in groups} == active and not self.changed(name, settings):
                return name
        return None

    def about(self, name: Any) -> list[str]:
        """Sentences on what a preset is for and what it needs; empty for a name that is none."""
        entry = self._shipped.get(self._found(name))
        if entry is not None:
            return [entry["about"], *(NEEDS[need] for need in entry["needs"])]
        return [OWN] if name in self.own_names() else []

    def has_own(self, name: Any) -> bool:
        """Whether the user has a preset of this name.

        Raises:
            ValueError: when it cannot be the name of one.
        """
        return self._file(name).exists()

    def save(self, name: Any, settings: Settings) -> str:
        """Write a preset, over an older one of that name if need be; returns the name as it is kept.

        Raises:
            ValueError: with one sentence, when the name cannot be used or the file cannot be written.
        """
        file = self._file(name)
        if not file.exists() and len(self.own_names()) >= MAX_FILES:
            raise ValueError(f"There are {MAX_FILES} presets already: delete one first")
        values = settings.to_dict()
        for group in settings.groups:
            for param in group.all_params():
                if param.transient:
                    (values if group.name == General.name else values[group.name]).pop(param.name)
        text = json.dumps(values, indent=2, ensure_ascii=False)
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
        return name.casefold() in self._was or name.casefold() in {n.casefold() for n in self._shipped}

    def _found(self, name: Any) -> str | None:
        """A shipped preset's present name, for one that it had before too."""
        return self._was.get(name.casefold(), name) if isinstance(name, str) else None

    def _file(self, name: Any) -> Path:
        name = check_name(name)
        if self._is_shipped(name):
            raise ValueError(f"{name} comes with the extension and stays as it is")
        if self._folder is None:
            raise ValueError("There is no folder for presets here")
        file = self._folder / f"{name}.json"
        if file.exists() or not self._folder.is_dir():
            return file
        # Some systems keep accents as letters of their own: the same name in another spelling.
        same = (f for f in self._folder.glob("*.json") if unicodedata.normalize("NFC", f.stem) == name)
        return next(same, file)
