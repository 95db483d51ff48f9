"""A fault raised once, in any hook of a technique and in any call of the host: what it may leave behind is nothing.

Each place is tried at its first and at its last call of a job, with an error, with what the host throws to interrupt,
and with a device out of memory.
"""

import collections
import inspect

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn.techniques import load
from lib_attn.techniques.base import Runtime
from tests.acting import IDS, TECHNIQUES, WAYS, WITH_FILE, acting
from tests.webui.jobs import FLAT, Belongings, Edited, Interrupted, Model, draw, same

FAULTS = {"error": RuntimeError, "interrupt": Interrupted, "memory": torch.cuda.OutOfMemoryError}
HOOKS = [name for name, value in vars(Runtime).items() if inspect.isfunction(value) and not name.startswith("__")]
SCRIPT = ["before_process", "process", "process_before_every_sampling", "postprocess_batch", "postprocess"]


class Places:
    """Whatever may fail: counts the calls of each place, and raises at the one that was asked for."""

    def __init__(self, monkeypatch):
        self.calls, self._due, self._patch = collections.Counter(), None, monkeypatch.setattr
        self.watching: set[str] = set()

    def plan(self, fault=None, place=None, number=0):
        """Begin a job in which call `number` of `place` raises `fault`."""
        self.calls.clear()
        self._due = place, number, fault

    def at(self, place):
        """A call of `place`."""
        self.calls[place] += 1
        if self._due and self._due[:2] == (place, self.calls[place]):
            raise self._due[2]("a fault")

    def inside(self, rows):
        """In the middle of the U-Net."""
        self.at("model")
        if rows < 4:
            self.at("model with fewer rows")

    def watch(self, owner, names):
        """Let methods of a class or functions of a module be places."""
        for name in names:
            self._patch(owner, name, self.watched(getattr(owner, name), name))

    def watched(self, function, place):
        self.watching.add(place)

        def wrapped(*args, **kwargs):
            self.at(place)
            return function(*args, **kwargs)

        return wrapped


@pytest.fixture(scope="module")
def model():
    return Model(**FLAT)


@pytest.fixture
def script(script_module, host, model):
    host.shared.sd_model = model
    return script_module.AttentionLab()


def hooks(technique):
    runtime = load(technique.name)
    return [hook for hook in HOOKS if runtime.has(hook)]


def try_all(host, script, places, settings, kind):
    """Every place that a job with `settings` comes by, at its first and its last call; returns what is wrong."""
    plain, before = draw(script, Edited(host), {})[0], Belongings(host)
    places.plan()
    clean, _ = draw(script, Edited(host, places.inside), settings)
    calls, wrong = dict(places.calls), []
    if "take_back" in places.watching and calls.get("model with fewer rows"):
        calls["take_back"] = 1  # comes only after the model has failed with fewer rows
    for place, number in ((place, number) for place, count in calls.items() for number in {1, count}):
        where = f"{place}, call {number} of {calls[place]}"
        places.plan(FAULTS[kind], place, number)
        inside = failing_once(places) if place == "take_back" else places.inside
        out, p = draw(script, Edited(host, inside), settings)
        if places.calls[place] < number:
            wrong.append(f"{where} was not reached")
        if kind == "error" and out is None:
            wrong.append(f"{where}: no picture came")
        if "launch_sampling" in vars(p.sampler):
            wrong.append(f"{where}: the sampler is still ours")
        wrong += [f"{where}: {name} changed" for name in before.changed(host)]
        places.plan()
        if not same(draw(script, Edited(host), {})[0], plain):
            wrong.append(f"{where}: the next plain picture differs")
    if same(clean, plain) or not same(draw(script, Edited(host), settings)[0], clean):
        wrong.append("the technique does not act as before")
    return wrong


def failing_once(places):
    """The model fails with rows left out, once."""
    left = [1]

    def inside(rows):
        places.inside(rows)
        if rows < 4 and left:
            left.clear()
            raise ValueError("the model fails with fewer rows")

    return inside


# An error in each way that a technique may be set; the other kinds, which take the same path, in its first.
CASES = [
    pytest.param(technique, values, kind, id=f"{name}-{kind}")
    for (technique, values), name in zip(WAYS, IDS, strict=True)
    for kind in FAULTS
    if kind == "error" or name.endswith(" 0")
]


@pytest.mark.parametrize("technique, values, kind", CASES)
def test_a_fault_in_a_hook_leaves_nothing(host, script, monkeypatch, technique, values, kind):
    places = Places(monkeypatch)
    places.watch(load(technique.name), ["__init__", *hooks(technique)])
    assert try_all(host, script, places, {technique.name: values}, kind) == []


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_a_callback_leaves_nothing(host, script, monkeypatch, kind):
    """The script's methods, its callbacks, and whatever it asks the host, with all techniques at work."""
    from lib_attn.webui import host as seen
    from lib_attn.webui import negatives

    places = Places(monkeypatch)
    places.watch(type(script), SCRIPT)
    for module in (seen, negatives):
        own = [n for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
        places.watch(module, own)
    for name, functions in host.script_callbacks.registered.items():
        functions[:] = [places.watched(function, name) for function in functions]
    everything = {technique.name: values for technique, values in reversed(WAYS)}
    assert try_all(host, script, places, everything, kind) == []
    assert {"process", "on_cfg_denoiser", "rows_of", "told", "picture"} <= set(places.calls)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)
def test_every_hook_is_reached(host, script, monkeypatch, technique):
    """So that the tests above mean what they say; a new technique's settings stand in tests/acting.py."""
    places, reached = Places(monkeypatch), set()
    places.watch(load(technique.name), hooks(technique))
    for values in acting(technique):
        for inside in (places.inside, failing_once(places)):
            places.plan()
            draw(script, Edited(host, inside), {technique.name: values})
            reached |= set(places.calls)
    assert set(hooks(technique)) - reached == WITH_FILE.get(technique.name, set())
