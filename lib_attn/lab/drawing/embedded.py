"""Where the model that comes with the project lies, and prompts of words that it knows."""

from __future__ import annotations

from pathlib import Path

from lib_attn.lab.shared.errors import LabError

EMBEDDED = Path(__file__).parents[1] / "model" / "reference.safetensors"
#: Those that come with the project, by name: the one that is taken when none is named, and one trained at 512 px.
MODELS = {name: EMBEDDED.with_name(f"{name}.safetensors") for name in ("reference", "reference-512")}

#: Drawn when no prompt is given; the embedded model knows these words.
PROMPTS = (
    "a large red sphere",
    "a small blue cube, white background",
    "a green cone left of a yellow cylinder",
    "a purple torus, black background",
    "a small orange cube right of a large cyan sphere",
    "a yellow star, grey background",
)


def checkpoint_file(text: str) -> Path:
    """The file that a checkpoint's name or path, as it is typed, means."""
    return MODELS.get(text) or Path(text)


def default_checkpoint() -> Path:
    """The embedded model.

    Raises:
        LabError: when it is not there.
    """
    if not EMBEDDED.is_file():
        raise LabError("This copy comes without an embedded model: name a Stable Diffusion 1.x file with --checkpoint.")
    return EMBEDDED
