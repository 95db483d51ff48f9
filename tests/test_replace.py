"""Other weights on a U-Net for a while: what is computed meanwhile, and that nothing of it is left."""

import types

import pytest
import torch

from lib_attn.unet.replace import Unfitting, _stand_in, put_in, replaced
from tests.unets import tiny_unet


@pytest.fixture
def unet():
    return tiny_unet(0)


def run(unet):
    g = torch.Generator().manual_seed(3)
    x, context = torch.randn(2, 4, 16, 16, generator=g), torch.randn(2, 8, 16, generator=g)
    with torch.inference_mode():
        return unet(x, torch.tensor([500.0, 500.0]), context=context)


def out_blocks(unet):
    return {k: v for k, v in unet.state_dict().items() if k.startswith(("output_blocks.", "out."))}


def state(unet):
    return {k: v.clone() for k, v in unet.state_dict().items()}, dict(unet.named_modules())


def assert_as_before(unet, before):
    weights, modules = before
    assert dict(unet.named_modules()) == modules
    assert all(torch.equal(v, weights[k]) for k, v in unet.state_dict().items())


def test_it_computes_what_a_unet_of_these_weights_computes(unet):
    other, mixed = tiny_unet(1), tiny_unet(0)
    mixed.load_state_dict(out_blocks(other), strict=False)
    plain = run(unet)
    with replaced(unet, out_blocks(other)):
        changed = run(unet)
    assert torch.equal(changed, run(mixed))
    assert torch.equal(run(unet), plain) and not torch.equal(changed, plain)


class Stopped(Exception):
    pass


def while_called(unet, look):
    """Have `look` called in the middle of the next call of `unet`."""
    hook = unet.time_embed.register_forward_pre_hook(lambda *_: (hook.remove(), look())[1])


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_weights_are_bit_identical_after_every_ending(unet, error, dtype):
    tensors, seen = out_blocks(tiny_unet(1)), []
    for module in unet.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.to(dtype)
    before = state(unet)

    def look():
        assert unet.out[-1].weight.dtype == dtype
        assert not torch.equal(unet.out[-1].weight.float(), before[0]["out.2.weight"].float())
        seen.append(unet)
        raise error or Stopped

    with pytest.raises(error or Stopped), replaced(unet, tensors):
        while_called(unet, look)
        run(unet)
    assert seen
    assert_as_before(unet, before)
    with pytest.raises(error or Stopped), replaced(unet, tensors):
        raise error or Stopped
    assert_as_before(unet, before)
    assert not unet._forward_hooks and not unet._forward_pre_hooks


def test_between_calls_the_model_is_its_own(unet):
    """sd-webui-cd-tuner keeps weights that it finds before a step, and puts them back after the job."""
    plain, kept = run(unet), unet.out[-1].weight
    with replaced(unet, out_blocks(tiny_unet(1))):
        for _ in range(2):
            assert unet.out[-1].weight is kept
            changed = run(unet)
        unet.out[-1].weight = torch.nn.Parameter(kept.clone())
    assert torch.equal(run(unet), plain) and not torch.equal(changed, plain)


def test_what_somebody_has_put_around_a_block_is_around_the_other_block(unet):
    """sd-webui-kohya-hiresfix makes what goes into a block smaller, and what goes into an Out block larger again."""

    class Scaled(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x, *args):
            return self.block(0.5 * x, *args)

    mixed = tiny_unet(0)
    mixed.load_state_dict(out_blocks(tiny_unet(1)), strict=False)
    mixed.output_blocks[1] = Scaled(mixed.output_blocks[1])
    block = unet.output_blocks[1]
    with replaced(unet, out_blocks(tiny_unet(1))):
        unet.output_blocks[1] = wrapper = Scaled(block)
        assert torch.equal(run(unet), run(mixed))
        assert unet.output_blocks[1] is wrapper and wrapper.block is block
    assert unet.output_blocks[1] is wrapper and wrapper.block is block


def test_weights_loaded_meanwhile_stay(unet):
    """The host may load another checkpoint into the modules while the other blocks are on."""
    new, blocks = tiny_unet(2), dict(enumerate(unet.output_blocks))
    with replaced(unet, out_blocks(tiny_unet(1))):
        for number, block in blocks.items():
            block.load_state_dict(new.output_blocks[number].state_dict())
    assert all(torch.equal(v, new.output_blocks.state_dict()[k]) for k, v in unet.output_blocks.state_dict().items())


def test_a_low_rank_change_is_added_to_the_weight_without_lora(unet):
    name = next(n for n, m in unet.named_modules() if n.startswith("input_blocks") and n.endswith("attn1.to_q"))
    layer = unet.get_submodule(name)
    up, down = torch.randn(layer.out_features, 2), torch.randn(2, layer.in_features)
    base = layer.weight.detach().clone()
    # As the host's LoRA leaves it: changed in place, with a backup beside it.
    layer.network_weights_backup, layer.network_layer_name = base, "some_layer"
    with torch.no_grad():
        layer.weight += 1.0
    before = state(unet)
    held = []
    with replaced(unet, {f"{name}.weight.up": up, f"{name}.weight.down": down}):
        while_called(unet, lambda: held.append(unet.get_submodule(name)))
        run(unet)
    torch.testing.assert_close(held[0].weight, base + up @ down)
    assert not hasattr(held[0], "network_weights_backup") and not hasattr(held[0], "network_layer_name")
    assert_as_before(unet, before)
    assert layer.network_weights_backup is base and layer.network_layer_name == "some_layer"


def test_a_method_put_on_a_module_computes_with_the_other_weights(unet):
    layer = unet.out[-1]
    layer.forward = types.MethodType(lambda self, x: self.weight.sum() + 0 * x, layer)
    tensors = {k: torch.zeros_like(v) for k, v in out_blocks(unet).items() if k.startswith("out.")}
    with replaced(unet, tensors):
        assert run(unet).abs().max() == 0
    assert run(unet).abs().max() > 0


@pytest.mark.parametrize(
    "tensors, why",
    [
        ({"first_stage.0.weight": torch.zeros(1)}, "in no block"),
        ({"output_blocks.99.0.weight": torch.zeros(1)}, "has no output_blocks.99"),
        ({"out.2.weight": torch.zeros(3, 3)}, "has shape"),
        ({"out.2.nothing": torch.zeros(1)}, "has no out.2.nothing"),
        ({"out.2.weight.up": torch.zeros(4, 2)}, "half of the change"),
        (  # whose product would take 4 TB
            {"out.2.weight.up": torch.zeros(1, 1).expand(10**6, 1), "out.2.weight.down": torch.zeros(1, 10**6)},
            "another shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_touched(unet, tensors, why):
    before = state(unet)
    with pytest.raises(Unfitting, match=why), replaced(unet, tensors):
        pass
    assert_as_before(unet, before)


def test_weights_that_stand_for_a_part_go_along_when_the_host_moves_the_model():
    """A move reaches what both share, by its own way; here by type, which medvram does by device."""
    own = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 4, bias=False))
    parent, x, other = torch.nn.Sequential(own), torch.randn(2, 4), torch.randn(4, 4)
    stand_in = _stand_in(own, "", {"1.weight": other}, {}, ())
    with put_in([(parent, "0", stand_in)]):
        single = parent(x)
    own.double()
    assert stand_in[0].weight.dtype == torch.float64 and stand_in[1].weight.dtype == torch.float32
    with put_in([(parent, "0", stand_in)]):
        torch.testing.assert_close(parent(x.double()), single.double(), atol=1e-5, rtol=1e-4)
        parent.float()  # as an autoencoder that overflows is given another type while it is in place
    assert {p.dtype for p in own.parameters()} == {torch.float32} and not torch.equal(own[1].weight, other)
    with put_in([(parent, "0", stand_in)]):
        assert torch.equal(parent(x), single)
