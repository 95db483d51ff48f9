"""Whole steps left out: the arithmetic, the choice of steps, and what a real U-Net makes of it."""

import dataclasses
import math

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import Contrast, KeyMix, NearSighted, NegativeSkip, StepSkip
from lib_attn.techniques.step_skip.forecast import Line, has_fresh_noise, noise_of, prediction_of, unscaled
from lib_attn.unet.flight import sigma_of
from lib_attn.unet.rows import plan_rows
from tests.techniques.test_negative_skip import CFG, Rows, draw, run
from tests.unets import tiny_unet, unet_input

EVEN = StepSkip(enabled=True, key_every=2, early=0.0, trend=1.0)


def replace(**changes):
    return [dataclasses.replace(EVEN, **changes)]


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_a_prediction_and_its_noise(kind):
    picture, noise, sigma = torch.randn(4, 3, 5), torch.randn(4, 3, 5), 2.5
    scale = (1 + sigma**2) ** 0.5
    x = (picture + sigma * noise) / scale
    predicted = noise if kind == "epsilon" else noise / scale - picture * sigma / scale
    torch.testing.assert_close(noise_of(x, predicted, sigma, kind), noise, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prediction_of(x, noise, sigma, kind), predicted, atol=1e-5, rtol=1e-4)


def test_a_line_over_log_sigma():
    a, b, z = torch.randn(4, 3, 3), torch.randn(4, 3, 3), torch.randn(4, 3, 3)
    at = lambda sigma: a + b * math.log(sigma)  # noqa: E731
    line = Line()

    def check(sigma, trend, noise):
        torch.testing.assert_close(line.at(sigma, z, trend, False), noise, atol=1e-5, rtol=1e-4)

    line.learn(9.0, z, at(9.0))
    check(5.0, 1.0, at(9.0))  # one point is no line
    line.learn(8.0, z, at(7.0))
    line.learn(4.0, z, at(4.0))
    check(2.0, 0.0, at(4.0))
    line.learn(2.0, z, at(2.0))
    assert len(line.known) == 2
    check(1.0, 1.0, at(1.0))
    check(1.0, 0.5, (at(1.0) + at(2.0)) / 2)
    line.learn(2.0, z, at(3.0))
    check(1.0, 1.0, at(3.0))  # two at one noise level (Heun) are no line


def test_with_fresh_noise_the_picture_stays():
    picture, noise, more, line = *(torch.randn(4, 3, 3) for _ in range(3)), Line()
    line.learn(5.0, torch.randn(4, 3, 3), torch.randn(4, 3, 3))
    line.learn(4.0, picture + 4.0 * noise, noise)
    torch.testing.assert_close(line.at(2.0, picture + 2.0 * more, 1.0, True), more, atol=1e-5, rtol=1e-4)


SIGMAS = (14.6, 9.0, 6.0, 4.0, 2.5, 1.5, 0.8)


def walk(name, cfg, seed=0):
    """Latents and noises of the rows along a sampler's path over `SIGMAS`, the samplers written down anew."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(4, 12, 12, generator=generator)  # noqa: E731
    z, bent, older, path = SIGMAS[0] * draw(), [draw(), draw()], None, []
    for now, then in zip(SIGMAS, SIGMAS[1:], strict=False):
        # Something that bends: a picture for each row that depends on latent and noise level.
        noises = [(z - torch.tanh(z / (1 + now) + c) * math.log(2 + now)) / now for c in bent]
        path.append((z, noises))
        guided = noises[1] + cfg * (noises[0] - noises[1])
        picture = z - now * guided
        if name == "Euler":
            z = z + (then - now) * guided
        elif name == "DPM++ 2M":
            h = math.log(now / then)
            ahead = picture if older is None else picture + (picture - older[1]) * h / (2 * math.log(older[0] / now))
            z, older = then / now * z - math.expm1(-h) * ahead, (now, picture)
        else:
            up = {"Euler a": 1.0, "a little": 0.4}[name] * (then**2 * (now**2 - then**2) / now**2) ** 0.5
            z = z + ((then**2 - up**2) ** 0.5 - now) * guided + up * draw()
    return path


@pytest.mark.parametrize("cfg", [1.0, 7.0])
@pytest.mark.parametrize("name, fresh", [("Euler", False), ("DPM++ 2M", False), ("Euler a", True), ("a little", True)])
def test_a_sampler_that_adds_noise_is_found_out(name, fresh, cfg):
    path = walk(name, cfg)
    for i in range(2, len(path)):
        assert has_fresh_noise(path[i][0], SIGMAS[i], path[i - 2 : i]) is fresh, i
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert has_fresh_noise(path[i][0], SIGMAS[i], path[i - 2 : i]) is fresh, i
    assert has_fresh_noise(path[1][0], SIGMAS[1], path[:1]) is fresh


@pytest.mark.parametrize(
    "neutral",
    [{"enabled": False}, {"key_every": 1}, {"keep_first": 1.0}, {"keep_last": 1.0}, {"start": 1.0}, {"end": 0.0}],
)
def test_neutral_values_are_bit_identical(unet, neutral):
    for a, b in zip(draw(unet, replace(**neutral), steps=5), draw(unet, [], steps=5), strict=True):
        assert torch.equal(a, b)


def computed(unet, settings, steps, **options):
    """Which steps are computed, as a string of c(omputed) and f(orecast)."""
    pattern = ""
    rows, (x, context) = plan_rows([[1.0]]), unet_input(2, 8, 8)
    with attach(unet, settings) as attachment, Rows(unet) as seen:
        for step in range(steps):
            before = len(seen.seen)
            attachment.begin_step(rows, step, steps, cfg=CFG, **options)
            run(unet, x, context, 950.0 - 900.0 * step / steps)
            attachment.end_step()
            pattern += "fc"[len(seen.seen) - before]
    return pattern


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "ccfcfcfcfc"),
        ({"key_every": 3}, "ccffcffcff"),
        ({"key_every": 3, "keep_first": 0.4}, "ccccffcffc"),
        ({"key_every": 3, "keep_last": 0.2}, "ccffcffccc"),
        ({"key_every": 3, "end": 0.5}, "ccffcccccc"),
        ({"key_every": 3, "start": 0.5}, "cccccffcff"),
    ],
)
def test_which_steps_are_computed(unet, changes, expected):
    assert computed(unet, replace(**changes), 10) == expected


def test_most_of_them_early(unet):
    pattern = computed(unet, replace(early=1.0), 24)
    assert 11 <= pattern.count("c") <= 13 and pattern[:12].count("c") > pattern[12:].count("c")
    assert "ff" not in pattern[:12] and "cc" not in pattern[12:]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_sampled_picture_against_a_loop(unet, prediction, fresh):
    """Two images, one of two prompts, along falling noise: the predictions of each step as the formulas say."""
    weights, trend = [[1.0], [0.7, 0.6]], 0.8
    rows, times = plan_rows(weights), [900.0, 800.0, 650.0, 500.0, 420.0, 300.0, 150.0]
    start, context = unet_input(5, 16, 16)[0][[0, 1, 1, 0, 1]], unet_input(5, 16, 16, seed=3)[1]

    added = unet_input(2, 16, 16, seed=9)[0][[0, 1, 1, 0, 1]] * (0.7 if fresh else 0.0)

    def walk(predict):
        x, out = start.clone(), []
        for i, t in enumerate(times):
            out.append(predict(i, t, x))
            lead = out[-1][[0, 1, 1, 0, 1]]
            x = x - 0.2 * lead + added.roll(i, -1)
        return out

    with attach(unet, replace(key_every=3, trend=trend), prediction=prediction) as attachment:

        def ours(i, t, x):
            attachment.begin_step(rows, i, len(times), cfg=CFG)
            return run(unet, x, context, t)

        found = walk(ours)
    known = []

    def naive(i, t, x):
        s = sigma_of(t)
        n = (1 + s * s) ** 0.5
        if i in (0, 1, 4):
            out = run(unet, x, context, t)
            eps = out if prediction == "epsilon" else (out + s * x) / n
            known.append((s, x * n - s * eps, eps))
            return out
        (s0, _, e0), (s1, picture, e1) = known[-2:]
        slope = (e1 - e0) / (math.log(s1) - math.log(s0))
        eps = (x * n - picture) / s if fresh else e1 + trend * slope * (math.log(s) - math.log(s1))
        return eps if prediction == "epsilon" else n * eps - s * x

    for a, b in zip(found, walk(naive), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def test_nothing_at_all_is_no_noise():
    nothing = torch.zeros(4, 3, 3)
    assert not has_fresh_noise(nothing, 1.0, [(nothing, [nothing])] * 2)


def test_a_forecast_computes_nothing(unet):
    with Rows(unet) as rows:
        draw(unet, replace(), images=2)
    assert rows.seen == [4, 4, 4]


def test_a_wrapper_outside_sees_the_shapes_it_knows(unet):
    seen = []

    def note(module, args, kwargs, output):
        seen.append((tuple(args[0].shape), tuple(output.shape)))

    with attach(unet, replace()) as attachment:
        handle = unet.register_forward_hook(note, with_kwargs=True)
        note.__module__ = "torch.nn"
        try:
            x, context = unet_input(2, 16, 16)
            for step in range(4):
                attachment.begin_step(plan_rows([[1.0]]), step, 4, cfg=CFG)
                run(unet, x, context, 900.0 - 100 * step)
        finally:
            handle.remove()
    assert seen == [((2, 4, 16, 16), (2, 4, 16, 16))] * 4


def test_half_precision_keeps_its_type(unet):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = draw(unet, replace(), steps=3)
    assert len({out.dtype for out in cast}) == 1
    full = draw(unet, replace(), steps=3)[2]
    assert ((cast[2].float() - full).norm() / full.norm()).item() < 0.05


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_split_batches(unet, chunks):
    weights = [[1.0], [0.7, 0.5]]
    one = draw(unet, replace(), images=2, weights=weights)
    split = draw(unet, replace(), images=2, weights=weights, chunks=chunks)
    for a, b in zip(split, one, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("others", [[], [NegativeSkip(enabled=True, penalty="off", key_every=2, early=0.0)]])
def test_an_image_of_a_batch_comes_out_as_if_alone(unet, others):
    """Also where its neighbour's prompt changes, which makes a computed step for that one only."""
    settings = [*replace(key_every=3), *others]
    x, context = unet_input(2, 16, 16)[0], unet_input(4, 16, 16, seed=3)[1]

    def walk(images, edited):
        out, rows = [], plan_rows([[1.0]] * len(images))
        places = images + [i + 2 for i in images]
        with attach(unet, settings) as attachment:
            for step in range(7):
                editions = tuple((i == edited and step >= 3,) for i in images)
                attachment.begin_step(rows, step, 7, cfg=CFG, editions=editions)
                out.append(run(unet, x[[p % 2 for p in places]], context[places], 900.0 - 100 * step))
        return out

    both = walk([0, 1], edited=1)
    for image in (0, 1):
        for a, b in zip(walk([image], edited=1), both, strict=True):
            torch.testing.assert_close(a, b[[image, image + 2]], atol=1e-4, rtol=1e-3)


def test_an_edited_prompt_starts_anew(unet):
    rows, (x, context) = plan_rows([[1.0]] * 2), unet_input(4, 16, 16)
    with Rows(unet) as seen, attach(unet, replace()) as attachment:
        for step, second in enumerate((0, 0, 0, 1, 1, 1, 1)):
            attachment.begin_step(rows, step, 7, cfg=CFG, editions=((0, 0), (0, second)))
            run(unet, x, context, 900.0 - 100 * step)
    # The first image skips steps 2, 4 and 6, the second 2 and 5.
    assert seen.seen == [4, 4, 4, 2, 2, 2]


def test_a_sampler_that_goes_back_up_in_noise(unet):
    x, context = unet_input(2, 16, 16)
    with Rows(unet) as seen, attach(unet, replace()) as attachment:
        pattern = ""
        for step, time in enumerate((700.0, 500.0, 400.0, 800.0, 900.0, 700.0)):
            before = len(seen.seen)
            attachment.begin_step(plan_rows([[1.0]]), step, 6, cfg=CFG)
            run(unet, x, context, time)
            pattern += "fc"[len(seen.seen) - before]
    assert pattern == "ccfccf"


def test_an_adaptive_sampler_is_declined(unet):
    said = []
    out = draw(unet, replace(), steps=5, told={"adaptive": True}, say=said.append)
    assert all(torch.equal(a, b) for a, b in zip(out, draw(unet, [], steps=5), strict=True)) and len(said) == 1


def test_who_works_inside_is_left_every_step(unet):
    def foreign(module, args):
        pass

    foreign.__module__ = "somebody"
    handle, said = unet.middle_block.register_forward_pre_hook(foreign), []
    try:
        out = draw(unet, replace(), steps=5, say=said.append)
    finally:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(out, draw(unet, [], steps=5), strict=True)) and len(said) == 1


def test_a_replaced_forward_is_not_asked_for_a_forecast(unet):
    """ControlNet replaces the U-Net's forward: its hints are in what the forecast is made of."""
    calls = []

    def controlled(x, timesteps=None, context=None, **more):
        calls.append(x.shape)
        return 1.5 * type(unet).forward(unet, x, timesteps, context, **more)

    plain = draw(unet, replace(), steps=3)[2]
    unet.forward = controlled
    try:
        out = draw(unet, replace(), steps=3)[2]
    finally:
        del unet.forward
    assert len(calls) == 2
    torch.testing.assert_close(out, 1.5 * plain, atol=2e-3, rtol=2e-3)


def test_the_host_leaves_out_the_negatives_itself(unet):
    """Negative Guidance minimum sigma: rows that do not come are not waited for."""
    x, context = unet_input(2, 16, 16)
    with Rows(unet) as seen, attach(unet, replace()) as attachment:
        for step in range(6):
            away = step >= 4
            attachment.begin_step(plan_rows([[1.0]]), step, 6, cfg=CFG, positive_only=away)
            run(unet, x[: 2 - away], context[: 2 - away], 900.0 - 100 * step)
    assert seen.seen == [2, 2, 2, 1]


def test_an_error_in_a_computed_step(unet):
    """One that only comes with fewer rows: from then on all of them are there, and forecasts go on."""

    def needs_two(module, args):
        assert args[0].shape[0] == 2

    needs_two.__module__ = "torch.nn"
    handle, said = unet.middle_block.register_forward_pre_hook(needs_two), []
    skip = NegativeSkip(enabled=True, key_every=0, penalty="off")
    try:
        out = draw(unet, [*replace(), skip], steps=5, say=said.append)
    finally:
        handle.remove()
    assert torch.equal(out[1], draw(unet, [])[1]) and all(o.isfinite().all() for o in out) and said


def test_an_exception_leaves_nothing_behind(unet):
    def interrupt(*_):
        raise KeyboardInterrupt

    handle = unet.middle_block.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            draw(unet, replace())
    finally:
        handle.remove()


def test_memory_is_two_latents_a_row(unet):
    with attach(unet, replace(key_every=1.5)) as attachment:
        x, context = unet_input(4, 16, 16)
        for step in range(12):
            attachment.begin_step(plan_rows([[1.0]] * 2), step, 12, cfg=CFG, editions=((step // 4,), (0,)))
            run(unet, x, context, 900.0 - 70 * step)
        tracks = attachment._runtimes[0]._tracks.values()
        assert len(tracks) == 2 and all(len(line.known) <= 2 for t in tracks for line in t.lines.values())


def test_with_negative_skip_both_save(unet):
    """Negative skip counts forecast steps too, and forecasts are made of what it has filled in."""
    skip = NegativeSkip(enabled=True, key_every=2, early=0.0, trend=0.0, penalty="off")
    with Rows(unet) as rows:
        out = draw(unet, [*replace(), skip], steps=7)
    assert rows.seen == [2, 1, 2, 2], "computed steps are 0, 1, 3 and 5"
    with Rows(unet) as rows:
        draw(unet, [*replace(), dataclasses.replace(skip, key_every=4)], steps=11)
    assert rows.seen == [2, 1, 1, 2, 1, 2], "computed steps are 0, 1, 3, 5, 7 and 9"
    alone = draw(unet, [skip], steps=7)
    torch.testing.assert_close(out[1], alone[1], atol=1e-5, rtol=1e-4)
    assert torch.equal(out[2], forecast(out[:2], 1))


def forecast(out, images, times=(900.0, 800.0, 700.0)):
    """What `draw` is to give for the third step, from what it gave for the first two."""
    x = unet_input(images, 16, 16)[0].repeat(2, 1, 1, 1)
    now, rows = sigma_of(times[2]), []
    for i in range(2 * images):
        line, past = Line(), []
        for given, t in zip(out, times, strict=False):
            line.learn(sigma_of(t), unscaled(x[i], sigma_of(t)), given[i])
            past.append((unscaled(x[i], sigma_of(t)), [given[i % images], given[i % images + images]]))
        z = unscaled(x[i], now)
        rows.append(line.at(now, z, 1.0, has_fresh_noise(z, now, past)))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "other",
    [
        NearSighted(enabled=True, tile=4, pool=2, blocks="all", exact_every=2),
        Contrast(enabled=True, map_strength=1.0, keys=0.3),
        KeyMix(enabled=True, source="previous step", blocks="all"),
        NegativeSkip(enabled=True, key_every=3, through=4),
        NegativeSkip(enabled=True, key_every=3, until=0.5, stopped="T-GATE"),
    ],
)
def test_beside_each_other_technique(unet, other):
    """Computed steps are those of the other one alone as long as nothing was forecast; forecasts are a line of them."""
    options = {"images": 2, "steps": 3, "seeds": [1, 2]}
    out, alone = draw(unet, [*replace(), other], **options), draw(unet, [other], **options)
    assert all(torch.equal(a, b) for a, b in zip(out[:2], alone[:2], strict=True))
    torch.testing.assert_close(out[2], forecast(out[:2], 2), atol=1e-4, rtol=1e-4)


def test_inpainting_latents_and_class_embeddings():
    """Channels behind the latents, and arguments by name."""
    unet = tiny_unet(in_channels=9, num_classes=4)
    x, context = torch.randn(2, 9, 16, 16), unet_input(2, 16, 16)[1]
    with attach(unet, replace()) as attachment:
        for step in range(3):
            attachment.begin_step(plan_rows([[1.0]]), step, 3, cfg=CFG)
            t = torch.full((2,), 900.0 - 100 * step)
            out = unet(x=x, timesteps=t, context=context, y=torch.tensor([0, 1]))
    assert out.shape == (2, 4, 16, 16) and out.isfinite().all()
