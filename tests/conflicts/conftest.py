"""Real webuis with extensions of others and ours.

ATTENTION_LAB_EXTENSIONS names the folder of their checkouts (neighbours.py has the repositories), beside WEBUI_DIR and
WEBUI_PYTHON. ATTENTION_LAB_RESULTS names a JSON file for what was found; docs/compatibility.md is made of it.
"""

import json
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from lib_attn import __version__
from tests.conflicts.jobs import INSTALLED_KINDS, KINDS, OFF, SMALL, TECHNIQUES, distance
from tests.conflicts.neighbours import EMBEDDED, NEIGHBOURS, RANDOM, REPOSITORIES, WITH_PAGES, api_scripts, commit
from tests.conftest import ROOT
from tests.host.conftest import webui_folder, webui_python  # noqa: F401
from tests.host.server import ENVIRONMENT, Webui, with_embedded_model

HERE = Path(__file__).resolve().parent
PROBE = HERE / "probe"


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
    """What was found, kept in ATTENTION_LAB_RESULTS; an earlier run's stays where this one is silent."""

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


class Host:
    """A running webui with extensions of others and Attention Lab.

    What others draw is drawn here with ours off: test_off_is_absent holds it against a webui without ours.
    """

    def __init__(self, start, extensions, folders):
        self.folders, self.others = folders, {name: extensions / name for name in folders}
        self._start, self._webui, self._spoiled = start, None, True
        self._checkpoint, self._made, self._reference = None, {}, None

    def ready(self, checkpoint):
        """Start it, anew after a job that left something behind: each failure is to be seen once."""
        if self._spoiled:
            self.stop()
            self._webui = self._start({"attention-lab": ROOT, **self.others, "zz-probe": PROBE})
            self._spoiled, self._checkpoint = False, EMBEDDED
        if checkpoint != self._checkpoint:
            self._webui.call("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})
            self._checkpoint = checkpoint
        self.plain()
        return self

    def spoil(self):
        """Let the next test have a fresh webui."""
        self._spoiled = True

    def stop(self):
        if self._webui is not None:
            self._webui.stop()
            self._webui = None

    def reference(self):
        """A picture for those who want one."""
        if self._reference is None:
            self._reference = self._webui.picture(**SMALL | {"seed": 3}).encoded[0]
        return self._reference

    def draw(self, settings, scripts=None, options=None, webui=None, **fields):
        """A small picture with the others' `scripts` and `options` at work; `settings` are ours, None: not mentioned.

        Raises:
            Refused: where there is no picture.
        """
        webui = webui or self._webui
        if scripts:
            # Kohya hires fix registers a callback in each job and takes it off in the next one without it.
            webui.picture(**SMALL | {"steps": 1, "width": 64, "height": 64})
        scripts = api_scripts(scripts, self.reference()) if scripts else None
        with webui.options(**options) if options else nullcontext():
            made = webui.picture(*[settings] if settings is not None else [], scripts=scripts, **SMALL | fields)
        assert f"Model: {Path(self._checkpoint).stem}" in made.texts[0], "the host drew with another checkpoint"
        return made

    def once(self, name, settings, **fields):
        """`draw`, but only once for this `name`; what fails is tried again."""
        key = self._checkpoint, name, repr(fields)
        if key not in self._made:
            self._made[key] = self.draw(settings, **fields)
        return self._made[key]

    def restless(self, **fields):
        """How far the others' picture is from itself, drawn again: some take noise that no seed sets."""
        return distance(self.once("off", OFF, **fields), self.draw(OFF, **fields))

    def plain(self):
        """What a plain job draws, as drawn before anything else."""
        return self.once("off", OFF)

    def traces(self):
        """What is wrong after a job of ours: things left on the model, errors in our hooks, another plain picture."""
        state, wrong = self._webui.probe("state"), []
        wrong += [f"left on the model: {state['leftovers'][:3]}"] if state["leftovers"] else []
        wrong += [f"one of our hooks raised: {state['errors'][0]}"] if state["errors"] else []
        after = self.draw(OFF)
        if self.plain().pixels != after.pixels:
            wrong.append(f"the next plain picture is off by {distance(self.plain(), after):.2f}")
        self._spoiled |= bool(wrong)
        return wrong

    def page(self):
        """Sentences below the last picture on the page."""
        return self._webui.probe("state")["comments"]


@pytest.fixture(scope="session")
def start(installed, webui_python, tmp_path_factory):  # noqa: F811
    """``start(extensions)`` starts a webui with the embedded model."""

    def start_one(found):
        data = tmp_path_factory.mktemp("conflict") / "data"
        data.mkdir()
        (data / "ui-config.json").write_text("{}")  # NegPiP reads it while it is loaded
        models, ui = installed / "models/Stable-diffusion", not WITH_PAGES.isdisjoint(found)
        config = {"sd_model_checkpoint": EMBEDDED}
        return Webui(installed, webui_python, data, models, found, ui=ui, config=config)

    return start_one


@pytest.fixture(scope="session")
def host_with(start, extensions):
    """``host_with(folders, checkpoint)``: the webui with these extensions. One at a time runs."""
    running = []

    def get(folders, checkpoint=EMBEDDED):
        if not running or running[0].folders != folders:
            stop()
            running.append(Host(start, extensions, folders))
        return running[0].ready(checkpoint)

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
def beside(neighbour, host_with):
    return host_with(neighbour.folders, neighbour.checkpoint)


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
