"""Dictionary: the maths against naive formulas, the settings at which it is full attention, and a real U-Net."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_attn.attach import attach
from lib_attn.learned.files import Loader, family_of_layers, save
from lib_attn.learned.folders import Folders
from lib_attn.settings import Dictionary, KeyMix, NearSighted, NegativeSkip
from lib_attn.techniques.dictionary import attention, clusters
from lib_attn.techniques.dictionary.attention import Keys, full_attention, live_attention, tiled_attention
from lib_attn.techniques.dictionary.bank import matched, weight_bias
from lib_attn.techniques.dictionary.codes import rebuild, solver, sparse_codes
from lib_attn.techniques.dictionary.content import Content, Entry
from lib_attn.techniques.dictionary.plan import plan_clusters, tile_plan
from lib_attn.techniques.dictionary.static import Static
from lib_attn.techniques.near_sighted.plan import Plan
from lib_attn.unet.cross_attention import CrossCall
from lib_attn.unet.families import FAMILIES, find_layers
from lib_attn.unet.flight import Evaluation, HostHooks, Moment
from lib_attn.unet.layers import Layer, layer_keys
from lib_attn.unet.rows import POSITIVE, Row, plan_rows
from lib_attn.unet.self_attention import Call
from tests.unets import tiny_unet, unet_input

ON = Dictionary(enabled=True, blocks="d0,d1", atoms=24, full_first=0.0, keep=1, depth_scaling=0.0)
SIZES = [(12, 10), (7, 19)]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(q, k, v, bias=0.0):
    """``[B, N, H, d]`` queries against ``[B, m, H, d]``; bias ``[B, H, 1, m]``."""
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5 + bias
    return torch.einsum("bhnm,bmhd->bnhd", logits.softmax(-1), v)


def own_labels(n, heads=3, rows=2):
    """Every token a cluster of its own, in any order."""
    generator = torch.Generator().manual_seed(4)
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(rows * heads)]).view(rows, heads, n)


# Clusters


@pytest.mark.parametrize("most", [7, 100, 1 << 20])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_each_key_goes_to_the_nearest_centre(monkeypatch, most, offset):
    monkeypatch.setattr(clusters, "SCORES_CPU", most)
    x, centres = rand(2, 3, 41, 8) + offset, rand(2, 3, 9, 8, seed=1) + offset
    nearest = (x[:, :, :, None] - centres[:, :, None]).norm(dim=-1).argmin(-1)
    assert torch.equal(clusters.assign(x, centres), nearest)


@pytest.mark.parametrize("add", [clusters._add, clusters._add_in_order])
def test_sums_against_loops(monkeypatch, add):
    monkeypatch.setattr(clusters, "_add", add)
    x, labels = rand(2, 3, 17, 4), torch.randint(0, 6, (2, 3, 17), generator=torch.Generator().manual_seed(1))
    total, number = clusters.sums(x.half(), labels, 7)
    for b in range(2):
        for h in range(3):
            for m in range(7):
                members = x.half().float()[b, h, labels[b, h] == m]
                torch.testing.assert_close(total[b, h, m], members.sum(0))
                assert number[b, h, m] == len(members)
    assert clusters.means(total, number)[:, :, 6].abs().max() == 0


def test_lloyd_lowers_the_spread_and_leaves_empty_centres_alone():
    x = rand(1, 2, 200, 3)
    centres = torch.cat([x[:, :, :6], torch.full((1, 2, 1, 3), 99.0)], 2)

    def spread(iterations):
        labels, used = clusters.lloyd(x, centres, iterations)
        assert labels.max() < 6 and torch.equal(used[:, :, 6], centres[:, :, 6])
        means = clusters.means(*clusters.sums(x, labels, 7))
        return (x - means.gather(2, labels[..., None].expand_as(x))).square().sum().item()

    found = [spread(n) for n in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.9 * found[0]


# Attention to clusters


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [0, 4, 5, 32])
def test_as_many_clusters_as_tokens_are_full_attention(size, tile):
    n = size[0] * size[1]
    q, k, v = (rand(2, n, 3, 8, seed=s) for s in range(3))
    labels = own_labels(n)
    if tile:
        out = tiled_attention(q, k, v, labels, n, Plan(*size, tile, tile, 0, offset=(tile // 2, 1)))
    else:
        out = live_attention(q, k, v, labels, n)
    torch.testing.assert_close(out, plain_attention(q, k, v), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", [None, 0.2])
def test_equal_keys_in_a_cluster_are_full_attention_by_the_counts(scale):
    """Clusters of 1 to 20 equal keys; values may differ, their mean is what counts."""
    labels = (torch.arange(120) ** 0.5).long().expand(2, 3, -1)
    few = rand(2, 3, 11, 8, seed=1)
    k = few.gather(2, labels[..., None].expand(-1, -1, -1, 8)).transpose(1, 2)
    q, v = rand(2, 120, 3, 8), rand(2, 120, 3, 8, seed=2)
    expected = plain_attention(q * (1 if scale is None else scale * 8**0.5), k, v)
    torch.testing.assert_close(live_attention(q, k, v, labels, 11, scale=scale), expected, atol=2e-6, rtol=1e-5)
    tiled = tiled_attention(q, k, v, labels, 11, Plan(12, 10, 4, 4, 0), scale=scale)
    torch.testing.assert_close(tiled, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_tiles_against_loops(monkeypatch, chunk):
    monkeypatch.setattr(attention, "GATHER_BYTES_CPU", chunk)
    h, w, m = 9, 11, 5
    q, k, v = (rand(2, h * w, 3, 8, seed=s) for s in range(3))
    labels = torch.randint(0, m, (2, 3, h * w), generator=torch.Generator().manual_seed(3))
    out = tiled_attention(q, k, v, labels, m, Plan(h, w, 4, 4, 0, offset=(2, 3)))
    for n in range(0, h * w, 7):
        y, x = divmod(n, w)
        spans = []
        for at, size, offset in ((y, h, 2), (x, w, 3)):
            cuts = [0, *range(offset, size, 4), size]
            a, b = next((a, b) for a, b in zip(cuts, cuts[1:], strict=False) if a <= at < b)
            start = min(max(math.floor((a + b) / 2 - 2), 0), size - 4)
            spans.append(range(start, start + 4))
        own = [yy * w + xx for yy in spans[0] for xx in spans[1]]
        for b in range(2):
            for head in range(3):
                keys, values, bias = [*k[b, own, head]], [*v[b, own, head]], [0.0] * len(own)
                for cluster in range(m):
                    out_of_sight = [i for i in range(h * w) if labels[b, head, i] == cluster and i not in own]
                    if out_of_sight:
                        keys.append(k[b, out_of_sight, head].mean(0))
                        values.append(v[b, out_of_sight, head].mean(0))
                        bias.append(math.log(len(out_of_sight)))
                logits = torch.stack(keys) @ q[b, n, head] * 8**-0.5 + torch.tensor(bias)
                torch.testing.assert_close(
                    out[b, n, head], logits.softmax(0) @ torch.stack(values), atol=2e-6, rtol=1e-5
                )


def test_more_keys_are_seen_with_their_bias():
    q, k, v = (rand(2, 120, 3, 8, seed=s) for s in range(3))
    more = Keys(rand(2, 3, 6, 8, seed=5), rand(2, 3, 6, 8, seed=6), rand(2, 3, 6, seed=7))
    bias = torch.cat([torch.zeros(2, 3, 120), more.bias], 2)[:, :, None]
    expected = plain_attention(
        q, torch.cat([k, more.k.transpose(1, 2)], 1), torch.cat([v, more.v.transpose(1, 2)], 1), bias
    )
    labels = own_labels(120)
    torch.testing.assert_close(live_attention(q, k, v, labels, 120, more), expected, atol=2e-6, rtol=1e-5)
    tiled = tiled_attention(q, k, v, labels, 120, Plan(12, 10, 5, 5, 0), more)
    torch.testing.assert_close(tiled, expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(full_attention(q, k, v, more), expected, atol=2e-6, rtol=1e-5)


@given(h=st.integers(1, 20), w=st.integers(1, 20), tile=st.integers(8, 24), atoms=st.integers(4, 300),
       mode=st.sampled_from(["live", "global"]), depth=st.integers(0, 3))  # fmt: skip
def test_any_setting_on_any_map_is_a_mean_of_values(h, w, tile, atoms, mode, depth):
    settings = dataclasses.replace(ON, atoms=atoms, tile=tile, mode=mode)
    count = plan_clusters(h, w, settings, depth=depth).atoms
    assert 1 <= count <= h * w
    q = rand(1, h * w, 1, 4)
    labels, _ = clusters.lloyd(q.transpose(1, 2), clusters.strided(q.transpose(1, 2), count), 1)
    value = torch.linspace(0, 1, h * w)[None, :, None, None].expand(1, -1, 1, 4)
    if mode == "live":
        out = live_attention(q, q, value, labels, count)
    else:
        out = tiled_attention(q, q, value, labels, count, tile_plan(h, w, settings, depth=depth, shift=(0.7, 0.3)))
    assert out.isfinite().all() and out.min() >= -1e-4 and out.max() <= 1 + 1e-4


# Codes


def test_tokens_as_their_own_atoms_come_back_exactly():
    atoms, results = rand(20, 32), rand(20, 6, seed=1)
    torch.testing.assert_close(atoms @ (solver(atoms) @ results), results, atol=1e-4, rtol=1e-3)
    index, weight = sparse_codes(atoms, atoms, 1)
    assert torch.equal(index[:, 0], torch.arange(20))
    torch.testing.assert_close(rebuild(index, weight, results), results, atol=1e-5, rtol=1e-4)


def test_ridge_against_the_normal_equations_and_towards_the_pseudo_inverse():
    atoms, results, x = rand(40, 8), rand(40, 6, seed=1), rand(5, 8, seed=2)
    held = 0.3 * atoms.square().sum(0).mean()
    weights = x @ torch.linalg.inv(atoms.T @ atoms + held * torch.eye(8)) @ atoms.T
    torch.testing.assert_close(x @ (solver(atoms, 0.3) @ results), weights @ results, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(solver(atoms, 1e-7) @ results, solver(atoms) @ results, atol=1e-4, rtol=1e-3)


def test_pursuit_against_loops_and_finds_what_tokens_are_made_of():
    atoms, x = rand(30, 12), rand(9, 12, seed=1)
    index, weight = sparse_codes(x, atoms, 3)
    unit = atoms / atoms.norm(dim=1, keepdim=True)
    for token, found, weights in zip(x, index, weight, strict=True):
        chosen = []
        left = token
        for _ in range(3):
            chosen.append(int((unit @ left).abs().argmax()))
            fit = torch.linalg.lstsq(atoms[chosen].T, token).solution
            left = token - fit @ atoms[chosen]
        assert found.tolist() == chosen
        torch.testing.assert_close(weights, fit, atol=1e-3, rtol=1e-2)
    made = 2.0 * atoms[[3]] - 0.5 * atoms[[17]]
    index, weight = sparse_codes(made, atoms, 4)
    torch.testing.assert_close(rebuild(index, weight, atoms), made, atol=0.05, rtol=0.05)


# The style bank


def test_the_bank_weighs_as_much_as_the_strength_says():
    """With equal logits its keys get `strength` times the attention of the picture's own."""
    bias = weight_bias(torch.tensor([3.0, 0.0, 9.0]), 100, 0.5)
    shares = torch.cat([torch.zeros(100), bias]).softmax(0)
    assert shares[100:].sum() == pytest.approx(1 / 3, abs=1e-6) and shares[101] == 0
    assert shares[102] == pytest.approx(3 * shares[100].item())


def test_matched_values_have_the_pictures_mean_and_spread():
    v, own, count = rand(1, 9, 2, 4) * 3 + 5, rand(2, 50, 2, 4, seed=1), torch.tensor([1.0, 2.0, 0.0] * 3)
    out = matched(v, count, own, 1.0)
    share = (count / count.sum())[None, :, None, None]
    mean = (out * share).sum(1)
    torch.testing.assert_close(mean, own.mean(1), atol=1e-5, rtol=1e-4)
    spread = ((out - mean[:, None]).square() * share).sum(1).sqrt()
    torch.testing.assert_close(spread, own.std(1, unbiased=False), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(matched(v, count, own, 0.0), v.expand(2, -1, -1, -1))


# The static dictionary beyond self-attention


def block_and_calls(n=12, tokens=7):
    """A transformer block with norms that do something, its input ``[2, n, C]`` whose tokens have one mean and spread,
    text, and what makes of them the calls that techniques get."""
    block = tiny_unet().input_blocks[1][1].transformer_blocks[0]
    with torch.no_grad():
        for norm in (block.norm1, block.norm2):
            norm.weight.copy_(1 + 0.3 * rand(32, seed=1))
            norm.bias.copy_(0.2 * rand(32, seed=2))
    h = rand(1, n, 32, seed=3)
    h = 0.3 + 2 * (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True, unbiased=False)
    layer = Layer("IN01", "in", 1, 0, 0, None, block, FAMILIES[0])
    moment, rows = Moment(0, 0.0, 0.1), (Row(POSITIVE, 0),)

    def own(h):
        return Call(layer, block.norm1(h), (3, n // 3), rows, moment, None, HostHooks(), skip=h)

    def cross(h1, text):
        q, k, v = block.attn2.to_q(block.norm2(h1)), block.attn2.to_k(text), block.attn2.to_v(text)
        z = plain_attention(*(t.unflatten(-1, (4, -1)) for t in (q, k, v))).flatten(2)
        return CrossCall(layer, q, k, v, z, text, rows, moment, Evaluation(), HostHooks())

    return block, h, rand(1, tokens, 16, seed=5), own, cross


@pytest.mark.parametrize("reach", ["cross-attention", "skip connection"])
@pytest.mark.parametrize("codes", ["sparse", "pseudo-inverse"])
def test_tokens_as_their_own_atoms_pass_the_whole_block(reach, codes):
    """Twelve tokens of 32 channels: each is a sum of itself alone, by sparse codes and by the pseudo-inverse."""
    block, h, text, own, cross = block_and_calls()
    static = Static(changed(mode="static", reach=reach, codes=codes, sparse=1)[0])
    call = own(h)
    out = static.attention(call, call.x[0], torch.ones(12))
    torch.testing.assert_close(out, block.attn1(call.x), atol=1e-5, rtol=1e-4)
    crossing = cross(h + out, text)
    torch.testing.assert_close(static.cross(crossing), crossing.z, atol=1e-5, rtol=1e-4)
    assert static.cross(crossing) is None, "a second call without its self-attention"


def test_with_the_skip_connection_nothing_of_a_token_is_left_but_its_atom():
    block, h, text, own, cross = block_and_calls()
    static = Static(changed(mode="static", reach="skip connection", codes="sparse", sparse=1)[0])
    call = own(h)
    atoms = call.x[0, :3]
    out = h + static.attention(call, atoms, torch.ones(3))
    index, weight = sparse_codes(call.x[0], atoms, 1)
    found = {round(float(w), 4): m for m, w in zip(index[:, 0], weight[:, 0], strict=True)}
    assert len(found) > 3
    seen = (atoms[index[:, 0]] * weight - block.norm1.bias) / block.norm1.weight * 2 + 0.3
    attended = block.attn1(atoms[None])[0, index[:, 0]]
    passed = weight * (attended - block.attn1.to_out[0].bias) + block.attn1.to_out[0].bias
    torch.testing.assert_close(out[0], seen + passed, atol=2e-4, rtol=1e-3)


def test_what_cross_attention_makes_of_atoms_is_kept_until_prompt_or_time_change(monkeypatch):
    block, h, text, own, cross = block_and_calls()
    static, passes = Static(changed(mode="static", reach="cross-attention")[0]), []
    real = Static._cross_atoms
    monkeypatch.setattr(Static, "_cross_atoms", lambda self, *args: (passes.append(1), real(self, *args))[1])

    def step(text, time=0.1):
        call = dataclasses.replace(own(h), moment=Moment(0, 0.0, time))
        static.attention(call, rand(9, 32), torch.ones(9))
        return static.cross(cross(h, text))

    first = step(text)
    assert torch.equal(step(text.clone()), first) and len(passes) == 1
    assert not torch.equal(step(text + 0.1), first) and len(passes) == 2
    step(text)
    assert len(passes) == 3
    step(text, 0.6)
    assert len(passes) == 4


# On a U-Net


def content_of(unet, atoms=40, bank=6, seed=0):
    layers = find_layers(unet)
    content = Content()
    for i, (layer, key) in enumerate(zip(layers, layer_keys(layers), strict=True)):
        width = layer.attn1.to_q.in_features
        content.atoms[key], content.counts[key] = rand(atoms, width, seed=seed + i), torch.arange(atoms, 0.0, -1)
        if bank and layer.section == "out":
            content.bank[key] = Entry(2 * rand(3, bank, width, seed=seed + 50 + i), torch.ones(3, bank))
    return content


def written(folder, unet, name="look", tensors=None, **about):
    layers = find_layers(unet)
    widths = {k: layer.attn1.to_q.in_features for k, layer in zip(layer_keys(layers), layers, strict=True)}
    told = {"family": family_of_layers(layers), "layers": widths, "checkpoint": ["none", ""], "learned": {}}
    save(folder / f"{name}.safetensors", "dictionary", tensors or content_of(unet).tensors(), told | about)
    return Loader(lambda: Folders([folder]))


@pytest.fixture
def files(unet, tmp_path):
    return written(tmp_path, unet)


def draw(unet, techniques, images=2, weights=None, chunks=None, steps=2, size=(16, 16), rows=None, deep=1, **options):
    """Predictions ``[steps, rows, 4, h, w]``."""
    rows = rows or plan_rows(weights or [[1.0]] * images)
    n = len(rows)
    x = unet_input(3, *size)[0][[row.image for row in rows]]
    text = unet_input(18, 1, 1, seed=3)[1]
    context = text[[row.image + 4 * (row.sign == "negative") + 7 * row.part for row in rows]]
    outs = []
    draw.said = []
    with attach(unet, techniques, seeds=[7, 8, 9][:images], **({"say": draw.said.append} | options)) as attachment:
        for step in range(steps):
            attachment.begin_step(rows, step, steps, cfg=5.0)
            parts = zip(x.split(chunks or n), context.split(chunks or n), strict=True)
            t = 900.0 - 250 * step
            outs.append(
                torch.cat(
                    [
                        unet(a + 0.1 * step, torch.full((len(a),), t), context=[c] * deep if deep > 1 else c)
                        for a, c in parts
                    ]
                )
            )
            attachment.end_step()
        draw.why_idle = next((attachment.why_idle(g) for g in techniques if g.name == "dictionary"), None)
    draw.attachment = attachment
    return torch.stack(outs)


def changed(**values):
    return [dataclasses.replace(ON, **values)]


EACH = [
    {"mode": "live"}, {"mode": "global", "tile": 8}, {"mode": "static", "file": "look"},
    {"mode": "static", "file": "look", "codes": "sparse"}, {"mode": "full", "file": "look", "strength": 1.0},
    {"mode": "live", "file": "look", "strength": 1.0}, {"mode": "global", "tile": 8, "file": "look", "strength": 0.5},
    {"mode": "static", "file": "look", "strength": 1.0},
    {"mode": "static", "file": "look", "reach": "cross-attention", "codes": "sparse"},
    {"mode": "static", "file": "look", "reach": "skip connection", "codes": "ridge"},
]  # fmt: skip


@pytest.mark.parametrize("values", EACH, ids=str)
def test_each_mode_acts_and_neutral_is_bit_identical(unet, files, values):
    plain = draw(unet, [])
    out = draw(unet, changed(**values), files=files)
    assert not torch.equal(out, plain) and out.isfinite().all()
    assert draw.attachment.acted == {"dictionary"}
    for off in ({"start": 1.0}, {"end": 0.0}, {"blocks": "in99", "style_blocks": "in99"}, {"enabled": False}):
        assert torch.equal(draw(unet, changed(**values | off), files=files), plain), off
    if not values.get("strength"):
        assert torch.equal(draw(unet, changed(**values, blend=0.0), files=files), plain)
        half = draw(unet, changed(**values, blend=0.5), files=files)
        assert 0 < (half - plain).norm() < (out - plain).norm()


@pytest.mark.parametrize("values", EACH, ids=str)
@pytest.mark.parametrize("keep", [1, 2])
def test_rows_apart_as_together_and_each_image_alone(unet, files, values, keep):
    settings = changed(**values, keep=keep)
    weights = [[1.0], [0.7, 0.3]]
    together = draw(unet, settings, weights=weights, files=files)
    effect = (together - draw(unet, [], weights=weights)).abs().mean()

    def same(found, expected):
        close = torch.isclose(found, expected, atol=2e-5, rtol=1e-4)
        if values["mode"] in ("live", "global"):
            # Where two clusters fit a point alike, rounding decides between them, and another number of rows is
            # rounded otherwise. A point that goes to the other moves little; rows that see each other move a lot.
            assert close.float().mean() > 0.9 and (found - expected).abs().max() < 0.1 * effect
        else:
            assert close.all()

    for chunks in (1, 3):
        same(draw(unet, settings, weights=weights, chunks=chunks, files=files), together)
    alone = draw(unet, settings, images=1, files=files)
    same(alone[:, 0], together[:, 0])
    same(alone[:, 1], together[:, 3])


@pytest.mark.parametrize(
    "layout",
    [
        {"num_heads": -1, "num_head_channels": 8},
        {"transformer_depth": 2, "context_dim": [16, 16], "attention_resolutions": [4, 2], "channel_mult": [1, 2, 4]},
    ],
    ids=["SD 2", "SDXL"],
)
def test_other_layouts(layout, tmp_path):
    """Heads of one width at every level; several layers in a block, and none on the finest level."""
    unet = tiny_unet(**layout)
    files = written(tmp_path, unet)
    deep = layout.get("transformer_depth", 1)
    plain = draw(unet, [], deep=deep)
    for values in EACH:
        out = draw(unet, changed(**values, blocks="all"), deep=deep, files=files)
        assert not torch.equal(out, plain) and out.isfinite().all() and not draw.attachment.failed


@pytest.mark.parametrize("mode", ["live", "global"])
def test_as_many_atoms_as_points_are_full_attention_on_a_unet(unet, mode):
    plain = draw(unet, [], size=(16, 8))
    out = draw(unet, changed(mode=mode, tile=8, atoms=4096, blocks="all"), size=(16, 8))
    torch.testing.assert_close(out, plain, atol=2e-4, rtol=1e-3)
    few = draw(unet, changed(mode=mode, tile=8, atoms=4, blocks="all"), size=(16, 8))
    many = draw(unet, changed(mode=mode, tile=8, atoms=64, blocks="all"), size=(16, 8))
    assert (many - plain).norm() < 0.7 * (few - plain).norm()


def test_full_attention_first(unet):
    plain, out = draw(unet, [], steps=4), draw(unet, changed(full_first=0.5), steps=4)
    assert torch.equal(out[:2], plain[:2]) and not torch.equal(out[2], plain[2])


def test_clusters_are_kept_and_follow(unet, monkeypatch):
    """Matching happens in every second step only; in between atoms are the means of the same members."""
    matched_at = []
    real = clusters.assign
    monkeypatch.setattr(clusters, "assign", lambda *a: (matched_at.append(1), real(*a))[1])
    draw(unet, changed(keep=1, blocks="in1"), steps=4)
    every = len(matched_at)
    matched_at.clear()
    draw(unet, changed(keep=2, blocks="in1"), steps=4)
    assert (every, len(matched_at)) == (5, 3), "two iterations to begin with, one each time after"


def test_another_size_within_a_pass_starts_anew(unet):
    x, context = unet_input(1, 16, 16)
    y, _ = unet_input(1, 24, 8)
    with attach(unet, changed(keep=10), steps=4) as attachment:
        outs = [unet(z, torch.tensor([t]), context=context) for z, t in ((x, 900.0), (y, 800.0), (x, 700.0))]
        assert not attachment.failed and attachment.acted == {"dictionary"}
    assert all(out.isfinite().all() for out in outs)


def test_auto_leaves_levels_that_save_nothing(unet):
    plain = draw(unet, [])
    assert torch.equal(draw(unet, changed(blocks="auto")), plain), "256 points"
    assert plan_clusters(64, 64, Dictionary(mode="static")).worthwhile
    assert plan_clusters(64, 64, Dictionary()).worthwhile and not plan_clusters(16, 16, Dictionary()).worthwhile
    assert not plan_clusters(64, 64, Dictionary(atoms=4096)).worthwhile
    assert plan_clusters(64, 64, Dictionary(), depth=1).atoms == 128
    assert plan_clusters(64, 64, Dictionary(depth_scaling=0.0), depth=2).atoms == 256


def test_learned_atoms_start_the_clusters(unet, files):
    assert not torch.equal(draw(unet, changed(file="look")), draw(unet, changed()))
    more = draw(unet, changed(file="look", atoms=60))
    assert more.isfinite().all(), "the file has 40"


@pytest.mark.parametrize("rows", ["positive", "negative"])
def test_style_of_some_rows_only(unet, files, rows):
    plain = draw(unet, [], images=1)
    for mode in ("full", "live"):
        settings = {"mode": mode, "file": "look", "strength": 1.0, "style_rows": rows, "blocks": "in1"}
        out = draw(unet, changed(**settings), images=1, files=files)
        base = (
            draw(unet, changed(mode="live", file="look", blocks="in1"), images=1, files=files)
            if mode == "live"
            else plain
        )
        touched, left = (0, 1) if rows == "positive" else (1, 0)
        assert not torch.equal(out[:, touched], base[:, touched])
        torch.testing.assert_close(out[:, left], base[:, left], atol=1e-5, rtol=1e-4)


def test_the_stretch_of_the_bank_follows_the_time(unet, tmp_path):
    content = content_of(unet)
    for entry in content.bank.values():
        entry.x[1:] = 0  # only noise has a look
    files = written(tmp_path, unet, tensors=content.tensors())
    style = {"mode": "full", "file": "look", "strength": 2.0, "style_match": 0.0}
    early = draw(unet, changed(**style), files=files)
    for entry in content.bank.values():
        entry.x[0] = 0
    none = draw(unet, changed(**style), files=written(tmp_path, unet, tensors=content.tensors()))
    assert not torch.allclose(early[0], none[0], atol=1e-4) and torch.allclose(early[1:], none[1:], atol=1e-5)


def test_beside_other_techniques(unet, files):
    style = changed(mode="full", file="look", strength=1.0, style_blocks="out")[0]
    others = [
        NearSighted(enabled=True, tile=8, pool=4, blocks="d0"),
        KeyMix(enabled=True, source="first image", operator="concatenate", blocks="out"),
        NegativeSkip(enabled=True, key_every=2),
    ]
    for other in others:
        both, alone = draw(unet, [style, other], files=files), draw(unet, [other])
        assert both.isfinite().all() and not torch.equal(both, alone)
    mixed = KeyMix(enabled=True, source="first image", operator="concatenate", blocks="out", bias=-1.0)
    faint = dataclasses.replace(style, strength=1e-9)
    torch.testing.assert_close(draw(unet, [faint, mixed], files=files), draw(unet, [mixed]), atol=1e-4, rtol=1e-3)
    for mode in ("live", "global", "full"):
        one = dataclasses.replace(style, mode=mode, blocks="out", tile=8)
        in_full = draw(unet, [style, mixed], files=files)
        torch.testing.assert_close(draw(unet, [one, mixed], files=files), in_full, msg="in full, with the bank")
        assert ("are computed in full" in " ".join(draw.said)) == (mode != "full")
    near = NearSighted(enabled=True, tile=8, pool=4, blocks="d0")
    clusters_and_bank = [changed(mode="live", file="look", strength=1.0, style_blocks="out", blocks="out")[0]]
    beside = draw(unet, [*clusters_and_bank, near], files=files)
    assert not torch.equal(beside, draw(unet, clusters_and_bank, files=files)), "near-sighted where there is no bank"
    near_out = dataclasses.replace(near, blocks="out")
    torch.testing.assert_close(
        draw(unet, [*clusters_and_bank, near_out], files=files), draw(unet, clusters_and_bank, files=files)
    )
    alone = draw(unet, [near])
    assert torch.equal(draw(unet, [changed(blocks="d0")[0], near]), alone), "it takes its layers first"
    assert not torch.equal(draw(unet, [changed(blocks="d0,d1")[0], near]), alone)


def test_half_precision(unet, files):
    exact = draw(unet, changed(mode="global", tile=8, file="look", strength=0.5), files=files)
    with torch.autocast("cpu", torch.bfloat16):
        half = draw(unet, changed(mode="global", tile=8, file="look", strength=0.5), files=files)
    assert half.isfinite().all() and (half - exact).norm() < 0.15 * exact.norm()


# Files that cannot be used


def broken(content):
    """What may be wrong with tensors whose file is in order."""
    key = next(iter(content.atoms))
    bank = next(iter(content.bank))
    good = content.tensors()
    yield {k: v for k, v in good.items() if k != f"atoms.{key}"}
    yield {k: v for k, v in good.items() if k != f"counts.{key}"}
    yield {k: v for k, v in good.items() if k != f"bank_counts.{bank}"}
    yield good | {f"atoms.{key}": torch.ones(40, 3)}
    yield good | {f"atoms.{key}": torch.ones(0, content.atoms[key].shape[1])}
    yield good | {f"atoms.{key}": content.atoms[key].long()}
    yield good | {f"counts.{key}": -torch.ones(40)}
    yield good | {f"counts.{key}": torch.ones(39)}
    yield good | {f"bank.{bank}": torch.ones(3, 6, 5)}
    yield good | {f"bank.{bank}": content.bank[bank].x[0]}


def test_files_that_do_not_fit_are_refused_in_a_sentence_and_the_picture_comes_without(unet, tmp_path):
    plain = draw(unet, [])
    for i, tensors in enumerate(broken(content_of(unet))):
        files = written(tmp_path, unet, f"bad{i}", tensors=tensors)
        said = []
        out = draw(unet, changed(file=f"bad{i}", strength=1.0), files=files, say=said.append)
        assert (
            torch.equal(out, plain) and len(said) == 1 and "do not have the shape" in said[0] or "does not" in said[0]
        ), i


@pytest.mark.parametrize(
    ("values", "why"),
    [({"file": "none"}, "there is none"), ({"mode": "static"}, None), ({"mode": "full"}, None)],
)
def test_without_a_file(unet, files, values, why):
    said = []
    plain = draw(unet, [])
    out = draw(unet, changed(**values), files=files, say=said.append)
    assert torch.equal(out, plain)
    assert [why in text for text in said] == [True] if why else said == []
    assert bool(draw.why_idle) is not bool(said)  # said once


def test_a_file_of_another_model(unet, tmp_path):
    files = written(tmp_path, tiny_unet(model_channels=64))
    said = []
    assert torch.equal(draw(unet, changed(file="look"), files=files, say=said.append), draw(unet, []))
    assert len(said) == 1 and "another kind of model" in said[0]


def test_a_file_without_a_bank_says_so(unet, tmp_path):
    files = written(tmp_path, unet, tensors=content_of(unet, bank=0).tensors())
    said = []
    draw(unet, changed(file="look", strength=1.0), files=files, say=said.append)
    assert said == ["Dictionary: this file has no style bank."]
