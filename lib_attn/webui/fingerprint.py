"""Whether a job is asked for the same again, whatever its scripts are handed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

DEEP = 8  # containers in containers; what lies deeper is told apart by its text


def fingerprint(value: Any) -> bytes:
    """A digest that equal values share; one that differs, once or always, where values cannot be compared."""
    digest = hashlib.sha256()
    _tell(digest, value, DEEP)
    return digest.digest()


def _tell(digest: Any, value: Any, deep: int) -> None:
    digest.update(type(value).__qualname__.encode() + b"(")
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.shape}{value.dtype}".encode() + np.ascontiguousarray(value).tobytes())
    elif deep and isinstance(value, Mapping):
        for name, part in value.items():
            digest.update(repr(name).encode())
            _tell(digest, part, deep - 1)
    elif deep and isinstance(value, (list, tuple)):
        for part in value:
            _tell(digest, part, deep - 1)
    elif deep and hasattr(value, "__dict__") and not callable(value):
        _tell(digest, vars(value), deep - 1)
    else:
        digest.update(repr(value).encode(errors="replace"))
    digest.update(b")")
