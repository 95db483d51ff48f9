"""The face of a technique: hooks that do nothing, misspelt ones refused, and what outlives a job."""

import inspect

import pytest
import torch

from lib_attn.settings import TECHNIQUES
from lib_attn.store import Store
from lib_attn.techniques import ORDER, load
from lib_attn.techniques.base import Context, Runtime
from lib_attn.techniques.budget import Budget


def test_a_misspelt_hook_is_an_error():
    with pytest.raises(TypeError, match="Wrong defines atend, which is no hook"):
        type("Wrong", (Runtime,), {"atend": lambda self, call: None})


@pytest.mark.parametrize("name", ORDER)
def test_hooks_take_what_the_base_class_says(name):
    runtime = load(name)
    for hook, method in vars(runtime).items():
        if hook.startswith("_") or not callable(method):
            continue
        expected, found = (list(inspect.signature(f).parameters) for f in (getattr(Runtime, hook), method))
        assert found == expected, hook


def test_every_technique_is_in_the_registry_once():
    assert sorted(ORDER) == sorted(group.name for group in TECHNIQUES) and len(set(ORDER)) == len(ORDER)


def test_hooks_of_the_base_class_do_nothing():
    runtime, x = Runtime(None, Context()), torch.ones(2)
    assert not runtime.wants_self(None) and not runtime.wants_cross(None) and not runtime.wants_features(None)
    assert runtime.attend(None) is runtime.cross(None) is runtime.features(None) is runtime.enter(None) is None
    assert runtime.edit(None, x, x, x) == (x, x, x, None) and runtime.leave(None, x) is x
    assert not runtime.edits(None) and runtime.refill(None, x) is None and runtime.pictures() == {}
    assert not Runtime.has("enter")


class Item:
    def __init__(self, size):
        self.bytes = size


def test_store_keeps_one_thing_for_each_technique_within_its_limit():
    store, first = Store(limit=10), Item(4)
    store.keep("a", first)
    store.keep("b", Item(4))
    assert store.get("a") is first and store.bytes == 8
    store.keep("b", Item(5))
    assert store.get("a") is first and store.bytes == 9, "in place of what was there"
    store.keep("c", Item(4))
    assert store.get("a") is None and store.bytes == 9, "the earliest made room"
    store.clear("b")
    assert store.get("b") is None and store.get("c") is not None
    store.clear()
    assert store.bytes == 0


def test_a_budget_closes_a_place_that_finds_no_room():
    budget = Budget(10)
    assert budget.take("a", 4) and budget.take("b", 4) and budget.bytes == 8
    assert not budget.take("a", 4) and budget.closed("a") and budget.bytes == 4, "what it had is free again"
    assert not budget.take("a", 1) and budget.take("b", 6) and budget.take("b", 0) and budget.bytes == 10
