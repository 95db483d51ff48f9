"""Many jobs in a row leave memory where it was."""

import collections
import gc
import logging
import tracemalloc

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from tests.acting import WAYS
from tests.webui.jobs import FLAT, Edited, Model, draw

JOBS = 200
WARM_UP, TRACED = 3, 3  # rounds
MOST_BYTES = 16 << 10  # that a round may leave


def count():
    """(tensors, all objects that the garbage collector knows)."""
    gc.collect()
    kinds = collections.Counter(type(thing) for thing in gc.get_objects())
    return sum(n for kind, n in kinds.items() if issubclass(kind, torch.Tensor)), sum(kinds.values())


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

    def traced():
        go_round()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    for _ in range(WARM_UP):
        go_round()
    tensors, objects = count()
    for _ in range(rounds - WARM_UP - TRACED - 1):
        go_round()
    assert count()[0] == tensors, "tensors"
    assert count()[1] - objects < JOBS / 4, "objects: fewer than one in four jobs"
    tracemalloc.start()
    try:
        # The first rounds that are traced find what the interpreter makes for itself while it runs.
        settled = [traced() for _ in range(TRACED)][-1]
        assert traced() - settled < MOST_BYTES
    finally:
        tracemalloc.stop()
