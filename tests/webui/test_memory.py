"""Many jobs in a row leave memory where it was."""

import collections
import gc
import itertools
import logging
import statistics
import tracemalloc

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from tests.acting import WAYS
from tests.webui.jobs import FLAT, Edited, Model, draw

JOBS = 200
WARM_UP, TRACED = 3, 5  # rounds
MOST_BYTES = 16 << 10  # that a round may leave


def known():
    """(tensors, all objects that the garbage collector knows)."""
    kinds = collections.Counter(type(thing) for thing in gc.get_objects())
    return sum(n for kind, n in kinds.items() if issubclass(kind, torch.Tensor)), sum(kinds.values())


def a_round(sums):
    """What a round leaves: what a job leaves is left in all of them, what other threads of the process do in some."""
    return statistics.median(after - before for before, after in itertools.pairwise(sums))


def test_two_hundred_jobs_in_a_row(host, script_module, monkeypatch):
    """Every technique in each of its ways, all of them together, a recording that takes an earlier one's place."""
    # pytest keeps every line that is logged.
    monkeypatch.setattr(logging.getLogger("attention_lab"), "disabled", True)
    host.shared.sd_model = Model(**FLAT)
    script = script_module.AttentionLab()
    jobs = [{technique.name: values} for technique, values in WAYS]
    jobs += [{technique.name: values for technique, values in WAYS}]
    jobs += [{"key_mix": {"enabled": True, "record": True, "amount": 0.0, "blocks": "all"}}, {}]
    rounds = -(-JOBS // len(jobs))

    def go_round():
        for settings in jobs:
            assert draw(script, Edited(host, steps=3, size=(8, 8)), settings)[0] is not None

    def left(measure):
        go_round()
        gc.collect()
        return measure()

    for _ in range(WARM_UP):
        go_round()
    counts = [left(known) for _ in range(rounds - WARM_UP - TRACED)]
    assert len({tensors for tensors, _ in counts}) == 1, "tensors"
    assert a_round([objects for _, objects in counts]) < len(jobs) / 4, "objects: fewer than one in four jobs"
    tracemalloc.start()
    try:
        # The first rounds that are traced find what the interpreter makes for itself while it runs.
        assert a_round([left(tracemalloc.get_traced_memory)[0] for _ in range(TRACED)][1:]) < MOST_BYTES
    finally:
        tracemalloc.stop()
