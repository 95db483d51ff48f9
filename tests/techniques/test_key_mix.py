"""Mixed keys: the maths against naive formulas, sources and operators on a real U-Net."""

import dataclasses

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.lab.drawing.unet import SD15, TOY, build_unet
from lib_attn.settings import KeyMix, NearSighted
from lib_attn.store import Store
from lib_attn.techniques.base import Context
from lib_attn.techniques.key_mix.maths import adain, appended_values, blur, mix, mix_values, resize, shift, tokens
from lib_attn.techniques.key_mix.recording import Recording
from lib_attn.techniques.key_mix.runtime import KeyMixRuntime, layout_block
from lib_attn.unet.families import find_blocks, find_layers
from lib_attn.unet.rows import NEGATIVE, POSITIVE, Row, plan_rows
from tests.unets import tiny_unet, unet_input

ON = KeyMix(enabled=True, blocks="all")
SOURCES = ("first image", "batch mean", "negative", "previous step", "blurred", "shifted", "recorded run")


def replace(**changes):
    return [dataclasses.replace(ON, **changes)]


def draw(unet, techniques, images=2, only=None, weights=None, chunks=None, steps=1, **options):
    """The last prediction of `steps`; `only` picks images to be drawn without the others."""
    rows = plan_rows(weights or [[1.0]] * images)
    x = unet_input(images, 16, 16)[0][[row.image for row in rows]]
    context = unet_input(len(rows), 16, 16, seed=3)[1]
    if only is not None:
        keep = [i for i, row in enumerate(rows) if row.image in only]
        rows, x, context = plan_rows([[1.0]] * len(only)), x[keep], context[keep]
    n = len(rows)
    with attach(unet, techniques, **options) as attachment:
        for step in range(steps):
            attachment.begin_step(rows, step, steps, cfg=5.0)
            parts = zip(x.split(chunks or n), context.split(chunks or n), strict=True)
            t = 900.0 - 300 * step
            out = torch.cat([unet(a, torch.full((len(a),), t), context=c) for a, c in parts])
            attachment.end_step()
        draw.why_idle = [attachment.why_idle(technique) for technique in techniques]
    return out


@pytest.fixture
def recorded(unet):
    store = Store()
    draw(unet, [KeyMix(enabled=True, blocks="all", record=True, amount=0.0)], images=3, steps=2, store=store)
    return store


def test_blended_keys_are_a_geometric_mean_of_maps():
    q, k, other = (torch.randn(5, 8).double() for _ in range(3))
    a, b = torch.softmax(q @ k.T, -1), torch.softmax(q @ other.T, -1)
    for amount, operator, power in ((0.3, "blend", 0.3), (0.4, "contrast", -0.4)):
        expected = a ** (1 - power) * b**power
        out = torch.softmax(q @ mix(k, other, amount, operator).T, -1)
        torch.testing.assert_close(out, expected / expected.sum(-1, keepdim=True))
    assert torch.equal(mix(k, other, 0.0, "blend"), k) and torch.equal(mix(k, other, 0.0, "contrast"), k)


def test_adain():
    x, to = torch.randn(2, 50, 3, 4) * 3 + 1, torch.randn(2, 70, 3, 4) - 2
    out = adain(x, to)
    torch.testing.assert_close(out.mean(1), to.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.std(1, unbiased=False), to.std(1, unbiased=False), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adain(x, x), x, atol=1e-5, rtol=1e-4)


def test_blur():
    x = torch.randn(2, 35, 3, 4)
    assert blur(x, (5, 7), 0.0) is x
    flat = torch.ones(1, 35, 1, 1).expand(1, 35, 3, 4)
    torch.testing.assert_close(blur(flat, (5, 7), 1.3), flat)
    torch.testing.assert_close(blur(x, (5, 7), 1e4), x.mean(1, keepdim=True).expand_as(x), atol=1e-4, rtol=1e-3)
    out = blur(x, (5, 7), 1.1)
    y0, x0 = 1, 4
    wy = torch.exp(-((torch.arange(5) - y0) ** 2) / (2 * 1.1**2))
    wx = torch.exp(-((torch.arange(7) - x0) ** 2) / (2 * 1.1**2))
    weights = (wy[:, None] * wx / (wy.sum() * wx.sum())).flatten()
    torch.testing.assert_close(out[:, y0 * 7 + x0], torch.einsum("n,bnhd->bhd", weights, x))


def test_shift_and_resize():
    x = torch.arange(12.0).reshape(1, 12, 1, 1)
    assert shift(x, (3, 4), 1, 0).flatten()[:4].tolist() == [8, 9, 10, 11]
    assert shift(x, (3, 4), 0, -1).flatten()[:4].tolist() == [1, 2, 3, 0]
    assert resize(x, (3, 4), (3, 4)) is x
    assert resize(torch.randn(2, 12, 3, 4), (3, 4), (5, 7)).shape == (2, 35, 3, 4)
    torch.testing.assert_close(resize(x, (3, 4), (6, 8)).mean(), x.mean())


def test_values():
    own, source = torch.randn(2, 9, 3, 4), torch.randn(2, 9, 3, 4)
    assert mix_values(own, source, ON) is own
    follow = replace(values="follow", value_amount=0.3)[0]
    torch.testing.assert_close(mix_values(own, source, follow), 0.7 * own + 0.3 * source)
    away = dataclasses.replace(follow, operator="contrast")
    torch.testing.assert_close(mix_values(own, source, away), 1.3 * own - 0.3 * source)
    matched = mix_values(own, source, replace(values="AdaIN")[0])
    torch.testing.assert_close(matched.mean(1), source.mean(1), atol=1e-5, rtol=1e-4)
    whole = dataclasses.replace(follow, value_amount=1.0)
    assert appended_values(own, source, whole) is source and appended_values(own, source, ON) is own
    torch.testing.assert_close(appended_values(own, source, follow), 0.7 * own + 0.3 * source)
    larger = torch.randn(2, 15, 3, 4)
    torch.testing.assert_close(
        appended_values(own, larger, follow), 0.7 * adain(larger, own) + 0.3 * larger, atol=1e-5, rtol=1e-4
    )
    kept = appended_values(own, source, replace(values="AdaIN")[0])
    torch.testing.assert_close(kept.mean(1), own.mean(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("operator", ["blend", "contrast", "concatenate"])
def test_nought_is_bit_identical_and_a_little_is_a_little(unet, recorded, source, operator):
    def run(**changes):
        settings = replace(source=source, operator=operator, blocks="out", **changes)
        return draw(unet, settings, steps=2, store=recorded)

    plain = draw(unet, [], steps=2)
    assert torch.equal(run(amount=0.0, match_queries=True), plain)
    little, out = run(amount=1e-3), run(amount=0.5)
    assert out.isfinite().all() and 0 < (little - plain).norm() < 0.1 * (out - plain).norm()
    more = run(amount=0.5, values="AdaIN", match_queries=True)
    assert more.isfinite().all() and (more - plain).norm() > 0


@pytest.mark.parametrize("neutral", [{"start": 1.0}, {"end": 0.0}, {"blocks": "in99"}, {"enabled": False}])
def test_neutral_values_are_bit_identical(unet, neutral):
    plain = draw(unet, [], steps=1)
    rows, x, context = plan_rows([[1.0]] * 2), unet_input(2, 16, 16)[0][[0, 1, 0, 1]], unet_input(4, 16, 16, seed=3)[1]
    with attach(unet, replace(source="blurred", **neutral)) as attachment:
        attachment.begin_step(rows, 0, 2)
        assert torch.equal(unet(x, torch.full((4,), 900.0), context=context), plain)


def naive_layer(attn1, x, edit):
    """One self-attention row by row: ``edit(i, q, k, v) -> (q, k, v, bias of the keys)`` on ``[N, H, d]``."""
    outs = []
    qkv = [[to(row).unflatten(-1, (attn1.heads, -1)) for to in (attn1.to_q, attn1.to_k, attn1.to_v)] for row in x]
    for i in range(len(x)):
        q, k, v, bias = edit(i, qkv)
        logits = torch.einsum("nhd,mhd->hnm", q, k) * attn1.scale + bias
        outs.append(attn1.to_out(torch.einsum("hnm,mhd->nhd", logits.softmax(-1), v).flatten(1)))
    return torch.stack(outs)


def one(t):
    return t[None]


def style_aligned(i, qkv):
    """Rows 0, 1, 2 positive, 3, 4, 5 negative: 0 and 3 are the first image's."""
    q, k, v = qkv[i]
    first = qkv[0 if i < 3 else 3]
    if i in (0, 3):
        return q, k, v, 0.0
    q, k = adain(one(q), one(first[0]))[0], adain(one(k), one(first[1]))[0]
    bias = torch.cat([torch.zeros(len(k)), torch.full((len(k),), 0.4)])
    return q, torch.cat([k, first[1]]), torch.cat([v, first[2]]), bias


def masa(i, qkv):
    first = qkv[0 if i < 3 else 3]
    return qkv[i][0], first[1], first[2], 0.0


def layout(i, qkv):
    first = qkv[0 if i < 3 else 3]
    return qkv[i][0], 0.4 * qkv[i][1] + 0.6 * first[1], qkv[i][2], 0.0


def plug_and_play(i, qkv):
    first = qkv[0 if i < 3 else 3]
    return 0.2 * qkv[i][0] + 0.8 * first[0], first[1], qkv[i][2], 0.0


def mean(i, qkv):
    group = qkv[:3] if i < 3 else qkv[3:]
    k, v = (torch.stack([row[n] for row in group]).mean(0) for n in (1, 2))
    return qkv[i][0], 1.5 * qkv[i][1] - 0.5 * k, 1.2 * qkv[i][2] - 0.2 * v, 0.0


def negative(i, qkv):
    q, k, v = qkv[i]
    return (q, 0.5 * k + 0.5 * qkv[i + 3][1], v, 0.0) if i < 3 else (q, k, v, 0.0)


STYLE = {"operator": "concatenate", "amount": 1.0, "bias": 0.4, "values": "follow", "match_queries": True}
MEAN = {"source": "batch mean", "operator": "contrast", "amount": 0.5, "values": "follow", "value_amount": 0.2}
RECIPES = {
    "StyleAligned": (style_aligned, STYLE),
    "MasaCtrl": (masa, {"amount": 1.0, "values": "follow"}),
    "layout": (layout, {"amount": 0.6}),
    "Plug-and-Play": (plug_and_play, {"amount": 1.0, "query_amount": 0.8}),
    "mean": (mean, MEAN),
    "negative": (negative, {"source": "negative", "amount": 0.5}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_against_loops(unet, name):
    edit, changes = RECIPES[name]
    layer = next(layer for layer in find_layers(unet) if layer.name == "OUT04")
    seen = {}
    handle = layer.block.norm1.register_forward_hook(lambda m, a, out: seen.update(x=out))
    original = layer.attn1.to_out.register_forward_hook(lambda m, a, out: seen.update(out=out))
    try:
        draw(unet, replace(blocks="out4", **changes), images=3)
    finally:
        handle.remove(), original.remove()
    torch.testing.assert_close(seen["out"], naive_layer(layer.attn1, seen["x"], edit), atol=1e-5, rtol=1e-4)


def test_the_block_that_holds_the_layout():
    """The paper's block 4 of SD 1.x's decoder; in a smaller model the one at the same place."""
    assert layout_block(find_blocks(build_unet(SD15, meta=True))) == "OUT04"
    assert layout_block(find_blocks(build_unet(TOY, meta=True))) == "OUT02"
    assert layout_block(()) is None


def behind(unet, name, techniques, **options):
    """Output of a block before and after `techniques`, one evaluation of three images."""
    seen = []
    block = next(block for block in find_blocks(unet) if block.name == name)
    first = block.module.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    try:
        with attach(unet, techniques, **options) as attachment:
            last = block.module.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
            attachment.begin_step(plan_rows([[1.0]] * 3), 0, 1, cfg=5.0)
            x, context = unet_input(3, 16, 16)[0][[0, 1, 2, 0, 1, 2]], unet_input(6, 16, 16, seed=3)[1]
            unet(x, torch.full((6,), 900.0), context=context)
            last.remove()
    finally:
        first.remove()
    return seen


def test_features_against_loops(unet):
    """Behind the block the first image's features stand in for, or lend their statistics to, those of the others."""
    for features, amount, operator in (("follow", 0.7, "blend"), ("AdaIN", 1.0, "blend"), ("follow", 0.5, "contrast")):
        settings = replace(amount=0.0, features=features, feature_amount=amount, operator=operator)
        before, after = behind(unet, "OUT04", settings)
        for i in range(6):
            first = before[0 if i < 3 else 3]
            if features == "AdaIN":
                flat, other = before[i].flatten(1), first.flatten(1)
                own = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True, unbiased=False)
                wanted = own * other.std(1, keepdim=True, unbiased=False) + other.mean(1, keepdim=True)
                first = wanted.unflatten(1, first.shape[1:])
            sign = -1 if operator == "contrast" else 1
            expected = before[i] if i in (0, 3) else before[i] + sign * amount * (first - before[i])
            torch.testing.assert_close(after[i], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_features_of_every_source(unet, recorded, source):
    def run(features, amount, **changes):
        settings = replace(source=source, amount=0.0, features=features, feature_amount=amount, **changes)
        return draw(unet, settings, steps=2, store=recorded)

    plain = draw(unet, [], steps=2)
    assert torch.equal(run("follow", 0.0), plain) and torch.equal(run("own", 1.0), plain)
    assert torch.equal(run("follow", 1.0, start=1.0), plain)
    assert torch.equal(run("follow", 1.0, feature_blocks="in99"), plain)
    # A picture that is only shifted has its own mean and spread.
    for features in ("follow", "AdaIN") if source != "shifted" else ("follow",):
        little, out = run(features, 1e-3), run(features, 0.5)
        assert out.isfinite().all() and 0 < (little - plain).norm() < 0.1 * (out - plain).norm()


def test_features_of_a_recorded_run(unet):
    """As the first image of a batch, up to half precision; another size is resized; both are kept within the limit."""
    store = Store()
    changes = {"amount": 0.0, "features": "follow"}
    batch = draw(unet, replace(**changes))
    draw(unet, replace(record=True, amount=0.0, blocks="in99"), only=[0], store=store)
    alone = draw(unet, replace(source="recorded run", **changes), only=[1], store=store)
    assert 0 < (alone - batch[[1, 3]]).norm() < 0.002 * batch[[1, 3]].norm()
    x, context = unet_input(2, 24, 16)
    with attach(unet, replace(source="recorded run", **changes), store=store) as attachment:
        attachment.begin_step(plan_rows([[1.0]]), 0, 1)
        assert unet(x, torch.full((2,), 900.0), context=context).isfinite().all()
    draw(unet, replace(record=True, amount=0.0, blocks="in99", memory=0), only=[0], store=store)
    assert store.get("key_mix").bytes == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_beyond_half_precision_are_kept_finite(dtype):
    recording = Recording(1 << 20)
    recording.store("OUT02", "positive", 0.1, torch.full((4, 2), -1e6, dtype=dtype), (2, 2))
    assert (recording.get("OUT02", "positive", 0.1)[0] == torch.finfo(torch.float16).min).all()


def test_features_are_shifted_by_latent_pixels_behind_every_block(unet):
    """Also behind those that hand on a larger grid than they work at."""
    for name in ("OUT01", "OUT02", "OUT04", "OUT05", "OUT07"):
        settings = replace(source="shifted", shift_x=4, amount=0.0, features="follow", feature_blocks=name)
        before, after = behind(unet, name, settings)
        moved = 4 * before.shape[-1] // 16
        torch.testing.assert_close(after, before.roll(moved, -1))


def test_features_that_cannot_be_found_are_said(unet, recorded):
    said, plain = [], draw(unet, [])
    settings = replace(source="recorded run", amount=0.0, features="follow", feature_blocks="out6")
    assert torch.equal(draw(unet, settings, store=recorded, say=said.append), plain)
    assert len(said) == 1 and "behind OUT06" in said.pop()
    settings = replace(source="shifted", amount=0.0, features="follow", feature_blocks="in99")
    assert torch.equal(draw(unet, settings, say=said.append), plain)
    assert len(said) == 1 and "no blocks in99" in said[0]


@pytest.mark.parametrize("source", ["first image", "previous step", "shifted", "recorded run"])
def test_features_in_split_batches_and_alone(unet, recorded, source):
    settings = replace(source=source, amount=0.0, features="follow")
    both = draw(unet, settings, steps=2, store=recorded)
    split = draw(unet, settings, steps=2, chunks=2, store=recorded)
    torch.testing.assert_close(split, both, atol=1e-4, rtol=1e-3)
    if source != "first image":
        alone = draw(unet, settings, only=[1], steps=2, store=recorded)
        torch.testing.assert_close(alone, both[[1, 3]], atol=1e-4, rtol=1e-3)


def test_only_positives_that_are_mixed_with_negatives_need_them():
    for changes, needs in (({}, True), ({"side": "negative"}, False), ({"amount": 0.0}, False),
                           ({"amount": 0.0, "features": "AdaIN"}, True)):  # fmt: skip
        runtime = KeyMixRuntime(replace(source="negative", **changes)[0], Context())
        assert runtime.compares == needs


def test_a_first_image_whose_negative_is_left_out_is_no_reason_to_complain(unet):
    said, rows = [], [Row(POSITIVE, 0), Row(POSITIVE, 1), Row(NEGATIVE, 1)]
    x, context = unet_input(3, 16, 16)
    with attach(unet, replace(amount=1.0), say=said.append) as attachment:
        attachment.begin_step(rows, 0, 1)
        unet(x, torch.full((3,), 900.0), context=context)
    assert len(said) == 1 and "only in its whole batch" in said[0]


def test_tokens():
    h = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert tokens(h).shape == (1, 12, 1, 2) and tokens(h)[0, 5, 0].tolist() == [5, 17]


def test_sides(unet):
    plain = draw(unet, [])
    for side, same in (("positive", slice(2, 4)), ("negative", slice(0, 2))):
        out = draw(unet, replace(source="blurred", side=side))
        torch.testing.assert_close(out[same], plain[same], atol=1e-5, rtol=1e-4)
        assert (out - plain).norm() > 1e-4


@pytest.mark.parametrize("source", ["negative", "previous step", "blurred", "shifted", "recorded run"])
def test_an_image_of_a_batch_can_be_made_alone(unet, recorded, source):
    settings = replace(source=source, amount=0.5, values="follow")
    both = draw(unet, settings, steps=2, store=recorded)
    alone = draw(unet, settings, only=[1], steps=2, store=recorded)
    torch.testing.assert_close(alone, both[[1, 3]], atol=1e-4, rtol=1e-3)


def test_where_it_cannot_it_says_so(unet):
    said = []
    draw(unet, replace(), say=said.append)
    assert len(said) == 1 and "batch" in said[0] and ON.note == "its batch"
    assert replace(source="blurred")[0].note == ""
    said.clear()
    plain = draw(unet, [], only=[0])
    assert torch.equal(draw(unet, replace(), only=[0], say=said.append), plain) and not said


@pytest.mark.parametrize("source", ["first image", "previous step", "blurred", "recorded run"])
def test_split_batches(unet, recorded, source):
    settings = replace(source=source, values="follow")
    one_call = draw(unet, settings, steps=2, store=recorded)
    split = draw(unet, settings, steps=2, chunks=2, store=recorded)
    torch.testing.assert_close(split, one_call, atol=1e-4, rtol=1e-3)


def test_and_prompts_take_the_same_part_of_the_first_image(unet):
    out = draw(unet, replace(values="follow", amount=1.0), weights=[[1.0], [0.5, 0.5]])
    assert out.isfinite().all()
    torch.testing.assert_close(out[0], draw(unet, [], weights=[[1.0], [0.5, 0.5]])[0])


def test_a_recorded_run_is_followed_one_image_at_a_time(unet):
    """The first image of a batch as source, and the same image recorded: the others come out alike."""
    store = Store()
    changes = {"amount": 1.0, "values": "follow", "blocks": "out"}
    batch = draw(unet, replace(**changes))
    draw(unet, replace(record=True, amount=0.0, blocks="out"), only=[0], store=store)
    alone = draw(unet, replace(source="recorded run", **changes), only=[1], store=store)
    assert (alone - batch[[1, 3]]).norm() < 0.002 * batch[[1, 3]].norm(), "up to half precision"


def test_recording_changes_nothing_and_is_bounded(unet):
    store, said = Store(), []
    plain = draw(unet, [], steps=2)
    out = draw(unet, replace(record=True, amount=0.0), steps=2, store=store, say=said.append)
    assert torch.equal(out, plain) and store.get("key_mix").bytes > 0
    assert len(said) == 1 and "is recorded" in said.pop()
    everything = store.get("key_mix")
    draw(unet, replace(record=True, amount=0.0, memory=0), store=store, say=said.append)
    assert store.get("key_mix").bytes == 0 and store.get("key_mix") is not everything
    assert len(said) == 2 and "too small" in said[1]


def test_recording_and_following_at_once_records_and_follows_nothing(unet, recorded):
    """Why is told by the preview, after drawing too (tests/webui/test_reasons.py)."""
    store, said = Store(), []
    store.keep("key_mix", recorded.get("key_mix"))
    plain = draw(unet, [])
    out = draw(unet, replace(record=True, source="recorded run"), store=store, say=said.append)
    assert torch.equal(out, plain) and said == ["Key mix: this run is recorded for later pictures."]


def test_a_run_of_another_kind_of_model_is_said(unet):
    """Layers of another width, or of the same widths in another order: SDXL's after SD 1.x's, say."""
    other, store = tiny_unet(model_channels=64), Store()
    draw(other, replace(record=True, amount=0.0), store=store)
    plain = draw(unet, [])
    assert torch.equal(draw(unet, replace(source="recorded run"), store=store), plain)
    assert draw.why_idle == ["The recorded run is of another kind of model."]


def test_sources_computed_apart_are_said(unet):
    for changes, chunks in (({"source": "negative"}, 2), ({}, 1)):
        said = []
        plain = draw(unet, [], chunks=chunks)
        torch.testing.assert_close(draw(unet, replace(**changes), chunks=chunks, say=said.append), plain)
        assert len(said) == 1 and "apart" in said[0]


def test_no_recorded_run_is_the_reason(unet):
    plain = draw(unet, [], steps=2)
    out = draw(unet, replace(source="recorded run"), steps=2, store=Store())
    assert torch.equal(out, plain)
    assert draw.why_idle == ["There is no recorded run yet: make one picture with Record this run."]


def test_recordings_of_another_size(unet, recorded):
    x, context = unet_input(2, 24, 16)
    for operator in ("blend", "concatenate"):
        with attach(unet, replace(source="recorded run", operator=operator), store=recorded) as attachment:
            attachment.begin_step(plan_rows([[1.0]]), 0, 1)
            assert unet(x, torch.full((2,), 900.0), context=context).isfinite().all()


def test_recording_keeps_to_its_limit():
    recording = Recording(2 * 2 * 10 * 4)
    x = torch.randn(10, 4)
    assert recording.store(0, "positive", 0.1, x, (2, 5)) and recording.store(1, "positive", 0.1, x, (2, 5))
    assert recording.store(0, "positive", 0.1, x + 1, (2, 5)), "in place of the old one"
    assert not recording.store(1, "positive", 0.2, x, (2, 5)) and recording.get(1, "positive", 0.1) is None
    assert recording.bytes == 80
    stored, grid = recording.get(0, "negative", 0.7)
    assert grid == (2, 5) and (stored.float() - x - 1).abs().max() < 0.03


def test_together_with_near_sighted(unet):
    near = NearSighted(enabled=True, tile=8, pool=1, blocks="all")
    for changes in ({}, {"operator": "concatenate"}):
        mixed = draw(unet, replace(**changes))
        torch.testing.assert_close(draw(unet, [near, *replace(**changes)]), mixed, atol=1e-5, rtol=1e-4)


def test_half_precision_and_upcast(unet):
    full = draw(unet, replace(operator="concatenate"))
    torch.testing.assert_close(draw(unet, replace(operator="concatenate"), upcast=lambda: True), full)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for source in ("first image", "blurred", "previous step"):
            for operator in ("blend", "concatenate"):
                changes = {"source": source, "operator": operator, "values": "AdaIN", "match_queries": True}
                assert draw(unet, replace(**changes), steps=2).float().isfinite().all()
            for features in ("follow", "AdaIN"):
                changes = {"source": source, "features": features}
                assert draw(unet, replace(**changes), steps=2).float().isfinite().all()
