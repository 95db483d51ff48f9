"""Near-sighted attention against full attention where it must be exact, and against a naive reference elsewhere."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lib_attn.settings import NearSighted
from lib_attn.techniques.near_sighted.kernel import (
    biased_attention,
    channel_attention,
    near_sighted_attention,
    pool_map,
)
from lib_attn.techniques.near_sighted.plan import MIN_TILE, Plan, make_plan, shift_point, time_curve, worthwhile
from lib_attn.techniques.near_sighted.residuals import Residuals

SIZES = [(16, 16), (13, 22), (33, 17), (7, 40)]


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def full_attention(q, k, v):
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(-1), v)


def constant_over_cells(h, w, cell, seed):
    coarse = rand(2, math.ceil(h / cell), math.ceil(w / cell), 3, 8, seed=seed)
    fine = coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)[:, :h, :w]
    return fine.reshape(2, h * w, 3, 8)


def window_start(first, last, window, size):
    """First token of the window around the interval [first, last) clamped into [0, size)."""
    return int(min(max(math.floor((first + last) / 2 - window / 2), 0), size - min(window, size)))


def naive(q, k, v, plan, strength=0.0, average=False):
    """Every seventh query, key by key, from the definition; local pooling left out. Returns the queries and results."""
    results = {}
    cuts_y = [0, *range(plan.offset[0] or plan.tile, plan.h, plan.tile), plan.h]
    cuts_x = [0, *range(plan.offset[1] or plan.tile, plan.w, plan.tile), plan.w]
    for y, x in list(itertools.product(range(plan.h), range(plan.w)))[::7]:
        interval_y = next((a, b) for a, b in itertools.pairwise(cuts_y) if a <= y < b)
        interval_x = next((a, b) for a, b in itertools.pairwise(cuts_x) if a <= x < b)
        y0 = window_start(*interval_y, plan.window, plan.h)
        x0 = window_start(*interval_x, plan.window, plan.w)
        own = set(itertools.product(range(y0, min(y0 + plan.window, plan.h)), range(x0, min(x0 + plan.window, plan.w))))
        keys, values, bias = [], [], []
        for ky, kx in own:
            keys.append(k[:, ky * plan.w + kx])
            values.append(v[:, ky * plan.w + kx])
            bias.append(0.0)
        for cy, cx in itertools.product(range(0, plan.h, plan.pool), range(0, plan.w, plan.pool)):
            rows, columns = range(cy, min(cy + plan.pool, plan.h)), range(cx, min(cx + plan.pool, plan.w))
            cell = [yy * plan.w + xx for yy in rows for xx in columns]
            left = sum((yy, xx) not in own for yy in rows for xx in columns)
            if not left:
                continue
            sample = plan.sample or ((len(rows) - 1) // 2, (len(columns) - 1) // 2)
            middle = rows[min(sample[0], len(rows) - 1)] * plan.w + columns[min(sample[1], len(columns) - 1)]
            keys.append(k[:, cell].mean(1) if average else k[:, middle])
            values.append(v[:, cell].mean(1) if average else v[:, middle])
            bias.append(math.log(left) + strength)
        query, key, value = q[:, y * plan.w + x], torch.stack(keys, 1), torch.stack(values, 1)
        logits = torch.einsum("bhd,bmhd->bhm", query, key) * q.shape[-1] ** -0.5 + torch.tensor(bias)
        results[y * plan.w + x] = torch.einsum("bhm,bmhd->bhd", logits.softmax(-1), value)
    return list(results), torch.stack(list(results.values()), 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("sample", [None, (0, 2)])
@pytest.mark.parametrize(("tile", "halo", "pool", "offset"), [(8, 0, 4, 0), (8, 2, 4, 3), (5, 1, 3, 2), (16, 4, 5, 9)])
def test_equals_naive_reference(size, average, sample, tile, halo, pool, offset):
    h, w = size
    q, k, v = (rand(2, h * w, 3, 8, seed=s) for s in range(3))
    plan = Plan(h, w, tile, tile + 2 * halo, pool, offset=(offset % tile, offset // 2), sample=sample)
    result = near_sighted_attention(q, k, v, plan, strength=0.7, average=average)
    queries, expected = naive(q, k, v, plan, 0.7, average)
    torch.testing.assert_close(result[:, queries], expected, atol=2e-6, rtol=1e-5)


def test_equals_naive_reference_in_bf16():
    q, k, v = (rand(1, 13 * 22, 2, 16, seed=s, dtype=torch.bfloat16) for s in range(3))
    plan = Plan(13, 22, 8, 10, 4, offset=(3, 5))
    result = near_sighted_attention(q, k, v, plan).float()
    queries, expected = naive(q.float(), k.float(), v.float(), plan)
    assert (result[:, queries] - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("tile", "halo", "pool", "offset"), [(8, 0, 4, 0), (8, 2, 4, 3), (6, 1, 3, 2), (0, 0, 5, 0)])
def test_constant_cells_give_full_attention(size, average, channels, tile, halo, pool, offset):
    """The log-count bias and the excluded own window are right exactly when this holds."""
    h, w = size
    q = rand(2, h * w, 3, 8)
    k, v = constant_over_cells(h, w, pool, 1), constant_over_cells(h, w, pool, 2)
    plan = Plan(h, w, tile, tile + 2 * halo, pool, offset=(offset, offset))
    result = near_sighted_attention(q, k, v, plan, average=average, channels=channels)
    torch.testing.assert_close(result, full_attention(q, k, v), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("plan", [{"tile": 64, "window": 64, "pool": 4}, {"tile": 8, "window": 8, "pool": 1}])
def test_one_tile_or_pool_factor_one_is_full_attention(size, plan):
    """Computed, not short-cut: `Plan.exact` says so, and the maths agrees."""
    plan = Plan(*size, **plan, offset=(3, 0))
    q, k, v = (rand(1, size[0] * size[1], 2, 8, seed=s) for s in range(3))
    assert plan.exact
    torch.testing.assert_close(near_sighted_attention(q, k, v, plan), full_attention(q, k, v), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (1, 3)])
@pytest.mark.parametrize("mode", ["average", "max"])
def test_local_pooling_of_constant_cells_is_exact(shape, mode):
    """Pooled local keys carry their own log-count, also in partial cells at the border."""
    h, w = 14, 19
    q = rand(1, h * w, 2, 8)
    side = math.lcm(*shape, 4)
    k, v = (constant_over_cells(h, w, side, s)[:1, :, :2] for s in (1, 2))
    plan = Plan(h, w, 8, 8, 4, local=shape, offset=(2, 5))
    result = near_sighted_attention(q, k, v, plan, mode=mode, k_blend=0.5, v_blend=1.0)
    torch.testing.assert_close(result, full_attention(q, k, v), atol=2e-5, rtol=1e-4)


def test_no_tile_is_todo():
    """Tile 0 attends to subsampled keys and values only."""
    q, k, v = (rand(1, 64, 2, 8, seed=s) for s in range(3))
    index = [y * 8 + x for y in range(0, 8, 2) for x in range(0, 8, 2)]
    result = near_sighted_attention(q, k, v, Plan(8, 8, 0, 0, 2))
    torch.testing.assert_close(result, full_attention(q, k[:, index], v[:, index]), atol=2e-6, rtol=1e-5)


def test_moving_tokens_visit_each_place_of_their_square_equally_often():
    """Over steps, over layers, and where the square is cut by the border; other images see other tokens."""
    points = [shift_point(step, layer, 3) for step in range(16) for layer in range(4)]
    plans = [make_plan(18, 16, NearSighted(tile=0, pool=4), sample=p) for p in points]
    for axis in (0, 1):
        counts = torch.bincount(torch.tensor([plan.sample[axis] for plan in plans]), minlength=4)
        assert counts.min() >= 12 and counts.sum() == 64
    number = torch.arange(18 * 16.0).view(1, -1, 1, 1)
    for plan in plans:
        taken = pool_map(number, 18, 16, (4, 4), sample=plan.sample).view(5, 4)
        y, x = taken // 16, taken % 16
        assert torch.equal((y // 4).int(), torch.arange(5).int()[:, None].expand(5, 4)), "each from its own square"
        assert torch.equal((x % 4).unique(), torch.tensor([float(plan.sample[1])]))


def test_moving_tokens_average_out():
    """Over 16 steps the mean of the results is much nearer to full attention than with the same token each time."""
    h = w = 32
    smooth = torch.nn.functional.interpolate(rand(1, 16, 6, 6, seed=5), (h, w), mode="bicubic")
    x = smooth.permute(0, 2, 3, 1).reshape(1, h * w, 2, 8)
    exact, settings = full_attention(x, x, x), NearSighted(tile=8, pool=4, shift=0.0)
    fixed = near_sighted_attention(x, x, x, make_plan(h, w, settings))
    points = [shift_point(step, 0, 7) for step in range(16)]
    moving = sum(near_sighted_attention(x, x, x, make_plan(h, w, settings, sample=p)) for p in points) / 16
    assert (moving - exact).norm() < 0.4 * (fixed - exact).norm()


def test_tiles_without_global_keys_are_independent():
    q, k, v = (rand(1, 256, 2, 8, seed=s) for s in range(3))
    plan = Plan(16, 16, 8, 8, 0)
    before = near_sighted_attention(q, k, v, plan).view(16, 16, 2, 8)
    v.view(16, 16, 2, 8)[:, 8:] += 1
    after = near_sighted_attention(q, k, v, plan).view(16, 16, 2, 8)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_neither_tiles_nor_global_keys_is_refused():
    with pytest.raises(ValueError, match="tiles or global keys"):
        near_sighted_attention(*(rand(1, 64, 1, 8) for _ in range(3)), Plan(8, 8, 0, 0, 0))


def test_value_width_may_differ():
    q, k, v = rand(1, 144, 2, 8), rand(1, 144, 2, 8, seed=1), rand(1, 144, 2, 12, seed=2)
    assert near_sighted_attention(q, k, v, Plan(12, 12, 8, 8, 4)).shape == (1, 144, 2, 12)


def test_chunks_do_not_change_the_result(monkeypatch):
    q, k, v = (rand(2, 24 * 40, 2, 8, seed=s) for s in range(3))
    plan = Plan(24, 40, 8, 12, 4, offset=(3, 6))
    whole = near_sighted_attention(q, k, v, plan)
    monkeypatch.setattr("lib_attn.techniques.near_sighted.kernel.GATHER_BYTES_CPU", 1)
    torch.testing.assert_close(near_sighted_attention(q, k, v, plan), whole, atol=1e-6, rtol=1e-5)


def test_excluded_keys_have_no_weight_in_half_precision():
    q, k = rand(1, 2, 16, 40), rand(1, 2, 32, 40, seed=1)
    bias = torch.zeros(1, 32)
    bias[:, 16:] = -1e4
    for dtype in (torch.float16, torch.bfloat16):
        for attend in (biased_attention, channel_attention):
            v = torch.zeros(1, 2, 32, 40)
            v[:, :, 16:] = 1000
            out = attend(q.to(dtype), k.to(dtype), v.to(dtype), bias, 40**-0.5)
            assert out.abs().max() == 0, (dtype, attend)


def test_channels_carry_the_bias_as_well_as_a_mask_does():
    q, k, v = (rand(2, 2, 64, 40, seed=s) for s in range(3))
    bias = rand(2, 64, seed=4) * 3
    half = [t.bfloat16() for t in (q, k, v)]
    expected = biased_attention(*(t.float() for t in half), bias, 40**-0.5)
    error = (channel_attention(*half, bias, 40**-0.5).float() - expected).norm() / expected.norm()
    assert error < 0.01


def test_seams_fall_with_the_moving_border():
    """Mean jump across fixed tile borders against inside: above 1 without shift, nearer to 1 averaged over shifts."""
    h = w = 48
    smooth = torch.nn.functional.interpolate(rand(1, 16, 6, 6, seed=5), (h, w), mode="bicubic")
    x = smooth.permute(0, 2, 3, 1).reshape(1, h * w, 2, 8) * 3

    def mean_jump(shift):
        total = torch.zeros(h, w, 2, 8)
        for step in range(12):
            settings = NearSighted(tile=12, pool=0, shift=shift, blocks="all")
            plan = make_plan(h, w, settings, shift=shift_point(step, 0, 7))
            total += near_sighted_attention(x, x, x, plan).view(h, w, 2, 8)
        jump = (total[:, 1:] - total[:, :-1]).norm(dim=(-2, -1)).mean(0)
        border = torch.zeros(w - 1, dtype=torch.bool)
        border[11::12] = True
        return (jump[border].mean() / jump[~border].mean()).item()

    fixed, moving = mean_jump(0.0), mean_jump(1.0)
    assert fixed > 1.5, "without shift the seams are visible"
    assert abs(moving - 1) < 0.5 * (fixed - 1), (fixed, moving)


def test_pool_map_keeps_partial_cells():
    x = torch.arange(15.0).view(1, 15, 1, 1)
    pooled = pool_map(x, 3, 5, (2, 2), "average", 1.0).flatten()
    assert pooled.tolist() == [3.0, 5.0, 6.5, 10.5, 12.5, 14.0]
    assert pool_map(x, 3, 5, (2, 2)).flatten().tolist() == [0.0, 2.0, 4.0, 10.0, 12.0, 14.0]


def test_plan_geometry():
    settings = NearSighted(tile=16, pool=8, halo=2, shift=0.0)
    top = make_plan(128, 96, settings)
    assert (top.tile, top.window, top.pool, top.tiles, top.keys) == (16, 20, 8, 48, 20 * 20 + 16 * 12)
    deeper = make_plan(64, 48, settings, depth=1)
    assert (deeper.tile, deeper.window, deeper.pool) == (8, 10, 4)
    assert make_plan(32, 24, settings, depth=2).tile == MIN_TILE
    same_tokens = make_plan(64, 48, NearSighted(tile=16, pool=8, depth_scaling=0.0), depth=1)
    assert (same_tokens.tile, same_tokens.pool) == (16, 8)


def test_tile_count_is_along_the_longer_side():
    plan = make_plan(96, 135, NearSighted(tile_count=4, shift=0.0))
    assert plan.tile == 34 and plan.tiles == 3 * 4


@pytest.mark.parametrize("size", [(64, 96), (104, 152), (135, 240), (67, 91)])
def test_every_picture_size_is_covered_once(size):
    """512x768, 832x1216, 1920x1080 and odd latents: each query in one tile, all windows of one size, none outside."""
    h, w = size
    for offset in ((0, 0), (5, 11)):
        plan = Plan(h, w, 16, 20, 4, offset=offset)
        q = rand(1, h * w, 1, 8)
        ones = torch.ones(1, h * w, 1, 8)
        result = near_sighted_attention(q, q, ones, plan)
        torch.testing.assert_close(result, ones, atol=1e-5, rtol=0)


def test_worthwhile_leaves_small_and_expensive_maps_exact():
    assert worthwhile(make_plan(128, 128, NearSighted()))
    assert not worthwhile(make_plan(16, 16, NearSighted(), depth=2)), "too few tokens"
    assert not worthwhile(make_plan(64, 64, NearSighted(pool=1))), "nothing saved"


def test_time_curve():
    assert time_curve(8, 0, 0.1, 0.4, 2) == 8
    assert time_curve(8, 16, 0.4, 0.4, 2) == 16
    assert time_curve(8, 16, 0.9, 0.4, 0) == 16
    curve = [round(time_curve(0, 1, t, 0.4, 2), 2) for t in (0.001, 0.2, 0.6, 0.8, 1.0)]
    assert curve == [0.53, 0.85, 0.85, 0.53, 0.24]
    settings = NearSighted(tile=16, tile_peak=32, pool=8, pool_peak=4)
    assert make_plan(128, 128, settings, time=0.4).tile == 32
    assert make_plan(128, 128, settings, time=0.4).pool == 4
    assert make_plan(128, 128, settings, time=1.0).tile < 24


def test_shift_points_are_even_and_keyed():
    over_steps = [shift_point(step, 5, 1) for step in range(32)]
    over_layers = [shift_point(5, layer, 1) for layer in range(32)]
    assert all(0 <= p < 1 for point in over_steps for p in point)
    for points in (over_steps, over_layers):
        for axis in (0, 1):
            counts = torch.histc(torch.tensor([p[axis] for p in points]), 8, 0, 1)
            assert 3 <= counts.min() and counts.max() <= 5, "every eighth of the tile is visited equally often"
    assert shift_point(3, 2, 1) == shift_point(3, 2, 1)
    assert shift_point(3, 2, 1) != shift_point(3, 2, 2)


def test_residuals_are_bounded_and_forget_nothing_else():
    kept = Residuals(2 * 4 * (2 + 4))  # two rows of four tokens: a byte for each of two channels, a scale each
    difference = rand(2, 4, 2)
    assert kept.store(0, ("a", "b"), 0, difference)
    assert kept.get(0, ("a", "b"), 1) is None, "too old"
    assert kept.get(0, ("a", "c"), 0) is None, "unknown row"
    assert not kept.store(1, ("a", "b"), 0, difference), "no room for a second layer"
    assert kept.full(1) and not kept.full(0)
    assert kept.store(0, ("a", "b"), 5, difference), "replacing needs no new room"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_residuals_come_back_to_within_a_byte(dtype, size):
    difference = (rand(2, 16, 320) * size).to(dtype)
    difference[0, 3] = 0
    kept = Residuals(1 << 20)
    assert kept.store(0, ("a", "b"), 0, difference)
    back = kept.get(0, ("b", "a"), 0, dtype)
    assert back.dtype == dtype
    error, largest = (back.flip(0) - difference).float().abs(), difference.float().abs().amax(-1, keepdim=True)
    assert (error <= largest * (1 / 254 + 2 * torch.finfo(dtype).eps)).all()
    assert (error[0, 3] == 0).all()


def test_gradients_pass():
    """Memory that tiles share in inference must not be shared when somebody wants gradients."""
    tensors = [rand(1, 24 * 40, 2, 8, seed=s).requires_grad_() for s in range(3)]
    plan = Plan(24, 40, 8, 8, 1, offset=(3, 5))
    weights = rand(1, 24 * 40, 2, 8, seed=9)
    ours = torch.autograd.grad((near_sighted_attention(*tensors, plan) * weights).sum(), tensors)
    exact = torch.autograd.grad((full_attention(*tensors) * weights).sum(), tensors)
    torch.testing.assert_close(ours, exact, atol=1e-5, rtol=1e-4)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    h=st.integers(1, 40), w=st.integers(1, 40), tile=st.integers(0, 24), count=st.integers(0, 5),
    halo=st.integers(0, 6), pool=st.integers(0, 9), local=st.integers(1, 3), shape=st.sampled_from(["1D", "2D"]),
    shift=st.floats(0, 1),
    point=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)), depth=st.integers(0, 3),
)  # fmt: skip
def test_any_setting_on_any_map_is_a_mean_of_values(h, w, tile, count, halo, pool, local, shape, shift, point, depth):
    settings = NearSighted(
        tile=tile, tile_count=count, halo=halo, pool=pool, local_pool=local, local_shape=shape, shift=shift
    )  # fmt: skip
    plan = make_plan(h, w, settings, depth=depth, shift=point)
    if not plan.tile and not plan.pool:
        return
    q = rand(1, h * w, 1, 4)
    value = torch.linspace(0, 1, h * w)[None, :, None, None].expand(1, -1, 1, 4)
    out = near_sighted_attention(q, q, value, plan, v_blend=0.5)
    assert out.isfinite().all() and out.min() >= -1e-5 and out.max() <= 1 + 1e-5
