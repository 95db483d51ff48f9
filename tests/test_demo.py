"""demo.sh from a bare machine, with a stand-in for Python: what a user reads while the environment is made."""

import os
import subprocess

import pytest

from tests.conftest import ROOT

#: Answers what the script asks of Python; pip warns unless it is told to keep quiet twice, as the real one does.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-c import sys, venv"*) ;;
    --version) echo "Python 3.11.0" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install"*)
        [[ " $* " == *" -qq "* ]] || echo "WARNING: nothing a user can act on" >&2
        [ -z "${PIP_FAILS:-}" ] || { echo "ERROR: no such package" >&2; exit 1; } ;;
    "-c from importlib"*) echo "torch==2.0" ;;
    *) echo "RAN $*" ;;
esac
"""


@pytest.fixture
def demo(tmp_path):
    """``demo(*words, **variables)`` runs the script in `tmp_path`."""
    program = tmp_path / "python"
    program.write_text(PYTHON)
    program.chmod(0o755)
    own = {"PYTHON": str(program), "ATTENTION_LAB_VENV": str(tmp_path / "venv")}

    def run(*words, **variables):
        environment = os.environ | own | variables
        return subprocess.run(
            [ROOT / "demo.sh", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def test_progress_comes_first_and_no_warnings(demo):
    done = demo()
    assert done.returncode == 0 and done.stdout == "RAN -m lib_attn.lab compare\n"
    said = done.stderr.splitlines()
    assert [line.split(":")[0] for line in said[1:4]] == ["1 of 3", "2 of 3", "3 of 3"]
    assert "virtual environment" in said[0] and said[-1].startswith("Starting") and "WARNING" not in done.stderr


def test_the_second_time_nothing_is_installed(demo):
    demo()
    assert [line.split(";")[0] for line in demo("--ui").stderr.splitlines()] == ["Starting"]


def test_a_failure_is_shown_and_ends_it(demo):
    done = demo(PIP_FAILS="1")
    assert done.returncode == 1 and "RAN" not in done.stdout
    assert "ERROR: no such package" in done.stderr and "Run the command again" in done.stderr


def test_a_checkpoint_is_named_from_where_the_user_stands(demo, tmp_path):
    done = demo("--checkpoint", "mine.safetensors")
    assert done.stdout == f"RAN -m lib_attn.lab compare --checkpoint {tmp_path}/mine.safetensors\n"


def test_a_model_that_comes_with_the_project_goes_by_its_name(demo):
    assert demo("--checkpoint", "reference-512").stdout == "RAN -m lib_attn.lab compare --checkpoint reference-512\n"
