"""Good learned files: written, found by name, loaded, kept; and what a user is told of others."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lib_attn.learned import files
from lib_attn.learned.files import Loader, family_of_layers, load, save
from lib_attn.learned.folders import Folders
from lib_attn.learned.header import Refused
from lib_attn.techniques.base import Context
from lib_attn.unet.families import find_layers

KIND = "thin_qk"
TENSORS = {"IN01.0/q": torch.arange(24.0).view(2, 3, 4), "count": torch.tensor([3], dtype=torch.int64)}
ABOUT = {
    "family": "other", "layers": {"IN01.0": 32}, "checkpoint": ["a name", "0123456789"],
    "learned": {"prompts": 2, "pictures": 4}, "figures": {"kept": 0.99}, "licence": "CC0-1.0",
}  # fmt: skip


def write(folder, name="mine", kind=KIND, tensors=None, **about):
    return save(folder / f"{name}.safetensors", kind, tensors or TENSORS, ABOUT | about)


def test_a_file_comes_back_as_it_was_written(tmp_path):
    write(tmp_path / "new folder")
    file = load("mine", KIND, Folders([tmp_path / "new folder"]))
    assert (file.name, file.kind, file.version, file.family, file.about) == ("mine", KIND, 1, "other", ABOUT)
    assert file.tensors.keys() == TENSORS.keys() and file.bytes == 24 * 4 + 8
    assert all(torch.equal(file.tensors[name], value) for name, value in TENSORS.items())
    assert os.listdir(tmp_path / "new folder") == ["mine.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_types_of_numbers(tmp_path, dtype):
    tensors = {"x": torch.ones(3, 2).to(dtype), "none": torch.zeros(0, 2).to(dtype), "one": torch.ones(()).to(dtype)}
    write(tmp_path, tensors=tensors)
    read = load("mine", KIND, Folders([tmp_path])).tensors
    assert all(torch.equal(read[name], x) and read[name].dtype == dtype for name, x in tensors.items())


def test_the_hash_is_the_beginning_of_the_sha256(tmp_path):
    import hashlib

    path = write(tmp_path)
    assert load("mine", KIND, Folders([tmp_path])).hash == hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def test_what_could_not_be_loaded_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path, tensors={"x": torch.tensor([1.0, float("nan")])})
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path, figures={"kept": float("inf")})
    with pytest.raises(ValueError, match="which model"):
        write(tmp_path, family="sd9")
    with pytest.raises(ValueError, match="end with .safetensors"):
        save(tmp_path / "x.ckpt", KIND, TENSORS, ABOUT)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        write(tmp_path, tensors={"x": torch.ones(1)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["mine.safetensors"]


def test_names_are_told_by_kind_and_the_first_folder_wins(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, "b")
    write(first, "A file (2)")
    write(second, "b", tensors={"x": torch.ones(1)})
    write(second, "c", kind="dictionary")
    folders = Folders(["", tmp_path / "missing", first, second, first])
    assert folders.names(KIND) == ["A file (2)", "b"] and folders.names("dictionary") == ["c"]
    said = []
    assert "count" in Loader(lambda: folders).load(KIND, "b", said.append).tensors
    assert said == ["There are several learned files b: that of the first folder is used."]
    assert Loader(lambda: folders).load("dictionary", "c", said.append) and len(said) == 1


def test_a_loaded_file_is_kept_until_it_changes(tmp_path):
    path = write(tmp_path)
    loader = Loader(lambda: Folders([tmp_path]))
    first = loader.load(KIND, "mine")
    assert loader.load(KIND, "mine") is first
    write(tmp_path, tensors={"x": torch.ones(5)})
    os.utime(path, ns=(1, 1))
    assert loader.load(KIND, "mine").hash != first.hash


def test_what_is_kept_is_bounded(tmp_path):
    for name in "abc":
        write(tmp_path, name, tensors={"x": torch.ones(100)})
    loader = Loader(lambda: Folders([tmp_path]), limit=800)
    found = {name: loader.load(KIND, name) for name in "abc"}
    assert loader.load(KIND, "c") is found["c"] and loader.load(KIND, "b") is found["b"]
    assert loader.load(KIND, "a") is not found["a"]


def test_a_file_is_read_once_for_a_page_and_a_job_that_ask_at_once(tmp_path, monkeypatch):
    write(tmp_path)
    loader, read, inside = Loader(lambda: Folders([tmp_path])), [], threading.Event()
    real = files._read

    def slow(*args):
        read.append(args)
        inside.set()
        time.sleep(0.2)
        return real(*args)

    monkeypatch.setattr(files, "_read", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(loader.load, KIND, "mine")
        assert inside.wait(5)
        second = pool.submit(loader.load, KIND, "mine")
        assert first.result() is second.result() and len(read) == 1


def test_a_value_with_a_hash(tmp_path):
    write(tmp_path)
    loader, said = Loader(lambda: Folders([tmp_path])), []
    stamped = loader.stamped(KIND, "mine")
    assert loader.load(KIND, stamped, said.append).name == "mine" and stamped.startswith("mine#") and not said
    assert loader.load(KIND, "mine#0123456789", said.append).name == "mine"
    assert said == ["The learned file mine is not the one that was asked for: the picture will be another one."]
    assert loader.stamped(KIND, "gone#0123456789") == "gone#0123456789"


def test_a_context_gives_what_fits_the_model(tmp_path, unet):
    layers = tuple(find_layers(unet))
    context = Context(layers=layers, files=Loader(lambda: Folders([tmp_path])))
    assert family_of_layers(layers) == "other" and family_of_layers(()) == "other"
    write(tmp_path, "fits", layers=dict(context.layout[:2]))
    assert context.learned(KIND, "fits").layers == dict(context.layout[:2])
    write(tmp_path, "too wide", layers={context.layout[0][0]: 8192})
    write(tmp_path, "elsewhere", layers={"IN44.0": 32})
    write(tmp_path, "sdxl", family="sdxl", layers=dict(context.layout))
    for name in ("too wide", "elsewhere", "sdxl"):
        with pytest.raises(Refused, match=f"^The learned file {name} is not used: it was learned for another kind of"):
            context.learned(KIND, name)


def test_layers_of_one_block_have_names_of_their_own(unet):
    context = Context(layers=tuple(find_layers(unet)) * 2)
    names = [name for name, _ in context.layout]
    assert len(set(names)) == len(names) and names[0] == "IN01.0" and "IN01.1" in names


def test_the_header_is_plain_json(tmp_path):
    data = write(tmp_path).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {k: json.loads(v) for k, v in header["__metadata__"].items()} == {"kind": KIND, "version": 1, **ABOUT}
