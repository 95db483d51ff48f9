"""Where the model that comes with the project lies."""

from __future__ import annotations

from pathlib import Path

from lib_attn.lab.errors import LabError

EMBEDDED = Path(__file__).parent / "model" / "reference.safetensors"


def default_checkpoint() -> Path:
    """The embedded model.

    Raises:
        LabError: when it is not there.
    """
    if not EMBEDDED.is_file():
        raise LabError("This copy comes without an embedded model: name a Stable Diffusion 1.x file with --checkpoint.")
    return EMBEDDED
