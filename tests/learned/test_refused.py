"""What is no learned file is refused in one sentence, never loaded, and nothing outside the folders is opened."""

import os
import random
import re
import socket
import sys
from collections import Counter

import pytest
import torch

from lib_attn.learned import folders as folders_module
from lib_attn.learned.files import Loader, load
from lib_attn.learned.folders import Folders
from lib_attn.learned.header import Refused
from lib_attn.names import is_learned
from lib_attn.schema import Param
from tests.learned import malformed
from tests.learned.malformed import KIND

CASES = malformed.cases()
PARAM = Param("thin_qk", "Thin QK", "file", "file", "", "File", "The file.", file=KIND)
SENTENCE = re.compile(r"The learned file [^/\\\n]{1,80} is not used: [^/\\\n]{5,120}\.")

_opened: list[str] | None = None


def _watch(event, args):
    if _opened is not None and event in ("open", "os.scandir", "os.listdir"):
        if not isinstance(args[0], int):
            _opened.append(os.fspath(args[0]))


sys.addaudithook(_watch)


@pytest.fixture
def opened():
    """Every path that is opened or listed, by whatever function."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


def refusal(folder, name, kind=KIND):
    with pytest.raises(Refused) as caught:
        load(name, kind, Folders([folder]))
    assert SENTENCE.fullmatch(str(caught.value)), str(caught.value)
    return caught.value.why


def test_there_are_enough_of_every_kind():
    assert len(CASES) >= 200 and len({data for _, data in CASES}) > 0.9 * len(CASES)


def test_the_good_file_they_are_made_of_is_loaded(tmp_path):
    (tmp_path / "good.safetensors").write_bytes(malformed.good())
    tensors = load("good", KIND, Folders([tmp_path])).tensors
    assert all(torch.equal(tensors[name], value) for name, value in malformed.TENSORS.items())
    (tmp_path / "joined.safetensors").write_bytes(malformed.join(*malformed.parts()))
    assert load("joined", KIND, Folders([tmp_path])).tensors.keys() == malformed.TENSORS.keys()


def test_none_is_loaded_and_none_crashes(tmp_path, opened):
    reasons, path = Counter(), tmp_path / "case.safetensors"
    for what, data in CASES:
        path.write_bytes(data)
        opened.clear()
        try:
            why = refusal(tmp_path, "case")
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error
        assert set(opened) <= {str(tmp_path), str(path)}, what
        reasons[why] += 1
        Folders([tmp_path]).names(KIND)
    assert len(reasons) > 15, reasons


def test_flipped_bytes_never_crash(tmp_path):
    """A flip may leave a file that is as good as before; it is loaded or refused, nothing else."""
    draw, data, path = random.Random(2), malformed.good(), tmp_path / "case.safetensors"
    loaded = 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            file = load("case", KIND, Folders([tmp_path]))
        except Refused as refused:
            assert SENTENCE.fullmatch(str(refused))
        else:
            loaded += 1
            assert all(torch.isfinite(t).all() for t in file.tensors.values() if t.is_floating_point())
    assert 0 < loaded < 300


NAMES = [
    "", ".", "..", "../outside", "../../outside", "..\\outside", "inner/../../outside", "./good", "good/", "sub/good",
    "sub\\good", "/etc/passwd", "//host/share", "C:\\outside", "C:outside", "~/outside", "%2e%2e%2foutside", "good\0",
    "\0", "good.safetensors", "good\n", " good", "good ", "GOOD", "n" * 300, "n" * 100000, "con", "nul.x",
    "good:stream", "file:///etc/passwd", "http://host/good", "*", "g*", "?ood", "${HOME}", "`id`", "\u202egood",
    "\ud800", "a,b", "good#0123456789#0123456789",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:24])
def test_a_name_is_never_a_path(tmp_path, opened, name):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in (folder, folder / "sub", tmp_path):
        for stem in ("good", "outside"):
            if (place, stem) != (folder, "outside"):
                (place / f"{stem}.safetensors").write_bytes(malformed.good())
    absolute = [name, str(tmp_path / "outside"), str(tmp_path / "outside.safetensors"), f"{folder}/good"]
    for asked in absolute:
        opened.clear()
        refusal(folder, asked)
        assert set(opened) <= {str(folder)}
        try:
            assert is_learned(PARAM.read(asked)) or not asked.strip()
        except ValueError as error:
            assert len(str(error)) < 200 and "\n" not in str(error)


def test_links_pipes_and_folders(tmp_path, opened, monkeypatch):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for place in (folder, outside):
        place.mkdir()
        (place / "good.safetensors").write_bytes(malformed.good())
    (folder / "plain.txt").write_bytes(malformed.good())
    secret = outside / "secret"
    secret.write_bytes(malformed.good())
    for name, target in {
        "away": outside / "good.safetensors", "relative": "../outside/good.safetensors", "secret": secret,
        "text": folder / "plain.txt", "broken": "nowhere.safetensors", "circle": "circle.safetensors",
        "device": "/dev/zero", "inner": "good.safetensors", "chain": "away.safetensors", "up": "..",
    }.items():  # fmt: skip
        os.symlink(target, folder / f"{name}.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "folder.safetensors" / "good.safetensors").write_bytes(malformed.good())
    os.mkfifo(folder / "pipe.safetensors")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)
        listener.bind("socket.safetensors")
        opened.clear()
        for name in ("away", "relative", "secret", "text", "device", "chain", "up"):
            assert refusal(folder, name) == "it is a link that leads elsewhere"
        for name in ("broken", "circle", "socket"):
            assert refusal(folder, name) == "it cannot be opened"
        for name in ("folder", "pipe"):
            assert refusal(folder, name) == "it is no file"
        assert load("inner", KIND, Folders([folder])).tensors
        assert Folders([folder]).names(KIND) == ["good", "inner"]
    assert opened and all(path == str(folder) or os.path.dirname(path) == str(folder) for path in opened)


def test_a_folder_that_is_a_link_itself_is_the_users_choice(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "good.safetensors").write_bytes(malformed.good())
    os.symlink("real", tmp_path / "linked")
    assert load("good", KIND, Folders([tmp_path / "linked"])).tensors


@pytest.mark.parametrize(
    "name", ["good.ckpt", "good.pt", "good.bin", "good", "good.safetensors.bak", "good.SAFETENSORS"]
)
def test_other_suffixes(tmp_path, opened, name):
    (tmp_path / name).write_bytes(malformed.good())
    opened.clear()
    assert refusal(tmp_path, "good") == "there is none of this name in the folders for learned files"
    assert opened == [str(tmp_path)] and Folders([tmp_path]).names(KIND) == []


@pytest.mark.parametrize("name", ["a,b", "con", "a#0123456789", "n" * 61, " x", "a..b", "é" * 120])
def test_files_whose_names_cannot_be_written_under_a_picture(tmp_path, name):
    (tmp_path / f"{name}.safetensors").write_bytes(malformed.good())
    refusal(tmp_path, name)
    assert Folders([tmp_path]).names(KIND) == []


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.safetensors"
    with path.open("wb") as stream:
        stream.write(malformed.good())
        stream.truncate((1 << 30) + 1)
    monkeypatch.setattr(os, "fdopen", lambda *_: pytest.fail("it was read"))
    assert refusal(tmp_path, "large") == "it is larger than 1 GiB"


def test_a_folder_with_very_many_files_is_not_listed_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(folders_module, "MAX_ENTRIES", 3)
    for number in range(9):
        (tmp_path / f"{number}.safetensors").write_bytes(malformed.good())
    assert len(Folders([tmp_path]).names(KIND)) == 3


def test_a_stamp_never_raises(tmp_path):
    loader = Loader(lambda: Folders([tmp_path]))
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    for name in (*NAMES, "bad"):
        assert loader.stamped(KIND, name) == name
