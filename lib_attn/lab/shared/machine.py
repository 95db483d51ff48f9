"""The machine that something is measured on."""

from __future__ import annotations

import contextlib
import platform

import torch

from lib_attn.lab.shared.errors import LabError


def pick_device(name: str | None) -> str:
    """``cuda`` or ``cpu``, checked.

    Raises:
        LabError: for anything else, and for cuda where there is none.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise LabError(f"The device is cpu or cuda, not {name[:20]!r}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise LabError("There is no CUDA device here.")
    return name


def machine(device: str) -> dict:
    """What a measurement ran on, without names."""
    model = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {"device": model, "torch": torch.__version__.split("+")[0], "python": platform.python_version()}


@contextlib.contextmanager
def one_thread():
    """Torch on one thread: two that share their cores with other programs wait for each other at every operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
