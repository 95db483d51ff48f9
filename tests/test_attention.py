"""The self-attention seam against a naive reference: precision, changed projections, hypernetworks, upcast."""

import pytest
import torch
from torch import nn

from lib_attn.unet.families import FAMILIES
from lib_attn.unet.flight import HostHooks, Moment
from lib_attn.unet.layers import Layer
from lib_attn.unet.rows import POSITIVE, Row
from lib_attn.unet.self_attention import Call

HEADS, WIDTH, CHANNELS = 3, 8, 20


class Attention(nn.Module):
    """CompVis' CrossAttention, as far as the seam needs it."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        inner = HEADS * WIDTH
        self.heads, self.scale = HEADS, WIDTH**-0.5
        self.to_q, self.to_k, self.to_v = (nn.Linear(CHANNELS, inner, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(inner, CHANNELS), nn.Dropout(0.0))
        self.eval().requires_grad_(False).to(dtype)


class LoraLinear(nn.Linear):
    """A Linear that adds a low-rank change in its own forward, as the host's LoRA does."""

    def forward(self, x):
        generator = torch.Generator().manual_seed(9)
        down = torch.randn(2, self.in_features, generator=generator).to(x.dtype)
        up = torch.randn(self.out_features, 2, generator=generator).to(x.dtype)
        return super().forward(x) + 0.3 * x @ down.T @ up.T


@pytest.fixture
def module():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attention()


def make_call(module, x, hooks=None):
    block = nn.Module()
    block.attn1 = module
    layer = Layer("IN01", "in", 1, 0, 0, None, block, FAMILIES[0])
    rows = tuple(Row(POSITIVE, i) for i in range(x.shape[0]))
    return Call(layer, x, (x.shape[1], 1), rows, Moment(0, 0.0, 0.0), lambda: None, hooks or HostHooks())


def naive(q, k, v):
    """Loops over rows, heads and queries; ``[B, N, H, d]``."""
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for n in range(q.shape[1]):
                logits = (k[b, :, h] @ q[b, n, h]) * q.shape[-1] ** -0.5
                out[b, n, h] = logits.softmax(0) @ v[b, :, h]
    return out


def reference(module, x, context_k=None, context_v=None):
    """The whole call in float32 by hand; to_q … to_out as modules."""
    split = lambda t: t.view(*t.shape[:2], HEADS, WIDTH)  # noqa: E731
    k, v = (x if c is None else c for c in (context_k, context_v))
    out = naive(split(module.to_q(x)), split(module.to_k(k)), split(module.to_v(v)))
    return module.to_out(out.flatten(-2))


def tokens(dtype=torch.float32):
    return torch.randn(2, 12, CHANNELS, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_fp32(module):
    x = tokens()
    torch.testing.assert_close(make_call(module, x).attend(naive), reference(module, x))


def test_bf16(module):
    x = tokens(torch.bfloat16)
    expected = reference(module, x.float())
    result = make_call(module.to(torch.bfloat16), x).attend(naive)
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).norm() / expected.norm() < 0.03


def test_changed_projections_take_part(module):
    x = tokens()
    plain = reference(module, x)
    for name in ("to_q", "to_k", "to_v"):
        old = getattr(module, name)
        lora = LoraLinear(old.in_features, old.out_features, bias=False).requires_grad_(False)
        lora.weight = old.weight
        setattr(module, name, lora)
    result = make_call(module, x).attend(naive)
    torch.testing.assert_close(result, reference(module, x))
    assert (result - plain).norm() / plain.norm() > 0.05


def test_hypernetwork_changes_keys_and_values_only(module):
    x = tokens()
    call = make_call(module, x, HostHooks(hypernetwork=lambda context: (context * 2, context + 1)))
    torch.testing.assert_close(call.attend(naive), reference(module, x, x * 2, x + 1))


def test_upcast_is_float32_inside_and_the_input_type_outside(module):
    x = tokens(torch.bfloat16)
    expected = reference(module, x.float())
    module.to(torch.bfloat16)
    seen = []

    def attend(q, k, v):
        seen.append((q.dtype, k.dtype, v.dtype, torch.is_autocast_enabled("cpu")))
        return naive(q, k, v)

    call = make_call(module, x, HostHooks(upcast=lambda: True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = call.attend(attend)
    assert seen == [(torch.float32,) * 3 + (False,)]
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).norm() / expected.norm() < 0.03


def test_options_reach_the_function(module):
    call = make_call(module, tokens())
    result = call.attend(lambda q, k, v, factor, add: q * factor + add, 0.0, add=0.0)
    torch.testing.assert_close(result, module.to_out(torch.zeros(2, 12, HEADS * WIDTH)))
