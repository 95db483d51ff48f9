"""Contrast: the maths against naive formulas, and what reaches a real U-Net."""

import dataclasses

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import Contrast, NearSighted, NegativeSkip
from lib_attn.techniques.contrast.maths import (
    contrast_keys,
    difference_map,
    orthogonal_part,
    push,
    scale_guidance,
    spatial_scale,
)
from lib_attn.techniques.guidance import partners
from lib_attn.unet.families import find_layers
from lib_attn.unet.rows import plan_rows
from tests.unets import probe, unet_input

OFF = Contrast(enabled=True, feature=0.0)
OPERATORS = ("feature", "keys", "orthogonal", "map_strength")


def replace(**changes):
    return [dataclasses.replace(OFF, **changes)]


def draw(unet, techniques, images=2, weights=None, chunks=None, steps=1, total=None, cfg=5.0, **options):
    rows = plan_rows(weights or [[1.0]] * images)
    n = len(rows)
    x = unet_input(images, 16, 16)[0][[row.image for row in rows]]
    context = unet_input(n, 16, 16, seed=3)[1]
    outs = []
    with attach(unet, techniques, **options) as attachment:
        for step in range(steps):
            attachment.begin_step(rows, step, total or steps, cfg=cfg)
            parts = zip(x.split(chunks or n), context.split(chunks or n), strict=True)
            t = 900.0 - 100 * step
            outs.append(torch.cat([unet(a, torch.full((len(a),), t), context=c) for a, c in parts]))
            attachment.end_step()
        draw.pictures = attachment.pictures()
        draw.why_idle = [attachment.why_idle(technique) for technique in techniques]
    return outs[-1] if steps == 1 else outs


def test_orthogonal_part():
    x, along = torch.randn(5, 7, 12), torch.randn(5, 7, 12)
    part = orthogonal_part(x, along)
    assert (part * along).sum(-1).abs().max() < 1e-4
    torch.testing.assert_close(orthogonal_part(3 * along, along), torch.zeros_like(along), atol=1e-5, rtol=0)


def test_push_against_loops():
    own, other = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    out = push(own, other, 0.8, 0.5, 1.3, 0.7)
    for b in range(2):
        for y in range(3):
            for x in range(4):
                p, n = own[b, :, y, x], other[b, :, y, x]
                new = p + 0.8 * (p - n) - 0.5 * (n - (n @ p) / (p @ p) * p)
                ratio = new.abs().sum() / p.abs().sum()
                torch.testing.assert_close(out[b, :, y, x], 0.7 * new * min(ratio, 1.3) / ratio + 0.3 * p)
    assert push(own, other, 0.0, 0.0, 1.5, 0.5) is own and push(own, other, 1.0, 1.0, 1.5, 0.0) is own
    assert push(own.half(), other.half(), 1.0, 1.0, 1.5, 0.5).dtype == torch.float16


def test_contrasted_keys_give_a_quotient_of_maps():
    q, k, other = torch.randn(5, 8).double(), torch.randn(7, 8).double(), torch.randn(7, 8).double()
    a, b = torch.softmax(q @ k.T, -1), torch.softmax(q @ other.T, -1)
    quotient = a**1.6 / b**0.6
    torch.testing.assert_close(
        torch.softmax(q @ contrast_keys(k, other, 0.6).T, -1), quotient / quotient.sum(-1, keepdim=True)
    )


def test_maps_have_mean_one():
    a, b = torch.randn(8, 5, 7), torch.randn(8, 5, 7)
    b[:, 2:] = a[:, 2:]
    m = difference_map(a, b)
    assert m.shape == (5, 7) and m.mean().item() == pytest.approx(1, abs=1e-5)
    assert m[:2].min() > 1 > m[3:].max() and m[4].abs().max() < 1e-6
    assert torch.equal(difference_map(a, a), torch.ones(5, 7))
    for strength in (0.3, 1.0, 2.0):
        scale = spatial_scale(m, strength, (10, 13))
        assert scale.shape == (10, 13) and scale.min() > 0.2 and scale.mean().item() == pytest.approx(1, abs=1e-5)


def test_scaled_guidance():
    c, u, scale = torch.randn(4, 5, 6), torch.randn(4, 5, 6), torch.rand(5, 6)
    new = scale_guidance(c, u, scale)
    torch.testing.assert_close(new + 7 * (c - new), c + 6 * scale * (c - u), atol=1e-4, rtol=1e-4)


def test_partners():
    rows = plan_rows([[1.0], [0.7, 0.3]])
    assert partners(rows) == {0: 3, 1: 4, 2: 4}
    assert partners(rows[:3]) == {} and partners(rows[2:4]) == {}
    assert partners(plan_rows([[1.0]], edit=True)) == {}


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_acts_and_nought_is_bit_identical(unet, name):
    plain = draw(unet, [])
    assert torch.equal(draw(unet, replace()), plain)
    window = "map" if name == "map_strength" else name
    for off in ({"start": 1.0}, {f"{window}_end": 0.0}, {"blocks": "in99"}):
        assert torch.equal(draw(unet, replace(**{name: 0.5}, **off), total=2), plain)
    out = draw(unet, replace(**{name: 0.5}))
    little = draw(unet, replace(**{name: 0.01}))
    assert 0 < (little - plain).norm() < 0.1 * (out - plain).norm() and out.isfinite().all()
    # The map changes the negatives' prediction, all others the positives'.
    same = slice(0, 2) if name == "map_strength" else slice(2, 4)
    torch.testing.assert_close(out[same], plain[same], atol=1e-5, rtol=1e-4)


def test_features_of_the_middle_block(unet):
    """What the first Out block gets is the formula on what the middle block gave."""
    seen = []
    handle = unet.middle_block[-1].register_forward_hook(lambda m, a, out: seen.append(out))
    got = unet.output_blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    try:
        draw(unet, replace(feature=0.8, orthogonal=0.3, blocks="mid", tau=1.2, blend=0.6))
    finally:
        handle.remove(), got.remove()
    before, after = seen[0], seen[1][:, : seen[0].shape[1]]
    torch.testing.assert_close(after[:2], push(before[:2], before[2:], 0.8, 0.3, 1.2, 0.6))
    assert torch.equal(after[2:], before[2:])


def test_keys_of_one_layer(unet):
    layer = next(layer for layer in find_layers(unet) if layer.name == "OUT03")
    seen, attn1 = {}, layer.attn1
    seen_in = layer.block.norm1.register_forward_hook(lambda m, a, out: seen.update(x=out))
    seen_out = attn1.to_out[0].register_forward_pre_hook(lambda m, a: seen.update(z=a[0]))
    try:
        draw(unet, replace(keys=0.7, blocks="out3"), weights=[[1.0], [0.6, 0.4]])
    finally:
        seen_in.remove(), seen_out.remove()
    x = seen["x"]
    pair = {0: 3, 1: 4, 2: 4}
    for i in range(5):
        k = attn1.to_k(x[i])
        k = 1.7 * k - 0.7 * attn1.to_k(x[pair[i]]) if i in pair else k
        q, v = attn1.to_q(x[i]), attn1.to_v(x[i])
        q, k, v = (t.unflatten(-1, (attn1.heads, -1)).transpose(0, 1) for t in (q, k, v))
        z = (torch.softmax(q @ k.mT * attn1.scale, -1) @ v).transpose(0, 1).flatten(1)
        torch.testing.assert_close(seen["z"][i], z, atol=1e-5, rtol=1e-4)


def test_near_sighted_sees_the_edited_keys(unet):
    near = NearSighted(enabled=True, tile=8, pool=1, blocks="all")
    everything = replace(keys=0.7, blocks="all")
    torch.testing.assert_close(draw(unet, [near, *everything]), draw(unet, everything))
    near = NearSighted(enabled=True, tile=8, pool=2, blocks="all", shift=0.0)
    edited, plain = draw(unet, [near, *everything]), draw(unet, [near])
    assert (edited - plain)[:2].norm() > 1e-3
    torch.testing.assert_close(edited[2:], plain[2:], atol=1e-5, rtol=1e-4)


def test_split_batches_say_so(unet):
    said = []
    plain = draw(unet, [], chunks=2)
    out = draw(unet, replace(feature=0.5, keys=0.5), chunks=2, say=said.append)
    torch.testing.assert_close(out, plain)
    assert len(said) == 1 and "apart" in said[0]


def test_the_host_leaving_negatives_out_is_no_split_batch(unet):
    """NGMS: positives alone, and no call with negatives after it."""
    said = []
    x, context = unet_input(2, 16, 16)
    with attach(unet, replace(feature=0.5), say=said.append) as attachment:
        attachment.begin_step(plan_rows([[1.0]] * 2), 0, 1, cfg=5.0)
        unet(x, torch.full((2,), 900.0), context=context)
        attachment.end_step()
    assert not said


def test_no_negative_at_guidance_one_is_said(unet):
    skip = NegativeSkip(enabled=True, penalty="off")
    draw(unet, [skip, *replace(feature=0.5)], cfg=1.0, steps=2)
    assert draw.why_idle[1] == "Negative skip leaves the negative out at CFG 1: nothing to compare with."
    said = []
    draw(unet, [skip, *replace(feature=0.5)], cfg=5.0, steps=2, say=said.append)
    assert not said


def test_the_map_works_in_split_batches(unet):
    weights = [[1.0], [0.6, 0.4]]
    one = draw(unet, replace(map_strength=1.0), weights=weights)
    for chunks in (1, 2, 3):
        split = draw(unet, replace(map_strength=1.0), weights=weights, chunks=chunks)
        torch.testing.assert_close(split, one, atol=1e-5, rtol=1e-4)


def test_the_map_as_a_picture(unet):
    draw(unet, replace(show_map=True), steps=3)
    maps = dict(draw.pictures)
    assert set(maps) == {0, 1} and all(m.ndim == 2 and 0 <= m.min() and m.max() == 1 for m in maps.values())
    draw(unet, replace(map_strength=0.5))
    assert draw.pictures == []


def test_an_image_of_a_batch_comes_out_as_if_alone(unet):
    settings = replace(feature=0.4, keys=0.4, orthogonal=0.4, map_strength=0.5)
    both = draw(unet, settings)
    x, context = unet_input(2, 16, 16)[0][[1, 1]], unet_input(4, 16, 16, seed=3)[1][[1, 3]]
    with attach(unet, settings) as attachment:
        attachment.begin_step(plan_rows([[1.0]]), 0, 1)
        alone = unet(x, torch.full((2,), 900.0), context=context)
    torch.testing.assert_close(alone, both[[1, 3]], atol=1e-5, rtol=1e-4)


def test_together_with_skipped_negatives(unet):
    """In skipped steps there is nothing to compare; the last map goes on, on the estimate before any map."""
    skip = NegativeSkip(enabled=True, key_every=2, early=0.0, penalty="off")
    both = draw(unet, [*replace(map_strength=1.0), skip], steps=2)  # in whatever order they are named
    only = draw(unet, [skip], steps=2)
    mapped = draw(unet, replace(map_strength=1.0), steps=2)
    torch.testing.assert_close(both[0], mapped[0])
    torch.testing.assert_close(both[1][:2], only[1][:2])
    guidance = {"mapped": both[1][:2] - both[1][2:], "plain": only[1][:2] - only[1][2:]}
    ratio = guidance["mapped"] / guidance["plain"]
    assert (
        ratio.median().item() == pytest.approx(1, abs=0.5) and (ratio.std(1) < 1e-2 * ratio.abs().mean(1) + 1e-2).all()
    )


def test_the_negative_is_kept_where_it_is_compared(unet):
    counts = []
    handle = unet.middle_block.register_forward_pre_hook(probe(lambda m, a: counts.append(a[0].shape[0])))
    try:
        for changes in ({"feature": 0.5}, {"keys": 0.5}, {"show_map": True}, {}, {"feature": 0.5, "blend": 0.0}):
            draw(unet, replace(**changes), cfg=1.0, save_negative=True)
    finally:
        handle.remove()
    assert counts == [4, 4, 4, 2, 2]


def test_half_precision_and_upcast(unet):
    everything = replace(feature=0.4, keys=0.4, orthogonal=0.4, map_strength=0.5)
    full = draw(unet, everything)
    torch.testing.assert_close(draw(unet, everything, upcast=lambda: True), full)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = draw(unet, everything).float()
    assert ((cast - full).norm() / full.norm()).item() < 0.05
