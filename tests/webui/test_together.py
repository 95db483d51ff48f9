"""Techniques together in one job: every pair acts, in a stated order, and leaves nothing; some equal one alone."""

import itertools

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn.techniques import ORDER, load
from tests.acting import EXACT, TECHNIQUES, acting, everywhere
from tests.webui.jobs import FLAT, Belongings, Edited, Interrupted, Model, draw, same

PAIRS = list(itertools.combinations(TECHNIQUES, 2))
ORDERED = list(itertools.permutations(TECHNIQUES, 2))
STILL = [pair for pair in ORDERED if pair[0].name in EXACT]


def names(pairs):
    return [" and ".join(technique.name for technique in pair) for pair in pairs]


@pytest.fixture(scope="module")
def model():
    return Model(**FLAT)


@pytest.fixture
def script(script_module, host, model):
    host.shared.sd_model = model
    return script_module.AttentionLab()


def on(*techniques):
    """Settings with each technique in its first way."""
    return {technique.name: acting(technique)[0] for technique in techniques}


@pytest.mark.parametrize("pair", PAIRS, ids=names(PAIRS))
def test_a_pair_acts_and_leaves_nothing(host, script, pair):
    from lib_attn.webui.job import job_of

    plain, before = draw(script, Edited(host), {})[0], Belongings(host)
    out, p = draw(script, Edited(host), on(*pair))
    assert all(step.isfinite().all() for step in out) and not same(out, plain)
    for technique, other in (pair, pair[::-1]):
        if technique.name in job_of(p).changed:
            alone = draw(script, Edited(host), on(other))[0]
            assert not same(out, alone), f"{technique.name} changes the picture too"
        else:
            assert any(technique.label in comment for comment in p.comments), technique.name
    assert same(draw(script, Edited(host), dict(reversed(on(*pair).items())))[0], out), "their order is not the user's"
    for fault in (Interrupted, RuntimeError):
        assert draw(script, Edited(host, _late(fault)), on(*pair))[0] is None or fault is RuntimeError
        assert before.changed(host) == []
        assert same(draw(script, Edited(host), {})[0], plain)
    assert same(draw(script, Edited(host), on(*pair))[0], out)


def _late(fault):
    """Raises in the last but one call of the model."""
    calls = []

    def inside(rows):
        calls.append(rows)
        if len(calls) == 2:
            raise fault

    return inside


@pytest.mark.parametrize("still, other", STILL, ids=names(STILL))
def test_one_that_is_exact_leaves_the_other_alone(host, script, still, other):
    exact = everywhere(still, **EXACT[still.name])
    alone, _ = draw(script, Edited(host), on(other))
    assert same(draw(script, Edited(host), on(other) | {still.name: exact})[0], alone)


@pytest.mark.parametrize("never, other", ORDERED, ids=names(ORDERED))
def test_one_that_never_starts_leaves_the_other_alone(host, script, never, other):
    idle = {**acting(never)[0], "start": 0.5, "end": 0.5}
    alone, _ = draw(script, Edited(host), on(other))
    assert same(draw(script, Edited(host), on(other) | {never.name: idle})[0], alone)


def test_a_forecast_is_what_the_others_have_made(host, script):
    """Row by row a line through two steps: what comes out of it does not depend on who changed those steps."""
    steps = Edited(host, steps=6)
    both, _ = draw(script, steps, on(*TECHNIQUES))
    assert len(both) == 6 and all(step.isfinite().all() for step in both)


@pytest.fixture
def layers():
    """By U-Net call and layer the techniques that edit its projections, in the order in which they do."""
    return {}


@pytest.fixture
def trace(monkeypatch, layers):
    """(hook, technique) in the order in which hooks are called, a list for each U-Net call."""
    found = []
    for name in ORDER:
        runtime = load(name)
        for hook in ("enter", "edit", "attend", "features", "cross", "fill", "leave", "learn"):
            if runtime.has(hook):
                monkeypatch.setattr(runtime, hook, _noted(getattr(runtime, hook), hook, name, found, layers))
    return found


def _noted(function, hook, name, found, layers):
    def noted(self, *args):
        if hook == "enter" and (not found or found[-1][-1][0] != "enter"):
            found.append([])
        found[-1].append((hook, name))
        if hook == "edit":
            layers.setdefault((len(found), args[0].layer.index), []).append(name)
        return function(self, *args)

    return noted


def test_the_order_of_the_seams(host, script, trace, layers):
    """As docs/architecture.md states it, for all techniques in one job."""
    draw(script, Edited(host), on(*TECHNIQUES))
    forecasting = [name for name in ORDER if load(name).has("learn")]
    leaving_out = [name for name in ORDER if load(name).has("enter") and name not in forecasting]
    assert len(trace) == 4
    for call in trace:
        hooks = [hook for hook, _ in call]
        entered = [name for hook, name in call if hook == "enter"]
        assert entered in (forecasting + leaving_out, forecasting), (
            "forecasts first; none is asked where no row is left"
        )
        inside = [i for i, hook in enumerate(hooks) if hook in ("edit", "attend", "features", "cross")]
        assert not inside or (hooks.index("leave") > max(inside) and min(inside) > hooks.index("enter"))
        assert hooks[-len(forecasting) :] == ["learn"] * len(forecasting)
        left = [name for hook, name in call if hook == "leave"]
        assert left == [name for name in ORDER if name in left]
        filled = [(i, name) for i, (hook, name) in enumerate(call) if hook == "fill"]
        for place, name in filled:
            assert "leave" not in hooks or (place > hooks.index("leave")) == (name in forecasting)
    assert any(name in forecasting for call in trace for hook, name in call if hook == "fill")
    assert any(name in leaving_out for call in trace for hook, name in call if hook == "fill")
    for layer, found in layers.items():
        order = sorted(found, key=lambda name: (load(name).narrows, ORDER.index(name)))
        assert found == order, layer
    assert max(len(found) for found in layers.values()) > 1


def test_rows_of_a_job_with_everything(host, script):
    """What is left of an evaluation of two images: forecasts and skipped negatives both take rows away."""
    seen = []
    draw(script, Edited(host, seen.append), on(*TECHNIQUES))
    assert seen[0] == 4 and min(seen) < 4 and len(seen) < 5
    assert torch.tensor(seen).sum() < 16
