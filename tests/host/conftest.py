"""A real webui for the tests of this folder: WEBUI_DIR names it, WEBUI_PYTHON its Python (default: the present one).

WEBUI_CHECKPOINT may name a checkpoint with its yaml; without it two tiny ones of random weights are made.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.host.server import ENVIRONMENT, FLAGS, Webui

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.webui)


@pytest.fixture(scope="session")
def webui_folder():
    folder = os.environ.get("WEBUI_DIR")
    if not folder:
        pytest.skip("WEBUI_DIR names no stable-diffusion-webui")
    if not Path(folder, "launch.py").is_file():
        pytest.fail(f"WEBUI_DIR is {folder}, which has no launch.py")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def webui_python():
    return os.environ.get("WEBUI_PYTHON") or sys.executable


@pytest.fixture(scope="session")
def checkpoints(webui_folder, webui_python, tmp_path_factory):
    """A folder with the checkpoints ``a`` and ``b``, ``xl`` of SDXL's layout and ``inpaint`` with nine channels."""
    folder = tmp_path_factory.mktemp("checkpoints")
    named = os.environ.get("WEBUI_CHECKPOINT")
    for seed, name in enumerate(("a", "b", "xl", "inpaint"), 1):
        out = folder / f"{name}.safetensors"
        if named and name == "a":
            for suffix in (".safetensors", ".yaml"):
                shutil.copy(Path(named).with_suffix(suffix), out.with_suffix(suffix))
            continue
        command = [webui_python, str(HERE / "tiny_checkpoint.py"), str(webui_folder), str(out), str(seed), name]
        subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT}, timeout=600)
    return folder


@pytest.fixture(scope="session")
def start(webui_folder, webui_python, checkpoints, tmp_path_factory):
    """``start(extensions, ui=…, flags=…)`` starts a webui; all are stopped at the end of the session."""
    running = []

    def start_one(extensions, *, ui, flags=FLAGS, config=None):
        data = tmp_path_factory.mktemp("webui") / "data"
        webui = Webui(webui_folder, webui_python, data, checkpoints, extensions, ui=ui, flags=flags, config=config)
        running.append(webui)
        return running[-1]

    yield start_one
    for webui in running:
        webui.stop()


@pytest.fixture(scope="session")
def webui(start):
    """A webui with its pages, Attention Lab and the probe."""
    config = {"attention_lab_axes": "all"}
    return start({"attention-lab": ROOT, "zz-probe": HERE / "probe"}, ui=True, config=config)


@pytest.fixture(autouse=True)
def nothing_stays_on_the_model(request):
    """Every test against the webui leaves its U-Net as it was."""
    yield
    if "webui" in request.fixturenames:
        webui = request.getfixturevalue("webui")
        state = webui.probe("state")
        assert state["leftovers"] == [], "something stayed on the model"
        assert state["errors"] == [], "one of our hooks raised"
