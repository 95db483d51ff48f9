"""Arithmetic that a host's autocast leaves alone.

On a GPU the webui runs the U-Net, and all that hooks it, under autocast: matrix products and convolutions are carried
out in half precision whatever their inputs are. That is right for what belongs to the model. A sum of squares over a
whole picture overflows there, and a system of equations is handed two types at once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A stretch of code whose operators keep the types of their inputs.

    Args:
        device: that the tensors are on. Older torch has no autocast for some kinds (mps, DirectML) and refuses to
            name them; there is none to switch off then.
    """
    try:
        return torch.autocast(device.type, enabled=False)
    except (RuntimeError, AssertionError):
        return nullcontext()
