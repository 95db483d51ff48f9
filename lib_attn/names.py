"""What may be the name of a file, on any system; a name is never a path."""

from __future__ import annotations

import os
import re

_NAME = re.compile(r"[\w(](?:[\w ().+,'-]*[\w)+'])?")
_RESERVED = {"con", "prn", "aux", "nul", "clock$", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}

MAX_LEARNED = 60
_HASH = re.compile(r"[0-9a-f]{10}")


def is_well_formed(name: str) -> bool:
    """Whether `name` has only letters, digits, spaces and . _ - + , ' ( ), and no dots that lead elsewhere."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and os.path.basename(name) == name


def is_reserved(name: str) -> bool:
    """Whether some system keeps `name` for a device."""
    return name.split(".")[0].strip().casefold() in _RESERVED


def is_learned(name: str) -> bool:
    """Whether `name` may be that of a learned file. No comma: a picture's text has values between commas."""
    if len(name) > MAX_LEARNED or len(name.encode("utf-8", "replace")) > 200 or "," in name:
        return False
    return is_well_formed(name) and not is_reserved(name)


def split_hash(value: str) -> tuple[str, str]:
    """``name#hash`` as (name, hash); the hash is empty where none stands, or none that could be one."""
    name, _, found = value.partition("#")
    return (name, found) if _HASH.fullmatch(found) else (value, "")
