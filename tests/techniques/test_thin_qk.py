"""Fewer channels of queries and keys: the maps against plain formulas, what is predicted against what is measured, and
what a real U-Net makes of it."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from lib_attn.attach import attach
from lib_attn.learn.capture import Capture
from lib_attn.learn.thin_qk.learner import LEARNER
from lib_attn.learned.files import Loader, family_of_layers, save
from lib_attn.learned.folders import Folders
from lib_attn.schema import Technique
from lib_attn.settings import KeyMix, NearSighted, Settings, ThinQk
from lib_attn.techniques.base import Context
from lib_attn.techniques.facts import Facts, Pass, Said
from lib_attn.techniques.near_sighted.kernel import near_sighted_attention
from lib_attn.techniques.thin_qk import runtime, timing
from lib_attn.techniques.thin_qk.maps import KeptMaps, curve_of, maps_of, moments_of
from lib_attn.techniques.thin_qk.maths import MAPS, kept, lost, pair, shared, thin
from lib_attn.techniques.thin_qk.preview import tell
from lib_attn.techniques.thin_qk.ranks import Curve, curves_of, ranks
from lib_attn.unet.families import Ldm, find_layers
from lib_attn.unet.layers import layer_keys
from lib_attn.unet.profile import profile_of
from lib_attn.unet.rows import plan_rows
from tests.unets import tiny_unet, unet_input

THIN = ThinQk(enabled=True, choose="fixed", channels=4, round_to=1, when="always", blocks="all")
WIDTH = 8  # channels of a head of the tiny U-Net's outer blocks
ROWS = plan_rows([[1.0], [1.0]])


def tokens(seed=0, rows=3, n=50, heads=2, d=12, skew=4.0):
    """Queries and keys ``[B, n, H, d]`` that lie mostly in a few directions, keys with much in common."""
    g = torch.Generator().manual_seed(seed)
    mixed = [torch.randn(heads, d, d, generator=g) * torch.arange(1, d + 1.0) ** (-skew / 2) for _ in range(2)]
    q, k = (torch.einsum("bnhd,hde->bnhe", torch.randn(rows, n, heads, d, generator=g), m.mT) for m in mixed)
    return q, k + 2 * torch.randn(1, 1, heads, d, generator=g)


def moments(q, k):
    k = k - k.mean(1, keepdim=True)
    return tuple(torch.einsum("bnhi,bnhj->hij", x, x) / (x.shape[0] * x.shape[1]) for x in (q, k))


def measured(maps, r, q, k):
    """Relative squared error of all logits without their mean over keys, by the plain product. All rows' queries meet
    all rows' keys, as the second moments have it."""
    q, k = q.flatten(0, 1).transpose(0, 1), (k - k.mean(1, keepdim=True)).flatten(0, 1).transpose(0, 1)
    exact = q @ k.mT
    thinned = (q @ maps[0][..., :r]) @ (k @ maps[1][..., :r]).mT
    return (thinned - exact).square().sum((-2, -1)) / exact.square().sum((-2, -1))


@pytest.mark.parametrize("form", MAPS)
def test_what_is_predicted_is_what_is_measured(form):
    q, k = tokens()
    maps = MAPS[form](*moments(q, k))
    predicted = 1.0 - kept(maps, *moments(q, k))
    for r in range(1, 13):
        torch.testing.assert_close(predicted[:, r - 1], measured(maps, r, q, k), rtol=2e-3, atol=2e-6)


def test_the_pair_is_the_best_there_is():
    q, k = tokens(1)
    q_moment, k_moment = moments(q, k)
    maps, one = pair(q_moment, k_moment), shared(q_moment, k_moment)
    for r in (1, 4, 8):
        best = measured(maps, r, q, k)
        # The logits' own best approximation of rank r: no two maps can be better.
        exact = q.flatten(0, 1).transpose(0, 1) @ (k - k.mean(1, keepdim=True)).flatten(0, 1).transpose(0, 1).mT
        values = torch.linalg.svdvals(exact.double()).square()
        torch.testing.assert_close(best.double(), values[:, r:].sum(1) / values.sum(1), rtol=1e-3, atol=1e-9)
        assert (best < measured(one, r, q, k)).all()


def test_all_channels_are_full_attention():
    q, k = tokens(2)
    v = torch.randn(q.shape, generator=torch.Generator().manual_seed(5))
    for form in MAPS.values():
        maps = form(*moments(q, k))
        out = timing.attend(thin(q, maps[0]), thin(k, maps[1]), v, q.shape[-1])
        torch.testing.assert_close(out, timing.attend(q, k, v, q.shape[-1]), rtol=2e-4, atol=2e-5)


def test_heads_without_anything_in_them():
    zero, one = torch.zeros(1, 4, 4), torch.eye(4)[None]
    for a, b in ((zero, one), (one, zero), (zero, zero)):
        maps = pair(a, b)
        assert all(torch.isfinite(m).all() for m in maps) and torch.isfinite(kept(maps, a, b)).all()


# Which channels


def curve(*kept_shares, lost=None, values=None):
    losses = lost or [1 - x for x in kept_shares]
    return Curve(
        kept_shares, kept_shares, tuple(values or [1.0] * len(kept_shares)), tuple(losses), (0.0,) * len(losses)
    )


FIRST, SECOND = curve(0.5, 0.9, 0.97, 1.0), curve(0.2, 0.4, 0.8, 1.0)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"energy": 0.9}, (2, 4)),
        ({"energy": 0.8}, (2, 3)),
        ({"energy": 0.5}, (1, 3)),
        ({"energy": 1.0}, (4, 4)),
        ({"energy": 0.9, "round_to": 3}, (3, 4)),
        ({"energy": 0.9, "round_to": 0}, (4, 4)),
        ({"choose": "fixed", "channels": 3}, (3, 3)),
        ({"choose": "fixed", "channels": 8}, (4, 4)),
    ],
)
def test_channels_by_energy_and_fixed(changes, expected):
    s = dataclasses.replace(THIN, **({"choose": "kept energy"} | changes))
    assert tuple(ranks(s, {"a": FIRST, "b": SECOND}, {"a": 0, "b": 0}, 4).values()) == expected


def test_values_have_to_keep_their_energy_too():
    s = dataclasses.replace(THIN, choose="kept energy", energy=0.9)
    of_values = {"a": curve(0.95, 1.0, 1.0, 1.0, values=[0.1, 0.5, 0.9, 1.0])}
    assert ranks(s, of_values, {"a": 0})["a"] == 3
    assert ranks(dataclasses.replace(s, values=False), of_values, {"a": 0})["a"] == 1


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.75, 0.9, 1.0])
def test_a_budget_goes_where_it_saves_most(budget):
    """Against all ways to spend it. The error falls ever more slowly, as it does with singular values."""
    losses = {"a": (1.0, 0.3, 0.1, 0.0), "b": (0.6, 0.4, 0.3, 0.25), "c": (0.2, 0.05, 0.01, 0.0)}
    curves, depths = {k: curve(*[0.0] * 4, lost=v) for k, v in losses.items()}, {"a": 0, "b": 0, "c": 1}
    s = dataclasses.replace(THIN, choose="budget", budget=budget)
    found = ranks(s, curves, depths)

    def cost(ways):
        return sum(r / 16.0 ** depths[k] for k, r in zip(curves, ways, strict=True))

    def error(ways):
        return sum(losses[k][r - 1] for k, r in zip(curves, ways, strict=True))

    most = budget * cost((4, 4, 4))
    assert cost(found.values()) <= most + 1e-9
    # A step that does not fit any more may leave something over: less than one step of what is dearest.
    less = max(most - 1.0, cost((1, 1, 1))) + 1e-9
    assert error(found.values()) <= min(error(w) for w in itertools.product(range(1, 5), repeat=3) if cost(w) <= less)
    if budget == 1.0:
        assert tuple(found.values()) == (4, 4, 4)


def test_curves_of_any_json():
    first = curve(0.5, 0.9, 0.97, 1.0, lost=[0.5, 0.25, 0.03, 0.0])
    good = first.to_json()
    assert curves_of({"figures": {"curves": {"a": good}}}) == {"a": first}
    for bad in (
        None,
        3,
        [],
        {},
        good | {"more": [1.0]},
        good | {"kept": [1.0]},
        good | {"kept": "abcd"},
        good | {"kept": 1},
    ):
        assert curves_of({"figures": {"curves": {"a": bad}}}) == {}
    for about in ({}, {"figures": 3}, {"figures": {"curves": []}}):
        assert curves_of(about) == {}


# On a U-Net


def draw(
    unet, settings, steps=1, size=(16, 16), said=None, files=None, rows=ROWS, dtype=None, store=None, batch=None, deep=1
):
    """U-Net calls with falling noise; the outputs."""
    out = []
    batch = range(len(rows)) if batch is None else batch
    options = {"say": said.append if said is not None else None, "files": files, "store": store, "seeds": [1, 2]}
    groups = [settings] if isinstance(settings, Technique) else settings
    with attach(unet, groups, **options) as attachment:
        for step in range(steps):
            x, context = unet_input(len(rows), *size, seed=step)
            attachment.begin_step(rows, step, 4)
            for part in [batch] if isinstance(batch, range) else batch:
                timesteps = torch.full((len(part),), 900.0 - 200.0 * step)
                with torch.inference_mode(), torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                    text = context[list(part)]
                    out.append(unet(x[list(part)], timesteps, context=text if deep == 1 else [text] * deep))
            attachment.end_step()
        assert not attachment.failed
        if said is not None:
            said += filter(None, [next(attachment.why_idle(g) for g in groups if g.name == "thin_qk")])
    return out


@pytest.mark.parametrize(
    "neutral",
    [
        {"enabled": False},
        {"channels": 256},
        {"choose": "kept energy", "energy": 1.0},
        {"choose": "budget", "budget": 1.0},
        {"start": 1.0},
        {"end": 0.0},
        {"blocks": "auto"},  # maps as small as here are left alone
    ],
)
def test_neutral_values_are_bit_identical(unet, neutral):
    plain = draw(unet, [])
    assert torch.equal(draw(unet, dataclasses.replace(THIN, **neutral))[0], plain[0])
    assert not torch.equal(draw(unet, THIN)[0], plain[0])


class Layers:
    """What goes into each self-attention layer, what comes out, and what its projections give."""

    def __init__(self, unet):
        self.layers, self.seen = find_layers(unet), {}
        self._handles = [
            layer.attn1.register_forward_hook(lambda m, args, out, key=key: self.seen.__setitem__(key, (args[0], out)))
            for layer, key in zip(self.layers, layer_keys(self.layers), strict=True)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()

    def items(self):
        for layer, key in zip(self.layers, layer_keys(self.layers), strict=True):
            yield key, layer.attn1, *self.seen[key]


def by_head(x, heads):
    return x.unflatten(-1, (heads, -1))


def naive(attn, x, r, values, scale=None):
    """Thin attention of one layer from its weights: queries meet keys through the best matrix of rank r in place of
    Wq^T Wk, values meet the output through the best one in place of Wv^T Wo^T."""
    heads = attn.heads
    wq, wk, wv = (m.weight.double().unflatten(0, (heads, -1)) for m in (attn.to_q, attn.to_k, attn.to_v))
    wo = attn.to_out[0].weight.double().unflatten(1, (heads, -1)).movedim(1, 0)  # [H, C, d]
    x = x.double()[:, None]

    def best(matrix, rank):
        u, s, vh = torch.linalg.svd(matrix)
        return u[..., :rank] * s[..., None, :rank] @ vh[..., :rank, :]

    logits = x @ best(wq.mT @ wk, r) @ x.mT * (scale or wq.shape[1] ** -0.5)
    through = wv.mT @ wo.mT
    out = logits.softmax(-1) @ x @ (best(through, r) if values else through)
    return out.sum(1) + attn.to_out[0].bias.double()


@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_from_the_weights_alone_against_the_plain_formula(unet, monkeypatch, values, scaled):
    if not scaled:  # code bases whose attention has no scale leave it to the kernel, which sees thin queries
        monkeypatch.setattr(Ldm, "scale", lambda self, attention: None)
    with Layers(unet) as seen:
        draw(unet, dataclasses.replace(THIN, values=values))
        for key, attn, x, out in seen.items():
            torch.testing.assert_close(out.double(), naive(attn, x, 4, values), rtol=2e-3, atol=2e-4, msg=key)


@pytest.mark.parametrize("name", ["to_q", "to_k", "to_v", "to_out"])
def test_weights_that_change_with_the_first_call(unet, name):
    """As the webui does with LoRA: a projection's weight is another one once it has been called."""
    changed = getattr(find_layers(unet)[0].attn1, name)
    changed = changed[0] if name == "to_out" else changed
    before = changed.weight.clone()
    delta = torch.randn(before.shape, generator=torch.Generator().manual_seed(4)) * before.std()

    def apply(module, args):
        module.weight.data.copy_(before + delta)

    handle = changed.register_forward_pre_hook(apply)
    try:
        with Layers(unet) as seen:
            draw(unet, THIN)
            _, attn, x, out = next(iter(seen.items()))
            torch.testing.assert_close(out.double(), naive(attn, x, 4, True), rtol=2e-3, atol=2e-4)
    finally:
        handle.remove()
        changed.weight.data.copy_(before)


def test_maps_are_kept_while_the_weights_are_the_same(unet, monkeypatch):
    from lib_attn.store import Store
    from lib_attn.techniques.thin_qk import maps as module

    made, store = [], Store()
    monkeypatch.setattr(module, "maps_of", lambda *args, f=maps_of: made.append(1) or f(*args))
    first = draw(unet, THIN, store=store)
    assert len(made) == len(find_layers(unet)) and store.bytes > 0
    assert torch.equal(draw(unet, THIN, store=store)[0], first[0]) and len(made) == len(find_layers(unet))
    weight = find_layers(unet)[0].attn1.to_k.weight
    before = weight.clone()
    try:
        weight.data.mul_(2.0)
        draw(unet, THIN, store=store)
    finally:
        weight.data.copy_(before)
    assert len(made) == len(find_layers(unet)) + 1


def test_rows_apart_as_together(unet):
    together = draw(unet, THIN)[0]
    apart = draw(unet, THIN, batch=[[0, 1], [2], [3]])
    torch.testing.assert_close(torch.cat(apart), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(unet, dtype):
    exact, half = draw(unet, THIN)[0], draw(unet, THIN, dtype=dtype)[0]
    assert torch.isfinite(half).all() and (half - exact).norm() < 0.06 * exact.norm()


def test_a_host_that_computes_attention_in_full_precision(unet, monkeypatch):
    """What it has brought to float32 stays so, under autocast too."""
    seen = []
    monkeypatch.setattr(runtime, "thin", lambda x, m: seen.append((x.dtype, thin(x, m).dtype)) or thin(x, m))
    x, context = unet_input(len(ROWS), 16, 16)
    with attach(unet, [THIN], upcast=lambda: True), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        unet(x, torch.full((len(ROWS),), 500.0), context=context)
    assert set(seen) == {(torch.float32, torch.float32)}


def test_a_budget_over_the_layers(unet):
    s = dataclasses.replace(THIN, choose="budget", budget=0.5)
    layers = dict(zip(layer_keys(find_layers(unet)), find_layers(unet), strict=True))
    whole = {key: moments_of(layer, None, key) for key, layer in layers.items()}
    curves = {key: curve_of(m, maps_of(m, "pair")) for key, m in whole.items()}
    expected = ranks(s, curves, {key: layer.depth for key, layer in layers.items()})
    assert len({expected[k] / curves[k].width for k in expected}) > 1, "it has to be spread unevenly"
    with Layers(unet) as seen:
        draw(unet, s)
        for key, attn, x, out in seen.items():
            torch.testing.assert_close(out.double(), naive(attn, x, expected[key], True), rtol=3e-3, atol=3e-4, msg=key)


@pytest.mark.parametrize("size", [(8, 8), (24, 8), (16, 40)])
def test_any_size(unet, size):
    with Layers(unet) as seen:
        draw(unet, THIN, size=size)
        for key, attn, x, out in itertools.islice(seen.items(), 3):
            torch.testing.assert_close(out.double(), naive(attn, x, 4, True), rtol=3e-3, atol=3e-4, msg=key)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": -1, "num_head_channels": 16},
        {"channel_mult": [1, 2, 4], "transformer_depth": 2, "context_dim": [16, 16]},
    ],
    ids=["SD 2", "SDXL"],
)
def test_other_layouts(changes):
    """SD 2's heads of one width, and SDXL's several transformer blocks in one."""
    model = tiny_unet(**changes)
    with Layers(model) as seen:
        draw(model, THIN, deep=changes.get("transformer_depth", 1))
        for key, attn, x, out in seen.items():
            torch.testing.assert_close(out.double(), naive(attn, x, 4, True), rtol=3e-3, atol=3e-4, msg=key)


# With others


def test_near_sighted_tiles_of_thin_queries(unet):
    """Two images whose tile borders differ; thin similarities inside the tiles."""
    near = NearSighted(enabled=True, tile=8, pool=2, blocks="d0")
    s = dataclasses.replace(THIN, blocks="d0")
    with Layers(unet) as seen:
        draw(unet, [near, s], size=(24, 24))
        key, attn, x, out = next(iter(seen.items()))
    layer = find_layers(unet)[0]
    maps = maps_of(moments_of(layer, None, key), "pair")
    q, k, v = (by_head(m(x), attn.heads) for m in (attn.to_q, attn.to_k, attn.to_v))
    q, k, v = thin(q, maps.q[..., :4]), thin(k, maps.k[..., :4]), thin(v, maps.v[..., :4])
    made = runtime_of(near, unet)
    expected = []
    for row, r in enumerate(ROWS):
        plan = made._plan(Called(layer, (24, 24)), 0, [1, 2][r.image])
        part = near_sighted_attention(*(t[row : row + 1] for t in (q, k, v)), plan, scale=WIDTH**-0.5)
        expected.append(attn.to_out(thin(part, maps.out[..., :4].mT).flatten(-2)))
    torch.testing.assert_close(torch.cat(expected), out, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass
class Called:
    layer: object
    grid: tuple
    moment: object = dataclasses.field(default_factory=lambda: type("Moment", (), {"time": 0.1, "step": 0})())


def runtime_of(settings, unet):
    from lib_attn.techniques import load

    return load(settings.name)(settings, Context(seeds=(1, 2), layers=tuple(find_layers(unet))))


def test_after_keys_were_mixed_or_added(unet, monkeypatch):
    """Whoever changes keys comes first. With maps that change nothing all is as he alone would have it."""
    for operator in ("blend", "concatenate"):
        mix = KeyMix(enabled=True, source="first image", operator=operator, blocks="all")
        whole, both = draw(unet, mix)[0], draw(unet, [mix, THIN])[0]
        assert not torch.equal(both, whole)
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "thin", lambda x, maps: x)
            assert torch.equal(draw(unet, [mix, THIN])[0], whole)


# Timing


def test_where_it_is_no_faster_it_is_left_and_said(unet, monkeypatch):
    asked, said = [], []
    monkeypatch.setattr(runtime, "pays", lambda *args: asked.append(args) or False)
    s = dataclasses.replace(THIN, when="faster")
    assert torch.equal(draw(unet, s, said=said)[0], draw(unet, [])[0])
    assert asked and all(width > rank == values == 4 for *_, width, rank, values in asked)
    assert any("in full: 4 of 8 channels are no faster" in text for text in said)
    monkeypatch.setattr(runtime, "pays", lambda *args: True)
    assert torch.equal(draw(unet, s)[0], draw(unet, THIN)[0])


def test_timing_tells_more_work_from_less(monkeypatch):
    """With a clock that counts multiplications. No generator moves, and what is known is not timed again."""
    spent = [0.0]

    def counting(q, k, v, **options):
        spent[0] += q.shape[-2] * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return q.new_zeros(*q.shape[:-1], v.shape[-1])

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    monkeypatch.setattr(timing.time, "process_time", lambda: spent[0])
    generator = torch.random.get_rng_state()
    timing.pays.cache_clear()
    try:
        ask = torch.device("cpu"), torch.float32, 600, 2, 16
        assert timing.pays(*ask, 8, 8) and not timing.pays(*ask, 8, 16) and not timing.pays(*ask, 16, 16)
        before = spent[0]
        assert timing.pays(*ask, 8, 8) and spent[0] == before
    finally:
        timing.pays.cache_clear()
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_timing_runs_here():
    for dtype in (torch.float32, torch.bfloat16):
        assert timing.pays.__wrapped__(torch.device("cpu"), dtype, 64, 2, 16, 8, 8) in (True, False)


# Files


@pytest.fixture
def learned(unet, tmp_path):
    """A file learned from eight calls of the U-Net, and where it is found."""
    capture = Capture(find_layers(unet), **LEARNER.wants(LEARNER.options()))
    with attach(unet, [], observers=[capture.observer()]) as attachment, torch.inference_mode():
        for step in range(4):
            x, context = unet_input(len(ROWS), 16, 16, seed=step)
            attachment.begin_step(ROWS, step, 4)
            unet(x, torch.full((len(ROWS),), 900.0 - 200.0 * step), context=context)
            attachment.end_step()
    layers = dict(zip(layer_keys(find_layers(unet)), find_layers(unet), strict=True))
    tensors, about = LEARNER.learn(capture, LEARNER.options(), layers)
    widths = dict(Context(layers=tuple(layers.values())).layout)
    about |= {"family": family_of_layers(layers.values()), "layers": widths}
    save(tmp_path / "mine.safetensors", "thin_qk", tensors, about)
    return Loader(lambda: Folders([tmp_path])), capture, tensors, about, tmp_path


def test_a_file_loses_less_than_the_weights_and_says_how_much(unet, learned):
    files, capture, _, about, _ = learned
    curves, layers = curves_of(about), find_layers(unet)
    assert curves.keys() == capture.shapes.keys()
    with Layers(unet) as seen:
        draw(unet, [], steps=1)
        for layer, (key, attn, x, _) in zip(layers, seen.items(), strict=True):
            q, k = (by_head(m(x), attn.heads) for m in (attn.to_q, attn.to_k))
            r = q.shape[-1] // 2
            of_file = maps_of(moments_of(layer, learned[2], key), "pair")
            of_weights = maps_of(moments_of(layer, None, key), "pair")
            losses = [lost((m.q[..., :r], m.k[..., :r]), q, k) for m in (of_file, of_weights)]
            assert losses[0] < losses[1], key
            assert losses[0] == pytest.approx(1.0 - curves[key].mean[r - 1], rel=0.5, abs=2e-3), key


def test_what_a_curve_says_is_what_attention_loses(unet, learned):
    """Of the very calls it was learned from: the error of the logits, and of the output through thin values."""
    _, capture, tensors, _, _ = learned
    for layer, key in zip(find_layers(unet), layer_keys(find_layers(unet)), strict=True):
        m = moments_of(layer, tensors, key)
        maps = maps_of(m, "pair")
        curve_ = curve_of(m, maps)
        r = len(curve_.kept) // 2
        error = torch.eye(len(curve_.kept)) - maps.v[..., :r] @ maps.out[..., :r].mT
        weight = layer.attn1.to_out[0].weight.unflatten(1, (layer.attn1.heads, -1)).movedim(1, 0)
        g = torch.Generator().manual_seed(0)
        root = torch.linalg.cholesky(m["out"] + 1e-9 * torch.eye(m["out"].shape[-1]))
        results = torch.randn(layer.attn1.heads, 20000, root.shape[-1], generator=g) @ root.mT
        loss = (results @ error @ weight.mT).square().sum((1, 2)) / (results @ weight.mT).square().sum((1, 2))
        assert float(loss.max()) == pytest.approx(1.0 - curve_.values[r - 1], rel=0.1, abs=1e-4), key


def test_with_a_file_in_a_picture(unet, learned):
    files, *_ = learned
    said = []
    plain, far = draw(unet, [], steps=2), draw(unet, THIN, steps=2)
    near = draw(unet, dataclasses.replace(THIN, file="mine"), steps=2, files=files, said=said)
    assert not [text for text in said if "learned" in text]
    assert 0 < (near[1] - plain[1]).norm() < (far[1] - plain[1]).norm()
    one = draw(unet, dataclasses.replace(THIN, file="mine", maps="shared"), files=files)
    assert not torch.equal(one[0], near[0])


def test_a_strong_lora_is_noticed(unet, learned):
    files, *_ = learned
    said, layers = [], find_layers(unet)
    before = [(m.weight, m.weight.clone()) for layer in layers for m in (layer.attn1.to_q, layer.attn1.to_k)]
    g = torch.Generator().manual_seed(0)
    try:
        for weight, _ in before:
            weight.data.add_(3 * weight.std() * torch.randn(weight.shape, generator=g))
        draw(unet, dataclasses.replace(THIN, channels=WIDTH - 1, file="mine"), steps=2, files=files, said=said)
    finally:
        for weight, old in before:
            weight.data.copy_(old)
    assert len([text for text in said if "learned from another checkpoint, or a LoRA is strong" in text]) == 1


@pytest.mark.parametrize("broken", ["name", "layers", "shape", "missing", "huge"])
def test_files_that_do_not_fit(unet, learned, broken):
    files, _, tensors, about, folder = learned
    key = next(iter(about["layers"]))
    changed, told, expected = dict(tensors), dict(about), "layers are missing in it"
    if broken == "layers":
        told["layers"], expected = {**about["layers"], key: 7}, "another kind of model"
    elif broken == "shape":
        changed[f"{key}.q"] = torch.zeros(1, 2, 2)
    elif broken == "missing":
        del changed[f"{key}.out"]
    elif broken == "huge":
        changed[f"{key}.q"], changed[f"{key}.spread"] = 1e-30 * tensors[f"{key}.q"], 1e30 * tensors[f"{key}.spread"]
        expected = "out of range"
    save(folder / "other.safetensors", "thin_qk", changed, told)
    if broken == "name":
        (folder / "other.safetensors").unlink()
        expected = "none of this name"
    said = []
    out = draw(unet, dataclasses.replace(THIN, file="other"), files=files, said=said, dtype=torch.float16)
    assert torch.equal(out[0], draw(unet, [], dtype=torch.float16)[0])
    assert [text for text in said if "other is not used" in text and expected in text]


# Before drawing


def told(settings, unet=None, files=None):
    said = Said()
    facts = Facts(profile=profile_of(unet) if unet is not None else None, files=files or Loader())
    tell(settings, Settings(), facts, [Pass(512, 512, 20, 7.0)], said)
    return said


def test_what_is_said_before_drawing(unet, learned):
    files, *_ = learned
    s = dataclasses.replace(THIN, file="mine")
    lines = [str(line) for line in told(s, unet, files).lines]
    assert lines[0].startswith("d0: 4 of 8 channels, logits off by ") and len(lines) == 4
    assert told(dataclasses.replace(THIN, choose="kept energy", energy=1.0)).idle
    assert told(dataclasses.replace(s, channels=256), unet, files).idle
    assert "not known before" in str(told(THIN, unet).lines[0])
    assert told(dataclasses.replace(s, file="none"), unet, files).lines == []


def test_maps_count_their_memory(unet):
    kept_maps = KeptMaps()
    layer = find_layers(unet)[0]
    kept_maps.get("a", moments_of(layer, None, "IN01.0"), "pair")
    assert kept_maps.bytes == 8 * layer.attn1.heads * WIDTH**2 * 4
