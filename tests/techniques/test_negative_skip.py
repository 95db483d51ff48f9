"""Skipped negatives: the arithmetic, the choice of steps, and what a real U-Net makes of it."""

import dataclasses
import math

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import NegativeSkip
from lib_attn.techniques.negative_skip.runtime import Track, guidance_ratio, level_negative, may_skip, weigh_frequencies
from lib_attn.unet.batch import weighted_mean
from lib_attn.unet.flight import Evaluation, sigma_of
from lib_attn.unet.rows import plan_rows
from tests.unets import probe, tiny_unet, unet_input

SKIP = NegativeSkip(enabled=True, key_every=3, early=0.0, trend=1.0, penalty="off")
CFG = 5.0


def replace(**changes):
    return [dataclasses.replace(SKIP, **changes)]


def run(unet, x, context, timestep=500.0):
    return unet(x, torch.full((x.shape[0],), timestep), context=context)


class Rows:
    """Counts the rows that each call of the U-Net computes, and their pixels."""

    def __init__(self, unet):
        self.seen, self.sizes = [], []
        self._handle = unet.input_blocks[0][0].register_forward_pre_hook(self._see)

    def _see(self, module, args):
        self.seen.append(args[0].shape[0])
        self.sizes.append(args[0].shape[-1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


def draw(unet, techniques, steps=4, images=1, cfg=CFG, weights=None, chunks=None, told=None, **options):
    """The predictions of `steps` evaluations on fixed inputs: a list of ``[rows, 4, 16, 16]``."""
    rows = plan_rows(weights or [[1.0]] * images)
    n = len(rows)
    x, context = unet_input(images, 16, 16)[0], unet_input(n, 16, 16, seed=3)[1]
    x = torch.stack([x[row.image] for row in rows])
    out = []
    with attach(unet, techniques, **options) as attachment:
        for step in range(steps):
            attachment.begin_step(rows, step, steps, cfg=cfg, **(told or {}))
            parts = zip(x.split(chunks or n), context.split(chunks or n), strict=True)
            out.append(torch.cat([run(unet, *part, 900.0 - 100 * step) for part in parts]))
            attachment.end_step()
    return out


def combine(prediction, weights=((1.0,),), cfg=CFG):
    """The webui's u + s * sum w (c - u)."""
    n = len(weights)
    u, at, out = prediction[-n:], 0, prediction[-n:].clone()
    for i, parts in enumerate(weights):
        for w in parts:
            out[i] += (prediction[at] - u[i]) * (w * cfg)
            at += 1
    return out


def test_sigmas_are_those_of_stable_diffusion():
    assert sigma_of(0) == pytest.approx(0.0292, abs=1e-4) and sigma_of(999) == pytest.approx(14.6146, abs=1e-3)
    assert sigma_of(10) < sigma_of(10.5) < sigma_of(11)


def test_weighted_mean_makes_guidance_do_nothing():
    parts = [(0.7, torch.randn(4, 3, 3)), (0.6, torch.randn(4, 3, 3)), (-0.2, torch.randn(4, 3, 3))]
    mean = weighted_mean(parts)
    for cfg in (1.0, 4.0, 12.0):
        combined = mean + cfg * sum(w * (c - mean) for w, c in parts)
        torch.testing.assert_close(combined, mean)
    assert weighted_mean([(0.0, parts[0][1])]) is parts[0][1] and weighted_mean([]) is None


def test_levelled_zeros_are_a_copy():
    c, u = torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    torch.testing.assert_close(level_negative(c, torch.zeros_like(c), 7.0), c)
    level = level_negative(c, u, 7.0)
    combined = level + 7.0 * (c - level)
    torch.testing.assert_close(combined.norm(), c.norm())
    direction = u + 7.0 * (c - u)
    torch.testing.assert_close(combined / combined.norm(), direction / direction.norm())
    assert level_negative(c, u, 1.0) is u and level_negative(c, u, None) is u


@pytest.mark.parametrize("size", [(8, 8), (7, 11), (1, 5)])
def test_frequency_weights(size):
    x = torch.randn(4, *size)
    assert weigh_frequencies(x, 1.0, 1.0) is x
    coarse, fine = weigh_frequencies(x, 1.0, 0.0), weigh_frequencies(x, 0.0, 1.0)
    torch.testing.assert_close(coarse + fine, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weigh_frequencies(x, 1.3, 0.4), 1.3 * coarse + 0.4 * fine, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(coarse.mean((1, 2)), x.mean((1, 2)), atol=1e-5, rtol=1e-5)


def test_guidance_ratio():
    assert guidance_ratio(2.0, 4.0, 0.0) == 1.0 and guidance_ratio(2.0, 4.0, -1.0) == 2.0
    # v = (eps - sigma x0 stuff) scales with sqrt(1 + sigma^2) against eps
    assert guidance_ratio(2.0, 4.0, 0.0, "v") == pytest.approx((5 / 17) ** 0.5)


def test_a_trend_is_a_line_over_log_sigma():
    from lib_attn.techniques.negative_skip.runtime import continue_trend

    a, b = torch.randn(4, 3, 3), torch.randn(4, 3, 3)
    at = lambda sigma: a + b * torch.log(torch.tensor(sigma))  # noqa: E731
    last, before = (4.0, at(4.0)), (8.0, at(8.0))
    torch.testing.assert_close(continue_trend(last, before, 3.0, 1.0), at(3.0))
    torch.testing.assert_close(continue_trend(last, before, 3.0, 0.5), (at(3.0) + at(4.0)) / 2)
    torch.testing.assert_close(continue_trend(last, before, 0.1, 1.0), at(2.0))
    for old, now, trend in ((None, 3.0, 1.0), (before, 3.0, 0.0), ((4.0, at(8.0)), 3.0, 1.0), (before, 5.0, 1.0)):
        assert continue_trend(last, old, now, trend) is last[1]


def pattern(settings, sigmas, agreements=(), steps=None):
    """Which steps would be skipped: a string of f(ull) and s(kipped)."""
    track, out = Track(), ""
    for i, sigma in enumerate(sigmas):
        if may_skip(settings, track, i / len(sigmas), sigma, steps):
            track.since = (track.since or 0) + 1
            out += "s"
        else:
            track.since, track.sigma = 0, sigma
            if agreements:
                track.learn(agreements[i], settings.adaptive, settings.hysteresis)
            out += "f"
    return out


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"key_every": 3}, "fssfssfs"),
        ({"key_every": 1}, "ffffffff"),
        ({"key_every": 0}, "fsssssss"),
        ({"key_every": 0, "fill": "copy"}, "ssssssss"),
        ({"key_every": 2, "fill": "copy"}, "fsfsfsfs"),
        ({"key_every": 3, "keep_first": 0.5}, "ffffssfs"),
        ({"key_every": 0, "keep_first": 0.25, "fill": "zeros"}, "ffssssss"),
    ],
)
def test_full_steps(changes, expected):
    assert pattern(replace(**changes)[0], [8, 7, 6, 5, 4, 3, 2, 1]) == expected


@pytest.mark.parametrize("every", (2, 3, 4, 5))
@pytest.mark.parametrize("steps", (12, 20, 24, 30, 50))
def test_early_full_steps_are_as_many_but_earlier(every, steps):
    sigmas = list(range(steps, 0, -1))
    even, early = (pattern(replace(key_every=every, early=value)[0], sigmas) for value in (0.0, 1.0))
    assert 0.75 * even.count("f") - 1 <= early.count("f") <= even.count("f")
    assert even.count("f") == -(-steps // every)
    half, few = steps // 2, even.count("f") < 4  # three or less cannot lie much closer together
    early_half, late_half = early[:half].count("f"), early[half:].count("f")
    assert few or early_half > late_half < even[half:].count("f")
    gaps = [len(run) for run in early.rstrip("s").split("f")[1:-1]]
    assert gaps == sorted(gaps)


def test_few_steps_have_more_full_ones():
    """Each goes further than one of twenty; measured in docs/negative-skip.md."""
    found = {}
    for steps in (4, 8, 10, 15, 20, 30):
        sigmas = range(steps, 0, -1)
        found[steps] = pattern(replace(early=1.0)[0], sigmas, steps=steps)
        assert pattern(replace(early=0.0)[0], sigmas, steps=steps) == pattern(replace(early=0.0)[0], sigmas)
    for steps in (20, 30):
        assert found[steps] == pattern(replace(early=1.0)[0], range(steps, 0, -1))
    shares = [found[steps].count("f") / steps for steps in (4, 8, 10, 15, 20)]
    assert shares[0] == 0.75 and shares == sorted(shares, reverse=True) and found[8].count("f") == 5, found


def test_where_early_full_steps_lie():
    assert pattern(replace(early=1.0)[0], range(24, 0, -1)) == "fffsfssfsssfsssfssssfsss"
    assert pattern(replace(early=1.0, key_every=1)[0], range(8, 0, -1)) == "ffffffff"
    assert pattern(replace(early=1.0, key_every=0)[0], range(8, 0, -1)) == "fsssssss"


def test_going_back_up_in_noise_is_a_full_step():
    assert pattern(replace(key_every=4)[0], [8, 7, 6, 8, 7, 9, 8, 7]) == "fsssffss"


def test_adaptive_steps_have_hysteresis_and_a_limit():
    settings = replace(adaptive=0.9, hysteresis=0.05, key_every=3)[0]
    agreements = [0.5, 0.89, 0.91, 0, 0, 0.87, 0, 0, 0.84, 0.89]
    assert pattern(settings, range(20, 10, -1), agreements) == "fffssfssff"


@pytest.mark.parametrize(
    "neutral",
    [
        {"enabled": False},
        {"key_every": 1},
        {"keep_first": 1.0},
        {"start": 1.0},
        {"end": 0.0},
        {"adaptive": 1.0, "key_every": 0},
    ],
)
def test_neutral_values_are_bit_identical(unet, neutral):
    for a, b in zip(draw(unet, replace(**neutral)), draw(unet, []), strict=True):
        assert torch.equal(a, b)


def test_positive_rows_are_those_of_full_steps(unet):
    plain = draw(unet, [], images=2)
    for fill in ("estimate", "copy", "zeros"):
        with Rows(unet) as rows:
            out = draw(unet, replace(fill=fill), images=2)
        assert rows.seen == [4, 2, 2, 4]
        for a, b in zip(out, plain, strict=True):
            torch.testing.assert_close(a[:2], b[:2], atol=1e-5, rtol=1e-4)
        assert torch.equal(out[0], plain[0]) and torch.equal(out[3], plain[3])


def test_fills(unet):
    full = draw(unet, [], images=2)
    guidance = full[0][:2] - full[0][2:]
    for step in (1, 2):
        out = draw(unet, replace(fill="copy"), images=2)[step]
        assert torch.equal(out[2:], out[:2])
        out = draw(unet, replace(fill="estimate"), images=2)[step]
        torch.testing.assert_close(out[2:], out[:2] - guidance)
        ratio = sigma_of(900 - 100 * step) / sigma_of(900)
        out = draw(unet, replace(fill="estimate", sigma_power=1.0), images=2)[step]
        torch.testing.assert_close(out[2:], out[:2] - ratio * guidance)
        out = draw(unet, replace(fill="zeros"), images=2)[step]
        torch.testing.assert_close(combine(out, [[1.0]] * 2), out[:2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_sampled_picture_against_a_loop(unet, prediction):
    """Two images, one of them of two prompts, drawn along falling noise: every step's latents as the formulas say."""
    weights, power, trend, low, high = [[1.0], [0.7, 0.6]], -0.5, 0.8, 1.1, 0.9
    changes = {"key_every": 3, "sigma_power": power, "trend": trend, "low_weight": low, "high_weight": high}
    rows, times = plan_rows(weights), [900.0, 800.0, 650.0, 500.0, 420.0, 300.0, 150.0]
    start, context = unet_input(2, 16, 16)[0], unet_input(5, 16, 16, seed=3)[1]
    places, parts = [row.image for row in rows], {0: [0], 1: [1, 2]}

    x, expected = start.clone(), []
    with attach(unet, replace(**changes), prediction=prediction) as attachment:
        for i, t in enumerate(times):
            attachment.begin_step(rows, i, len(times), cfg=CFG)
            x = x - 0.2 * combine(run(unet, x[places], context, t), weights)
            attachment.end_step()
            expected.append(x)

    y, known = start.clone(), {0: [], 1: []}
    for i, t in enumerate(times):
        sigma, out, guided = sigma_of(t), run(unet, y[places], context, t), y.clone()

        def ratio(now, then):
            return (now / then) ** power * (((1 + now**2) / (1 + then**2)) ** 0.5 if prediction == "v" else 1.0)

        for image, mine in parts.items():
            w = weights[image]
            mean = sum(a * out[n] for a, n in zip(w, mine, strict=True)) / sum(w)
            if i % 3 == 0:
                negative = out[3 + image]
                known[image].append((sigma, mean - negative))
            else:
                (s1, g), before = known[image][-1], known[image][-2:-1]
                for s0, old in before:
                    share = min(1.0, math.log(s1 / sigma) / math.log(s0 / s1))
                    g = g + trend * share * (g - ratio(s1, s0) * old)
                waves = torch.fft.fft2(g)
                at = torch.fft.fftfreq(16).abs() <= 0.125
                g = torch.fft.ifft2(torch.where(at[:, None] & at, low, high) * waves).real
                negative = mean - ratio(sigma, s1) * g
            guided[image] = negative + CFG * sum(w) * (mean - negative)
        y = y - 0.2 * guided
        torch.testing.assert_close(expected[i], y, atol=1e-3, rtol=1e-3)


def test_an_edited_prompt_is_a_full_step_for_its_image(unet):
    """The guidance towards the old prompt says nothing of the new one."""
    rows, (x, context) = plan_rows([[1.0]] * 2), unet_input(4, 16, 16)
    for changes in ({"key_every": 0}, {"key_every": 0, "through": 3}, {"key_every": 6, "adaptive": 0.01}):
        with Rows(unet) as computed, attach(unet, replace(**changes)) as attachment:
            middle = []
            see = probe(lambda m, a, seen=middle: seen.append(a[0].shape[0]))
            handle = unet.middle_block.register_forward_pre_hook(see)
            for step, second in enumerate((0, 0, 0, 1, 1)):
                attachment.begin_step(rows, step, 5, cfg=CFG, editions=((0, 0), (0, second)))
                run(unet, x, context, 900.0 - 100 * step)
                attachment.end_step()
            handle.remove()
        assert middle == [4, 2, 2, 3, 2] and len(computed.seen) == 5


def test_estimate_is_nearer_to_full_guidance(unet):
    full = combine(draw(unet, [])[1])
    error = {f: (combine(draw(unet, replace(fill=f))[1]) - full).norm() for f in ("estimate", "copy")}
    assert error["estimate"] < 0.7 * error["copy"]


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_split_batches(unet, chunks):
    """However the host cuts the batch, the outcome is the same; a call without rows is not computed."""
    weights = [[1.0], [0.7, 0.5]]
    one = draw(unet, replace(), images=2, weights=weights)
    with Rows(unet) as rows:
        split = draw(unet, replace(), images=2, weights=weights, chunks=chunks)
    for a, b in zip(split, one, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert sum(rows.seen) == 5 + 3 + 3 + 5 and set(rows.sizes) == {16}


def test_and_prompts_with_a_copy_ignore_the_guidance_scale(unet):
    weights = [[0.7, 0.5]]
    out = draw(unet, replace(fill="copy"), weights=weights)[1]
    mean = (0.7 * out[0] + 0.5 * out[1]) / 1.2
    torch.testing.assert_close(combine(out, weights, 9.0)[0], mean, atol=1e-5, rtol=1e-4)


def test_an_image_of_a_batch_comes_out_as_if_alone(unet):
    both = draw(unet, replace(adaptive=0.2), images=2)
    rows = plan_rows([[1.0]])
    x, context = unet_input(2, 16, 16)[0], unet_input(4, 16, 16, seed=3)[1]
    with attach(unet, replace(adaptive=0.2)) as attachment:
        for step in range(4):
            attachment.begin_step(rows, step, 4, cfg=CFG)
            alone = run(unet, x[[1, 1]], context[[1, 3]], 900.0 - 100 * step)
            torch.testing.assert_close(alone, both[step][[1, 3]], atol=1e-5, rtol=1e-4)


def test_adaptive_decides_for_each_image(unet):
    from lib_attn.techniques.negative_skip.runtime import cosine

    full = draw(unet, [], images=2)[0]
    values = [cosine(full[i], full[i + 2]) for i in range(2)]
    with Rows(unet) as rows:
        draw(unet, replace(adaptive=sum(values) / 2, hysteresis=0.0), images=2, steps=2)
    assert rows.seen == [4, 3]


@pytest.mark.parametrize("through", [1, 4, 11, 12])
@pytest.mark.parametrize("fill", ["copy", "estimate", "zeros"])
def test_rows_that_pass_the_outer_blocks(unet, through, fill):
    counts = {}

    def count(name):
        return probe(lambda module, args: counts.setdefault(name, []).append((args[0].shape[0], args[1].shape[0])))

    named = {"first": unet.input_blocks[0], "mid": unet.middle_block, "last": unet.output_blocks[-1]}
    handles = [module.register_forward_pre_hook(count(name)) for name, module in named.items()]
    try:
        out = draw(unet, replace(through=through, fill=fill), images=2)
    finally:
        for handle in handles:
            handle.remove()
    assert [c[0] for c in counts["first"]] == [4] * 4 == [c[0] for c in counts["last"]]
    # The hook of the test comes before ours: it sees what the block before hands on, and the full embedding.
    assert [c[0] for c in counts["mid"]] == ([4] * 4 if through == 12 else [4, 2, 2, 4])
    plain = draw(unet, [], images=2)
    for step, (a, b) in enumerate(zip(out, plain, strict=True)):
        torch.testing.assert_close(a[:2], b[:2], atol=1e-5, rtol=1e-4)
        if step in (1, 2):
            assert not torch.allclose(a[2:], b[2:]) and a.isfinite().all()
            if fill == "zeros":
                torch.testing.assert_close(combine(a, [[1.0]] * 2).norm(), a[:2].norm(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("through", [0, 4])
def test_zeros_are_levelled_for_and_prompts(unet, through):
    """Weights that do not sum to 1 multiply the guidance scale."""
    weights = [[0.7, 0.8], [1.0]]
    out = draw(unet, replace(through=through, fill="zeros"), images=2, weights=weights)[1]
    mean = (0.7 * out[0] + 0.8 * out[1]) / 1.5
    combined = combine(out, weights)
    torch.testing.assert_close(combined[0].norm(), mean.norm(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(combined[1].norm(), out[2].norm(), atol=1e-3, rtol=1e-3)


def test_keeping_in_blocks_is_nearer_to_full(unet):
    full = draw(unet, [])[1][1:]
    errors = [(draw(unet, replace(through=k, fill="copy"))[1][1:] - full).norm() for k in (0, 6, 11)]
    assert errors[0] > errors[1] > errors[2]


def test_keeping_in_blocks_declines_split_batches(unet):
    said = []
    out = draw(unet, replace(through=4), chunks=1, say=said.append)
    plain = draw(unet, [], chunks=1)
    assert all(torch.equal(a, b) for a, b in zip(out, plain, strict=True)) and len(said) == 1


def test_controlnet_gets_all_rows_of_the_inner_blocks(unet):
    said = []
    unet.forward = lambda *a, **k: type(unet).forward(unet, *a, **k)
    try:
        with Rows(unet) as rows:
            draw(unet, replace(through=4), say=said.append)
        assert rows.seen == [2, 1, 1, 2] and "ControlNet" in said[0]
        said.clear()
        with Rows(unet) as rows:
            out = draw(unet, replace(), chunks=1)
        assert set(rows.sizes) == {16} and out[1].isfinite().all(), "its hints have the picture's size"
        with Rows(unet) as rows:
            draw(unet, replace(), say=said.append, whole=True)
        assert rows.seen == [2] * 4 and not said
    finally:
        del unet.forward


def test_guidance_one_computes_no_negative(unet):
    plain = draw(unet, [], images=2, cfg=1.0)
    for options in ({"techniques": [], "save_negative": True}, {"techniques": replace()}):
        with Rows(unet) as rows:
            out = draw(unet, images=2, cfg=1.0, **options)
        assert rows.seen == [2] * 4
        for a, b in zip(out, plain, strict=True):
            torch.testing.assert_close(combine(a, [[1.0]] * 2, 1.0), combine(b, [[1.0]] * 2, 1.0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "case",
    [
        {"cfg": 1.5},
        {"cfg": None},
        {"cfg": 1.0, "weights": [[0.7, 0.5]]},
        {"cfg": 1.0, "told": {"negative_read": "somebody reads it"}},
        {"cfg": 1.0, "whole": True},
    ],
)
def test_the_saving_is_made_only_where_it_is_exact(unet, case):
    with Rows(unet) as rows:
        out = draw(unet, [], save_negative=True, **case)
    case.pop("whole", None)
    assert all(torch.equal(a, b) for a, b in zip(out, draw(unet, [], **case), strict=True))
    assert len(set(rows.seen)) == 1 and rows.seen[0] > 1


def test_edit_models_and_unannounced_calls_are_left_alone(unet):
    x, context = unet_input(3, 16, 16)
    plain = run(unet, x, context)
    with attach(unet, replace(key_every=0, fill="copy"), save_negative=True) as attachment:
        assert torch.equal(run(unet, x, context), plain)
        attachment.begin_step(plan_rows([[1.0]], edit=True), 0, 4, cfg=1.0)
        assert torch.equal(run(unet, x, context), plain)
        assert torch.equal(run(unet, x, context), plain), "foreign"


def test_another_reader_of_the_negative(unet):
    said = []
    told = {"negative_read": "somebody reads it"}
    out = draw(unet, replace(fill="copy"), told=told, say=said.append)
    assert all(torch.equal(a, b) for a, b in zip(out, draw(unet, []), strict=True)) and len(said) == 1
    with Rows(unet) as rows:
        draw(unet, replace(), told=told)
    assert rows.seen == [2, 1, 1, 2]


def test_class_embeddings_and_keywords():
    """SDXL's second conditioning is cut like the first, by name or by place."""
    unet = tiny_unet(num_classes=4)
    rows = plan_rows([[1.0], [1.0]])
    x, context = unet_input(4, 16, 16)
    y = torch.tensor([0, 1, 2, 3])
    t = torch.full((4,), 500)
    with attach(unet, replace(fill="copy", key_every=0)) as attachment:
        attachment.begin_step(rows, 0, 2, cfg=CFG)
        out = unet(x, t, context, y)
        attachment.begin_step(rows, 1, 2, cfg=CFG)
        assert torch.equal(unet(x=x, timesteps=t, context=context, y=y), out)
    torch.testing.assert_close(out[:2], unet(x[:2], t[:2], context[:2], y[:2]))


def test_evaluation():
    rows = plan_rows([[1.0], [0.7, 0.3], [0.5]])
    evaluation = Evaluation(tuple(rows), 0, 1.0)
    assert evaluation.guided and [evaluation.unguided(i) for i in range(3)] == [True, True, False]


def test_an_exception_leaves_nothing_behind(unet):
    def interrupt(*_):
        raise KeyboardInterrupt

    handle = unet.middle_block.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            draw(unet, replace(through=3, penalty="NAG", penalty_when="all steps"))
    finally:
        handle.remove()


@pytest.mark.parametrize("changes", [{"high_weight": 1.1}, {"fill": "zeros", "through": 4}, {"through": 4}])
def test_half_precision(unet, changes):
    full = draw(unet, replace(**changes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = draw(unet, replace(**changes))
    for a, b in zip(cast, full, strict=True):
        assert ((a.float() - b).norm() / b.norm()).item() < 0.05
