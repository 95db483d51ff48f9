"""The negative prompt in cross-attention: against naive formulas, and on a real U-Net."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import NegativeSkip
from lib_attn.techniques.guidance import cap
from lib_attn.techniques.negative_skip.penalty import (
    NegativeText,
    flip_values,
    penalise,
    pick_words,
    push_away,
    subtract,
)
from lib_attn.unet.cross_attention import CrossAttentionHook
from lib_attn.unet.families import find_layers
from lib_attn.unet.flight import Flight, HostHooks
from lib_attn.unet.rows import plan_rows
from tests.unets import tiny_unet, unet_input

MODES = ("NAG", "value sign flip", "NASA")
ON = NegativeSkip(enabled=True, key_every=1, penalty_when="all steps")


def replace(**changes):
    return [dataclasses.replace(ON, **changes)]


def softmax_attention(q, k, v, bias=0.0):
    """Naive attention for ``[N, d]`` and ``[T, d]``."""
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]) + bias, -1) @ v


def naive(mode, q, k, v, kn, vn, s):
    """The penalty for one head before cap and blend, as the papers write it."""
    positive, negative = softmax_attention(q, k, v), softmax_attention(q, kn, vn)
    if mode == "NAG":
        return positive + s.strength * (positive - negative)
    if mode == "NASA":
        return positive - s.strength * negative
    bias = torch.cat([torch.zeros(len(k)), torch.full((len(kn),), s.flip_bias + math.log(min(1.0, s.strength)))])
    return softmax_attention(q, torch.cat([k, kn]), torch.cat([v, -s.strength * vn]), bias)


def naive_cap(changed, before, tau, blend):
    out = changed.clone()
    for n in range(len(out)):
        ratio = changed[n].abs().sum() / before[n].abs().sum()
        out[n] = changed[n] * min(ratio, tau) / ratio
    return blend * out + (1 - blend) * before


def test_cap():
    changed, before = torch.randn(2, 7, 12) * 4, torch.randn(2, 7, 12)
    expected = torch.stack([naive_cap(c, b, 2.5, 0.3) for c, b in zip(changed, before, strict=True)])
    torch.testing.assert_close(cap(changed, before, 2.5, 0.3), expected)
    assert torch.equal(cap(before, before, 1.0, 0.7), before)
    torch.testing.assert_close(cap(changed, before, 1e9, 1.0), changed)
    assert cap(torch.full((1, 1, 1280), 6e4).half(), torch.ones(1, 1, 1280).half(), 2.5, 1.0).isfinite().all()


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 3.0])
def test_flipped_values(strength):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    kn, vn = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 8)
    z = torch.softmax(q @ k.mT / math.sqrt(8), -1) @ v
    mask = torch.tensor([[True, True, False, True], [True] * 4])[:, None, None]
    out = flip_values(q, k, z, kn, vn, strength, -0.2, mask)
    if not strength:
        assert out is z
        return
    s = dataclasses.replace(ON, strength=strength)
    for b in range(2):
        for h in range(3):
            kept = mask[b, 0, 0]
            expected = naive("value sign flip", q[b, h], k[b, h], v[b, h], kn[b, h][kept], vn[b, h][kept], s)
            torch.testing.assert_close(out[b, h], expected, atol=1e-5, rtol=1e-4)


def test_all_are_continuous_towards_zero():
    q, k, kn, vn, v = (torch.randn(1, 2, n, 8) for n in (5, 7, 4, 4, 7))
    z = torch.softmax(q @ k.mT / math.sqrt(8), -1) @ v
    for change in (
        lambda s: push_away(z, vn[..., :1, :], s),
        lambda s: subtract(z, vn[..., :1, :], s),
        lambda s: flip_values(q, k, z, kn, vn, s, 2.0),
    ):
        distances = [(change(s) - z).abs().max().item() for s in (1e-2, 1e-4, 0.0)]
        assert distances[0] < 0.5 and distances[1] < 0.02 * distances[0] + 1e-6 and distances[2] == 0


def test_words_without_begin_padding_and_mark():
    text = torch.arange(2 * 154 * 3.0).reshape(2, 154, 3) + 1
    kept, mask = pick_words(text, [(1, 2, 80), (1,)])
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert torch.equal(kept[0], text[0, [1, 2, 80]]) and torch.equal(kept[1, 0], text[1, 1])
    marked = torch.cat([torch.full((2, 1, 3), -1024.0), text], 1)
    assert torch.equal(pick_words(marked, [(1, 2, 80), (1,)])[0], kept)
    everything, mask = pick_words(text, None)
    assert everything.shape[1] == 152 and mask.all()
    assert pick_words(torch.zeros(1, 77, 3), None)[0].shape[1] == 0, "SDXL's empty negative"
    assert pick_words(text, [(), ()])[1].shape == (2, 0)


def test_text_that_did_not_change_keeps_its_projections():
    text, words = torch.randn(1, 77, 4), ((1, 2),)
    negative = NegativeText()
    negative.take(text, words)
    negative._projected[0] = "kept"
    negative.take(text.clone(), ((1, 2),))
    assert negative._projected and negative.has(0)
    negative.take(text + 1, words)
    assert not negative._projected
    negative.take(None, None)
    assert not negative.has(0)


def run(unet, x, context, timestep=500.0):
    return unet(x, torch.full((x.shape[0],), timestep), context=context)


def draw(unet, techniques, images=2, chunks=None, weights=None, told=None, cfg=5.0, steps=1, **options):
    rows = plan_rows(weights or [[1.0]] * images)
    n = len(rows)
    x = unet_input(images, 16, 16)[0][[row.image for row in rows]]
    context = unet_input(n, 16, 16, seed=3)[1]
    told = {"negative": context[-images:], "words": ((1, 2, 3), (1, 2, 3, 4, 5))[:images]} | (told or {})
    with attach(unet, techniques, **options) as attachment:
        for step in range(steps):
            attachment.begin_step(rows, step, steps, cfg=cfg, **told)
            parts = zip(x.split(chunks or n), context.split(chunks or n), strict=True)
            out = torch.cat([run(unet, *part) for part in parts])
    return out


@pytest.mark.parametrize("mode", MODES)
def test_one_layer_against_the_formula(unet, mode):
    """What reaches to_out of one layer, rebuilt from the projections' weights head by head."""
    layer = next(layer for layer in find_layers(unet) if layer.name == "M00")
    s = dataclasses.replace(ON, penalty=mode, blocks="mid", strength=1.7, tau=1.4, blend=0.6)
    seen = {}
    attn2 = layer.attn2
    handles = [
        attn2.register_forward_pre_hook(lambda m, a, k: seen.update(x=a[0], c=k["context"]), with_kwargs=True),
        attn2.register_forward_hook(lambda m, a, out: seen.update(out=out)),
    ]
    try:
        draw(unet, [s])
    finally:
        for handle in handles:
            handle.remove()
    words, d = ((1, 2, 3), (1, 2, 3, 4, 5)), attn2.to_q.out_features // attn2.heads
    for i in range(4):
        q, k, v = attn2.to_q(seen["x"][i]), attn2.to_k(seen["c"][i]), attn2.to_v(seen["c"][i])
        z = torch.cat([softmax_attention(*(t[:, h * d : h * d + d] for t in (q, k, v))) for h in range(attn2.heads)], 1)
        if i < 2:
            text = seen["c"][i + 2][list(words[i])]
            kn, vn = attn2.to_k(text), attn2.to_v(text)
            parts = [naive(mode, *(t[:, h * d : h * d + d] for t in (q, k, v, kn, vn)), s) for h in range(attn2.heads)]
            z = naive_cap(torch.cat(parts, 1), z, s.tau, s.blend)
        torch.testing.assert_close(seen["out"][i], attn2.to_out(z), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_strength_nought_is_bit_identical_and_a_little_is_a_little(unet, mode):
    plain = draw(unet, [])
    for off in ({"strength": 0.0}, {"blend": 0.0}, {"penalty_end": 0.0}, {"blocks": "in99"}, {"end": 0.0}):
        assert torch.equal(draw(unet, replace(penalty=mode, **off)), plain)
    for told in ({"words": ((), ())}, {"negative": torch.zeros(2, 77, 16)}):
        assert torch.equal(draw(unet, replace(penalty=mode), told=told), plain), "no negative"
    distances = [(draw(unet, replace(penalty=mode, strength=s)) - plain)[:2].norm() for s in (1e-3, 0.1, 2.0)]
    assert 0 < distances[0] < 0.2 * distances[1] and distances[1] < distances[2]


@pytest.mark.parametrize("mode", MODES)
def test_only_positive_rows_in_any_split(unet, mode):
    weights = [[1.0], [0.7, 0.3]]
    plain, one = draw(unet, [], weights=weights), draw(unet, replace(penalty=mode), weights=weights)
    torch.testing.assert_close(one[3:], plain[3:], atol=1e-5, rtol=1e-4)
    assert all((one[i] - plain[i]).norm() > 1e-4 for i in range(3))
    for chunks in (1, 2, 3):
        split = draw(unet, replace(penalty=mode), weights=weights, chunks=chunks)
        torch.testing.assert_close(split, one, atol=1e-5, rtol=1e-4)


def test_negative_parts_of_and_prompts_are_not_pushed(unet):
    weights = [[1.0, -0.5]]
    plain = draw(unet, [], images=1, weights=weights)
    out = draw(unet, replace(), images=1, weights=weights)
    torch.testing.assert_close(out[1:], plain[1:], atol=1e-5, rtol=1e-4)
    assert (out[0] - plain[0]).norm() > 1e-4


def test_unequal_prompt_lengths(unet):
    """The host evaluates the negatives apart then; a longer negative acts with all its words."""
    x = unet_input(1, 16, 16)[0]
    context, text = unet_input(1, 16, 16, seed=3)[1], unet_input(1, 16, 16, seed=4)[1].repeat(1, 2, 1)
    outs = []
    for words in (((1, 2),), ((1, 2, 80),)):
        with attach(unet, replace()) as attachment:
            attachment.begin_step(plan_rows([[1.0]]), 0, 1, cfg=5.0, negative=text, words=words)
            outs.append(run(unet, x, context))
            torch.testing.assert_close(run(unet, x, text), unet(x, torch.full((1,), 500.0), context=text))
    assert (outs[0] - outs[1]).norm() > 1e-5


def test_at_guidance_one_without_any_negative_row(unet):
    settings = replace(penalty_when="at CFG 1")
    plain = draw(unet, [], cfg=1.0)
    out = draw(unet, settings, cfg=1.0)
    assert (out[:2] - plain[:2]).norm() > 1e-3 and torch.equal(out[2:], out[:2])
    torch.testing.assert_close(out[:2], draw(unet, replace(), cfg=5.0)[:2], atol=1e-5, rtol=1e-4)
    assert torch.equal(draw(unet, settings, cfg=5.0), draw(unet, []))


def test_where_the_host_leaves_the_negative_out(unet):
    """Such a step is one without a negative, whoever left it out."""
    rows, (x, context) = plan_rows([[1.0]]), unet_input(1, 16, 16)
    told = {"negative": context[:, :5] + 1, "words": ((1, 2, 3),)}

    def predicted(alone, **changes):
        with attach(unet, replace(**changes)) as attachment:
            attachment.begin_step(rows, 0, 1, cfg=5.0, positive_only=alone, **told)
            return run(unet, x, context)

    always = predicted(True, penalty_when="all steps")
    assert torch.equal(predicted(True, penalty_when="skipped steps"), always)
    assert torch.equal(predicted(False, penalty_when="skipped steps"), run(unet, x, context))
    assert not torch.equal(always, run(unet, x, context))


def test_the_negative_is_projected_once(unet):
    layer = find_layers(unet)[0]
    calls = []
    handle = layer.attn2.to_k.register_forward_hook(lambda *_: calls.append(1))
    try:
        draw(unet, replace(), steps=4)
    finally:
        handle.remove()
    assert len(calls) == 4 + 1


def test_projected_anew_when_weights_change(unet):
    layer = find_layers(unet)[0]
    calls = []
    rows, (x, context) = plan_rows([[1.0]]), unet_input(2, 16, 16)
    handle = layer.attn2.to_k.register_forward_hook(lambda *_: calls.append(1))
    try:
        with attach(unet, replace()) as attachment:
            for step in range(3):
                attachment.begin_step(rows, step, 3, cfg=5.0)
                run(unet, x, context)
                if step == 1:
                    layer.attn2.to_k.weight.mul_(1.0)
    finally:
        handle.remove()
    assert len(calls) == 3 + 2


def test_hypernetworks_autocast_and_upcast(unet):
    out = draw(unet, replace())
    changed = draw(unet, replace(), hypernetwork=lambda c: (c * 1.5, c + 0.1))
    assert (out - changed).norm() > 1e-4
    torch.testing.assert_close(draw(unet, replace(), upcast=lambda: True), out)
    for mode in MODES:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = draw(unet, replace(penalty=mode)).float()
        full = draw(unet, replace(penalty=mode))
        assert ((cast - full).norm() / full.norm()).item() < 0.05


@pytest.mark.parametrize("hypernetwork", [None, lambda context: (context, context)])
def test_a_text_shown_in_another_type_than_the_models(hypernetwork):
    """Hosts that keep the model in half precision without autocast hand texts over in full precision."""
    layer = find_layers(tiny_unet().to(torch.bfloat16))[0]
    width = layer.attn2.to_q.in_features
    x, context = torch.randn(2, 9, width).bfloat16(), torch.randn(2, 7, 16).bfloat16()
    results, text = [], NegativeText()
    runtime = SimpleNamespace(cross=lambda call: results.append(penalise(call, text, [0], ON)))
    flight = Flight(tuple(plan_rows([[1.0]])))
    hook = CrossAttentionHook(layer, [runtime], HostHooks(hypernetwork), flight, lambda *_: None, print)
    handles = hook.install()

    def attend(x, context):
        q, k, v = (t.unflatten(-1, (layer.attn2.heads, -1)).transpose(1, 2) for t in (
            layer.attn2.to_q(x), layer.attn2.to_k(context), layer.attn2.to_v(context)
        ))  # fmt: skip
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return layer.attn2.to_out(z)

    for shown in (context[1:], context[1:].float()):
        text.take(shown, ((1, 2),))
        attend(x, context)
        text.take(None, None)
    assert torch.equal(*results) and len(handles) == 4


def test_cross_attention_computed_in_its_own_way_is_left_alone(unet):
    """Extensions that split the rows inside of cross-attention."""
    layer = find_layers(unet)[0]
    said, cls = [], type(layer.attn2)

    def halves(x, context=None, mask=None):
        parts = zip(x.chunk(2), context.chunk(2), strict=True)
        return torch.cat([cls.forward(layer.attn2, a, context=c) for a, c in parts])

    layer.attn2.forward = halves
    try:
        plain = draw(unet, [])
        assert torch.equal(draw(unet, replace(blocks="in1"), say=said.append), plain) and len(said) == 1
    finally:
        del layer.attn2.forward
