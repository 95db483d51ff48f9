"""Real webuis with extensions of others, each without and with ours.

ATTENTION_LAB_EXTENSIONS names the folder of their checkouts (neighbours.py has the repositories), beside WEBUI_DIR and
WEBUI_PYTHON. ATTENTION_LAB_RESULTS names a JSON file for what was found; docs/compatibility.md is made of it.
"""

import json
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from lib_attn import __version__
from tests.conflicts.jobs import INSTALLED_KINDS, KINDS, OFF, SMALL, TECHNIQUES, distance
from tests.conflicts.neighbours import EMBEDDED, NEIGHBOURS, RANDOM, REPOSITORIES, api_scripts, commit
from tests.conftest import ROOT
from tests.host.conftest import webui_folder, webui_python  # noqa: F401
from tests.host.server import ENVIRONMENT, Webui, with_embedded_model

HERE = Path(__file__).resolve().parent
PROBE = ROOT / "tests" / "host" / "probe"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.webui)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A fixture can see how its test ended."""
    report = yield
    if report.when == "call":
        item.report = report
    return report


@pytest.fixture(scope="session")
def extensions():
    folder = os.environ.get("ATTENTION_LAB_EXTENSIONS")
    if not folder:
        pytest.skip("ATTENTION_LAB_EXTENSIONS names no folder with extensions of others")
    if not Path(folder).is_dir():
        pytest.fail(f"ATTENTION_LAB_EXTENSIONS is {folder}, which is no folder")
    return Path(folder).resolve()


class Results:
    """What was found. Kept in ATTENTION_LAB_RESULTS, if it is named, where an earlier run's stays if this one is silent."""

    def __init__(self, extensions):
        path = os.environ.get("ATTENTION_LAB_RESULTS")
        self._path = Path(path) if path else None
        self.found = json.loads(self._path.read_text()) if path and self._path.is_file() else {}
        self.found["version"] = __version__
        self.found["commits"] = {
            name: commit(extensions / name) for name in REPOSITORIES if (extensions / name).is_dir()
        }

    def note(self, part, name, value):
        self.found.setdefault(part, {})[name] = value
        if self._path:
            self._path.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="session")
def results(extensions):
    return Results(extensions)


@pytest.fixture(scope="session")
def installed(webui_folder, webui_python, tmp_path_factory):  # noqa: F811
    """A webui's folder with the embedded model and one of random weights in SD 1.x's layout."""
    folder = with_embedded_model(webui_folder, tmp_path_factory.mktemp("installed") / "webui")
    out = folder / "models/Stable-diffusion" / RANDOM
    command = [webui_python, str(ROOT / "tests/host/tiny_checkpoint.py"), str(webui_folder), str(out), "1", "a"]
    subprocess.run(command, check=True, env={**os.environ, **ENVIRONMENT}, timeout=600)
    return folder


class Pair:
    """Two running webuis with the same extensions of others, `ours` with Attention Lab and `without` without."""

    def __init__(self, start, extensions, folders):
        self.folders, self._start = folders, start
        self._others = {name: extensions / name for name in folders}
        self.without, self.ours = start(self._others), None
        self._made, self._reference, self._spoiled = {}, None, True
        self._checkpoints = {}

    def ready(self):
        """Start ours, anew after a job that left something behind: each failure is to be seen once."""
        if self._spoiled:
            if self.ours is not None:
                self.ours.stop()
            self.ours, self._spoiled = self._start({"attention-lab": ROOT, **self._others, "zz-probe": PROBE}), False
        return self

    def spoil(self):
        """Let the next test have a fresh webui of ours."""
        self._spoiled = True

    def stop(self):
        for webui in filter(None, (self.without, self.ours)):
            webui.stop()

    @property
    def reference(self):
        """A picture for those who want one."""
        if self._reference is None:
            self._reference = self.without.picture(**SMALL | {"seed": 3}).encoded[0]
        return self._reference

    def draw(self, webui, neighbour, args=(), *, used=True, **fields):
        """A small picture of `webui`, with the neighbour switched on if it is `used`."""
        if not (used and neighbour.used):
            return webui.picture(*args, **SMALL | fields)
        scripts = api_scripts(neighbour.scripts, self.reference)
        with webui.options(**neighbour.options) if neighbour.options else ExitStack():
            return webui.picture(*args, scripts=scripts, **SMALL | neighbour.fields | fields)

    def use(self, checkpoint):
        """Let both webuis draw with `checkpoint`."""
        for webui in (self.without, self.ours):
            if self._checkpoints.get(webui) != checkpoint:
                webui.call("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})
                self._checkpoints[webui] = checkpoint

    def absent(self, neighbour, *, used=True, **fields):
        """The picture where ours is not installed, drawn once."""
        key = neighbour.name if used else neighbour.checkpoint, tuple(sorted(fields.items()))
        if key not in self._made:
            self._made[key] = self.draw(self.without, neighbour, used=used, **fields)
        return self._made[key]

    def with_ours(self, neighbour, settings, *, used=True, **fields):
        return self.draw(self.ours, neighbour, [settings], used=used, **fields)

    def technique(self, neighbour, technique, *, used=True, **fields):
        """The picture of one of the techniques that are tried, drawn once.

        Raises:
            Refused: when there is none, each time anew.
        """
        key = technique, neighbour.name if used else neighbour.checkpoint, tuple(sorted(fields.items()))
        if key not in self._made:
            self._made[key] = self.with_ours(neighbour, TECHNIQUES[technique], used=used, **fields)
        return self._made[key]

    def traces(self, neighbour):
        """What is wrong after a job of ours: things left on the model, errors in our hooks, another plain picture."""
        state, wrong = self.ours.probe("state"), []
        left = [name for name in state["leftovers"] if name != "an attribute differs"]  # of others
        wrong += [f"left on the model: {left[:3]}"] if left else []
        wrong += [f"one of our hooks raised: {state['errors'][0]}"] if state["errors"] else []
        plain, next_plain = self.absent(neighbour, used=False), self.with_ours(neighbour, OFF, used=False)
        if plain.pixels != next_plain.pixels:
            wrong.append(f"the next plain picture is off by {distance(plain, next_plain):.2f}")
        self._spoiled |= bool(wrong)
        return wrong


@pytest.fixture(scope="session")
def start(installed, webui_python, tmp_path_factory):  # noqa: F811
    """``start(extensions)`` starts a webui with the embedded model."""

    def start_one(found):
        data = tmp_path_factory.mktemp("conflict") / "data"
        data.mkdir()
        (data / "ui-config.json").write_text("{}")  # NegPiP reads it while it is loaded
        (data / "config.json").write_text(json.dumps({"sd_model_checkpoint": EMBEDDED}))
        return Webui(installed, webui_python, data, installed / "models/Stable-diffusion", found, ui=False)

    return start_one


@pytest.fixture(scope="session")
def pair_of(start, extensions):
    """``pair_of(folders)``: the webuis with these extensions. One pair at a time runs."""
    running = []

    def get(folders):
        if not running or running[0].folders != folders:
            stop()
            running.append(Pair(start, extensions, folders))
        return running[0].ready()

    def stop():
        while running:
            running.pop().stop()

    yield get
    stop()


@pytest.fixture(scope="session", params=NEIGHBOURS, ids=str)
def neighbour(request, extensions):
    for folder in request.param.folders:
        if not (extensions / folder).is_dir():
            pytest.skip(f"{folder} ({REPOSITORIES[folder]}) is not in the folder of extensions")
    return request.param


@pytest.fixture
def pair(neighbour, pair_of):
    pair = pair_of(neighbour.folders)
    pair.use(neighbour.checkpoint)
    return pair


@pytest.fixture(scope="session")
def by_ourselves(start):
    """``by_ourselves(checkpoint)``: (technique, kind) -> what ours draws with no neighbour installed."""
    made = {}

    def get(checkpoint):
        if checkpoint not in made:
            webui = start({"attention-lab": ROOT})
            try:
                webui.call("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})
                made[checkpoint] = {
                    (technique, kind): webui.picture(settings, **SMALL | KINDS[kind])
                    for technique, settings in TECHNIQUES.items()
                    for kind in INSTALLED_KINDS
                }
            finally:
                webui.stop()
        return made[checkpoint]

    return get
