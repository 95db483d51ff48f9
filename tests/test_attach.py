"""Attaching to a real ldm U-Net: what is computed, what is left alone, and that nothing stays behind."""

import dataclasses
import gc
import weakref

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import NearSighted, Settings
from lib_attn.unet.families import find_layers
from lib_attn.unet.rows import plan_rows
from lib_attn.unet.self_attention import Call
from tests.acting import IDS, WAYS
from tests.unets import tiny_unet, unet_input

NEAR = NearSighted(enabled=True, tile=8, pool=4, blocks="d0,d1")


def run(unet, x, context, timestep=500):
    return unet(x, torch.full((x.shape[0],), timestep), context=context)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def replace(**changes):
    return [dataclasses.replace(NEAR, **changes)]


def test_it_acts_and_is_gone_afterwards(unet):
    x, context = unet_input(2, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, [NEAR]) as attachment:
        assert attachment.attached and attachment.model_is(unet) and not attachment.model_is(tiny_unet())
        assert sum("forward" in vars(layer.attn1) for layer in find_layers(unet)) == 10
        assert attachment.placed == {"near_sighted"} and not attachment.offered and not attachment.acted
        near = run(unet, x, context)
    assert attachment.offered == attachment.acted == {"near_sighted"} and not attachment.spoke
    assert 1e-4 < distance(near, plain) < 0.5
    assert torch.equal(run(unet, x, context), plain)


@pytest.mark.parametrize(
    "neutral",
    [
        {"enabled": False},
        {"tile": 256},
        {"pool": 1},
        {"tile": 0, "pool": 1},
        {"tile_count": 1},
        {"start": 1.0},
        {"end": 0.0},
        {"blocks": "in99"},
        {"exact_every": 1},
    ],
)
def test_neutral_values_are_bit_identical(unet, neutral):
    x, context = unet_input(2, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, replace(**neutral), steps=4) as attachment:
        for timestep in (900, 500):
            result = run(unet, x, context, timestep)
    assert torch.equal(result, plain)
    # An exact step is an answer too, not a refusal.
    assert bool(attachment.acted) == ("exact_every" in neutral)
    assert bool(attachment.offered) == (neutral.get("enabled", True) and neutral.get("blocks") != "in99")


def test_more_evaluations_than_announced_stand_at_the_end(unet):
    """Adaptive samplers."""
    x, context = unet_input(1, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, [NEAR]) as attachment:
        for step in (4, 5, 9):
            attachment.begin_step(plan_rows([[1.0]], negatives=False), step, 4)
            assert not torch.equal(run(unet, x, context), plain)


def test_a_picture_computed_in_parts_is_left_alone(unet):
    """Tiled diffusion calls the model for each part; the first must not be taken for the picture."""
    said = []
    x, context = unet_input(1, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, [NEAR], say=said.append) as attachment:
        for step in range(2):
            attachment.begin_step(plan_rows([[1.0]], negatives=False), step, 2, size=(64, 24))
            assert torch.equal(run(unet, x, context), plain) and torch.equal(run(unet, x, context), plain)
            attachment.end_step()
        attachment.begin_step(plan_rows([[1.0]], negatives=False), 2, 4, size=(32, 24))
        assert not torch.equal(run(unet, x, context), plain)
    assert len(said) == 1 and "in parts" in said[0]


def test_patches_come_off_after_an_exception(unet):
    x, context = unet_input(1, 32, 24)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = unet.middle_block.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), attach(unet, [NEAR]):
            run(unet, x, context)
    finally:
        handle.remove()


def test_detach_twice_and_garbage_collected_attachments(unet):
    attachment = attach(unet, [NEAR])
    forward = find_layers(unet)[0].attn1.forward
    attachment.detach()
    attachment.detach()
    assert not attachment.attached
    del attachment
    gc.collect()
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(forward(x), find_layers(unet)[0].attn1(x)), "a stale override passes calls on"


def test_the_current_class_forward_is_used(unet, monkeypatch):
    """Hosts exchange the class forward at any time; exact calls must follow."""
    cls = type(find_layers(unet)[0].attn1)
    calls = []
    original = cls.forward
    with attach(unet, [NEAR]):
        monkeypatch.setattr(cls, "forward", lambda self, *a, **k: (calls.append(1), original(self, *a, **k))[1])
        run(unet, *unet_input(1, 32, 24))
    # 16 cross-attentions, and the self-attentions of the 6 layers at depth 2 and 3.
    assert len(calls) == 16 + 6


def test_foreign_instance_forwards_are_respected_and_restored(unet):
    module = find_layers(unet)[0].attn1
    calls, said = [], []

    def foreign(x, context=None, mask=None, **kwargs):
        calls.append(x.shape)
        return type(module).forward(module, x, context, mask)

    module.forward = foreign
    try:
        x, context = unet_input(1, 32, 24)
        plain = run(unet, x, context)
        with attach(unet, replace(blocks="in1"), say=said.append):
            assert torch.equal(run(unet, x, context), plain)
            run(unet, x, context)
        assert module.forward is foreign and len(calls) == 3
        assert len(said) == 1 and "another extension" in said[0], "said once"
        with attach(unet, replace(blocks="in1"), inert=lambda m: m is module):
            assert distance(run(unet, x, context), plain) > 0
        assert module.forward is foreign
    finally:
        del module.forward


def test_somebody_who_wrapped_us_keeps_his_wrapper(unet):
    module = find_layers(unet)[0].attn1
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    attachment = attach(unet, [NEAR])
    ours = module.forward
    wrapper = lambda *a, **k: ours(*a, **k)  # noqa: E731
    module.forward = wrapper
    attachment.detach()
    assert module.forward is wrapper
    wrapped = module(x)
    del module.forward
    assert torch.equal(wrapped, module(x))


def test_calls_with_a_context_or_mask_are_left_alone(unet):
    """ControlNet's reference mode calls self-attention with a context."""
    module = find_layers(unet)[0].attn1
    x = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    bank = torch.randn(1, 128, 32, generator=torch.Generator().manual_seed(1))
    expected = module(x, context=bank)
    with attach(unet, [NEAR]):
        assert torch.equal(module(x, context=bank), expected)
        assert torch.equal(module(x), module(x, context=None)), "outside a U-Net call nothing is done"


@pytest.mark.parametrize("built_so", [False, True])
def test_self_attention_with_a_context_is_said_unless_the_model_is_built_so(unet, built_so):
    block, said = find_layers(unet)[0].block, []
    x, context = unet_input(1, 32, 24)
    before = block.disable_self_attn
    block.forward = lambda h, context=None: h + block.attn1(block.norm1(h), context=block.norm1(h))
    block.disable_self_attn = built_so
    try:
        plain = run(unet, x, context)
        with attach(unet, replace(blocks="in1"), say=said.append) as attachment:
            assert torch.equal(run(unet, x, context), plain)
            run(unet, x, context)
        assert not attachment.offered and bool(attachment.spoke) == (not built_so)
        assert len(said) == (0 if built_so else 1) and all("left some layers alone" in text for text in said)
    finally:
        del block.forward
        block.disable_self_attn = before


def test_merged_tokens_are_left_alone_with_a_word(unet):
    block = find_layers(unet)[0].block
    said = []
    x, context = unet_input(1, 32, 24)

    def merge(module, args):
        return (args[0][:, ::2], *args[1:])

    handle = block.attn1.register_forward_pre_hook(merge)
    try:
        block.forward = lambda h, context=None: h + block.attn1(block.norm1(h)).repeat_interleave(2, 1)
        plain = run(unet, x, context)
        with attach(unet, replace(blocks="in1"), say=said.append):
            assert torch.equal(run(unet, x, context), plain)
    finally:
        handle.remove()
        del block.forward
    assert len(said) == 1 and "token" in said[0]


def test_foreign_unet_calls_are_left_alone(unet):
    x, context = unet_input(2, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, [NEAR], seeds=[1]) as attachment:
        attachment.begin_step(plan_rows([[1.0]]), 0, 4)
        assert distance(run(unet, x, context), plain) > 0
        assert torch.equal(run(unet, x, context), plain), "a third and fourth row were not announced"
        attachment.begin_step(plan_rows([[1.0]]), 1, 4)
        attachment.end_step()
        assert torch.equal(run(unet, x, context), plain)


def test_undecidable_rows_do_nothing_and_say_so_once(unet):
    said = []
    x, context = unet_input(2, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, [NEAR], say=said.append) as attachment:
        for step in range(3):
            attachment.begin_step(None, step, 3)
            assert torch.equal(run(unet, x, context), plain)
    assert len(said) == 1


def test_split_calls_equal_one_call(unet):
    """Rows keep their meaning when condition and negative are evaluated apart (batch_cond_uncond off)."""
    x, context = unet_input(4, 32, 24)
    for extra in ({}, {"exact_every": 2}):
        outputs = []
        for chunks in ((4,), (2, 2), (1, 3)):
            with attach(unet, replace(**extra), seeds=[5, 6]) as attachment:
                for step in range(3):
                    attachment.begin_step(plan_rows([[1.0], [1.0]]), step, 3)
                    parts = zip(x.split(chunks), context.split(chunks), strict=True)
                    out = torch.cat([run(unet, *part, timestep=900 - step) for part in parts])
            outputs.append(out)
        for other in outputs[1:]:
            torch.testing.assert_close(other, outputs[0], atol=1e-5, rtol=1e-4)


def test_an_image_of_a_batch_comes_out_as_if_alone(unet):
    x, context = unet_input(2, 32, 24)

    def draw(rows, seeds):
        index = torch.tensor(rows)
        with attach(unet, [NEAR], seeds=seeds) as attachment:
            for step in range(3):
                attachment.begin_step(plan_rows([[1.0]] * len(rows), negatives=False), step, 3)
                out = run(unet, x[index], context[index])
        return out

    both = draw([0, 1], [11, 22])
    torch.testing.assert_close(draw([1], [22]), both[1:], atol=1e-5, rtol=1e-4)
    assert distance(draw([1], [11]), both[1:]) > 1e-5, "another seed moves the borders elsewhere"


def test_step_range(unet):
    x, context = unet_input(1, 32, 24)
    plain = run(unet, x, context)
    changed = []
    with attach(unet, replace(start=0.25, end=0.75)) as attachment:
        for step in range(8):
            attachment.begin_step(plan_rows([[1.0]], negatives=False), step, 8)
            changed.append(not torch.equal(run(unet, x, context), plain))
    assert changed == [False] * 2 + [True] * 4 + [False] * 2


def test_exact_steps_and_stored_differences(unet):
    """Exact steps equal full attention bit by bit, and the steps between are nearer to it than without."""
    errors = {}
    for every in (0, 3):
        with attach(unet, replace(exact_every=every)) as attachment:
            errors[every] = []
            for step in range(6):
                x, context = unet_input(2, 32, 24)
                x = x + 0.02 * step
                attachment.begin_step(plan_rows([[1.0]]), step, 6)
                near = run(unet, x, context, 800 - 10 * step)
                attachment.end_step()
                errors[every].append(distance(near, run(unet, x, context, 800 - 10 * step)))
    assert errors[3][0] == errors[3][3] == 0
    assert all(a < 0.5 * b for a, b in zip(errors[3][1:3], errors[0][1:3], strict=True)), errors


def test_too_little_residual_memory_is_said_and_bounded(unet):
    said = []
    x, context = unet_input(2, 32, 24)
    with attach(unet, replace(exact_every=2, residual_memory=0), say=said.append):
        for step in range(2):
            out = run(unet, x, context, 900 - step)
    assert out.isfinite().all()
    assert len(said) == 1 and "Residual memory" in said[0]


class CroppingTorch:
    """torch with a `cat` that crops, as hosts patch the U-Net so that odd latents pass the skip connections."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def cat(self, tensors, dim=0):
        h, w = (min(t.shape[axis] for t in tensors) for axis in (-2, -1))
        return torch.cat([t[..., :h, :w] for t in tensors], dim)


@pytest.mark.parametrize("size", [(16, 40), (33, 45), (13, 50)])
def test_any_latent_size(unet, size, monkeypatch):
    from ldm.modules.diffusionmodules import openaimodel

    monkeypatch.setattr(openaimodel, "th", CroppingTorch())
    x, context = unet_input(1, *size)
    plain = run(unet, x, context)
    said = []
    with attach(unet, replace(blocks="all"), say=said.append):
        near = run(unet, x, context)
    assert near.shape == plain.shape and near.isfinite().all()
    assert distance(near, plain) > 1e-5 and not said


def test_auto_blocks_treat_only_levels_that_pay(unet):
    treated = []
    x, context = unet_input(1, 64, 64)
    with attach(unet, replace(blocks="auto", tile=16, pool=8)) as attachment:
        runtime = attachment._runtimes[0]
        original = runtime._near
        runtime._near = lambda call, step: (treated.append(call.layer.depth), original(call, step))[1]
        run(unet, x, context)
    assert set(treated) == {0}, "deeper maps are too small at 512 px"


def test_half_precision_and_autocast(unet):
    x, context = unet_input(1, 32, 24)
    plain = run(unet, x, context)
    with attach(unet, [NEAR]):
        near = run(unet, x, context)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = run(unet, x, context)
        assert distance(cast.float(), near) < 0.03
    assert distance(near, plain) > 1e-4


def test_lora_like_projections_and_hypernetworks_act(unet):
    """to_q/to_k/to_v/to_out are called as modules, and the hypernetwork changes what K and V see."""
    module = find_layers(unet)[0].attn1
    x, context = unet_input(1, 32, 24)
    seen = []

    def hypernetwork(hidden):
        return hidden * 1.5, hidden + 0.25

    names = ("to_q", "to_k", "to_v", "to_out")
    handles = [getattr(module, n).register_forward_hook(lambda *_, n=n: seen.append(n)) for n in names]
    try:
        with attach(unet, replace(blocks="in1"), hypernetwork=hypernetwork):
            changed = run(unet, x, context)
        with attach(unet, replace(blocks="in1")):
            unchanged = run(unet, x, context)
    finally:
        for handle in handles:
            handle.remove()
    assert set(seen) == set(names) and len(seen) == 8
    assert distance(changed, unchanged) > 1e-4


def test_upcast_runs_attention_in_float32(unet):
    module = find_layers(unet)[0].attn1
    seen = []
    import lib_attn.techniques.near_sighted.kernel as near_sighted

    original = near_sighted.biased_attention
    x, context = unet_input(1, 32, 24)
    try:
        near_sighted.biased_attention = lambda q, k, v, *a: (seen.append(q.dtype), original(q, k, v, *a))[1]
        with attach(unet, replace(blocks="in1"), upcast=lambda: True), torch.autocast("cpu", dtype=torch.bfloat16):
            run(unet, x, context)
    finally:
        near_sighted.biased_attention = original
    assert seen and set(seen) == {torch.float32}
    assert module.scale == (32 // 4) ** -0.5


@pytest.mark.parametrize(("technique", "values"), WAYS, ids=IDS)
def test_what_a_pass_has_kept_is_free_when_it_is_over(unet, technique, values):
    """Without waiting for a collection of cycles: it may be gigabytes on the GPU."""
    settings, _ = Settings.read({technique.name: values})
    rows, (x, context), kept = plan_rows([[1.0]]), unet_input(2, 16, 16), []
    gc.collect()
    gc.disable()
    try:
        attachment = attach(unet, list(settings.active()))
        kept = [weakref.ref(runtime) for runtime in attachment._runtimes]
        for step in range(3):
            attachment.begin_step(rows, step, 3, (16, 16), latents=x[:1], cfg=5.0)
            unet(x[[0, 0]], torch.full((2,), 900.0 - 300 * step), context=context)
            attachment.end_step()
            assert not any(type(found) is Call for found in gc.get_objects()), "nor what a layer has seen"
        attachment.detach()
        assert kept and not any(runtime() for runtime in kept)
    finally:
        gc.enable()
