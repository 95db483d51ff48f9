"""docs/adding-a-technique.md, held true: one file and one line, and the technique is everywhere."""

import json
import re
import subprocess
import sys

import pytest

from lib_attn.techniques import TECHNIQUES
from tests.conftest import ROOT

#: Outside its own folders a technique is named in the registry and at most in one more file.
MOST_FILES = 2


def test_a_technique_in_one_file_is_found_everywhere():
    pytest.importorskip("gradio", reason="the panel needs gradio (pip install gradio==3.41.2)")
    done = subprocess.run([sys.executable, ROOT / "tests" / "a_technique.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 8 and not [place for place, there in found.items() if not there]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)
def test_a_technique_is_named_in_its_folder_and_the_registry(technique):
    name, cls = technique.name, technique.__name__
    names = re.compile(rf"""["']{name}["'.]|\b{cls}\(|import {cls}\b|techniques\.{name}\b""")
    folders = [ROOT / "lib_attn" / "techniques" / other.name for other in TECHNIQUES]
    # Learned files of a kind are learned in a folder of that name.
    folders += [ROOT / "lib_attn" / "learn" / p.file for other in TECHNIQUES for p in other.params() if p.file]
    files = [f for folder in ("lib_attn", "javascript", "scripts") for f in (ROOT / folder).rglob("*.[pj][ys]")]
    named = [str(f.relative_to(ROOT)) for f in files if not set(folders) & set(f.parents) and names.search(_code(f))]
    assert len(named) <= MOST_FILES, named


def _code(path):
    """A file's text without its docstrings and comments, which may give examples."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'"""[\s\S]*?"""', "", text)
    return re.sub(r"(#|//).*", "", text)
