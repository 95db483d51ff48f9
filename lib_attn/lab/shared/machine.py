"""The machine that something is measured on."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys

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


#: glibc's mallopt parameters, malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_memory() -> bool:
    """Tell glibc to keep freed memory in this process; returns whether it could be told.

    Otherwise every tensor above 32 MiB is handed back to the system when it is freed, and the next one is given in
    pages that the kernel has to clear first, which can take longer than an activation takes to compute. For programs
    of our own only: a webui's memory is its user's.
    """
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):  # a C library without mallopt, as musl
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return False


@contextlib.contextmanager
def one_thread():
    """Torch on one thread: two that share their cores with other programs wait for each other at every operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
