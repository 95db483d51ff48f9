"""Training state on disk without pickle: tensors as safetensors, everything else as JSON.

A state is a folder `step-00001234`; it is written under another name and renamed, so a folder with that
name is complete. Random numbers need no state: every draw depends on (seed, purpose, step) alone.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class StateError(ValueError):
    """A state or checkpoint that cannot be written or read; the message is one sentence."""


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict]:
    """Split an optimizer's state into tensors (by "parameter.key") and JSON-ready numbers."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if torch.is_tensor(value):
                tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
            else:
                numbers[f"{index}.{key}"] = value
    return tensors, numbers


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], numbers: dict) -> None:
    state = optimizer.state_dict()
    state["state"] = {}
    for name, value in [*tensors.items(), *numbers.items()]:
        index, key = name.split(".", 1)
        state["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(state)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under its name only when it is complete. Raises StateError."""
    part = path.with_name(path.name + ".part")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, metadata)
        os.replace(part, path)
    except Exception as error:  # safetensors wraps the system's errors in its own type
        part.unlink(missing_ok=True)
        raise StateError(_why(path, error)) from None


def _why(path: Path, error: Exception) -> str:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    reason = "the disk is full" if full else str(error)
    return f"{path.name} could not be written to {path.parent} ({reason}); what was saved before is kept."


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file. Raises StateError when it is missing, truncated or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise StateError(f"{path} does not exist.") from None
    except Exception as error:  # safetensors raises its own types for damaged headers
        raise StateError(f"{path.name} is truncated or damaged ({error}).") from None


def save_state(
    root: Path,
    step: int,
    models: dict[str, dict[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    info: dict,
    keep: int = 2,
) -> Path:
    """Write models (name -> state dict), the optimizer and `info` as root/step-N; drop older ones."""
    final = root / f"step-{step:08d}"
    part = root / f".part-{step:08d}"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, weights in models.items():
            save_tensors(part / f"{name}.safetensors", weights)
        tensors, numbers = flatten_optimizer(optimizer)
        save_tensors(part / "optimizer.safetensors", tensors)
        (part / "state.json").write_text(json.dumps({"step": step, "numbers": numbers, **info}))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise StateError(_why(final, error)) from None
    except StateError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for old in states(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def states(root: Path) -> list[Path]:
    """Finished states, oldest first."""
    return sorted(root.glob("step-*")) if root.is_dir() else []


def load_state(root: Path) -> tuple[Path, dict] | None:
    """The newest state's folder and info, or None when there is none. Raises StateError when damaged."""
    found = states(root)
    if not found:
        return None
    try:
        return found[-1], json.loads((found[-1] / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise StateError(
            f"{found[-1].name} is damaged ({error}); delete that folder to go on from the one before it."
        ) from None
