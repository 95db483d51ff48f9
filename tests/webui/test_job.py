"""A job from the script's hooks to the U-Net: what is patched when, and what the user is told."""

import copy
import gc
import weakref

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from tests.unets import snapshot
from tests.webui.jobs import Interrupted, Job, Model, Sampler, patched, run

ON = {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "all"}}


@pytest.fixture
def model(host):
    host.shared.sd_model = Model()
    return host.shared.sd_model


@pytest.fixture
def script(script_module, model):
    return script_module.AttentionLab()


@pytest.fixture(autouse=True)
def nothing_stays(model):
    before = snapshot(model.unet)
    yield
    assert snapshot(model.unet) == before


def job(host, **sampler):
    return Job(Sampler(host, host.script_callbacks, **sampler))


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_off_is_as_absent(host, script):
    p = job(host)
    plain = job(host).sampler.sample(p)
    for args in ((), ({},), (False,), ({"near_sighted": {"tile": 8}},), ({"enabled": False, **ON},)):
        p = job(host)
        assert same(run(script, p, *args), plain)
        assert p.extra_generation_params == {} and p.comments == {} and not any(p.sampler.seen)
        assert "launch_sampling" not in vars(p.sampler)


def test_on_acts_while_sampling_only(host, script):
    p = job(host)
    plain = job(host).sampler.sample(p)
    assert not same(run(script, p, ON), plain)
    assert all(p.sampler.seen) and p.comments == {}
    assert p.extra_generation_params["Attn near-sighted"](p=p) == "tile: 8, blocks: all"
    assert "launch_sampling" not in vars(p.sampler)


@pytest.mark.parametrize(
    "neutral",
    [{"tile": 256}, {"tile": 0, "pool": 1}, {"pool": 1}, {"start": 0.5, "end": 0.5}, {"blocks": "!all"}],
)
def test_neutral_values_are_identical(host, script, neutral):
    p = job(host)
    plain = job(host).sampler.sample(p)
    assert same(run(script, p, {"near_sighted": {**ON["near_sighted"], **neutral}}), plain)


@pytest.mark.parametrize(
    "values, word",
    [
        ({"blocks": "auto"}, "At this size nothing is left to gain"),
        ({"blocks": "auto", "tile": 256}, "At this size nothing is left to gain"),
        ({"tile": 256}, "equals full attention"),
        ({"pool": 1}, "equals full attention"),
        ({"blocks": "in99"}, "no attention in the blocks in99"),
        ({"start": 0.5, "end": 0.5}, "No step lies between"),
        ({"start": 0.9}, None),
        ({}, None),
    ],
)
def test_on_without_effect_says_why_once(host, script, values, word):
    p = job(host)
    for _ in range(2):
        run(script, p, {"near_sighted": {**ON["near_sighted"], **values}}, passes=2)
    assert len(p.comments) == (word is not None) and all(word in text for text in p.comments)


def test_a_technique_that_changed_nothing_is_not_in_the_text(host, script):
    p = job(host)
    script.before_process(p, {**ON, "key_mix": {"enabled": True}})
    script.process(p, {**ON, "key_mix": {"enabled": True}})
    before = p.extra_generation_params
    assert before["Attn key-mix"](p=p) and before["Attn near-sighted"](p=p)
    run(script, p, {**ON, "key_mix": {"enabled": True}})
    after = p.extra_generation_params
    assert after["Attn key-mix"](p=p) is None and after["Attn near-sighted"](p=p) == "tile: 8, blocks: all"


def test_the_settings_page_may_ask_for_the_full_text(host, script, monkeypatch):
    monkeypatch.setattr(host.shared.opts, "attention_lab_infotext", "full", raising=False)
    p = job(host)
    run(script, p, ON)
    assert p.extra_generation_params["Attention Lab"] == "True"
    assert p.extra_generation_params["Attn near-sighted pool"] == "4"


def test_nothing_to_do_is_not_put_down_to_the_model(host, script):
    p = job(host)
    run(script, p, {"contrast": {"enabled": True, "feature": 0.0, "blocks": "all"}})
    assert len(p.comments) == 1 and all("All strengths are 0" in text for text in p.comments)


def test_each_technique_without_effect_is_named(host, script):
    """One that acts does not hide another that does not, nor does the saving at CFG 1."""
    still = {"near_sighted": {**ON["near_sighted"], "tile": 256}, "key_mix": {"enabled": True}}
    p = job(host)
    run(script, p, {**still, "negative_skip": {"enabled": True, "fill": "copy", "key_every": 0, "penalty": "off"}})
    assert len(p.comments) == 2 and not any("Negative skip" in text for text in p.comments)
    p = job(host)
    p.cfg_scale = p.sampler.sampler_extra_args["cond_scale"] = 1.0
    run(script, p, still)
    assert len(p.comments) == 2
    p = job(host)
    run(script, p, {"key_mix": {"enabled": True, "record": True, "amount": 0.0}})
    assert len(p.comments) == 1 and "is recorded" in next(iter(p.comments))
    p = job(host)
    run(script, p, {"contrast": {"enabled": True, "feature": 0.0, "show_map": True}})
    assert p.comments == {}


def test_a_small_first_pass_is_no_news(host, script):
    def grow(step):
        p.sampler.size = (64, 64) if p.is_hr_pass else (16, 16)

    p = job(host, steps=1, event=grow)
    p.enable_hr = True
    run(script, p, {"near_sighted": {"enabled": True, "pool": 8}}, passes=2)
    assert p.sampler.seen == [True, True] and p.comments == {}


def test_one_reason_is_enough(host, script, model):
    """Who was told that another extension is in the way hears nothing of sizes."""
    from lib_attn.unet.families import find_layers

    for layer in find_layers(model.unet):
        attn = layer.attn1
        attn.forward = lambda x, context=None, mask=None, attn=attn: type(attn).forward(attn, x, context, mask)
    try:
        p = job(host)
        run(script, p, ON)
    finally:
        for layer in find_layers(model.unet):
            del layer.attn1.forward
    assert len(p.comments) == 1 and "alone: another extension" in next(iter(p.comments))


def test_error_in_sampling_takes_all_patches_off(host, script, model):
    def fail(step):
        if step == 1:
            raise RuntimeError("out of memory")

    p = job(host, event=fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(script, p, ON)
    assert p.sampler.seen == [True] and not patched(model.unet)


def test_interrupt_takes_all_patches_off(host, script, model):
    def interrupt(step):
        if step == 1:
            raise Interrupted

    p = job(host, event=interrupt)
    assert run(script, p, ON) == "interrupted"
    assert p.sampler.seen == [True] and not patched(model.unet)


def test_unload_in_mid_sampling(host, script, model):
    def unload(step):
        if step == 1:
            for function in host.script_callbacks.registered["on_script_unloaded"]:
                function()

    p = job(host, event=unload)
    run(script, p, ON)
    assert p.sampler.seen == [True, False]


def test_refiner_takes_the_patches_along(host, script, model):
    other = Model(seed=1)
    before = snapshot(other.unet)

    def switch(step):
        if step == 1:
            host.shared.sd_model = other

    p = job(host, event=switch)
    run(script, p, ON)
    assert p.sampler.seen == [True, True]
    assert not patched(model.unet) and snapshot(other.unet) == before


def test_weights_swapped_into_the_same_modules(host, script, model):
    from lib_attn.webui import job as jobs

    attached = []

    def swap(step):
        attached.append(jobs.job_of(p)._attachment)
        if step == 1:
            model.sd_checkpoint_info = object()

    p = job(host, event=swap, steps=3)
    run(script, p, ON)
    assert attached[1] is not attached[2]


def test_model_loaded_is_held_weakly(host, script):
    loaded = Model(seed=2)
    for function in host.script_callbacks.registered["on_model_loaded"]:
        function(loaded)
        function(None)
        function(loaded)
    alive = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert alive() is None


def test_unsupported_model_says_so(host, script, model):
    host.shared.sd_model = object()
    p = Job(Sampler(host, host.script_callbacks, steps=0))
    run(script, p, ON)
    assert len(p.comments) == 1 and "no U-Net" in next(iter(p.comments))
    host.shared.sd_model = model


def test_foreign_unet_says_so(host, script):
    host.sd_unet.current_unet = object()
    p = job(host)
    run(script, p, ON)
    assert not any(p.sampler.seen) and len(p.comments) == 1 and "SD Unet" in next(iter(p.comments))


def test_sampler_without_launch_sampling_says_so(host, script):
    p = Job(object())
    script.process(p, ON)
    script.process_before_every_sampling(p, ON)
    script.postprocess_batch(p, ON)
    assert len(p.comments) == 1 and "sampler" in next(iter(p.comments))


def test_script_with_its_own_sampling_says_so(host, script):
    p = job(host)
    script.process(p, ON)
    script.postprocess_batch(p, ON)
    assert len(p.comments) == 1 and "way of its own" in next(iter(p.comments))


@pytest.mark.parametrize("hires, seen", [("same", [True, True]), ("off", [True, False]), ("only", [False, True])])
def test_hires_pass(host, script, hires, seen):
    p = job(host, steps=1)
    p.enable_hr = True
    run(script, p, {"near_sighted": {**ON["near_sighted"], "hires": hires}}, passes=2)
    assert p.sampler.seen == seen and p.comments == {}


def test_only_hires_without_a_hires_pass_says_so(host, script):
    p = job(host, steps=1)
    run(script, p, {"near_sighted": {**ON["near_sighted"], "hires": "only"}})
    assert p.sampler.seen == [False] and len(p.comments) == 1


@pytest.mark.parametrize("wanted", [False, True])
def test_inner_pass(host, script, wanted):
    p = job(host, steps=1)
    p._ad_inner = True
    run(script, p, {**ON, "inner_passes": wanted})
    assert p.sampler.seen == [wanted] and bool(p.extra_generation_params) == wanted


def test_nested_job_keeps_the_outer_one(host, script, model):
    """ADetailer: a job within a job, after the outer pass; then the outer goes on with its next batch."""
    outer = job(host, steps=1)
    run(script, outer, ON)
    inner = job(host, steps=1)
    inner._ad_inner = True
    run(script, inner, ON)
    script.process_before_every_sampling(outer, ON)
    outer.sampler.sample(outer)
    assert outer.sampler.seen == [True, True] and inner.sampler.seen == [False]


def test_sampling_inside_of_sampling_is_left_alone(host, script, model):
    plain = job(host, steps=1).sampler.sample(job(host))
    found = []

    def nest(step):
        if step == 1:
            other = job(host, steps=1)
            found.append(other.sampler.sample(other))

    p = job(host, event=nest)
    run(script, p, ON)
    assert same(found[0], plain) and all(p.sampler.seen)


def test_a_sampler_that_was_wrapped_before_gets_its_wrapper_back(host, script):
    p = job(host)
    calls = []
    original = p.sampler.launch_sampling

    def wrapper(steps, func):
        calls.append(steps)
        return original(steps, func)

    p.sampler.launch_sampling = wrapper
    run(script, p, ON)
    assert calls == [2] and p.sampler.launch_sampling is wrapper and all(p.sampler.seen)


def test_prepared_but_never_sampled(host, script):
    p = job(host)
    script.process(p, ON)
    script.process_before_every_sampling(p, ON)
    assert "launch_sampling" in vars(p.sampler)
    script.before_process(job(host))
    assert "launch_sampling" not in vars(p.sampler)


def test_cells_do_not_leak_into_one_another(host, script):
    from lib_attn.webui import xyz

    p = job(host, steps=1)
    first, second, third = copy.copy(p), copy.copy(p), copy.copy(p)
    xyz.set_override(first, "near_sighted.enabled", "True")
    xyz.set_override(first, "near_sighted.tile", 8)
    xyz.set_override(second, "near_sighted.tile", 24)
    texts, seen = [], []
    for cell in (first, second, third):
        run(script, cell, False)
        texts.append(dict(cell.extra_generation_params))
        seen.append(cell.sampler.seen.pop())
    assert "tile: 8" in texts[0]["Attn near-sighted"] and texts[1] == texts[2] == {}
    assert seen == [True, False, False]


def test_seeds_reach_the_technique(host, script):
    outs = []
    for seeds in ([1, 2], [1, 3]):
        p = job(host, weights=((1.0,), (1.0,)), steps=1)
        p.seeds = seeds
        outs.append(run(script, p, {"near_sighted": {**ON["near_sighted"], "shift": 1.0}})[0])
    # rows: image 0 and 1, then their negatives
    assert torch.allclose(outs[0][[0, 2]], outs[1][[0, 2]], atol=1e-5)
    assert not torch.allclose(outs[0][[1, 3]], outs[1][[1, 3]], atol=1e-3)


def test_an_error_of_ours_leaves_a_picture(host, script, monkeypatch):
    from lib_attn.webui import job as jobs

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(jobs, "attach", broken)
    p = job(host)
    run(script, p, ON)
    assert not any(p.sampler.seen) and len(p.comments) == 1


def test_an_error_before_there_is_a_job_is_told_and_nothing_acts(host, script, monkeypatch):
    plain, p = job(host).sampler.sample(job(host)), job(host)

    def fails(*args):
        raise TypeError("somebody's file")

    monkeypatch.setattr("lib_attn.techniques.stamped", fails)
    out = run(script, p, ON)
    assert any("could not be prepared for this picture, see the log" in text for text in p.comments)
    assert all(torch.equal(a, b) for a, b in zip(out, plain, strict=True))
