"""Where meshes come from: primitives, a user's folder, or Debian's sweethome3d-furniture."""

from __future__ import annotations

import functools
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import vocabulary
from .meshes import MESH_SUFFIXES, Mesh, MeshError, load_mesh, primitive

#: Where Debian's package puts its catalogue and models.
FURNITURE = Path("/usr/share/sweethome3d")
_CC0 = ("cc-0", "cc0", "public domain")


@dataclass(frozen=True)
class Library:
    """Named meshes to draw scenes from. `colours` is empty when meshes are not painted in named colours."""

    title: str
    licence: str
    all_names: Sequence[str]
    colours: Sequence[str]
    mesh: Callable[[str], Mesh]
    problems: Sequence[str] = ()

    def names(self, split: str) -> list[str]:
        """The meshes of a split. Painted libraries share their meshes and split by combinations; others
        keep every tenth mesh, by a hash of its name, out of training."""
        if self.colours or split == "all":
            return list(self.all_names)
        held_out = [n for n in self.all_names if vocabulary.mesh_is_held_out(n)]
        return held_out if split == "held-out" else [n for n in self.all_names if n not in held_out]


def primitives() -> Library:
    """The six built-in shapes in eight named colours."""
    return Library("procedural", "CC0-1.0", vocabulary.SHAPES, tuple(vocabulary.COLOURS), primitive)


def words_of(stem: str) -> str:
    """A caption from a file name: "officeChair_02" -> "office chair"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    return re.sub(r"[\W_\d]+", " ", spaced).strip().lower() or stem.lower()


def read_captions(path: Path) -> dict[str, str]:
    """A captions file: JSON {"file.obj": "a name"}, or lines of file name, tab, name. Raises MeshError."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            table = json.loads(text)
            if not isinstance(table, dict):
                raise ValueError("it is not an object of names")
            return {str(k): str(v) for k, v in table.items()}
        return dict(line.split("\t", 1) for line in text.splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise MeshError(f"The captions file {path.name} cannot be read ({error}).") from None


def folder(path: Path, captions: Path | None = None, painted: bool = True) -> Library:
    """All meshes of a folder and its subfolders. Unreadable ones are left out and listed in `problems`.

    captions: a captions file; without it captions.json or captions.txt in the folder, else the file names.
    Raises MeshError when the folder is missing, or no mesh of it can be used.
    """
    if not path.is_dir():
        raise MeshError(f"{path} is not a folder.")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in MESH_SUFFIXES)
    if not files:
        raise MeshError(f"{path} holds no meshes; wanted are files ending in {', '.join(MESH_SUFFIXES)}.")
    if captions is None:
        captions = next((p for p in (path / "captions.json", path / "captions.txt") if p.exists()), None)
    table = read_captions(captions) if captions else {}
    meshes, problems = {}, []
    for file in files:
        name = table.get(file.name) or words_of(file.stem)
        try:
            mesh = load_mesh(file, name)
        except MeshError as error:
            problems.append(str(error))
            continue
        if name in meshes:
            problems.append(f"{file.name} is left out: another mesh is called '{name}' already.")
        meshes.setdefault(name, mesh)
    if not meshes:
        raise MeshError(f"None of the {len(files)} meshes in {path} can be used; the first: {problems[0]}")
    return Library(
        "folder",
        "the user's own",
        sorted(meshes),
        tuple(vocabulary.COLOURS) if painted else (),
        meshes.__getitem__,
        tuple(problems),
    )


def _properties(text: str) -> dict[str, str]:
    """The `key=value` lines of a Java properties file, with its \\uXXXX escapes and continued lines."""
    out = {}
    for line in text.replace("\\\n", "").splitlines():
        if "=" in line and not line.lstrip().startswith(("#", "!")):
            key, value = line.split("=", 1)
            out[key.strip()] = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value.strip())
    return out


def furniture_catalogue(root: Path = FURNITURE) -> list[tuple[str, str, Path, str]]:
    """CC0 entries of the installed furniture as (name, category, archive, path of the model in it).

    The package keeps each library as a zip archive (.sh3f) whose PluginFurnitureCatalog.properties names,
    for item k, name#k, category#k, model#k and license#k. Raises MeshError when nothing is installed.
    """
    entries = []
    for archive in sorted(root.rglob("*.sh3f")) if root.is_dir() else []:
        try:
            with zipfile.ZipFile(archive) as pack:
                table = _properties(pack.read("PluginFurnitureCatalog.properties").decode("latin-1"))
        except (OSError, KeyError, zipfile.BadZipFile):
            continue
        whole = table.get("license", "") + archive.stem
        for key, name in table.items():
            if key.startswith("name#"):
                number = key.split("#", 1)[1]
                licence = table.get(f"license#{number}", whole).lower()
                model = table.get(f"model#{number}", "").lstrip("/")
                if model and any(word in licence for word in _CC0):
                    entries.append((name.lower(), table.get(f"category#{number}", "").lower(), archive, model))
    if not entries:
        raise MeshError(f"No CC0 furniture was found under {root}; on Debian: apt install sweethome3d-furniture.")
    return entries


def furniture(root: Path = FURNITURE) -> Library:
    """The CC0 part of Debian's sweethome3d-furniture, painted in named colours, read when first drawn."""
    table = {}
    for name, _, archive, model in furniture_catalogue(root):
        table.setdefault(name, (archive, model))

    @functools.lru_cache(maxsize=256)
    def mesh(name: str) -> Mesh:
        archive, model = table[name]
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(archive) as pack:
            inside = f"{scratch}/{Path(model).name}"
            data = pack.read(model)
            if model.endswith(".zip"):
                pack_file = Path(scratch) / "model.zip"
                pack_file.write_bytes(data)
                with zipfile.ZipFile(pack_file) as inner:
                    obj = next((n for n in inner.namelist() if n.lower().endswith(MESH_SUFFIXES)), None)
                    if obj is None:
                        raise MeshError(f"The furniture '{name}' holds no mesh file.")
                    inside = f"{scratch}/{Path(obj).name}"
                    data = inner.read(obj)
            Path(inside).write_bytes(data)
            return load_mesh(Path(inside), name)

    return Library("sweethome3d-furniture (CC0 part)", "CC0-1.0", sorted(table), tuple(vocabulary.COLOURS), mesh)
