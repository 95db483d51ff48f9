"""Many jobs in a row leave memory where it was."""

import collections
import gc
import tracemalloc

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from tests.acting import WAYS
from tests.webui.jobs import FLAT, Edited, Model, draw

JOBS, WARM_UP = 200, 40
MOST_BYTES = 64 << 10  # what Python's own tables may grow by


def count():
    """(tensors, all objects that the garbage collector knows)."""
    gc.collect()
    kinds = collections.Counter(type(thing) for thing in gc.get_objects())
    return sum(n for kind, n in kinds.items() if issubclass(kind, torch.Tensor)), sum(kinds.values())


def test_two_hundred_jobs_in_a_row(host, script_module):
    """Every technique in each of its ways, all of them together, a recording that takes an earlier one's place."""
    host.shared.sd_model = Model(**FLAT)
    script = script_module.AttentionLab()
    jobs = [{technique.name: values} for technique, values in WAYS]
    jobs += [{technique.name: values for technique, values in WAYS}]
    jobs += [{"key_mix": {"enabled": True, "record": True, "amount": 0.0, "blocks": "all"}}, {}]
    tracemalloc.start()
    try:
        for number in range(JOBS):
            assert draw(script, Edited(host, steps=3, size=(8, 8)), jobs[number % len(jobs)])[0] is not None
            if number == WARM_UP - WARM_UP % len(jobs) - 1:
                tensors, objects = count()
                before, _ = tracemalloc.get_traced_memory()
            last = number
            if (number + 1) % len(jobs) == 0:
                after = (*count(), tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert last == JOBS - 1
    assert after[0] == tensors, "tensors"
    assert after[1] - objects < JOBS / 4, "objects: fewer than one in four jobs"
    assert after[2] - before < MOST_BYTES, "bytes"
