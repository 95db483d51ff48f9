"""Sets of rendered scenes on disk: tar shards of PNG files and JSON, in the layout of webdataset.

A set is a folder with `set.json` (what it was made from) and `shard-00000.tar` and so on. In a shard, scene
k has `k.rgb.png`, `k.json` and, if asked for, `k.depth.png` (16 bit, 65535 = the near plane), `k.normal.png`
((n + 1) / 2 * 255) and `k.mask.png` (0, or the number of the object). A shard appears under its name only when
it is complete, so an interrupted run loses at most the shard it was writing.
"""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .layout import Mix, Scene, sample_scene
from .render import Maps

SHARD = "shard-{:05d}.tar"


class ShardError(ValueError):
    """A set that cannot be written or read; the message is one sentence with the file and the reason."""


@dataclass(frozen=True)
class SetSpec:
    """Everything a set depends on; the same spec gives the same bytes."""

    seed: int
    scenes: int
    size: int
    mix: Mix
    maps: tuple[str, ...] = ("rgb", "depth", "normal", "mask")
    shard_scenes: int = 1000
    source: str = "procedural"

    def to_json(self) -> dict:
        value = json.loads(json.dumps(asdict(self)))
        if not self.mix.textured:  # sets from before there were patterns go on
            del value["mix"]["textured"]
        return value

    @property
    def shards(self) -> int:
        return -(-self.scenes // self.shard_scenes)


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Level 1: three times faster than the default and only a tenth larger on flat pictures.
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode(scene: Scene, maps: Maps, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """The files of one scene, by suffix."""
    files = {"json": json.dumps(scene.attributes(), sort_keys=True).encode()}
    if "rgb" in wanted:
        files["rgb.png"] = _png(maps.rgb)
    if "depth" in wanted:
        files["depth.png"] = _png(np.rint(np.clip(maps.inverse_depth, 0, 1) * 65535).astype(np.uint16))
    if "normal" in wanted:
        files["normal.png"] = _png(np.rint((maps.normals + 1) * 127.5).astype(np.uint8))
    if "mask" in wanted:
        files["mask.png"] = _png(maps.mask)
    return files


def _write_tar(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
    part = path.with_suffix(".part")
    try:
        with tarfile.open(part, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise ShardError(
                f"The disk is full: {path.name} could not be written to {path.parent}; the "
                "finished shards before it are kept, and the same command goes on from there."
            ) from None
        raise ShardError(f"{path.name} could not be written to {path.parent}: {error.strerror}.") from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_set(
    folder: Path, spec: SetSpec, render: Callable[[Scene], Maps], progress: Callable[[int], None] | None = None
) -> list[Path]:
    """Render a set, or go on with one: shards that are already there are kept.

    progress is called with the number of scenes finished since the last call.
    Raises ShardError when the folder holds a set made from something else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        head = folder / "set.json"
        if head.exists():
            if json.loads(head.read_text()) != spec.to_json():
                raise ShardError(f"{folder} already holds a set with other settings; choose another folder.")
        else:
            head.write_text(json.dumps(spec.to_json(), indent=1))
    except OSError as error:
        raise ShardError(f"{folder} cannot be written: {error.strerror}.") from None

    def members(first: int, last: int):
        for index in range(first, last):
            scene = sample_scene(spec.seed, index, spec.mix)
            for suffix, data in encode(scene, render(scene), spec.maps).items():
                yield f"{index:08d}.{suffix}", data
            if progress:
                progress(1)

    paths = []
    for number in range(spec.shards):
        path = folder / SHARD.format(number)
        first = number * spec.shard_scenes
        last = min(first + spec.shard_scenes, spec.scenes)
        if path.exists():
            if progress:
                progress(last - first)
        else:
            _write_tar(path, members(first, last))
        paths.append(path)
    return paths


def shard_paths(folder: Path) -> list[Path]:
    """Finished shards of a set, in order. Raises ShardError when there are none."""
    paths = sorted(folder.glob("shard-*.tar")) if folder.is_dir() else []
    if not paths:
        raise ShardError(f"{folder} holds no shards of rendered scenes.")
    return paths


_DECODE = {
    "rgb.png": lambda a: a,
    "depth.png": lambda a: a.astype(np.float32) / 65535,
    "normal.png": lambda a: a.astype(np.float32) / 127.5 - 1,
    "mask.png": lambda a: a,
}


def read_shard(path: Path, wanted: tuple[str, ...] = ("rgb", "json")) -> Iterator[dict]:
    """Stream one shard in order, as dicts with "key", "json" (attributes) and the wanted maps.

    Maps come as written by `encode`: rgb uint8 (H, W, 3), depth float32 (H, W) in 0..1, normal float32
    (H, W, 3), mask uint8 (H, W). Raises ShardError when the file is truncated or damaged.
    """
    sample: dict = {}
    try:
        with tarfile.open(path, "r") as tar:
            while (member := tar.next()) is not None:
                key, suffix = member.name.split(".", 1)
                if sample and sample["key"] != key:
                    yield sample
                    sample = {}
                sample.setdefault("key", key)
                kind = suffix.split(".")[0]
                if kind in wanted:
                    data = tar.extractfile(member).read()
                    if len(data) != member.size:
                        raise tarfile.ReadError("unexpected end of data")
                    sample[kind] = (
                        json.loads(data)
                        if kind == "json"
                        else _DECODE[suffix](np.asarray(Image.open(io.BytesIO(data))))
                    )
            # tarfile takes a missing end-of-archive block for the end; a cut exactly there must not pass.
            if path.stat().st_size < tar.offset + 512:
                raise tarfile.ReadError("no end of archive")
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError) as error:
        raise ShardError(
            f"{path.name} is truncated or damaged ({error}); delete it and render the set again, "
            "the other shards are kept."
        ) from None
    if sample:
        yield sample


def read_set(folder: Path, wanted: tuple[str, ...] = ("rgb", "json")) -> Iterator[dict]:
    """Stream a whole set in order."""
    for path in shard_paths(folder):
        yield from read_shard(path, wanted)
