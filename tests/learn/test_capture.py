"""What is kept of the tensors of self-attention: against plain sums, in bounded memory, without touching anything."""

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.learn.capture import Capture
from lib_attn.settings import KeyMix, NearSighted
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import layer_keys
from lib_attn.unet.rows import plan_rows
from tests.unets import snapshot, unet_input

STEPS = 8
ROWS = plan_rows([[1.0], [1.0]])


def draw(unet, capture=None, steps=range(STEPS), techniques=(), dtype=None, side=8):
    """U-Net calls along falling noise, two images with their negatives; returns the outputs."""
    observers = [capture.observer()] if capture else []
    out = []
    with attach(unet, techniques, observers=observers) as attachment, torch.inference_mode():
        for step in steps:
            x, context = unet_input(len(ROWS), side, side, seed=step)
            attachment.begin_step(ROWS, step, STEPS)
            timesteps = torch.full((len(ROWS),), 999.0 - 1000.0 * step / STEPS)
            with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                out.append(unet(x, timesteps, context=context))
            attachment.end_step()
        assert not attachment.failed
    return out


class Seen:
    """Inputs and projections of every self-attention layer, by hooks of its own."""

    def __init__(self, unet):
        self.layers, self.calls = find_layers(unet), {}
        for layer, key in zip(self.layers, layer_keys(self.layers), strict=True):
            layer.attn1.to_q.register_forward_hook(lambda m, a, out, k=key: self._note(k, "q", out, a[0]))
            layer.attn1.to_k.register_forward_hook(lambda m, a, out, k=key: self._note(k, "k", out))
            layer.attn1.to_out.register_forward_pre_hook(lambda m, a, k=key: self._note(k, "out", a[0]))

    def _note(self, key, name, value, x=None):
        calls = self.calls.setdefault(key, {"q": [], "k": [], "out": [], "x": []})
        calls[name].append(value)
        if x is not None:
            calls["x"].append(x)


@pytest.fixture
def seen(unet):
    before = {m: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in unet.modules()}
    yield Seen(unet)
    for module, (after, ahead) in before.items():
        for hooks, kept in ((module._forward_hooks, after), (module._forward_pre_hooks, ahead)):
            for number in set(hooks) - set(kept):
                del hooks[number]


def second_moment(tensors, heads):
    x = torch.cat([t.unflatten(-1, (heads, -1)).flatten(0, -3) for t in tensors]).double()
    return torch.einsum("nhi,nhj->hij", x, x) / len(x)


def test_second_moments_against_plain_sums(unet, seen):
    draw(unet)  # what the model computes by itself, one call of each projection a step
    plain = {key: {n: list(c) for n, c in calls.items()} for key, calls in seen.calls.items()}
    capture = Capture(find_layers(unet))
    draw(unet, capture)
    for key, shape in capture.shapes.items():
        for name in ("q", "k"):
            got = capture.moment(key, name)
            torch.testing.assert_close(got.double(), second_moment(plain[key][name], shape.heads), rtol=1e-4, atol=1e-5)
            late = [t[2:] for t in plain[key][name][6:]]  # the last quarter of the timesteps, negatives
            got = capture.moment(key, name, stretch=3, sign=1)
            torch.testing.assert_close(got.double(), second_moment(late, shape.heads), rtol=1e-4, atol=1e-5)
        rows = torch.cat(plain[key]["k"]).unflatten(-1, (shape.heads, -1))
        spread = (rows - rows.mean(1, keepdim=True)).flatten(-2)
        got = capture.moment(key, "spread").double()
        torch.testing.assert_close(got, second_moment([spread], shape.heads), rtol=1e-4, atol=1e-5)
        # Of the attention's result a part of the tokens is taken, with repeats: 8 x 8 tokens, 256 draws of 64 at most.
        got, whole = capture.moment(key, "out").double(), second_moment(plain[key]["out"], shape.heads)
        assert (got - whole).norm() < 0.2 * whole.norm(), key


def test_nothing_is_changed(unet):
    before, generator = snapshot(unet), torch.random.get_rng_state()
    capture = Capture(find_layers(unet), samples=16)
    for dtype in (None, torch.bfloat16):
        for a, b in zip(draw(unet, dtype=dtype), draw(unet, capture, dtype=dtype), strict=True):
            assert torch.equal(a, b)
    assert snapshot(unet) == before and torch.equal(torch.random.get_rng_state(), generator)
    assert all(t.dtype == torch.float32 for t in capture.tokens("IN01.0").values() if t.is_floating_point())


def test_beside_techniques_it_sees_what_they_have_not_edited(unet):
    mix = KeyMix(enabled=True, source="shifted", amount=1.0)
    alone, beside = Capture(find_layers(unet), samples=8), Capture(find_layers(unet), samples=8)
    draw(unet, alone, steps=[0])
    draw(unet, beside, steps=[0], techniques=[mix, NearSighted(enabled=True, tile=8, blocks="d0")])
    for name in ("x", "q", "k", "v"):
        assert torch.equal(alone.tokens("IN01.0")[name], beside.tokens("IN01.0")[name])


def test_sampled_tokens_belong_together_and_are_evenly_drawn(unet, seen):
    capture = Capture(find_layers(unet), samples=200, seed=3)
    draw(unet, capture)
    known = {tuple(row.tolist()) for x in seen.calls["IN01.0"]["x"] for row in x.flatten(0, 1)[:, :2]}
    for layer, key in zip(seen.layers, layer_keys(seen.layers), strict=True):
        tokens = capture.tokens(key)
        passed = STEPS * len(ROWS) * (8 // 2**layer.depth) ** 2
        assert {name: len(t) for name, t in tokens.items()} == dict.fromkeys(tokens, min(200, passed))
        for name, module in (("q", layer.attn1.to_q), ("k", layer.attn1.to_k), ("v", layer.attn1.to_v)):
            torch.testing.assert_close(tokens[name].flatten(1), module(tokens["x"]), rtol=1e-4, atol=1e-5)
    for name, n in (("stretch", 4), ("sign", 2)):
        share = torch.bincount(capture.tokens("IN01.0")[name], minlength=n) / 200
        assert (share - 1 / n).abs().max() < 0.12, name
    drawn = [tuple(row.tolist()) for row in capture.tokens("IN01.0")["x"][:, :2]]
    assert set(drawn) <= known and len(set(drawn)) == 200


@pytest.mark.parametrize("broken_at", [1, 4])
def test_a_run_that_was_broken_off_goes_on_without_loss(unet, tmp_path, broken_at):
    from safetensors.torch import load_file, save_file

    whole = Capture(find_layers(unet), samples=20)
    draw(unet, whole)
    first = Capture(find_layers(unet), samples=20)
    draw(unet, first, steps=range(broken_at))
    save_file(first.state(), tmp_path / "state.safetensors")
    again = Capture(find_layers(unet), samples=20, seed=99)
    again.load_state(load_file(tmp_path / "state.safetensors"))
    draw(unet, again, steps=range(broken_at, STEPS))
    expected = whole.state()
    assert again.state().keys() == expected.keys()
    for name, value in again.state().items():
        assert torch.equal(value, expected[name]), name


def test_a_state_of_another_run_is_refused(unet):
    state = Capture(find_layers(unet), samples=20).state()
    for other in ({"samples": 0}, {"samples": 20, "stretches": 2}, {"samples": 20, "blocks": lambda x: x.depth == 0}):
        with pytest.raises(ValueError, match="other layers or other numbers"):
            Capture(find_layers(unet), **other).load_state(state)


def test_memory_is_as_stated(unet):
    capture = Capture(find_layers(unet), samples=50)
    draw(unet, capture, side=16)
    kept = [t for name, t in capture.state().items() if not name.endswith(("generator", "rows"))]
    used = sum(t.numel() * t.element_size() for t in kept)
    short = [key for key in capture.shapes if len(capture.tokens(key)["x"]) < 50]
    assert not short and used == capture.bytes
    small = Capture(find_layers(unet), samples=10**9, memory=4 << 20)
    assert 0 < small.samples < 10**6 and small.bytes <= 4 << 20
    with pytest.raises(ValueError, match="MiB allowed"):
        Capture(find_layers(unet), memory=1000)


def test_only_the_layers_wanted(unet):
    capture = Capture(find_layers(unet), samples=4, moments=False, blocks=lambda layer: layer.section == "out")
    draw(unet, capture, steps=[0])
    assert capture.shapes and all(key.startswith("OUT") for key in capture.shapes)
    assert not any(name.startswith("moments") for name in capture.state())
