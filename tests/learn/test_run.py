"""A run of learning: what it draws, and that one given up and gone on with learns the same as one of a piece."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.learn import run as runs
from lib_attn.learn.capture import Capture
from lib_attn.learn.learners import learners
from lib_attn.learn.run import PROMPTS, UNFINISHED, Pictures, Plan, Run
from lib_attn.learned.files import load
from lib_attn.learned.folders import Folders
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import layer_keys
from tests.learn.a_learner import LEARNER, Means
from tests.unets import unet_input

PLAN = Plan("means", Pictures(count=4, steps=2, seed=5), Means(factor=2.0), ("a", "b", "c"), ("model", "0123456789"))


@pytest.fixture(autouse=True)
def a_learner(monkeypatch):
    monkeypatch.setattr(runs, "learners", lambda: {"means": LEARNER})


def draw(unet, run, seed, steps=2):
    x, context = unet_input(2, 8, 8, seed)
    with torch.no_grad(), attach(unet, [], observers=[run.capture.observer()]):
        for step in range(steps):
            unet(x, torch.full((2,), 900.0 - 400 * step), context=context)


def drive(unet, run, most=99):
    """Draw at most so many pictures; returns what was drawn."""
    seen = []
    for prompt, seed in run.pictures():
        if len(seen) == most:
            draw(unet, run, seed, steps=1)  # given up in the middle of a picture
            break
        draw(unet, run, seed)
        run.drawn()
        seen.append((prompt, seed))
    return seen


def start(unet, folder, plan=PLAN):
    return Run(plan, find_layers(unet), folder / "unfinished" / "mine.safetensors")


def test_prompts_come_in_turn_and_seeds_count_up(unet, tmp_path):
    run = start(unet, tmp_path)
    assert drive(unet, run) == [("a", 5), ("b", 6), ("c", 7), ("a", 8)] and run.done == 4 and not run.dropped


def test_the_file_says_how_it_was_learned(unet, tmp_path):
    run = start(unet, tmp_path)
    drive(unet, run)
    file = run.finish(tmp_path / "models" / "mine.safetensors")
    layers = find_layers(unet)
    assert list(file.layers) == layer_keys(layers) and file.layers["IN01.0"] == 32
    assert (file.kind, file.family) == ("means", "other")
    assert file.about["checkpoint"] == ["model", "0123456789"] and file.about["figures"]["norm"] > 0
    learned = file.about["learned"]
    assert learned["options"] == {"factor": 2.0, "samples": 64} and learned["seconds"] > 0
    assert learned["pictures"] == PLAN.pictures.to_dict() | {"prompts": 3}
    assert not list((tmp_path / "unfinished").iterdir())
    assert Folders([tmp_path / "models"]).names("means") == ["mine"]


@pytest.mark.parametrize("given_up", [[1], [3], [1, 1, 1], [0, 2]])
def test_a_run_given_up_goes_on_without_loss(unet, tmp_path, given_up, monkeypatch):
    monkeypatch.setattr(runs, "AT_MOST", 1e9)  # kept after every picture
    whole = start(unet, tmp_path / "whole")
    drive(unet, whole)
    expected = whole.finish(tmp_path / "whole.safetensors")
    drawn = []
    for most in given_up:
        drawn += drive(unet, start(unet, tmp_path), most)
    run = start(unet, tmp_path)
    assert run.done == sum(given_up)
    drawn += drive(unet, run)
    assert drawn == [("a", 5), ("b", 6), ("c", 7), ("a", 8)]
    found = run.finish(tmp_path / "mine.safetensors")
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in expected.tensors.items())


@pytest.mark.parametrize(
    "other",
    [
        Plan("means", Pictures(count=4, steps=2, seed=6), Means(factor=2.0), ("a", "b", "c"), PLAN.checkpoint),
        Plan("means", PLAN.pictures, Means(), ("a", "b", "c"), PLAN.checkpoint),
        Plan("means", PLAN.pictures, PLAN.options, ("a", "b"), PLAN.checkpoint),
        Plan("means", PLAN.pictures, PLAN.options, PLAN.prompts, ("another", "")),
    ],
)
def test_a_run_with_another_plan_begins_anew(unet, tmp_path, other):
    drive(unet, start(unet, tmp_path), 2)
    run = start(unet, tmp_path, other)
    assert run.done == 0 and run.dropped


def test_a_damaged_unfinished_file_is_begun_anew(unet, tmp_path):
    drive(unet, start(unet, tmp_path), 2)
    file = tmp_path / "unfinished" / "mine.safetensors"
    data = file.read_bytes()
    for damaged in (b"", data[:-1], data.replace(b'"done"', b'"dine"')):
        file.write_bytes(damaged)
        run = start(unet, tmp_path)
        assert run.done == 0 and run.dropped
    file.write_bytes(data)
    assert start(unet, tmp_path).done > 0


def test_what_was_seen_is_kept_seldom_enough(unet, tmp_path, monkeypatch):
    run = start(unet, tmp_path)
    kept = []
    monkeypatch.setattr(run, "_keep", lambda: kept.append(run.done))
    monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    for _ in range(30):
        run.drawn()
    # One second to keep it, one between two pictures: a tenth of the time is 10 pictures or so.
    assert kept[0] == 1 and 3 <= len(kept) <= 6


def test_layers_are_chosen_and_must_be_there(unet, tmp_path):
    keys = layer_keys(find_layers(unet))
    assert list(start(unet, tmp_path, _blocks("mid")).capture.shapes) == ["M00.0"]
    assert list(start(unet, tmp_path, _blocks("auto")).capture.shapes) == keys
    with pytest.raises(ValueError, match="no attention in the layers out44"):
        start(unet, tmp_path, _blocks("out44"))


def _blocks(text):
    return Plan("means", Pictures(layers=text), Means())


def test_memory_is_what_a_file_can_hold(unet, tmp_path):
    wishes = {}

    def capture(layers, **options):
        wishes.update(options)
        return Capture(layers, **options)

    for wanted, most in ((8 << 30, runs.MEMORY), (4 << 20, 4 << 20)):
        learner = LEARNER.__class__(**{**vars(LEARNER), "wants": lambda o, wanted=wanted: {"memory": wanted}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "learners", lambda learner=learner: {"means": learner})
            patch.setattr(runs, "Capture", capture)
            start(unet, tmp_path)
        assert wishes["memory"] == most


def test_an_unfinished_run_is_no_learned_file_of_a_technique(unet, tmp_path):
    drive(unet, start(unet, tmp_path), 1)
    folders = Folders([tmp_path / "unfinished"])
    assert folders.names("means") == [] and folders.names(UNFINISHED) == ["mine"]
    assert json.loads(load("mine", UNFINISHED, folders).about["plan"])["kind"] == "means"


def test_our_own_prompts():
    assert len(PROMPTS) == len(set(PROMPTS)) > 20 and all(p.strip() == p and p for p in PROMPTS)


def test_learners_are_found_by_their_package():
    for name, learner in learners().items():
        assert learner.options.name == name and learner.label and learner.about.endswith(".")
        for p in learner.options.params():
            assert p.help.endswith(".") and p.read(p.default) == p.default
