"""The embedded model put where a webui finds it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from lib_attn.lab.drawing.beside import base_of, metadata_of, write_whole
from lib_attn.lab.drawing.embedded import default_checkpoint
from lib_attn.lab.shared.errors import LabError

#: What every stable-diffusion-webui has, forks included.
MARKS = ("launch.py", "modules/processing.py", "modules/sd_models.py")
CHECKPOINTS = Path("models/Stable-diffusion")
_TITLE = "Attention Lab"


def install(webui: Path, checkpoint: Path | None = None) -> list[Path]:
    """Copy an embedded model, by default the one that is taken when none is named.

    Returns where checkpoint, yaml and the text encoder's folder went.

    Each appears under its name only when it is complete, the checkpoint last, so that a webui that lists its files
    meanwhile never sees one it cannot load. What an earlier call has put there is replaced.

    Raises:
        LabError: when `webui` is no webui, when something else has one of the names, or when it cannot be written.
    """
    webui = webui.expanduser().absolute()
    if missing := [mark for mark in MARKS if not (webui / mark).is_file()]:
        raise LabError(f"{webui} is no stable-diffusion-webui: it has no {missing[0]}.")
    checkpoint = checkpoint or default_checkpoint()
    clip = _clip_folder(checkpoint)
    pairs = [
        (checkpoint.parent / clip, webui / clip),
        (checkpoint.with_suffix(".yaml"), webui / CHECKPOINTS / checkpoint.with_suffix(".yaml").name),
        (checkpoint, webui / CHECKPOINTS / checkpoint.name),
    ]
    _refuse_strangers(pairs)
    parts = [target.with_name(f".{target.name}.part") for _, target in pairs]
    try:
        for (source, target), part in zip(pairs, parts, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(part)
            _copy(source, part)
        for (_, target), part in zip(pairs, parts, strict=True):
            if target.is_dir() and not target.is_symlink():
                _remove(target)
            os.replace(part, target)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise LabError(f"The model could not be copied to {webui} ({reason}).") from None
    finally:
        for part in parts:
            _remove(part)
    return [target for _, target in pairs]


def _copy(source: Path, target: Path) -> None:
    if source.suffix == ".safetensors" and base_of(source) is not None:
        write_whole(source, target)
    else:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def _clip_folder(checkpoint: Path) -> str:
    """The text encoder's folder as the yaml names it, relative to the webui's and to the checkpoint's folder."""
    import yaml

    config = yaml.safe_load(checkpoint.with_suffix(".yaml").read_text(encoding="utf-8"))
    return config["model"]["params"]["cond_stage_config"]["params"]["version"]


def _refuse_strangers(pairs) -> None:
    """Raises `LabError` when a name is taken by something that this command has not put there."""
    (clip_source, clip), _, (_, checkpoint) = pairs
    if clip.exists() and not all((clip / file.name).is_file() for file in clip_source.iterdir()):
        raise LabError(f"{clip} is something else than this model's text encoder: move it away first.")
    if checkpoint.exists():
        try:
            title = metadata_of(checkpoint).get("modelspec.title", "")
        except Exception:  # safetensors has its own types for what is no such file
            title = ""
        if not title.startswith(_TITLE):
            raise LabError(f"{checkpoint} is another model: rename it first.")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
