"""Other weights for some blocks of a U-Net, put on for a while and taken off again.

The U-Net's own modules are never touched: a block whose weights are replaced gets a stand-in, a module of the same kind
that shares everything with it but those weights, in its place. Taking off puts the block itself back, so weights are
bit-identical afterwards whatever happened meanwhile, and what a host keeps on its modules stays with them.

Stand-ins are in place only while the U-Net computes. Between its calls extensions of others look at the model, change
weights of it and put back later what they have found (sd-webui-cd-tuner does): that has to be the model's own.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lib_attn.unet.precision import without_autocast

#: Endings of the two factors of a low-rank delta, behind the name of the weight: weight + up @ down.
UP, DOWN = ".up", ".down"
#: By these stable-diffusion-webui's LoRA finds a module and what to do with it; a stand-in is none of its modules. The
#: backup is the weight without LoRA.
LORA = ("network_layer_name", "network_current_names", "network_weights_backup", "network_bias_backup")
_SECTIONS = ("time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out")
#: Of an autoencoder. What its last layer draws, and in how many channels, is its own affair.
DECODER = ("decoder", "post_quant_conv")
FREE = ("decoder.conv_out.weight", "decoder.conv_out.bias")


class Unfitting(ValueError):
    """Tensors that are not for this U-Net; the text is the end of a sentence."""


def blocks_of(names: Any, sections: Sequence[str] = _SECTIONS) -> list[str]:
    """Paths of the blocks that tensors of these names replace parts of: ``output_blocks.3``, ``out``.

    Raises:
        Unfitting: when a name is in no block.
    """
    found = {}
    for name in names:
        section, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if section not in sections or (section.endswith("_blocks") and not number.isdigit()):
            raise Unfitting(f"{name[:80]} is in no block of a U-Net")
        found[f"{section}.{number}" if section.endswith("_blocks") else section] = None
    return list(found)


@contextlib.contextmanager
def replaced(
    unet: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    sections: Sequence[str] = _SECTIONS,
    free: Sequence[str] = (),
    *,
    called: bool = True,
) -> Iterator[None]:
    """Have `unet` compute with other weights.

    Args:
        unet: or another module, whose blocks are named by `sections`.
        tensors: by the U-Net's own names; ``NAME.up`` ``[out, r]`` and ``NAME.down`` ``[r, in]`` are added to it.
        free: names whose first dimension may be another one.
        called: whether `unet` is called itself, and has them on just then. An autoencoder is asked to decode instead,
            and has them on all the time.

    Raises:
        Unfitting: when one is not for this U-Net.
    """
    paths = blocks_of(tensors, sections)
    stand_ins, left = [], dict(tensors)
    for path in paths:
        holder, _, name = path.rpartition(".")
        parent = unet.get_submodule(holder) if _has(unet, path) else None
        if parent is None:
            raise Unfitting(f"this model has no {path}")
        stand_ins.append((parent, name, _stand_in(getattr(parent, name), f"{path}.", left, {}, free)))
    if left:
        raise Unfitting(f"this model has no {next(iter(left))[:80]}")
    with put_in_when_called(unet, stand_ins) if called else put_in(stand_ins):
        yield


StandIns = Sequence[tuple[nn.Module, str, nn.Module]]
"""Of each the module that holds the place, the name of the place, and what is put there."""


@contextlib.contextmanager
def put_in_when_called(unet: nn.Module, stand_ins: StandIns) -> Iterator[None]:
    """Have modules in the places of others whenever `unet` is called, for a while."""
    stack, own = contextlib.ExitStack(), [parent._modules[name] for parent, name, _ in stand_ins]

    def begin(module: nn.Module, args: Any) -> None:
        now = [(parent, name, _inside(parent._modules[name], was, stand_in))
               for (parent, name, stand_in), was in zip(stand_ins, own, strict=True)]  # fmt: skip
        stack.enter_context(put_in(now))

    def end(module: nn.Module, args: Any, result: Any) -> None:
        stack.close()

    hooks = [unet.register_forward_pre_hook(begin), unet.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        stack.close()


def _inside(module: nn.Module, was: nn.Module, stand_in: nn.Module) -> nn.Module:
    """What is to be put in the place of `module`: `stand_in` for what `was` there, inside of what somebody has put
    around that since (sd-webui-kohya-hiresfix wraps blocks before a step)."""
    return stand_in if module is was else _stand_in(module, "", {}, {id(was): stand_in}, ())


@contextlib.contextmanager
def put_in(stand_ins: StandIns) -> Iterator[None]:
    """Have modules in the places of others for a while."""
    put: list[tuple[nn.Module, str, nn.Module, nn.Module, tuple | None]] = []
    try:
        for parent, name, stand_in in stand_ins:
            module = parent._modules[name]
            _follow(stand_in, module, _where(stand_in))  # the host may have moved it since the stand-in was made
            put.append((parent, name, module, stand_in, _where(stand_in)))
            parent._modules[name] = stand_in
        yield
    finally:
        for parent, name, module, stand_in, before in put:
            parent._modules[name] = module
            _follow(module, stand_in, before)


Where = dict[str, tuple[torch.device, torch.dtype]]


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _where(module: nn.Module) -> Where:
    return {name: (value.device, value.dtype) for name, value in _tensors(module).items()}


def _follow(module: nn.Module, other: nn.Module, before: Where) -> None:
    """Move a module as the host has moved the other one, which was `before` where its values say: medvram brings the
    model to the device and back, and an autoencoder that overflows is made wider.

    One by one: what both share has moved already, and says nothing of the rest.
    """
    now = _where(other)
    for name, value in _tensors(module).items():
        if name in now and name in before and now[name] != before[name] and now[name] != (value.device, value.dtype):
            device, dtype = now[name]
            value.data = value.data.to(device, dtype)


def _has(unet: nn.Module, path: str) -> bool:
    try:
        unet.get_submodule(path)
    except AttributeError:
        return False
    return True


def _stand_in(
    module: nn.Module, prefix: str, left: dict[str, torch.Tensor], made: dict, free: Sequence[str]
) -> nn.Module:
    """A copy of `module` that shares its parameters, but for those in `left`, which are taken out of it."""
    if id(module) in made:
        return made[id(module)]
    copy = object.__new__(type(module))
    made[id(module)] = copy
    own = {name: value for name, value in vars(module).items() if name not in LORA}
    for name, value in list(own.items()):
        if isinstance(value, types.MethodType) and value.__self__ is module:
            own[name] = types.MethodType(value.__func__, copy)
        elif name in ("forward", "_forward"):
            del own[name]  # somebody's wrapper, which would compute with the weights of the module it was put around
    copy.__dict__.update(own)
    copy._parameters = {
        name: value if value is None else _weight(module, name, value, prefix + name, left, free)
        for name, value in module._parameters.items()
    }
    copy._modules = {
        name: child if child is None else _stand_in(child, f"{prefix}{name}.", left, made, free)
        for name, child in module._modules.items()
    }
    return copy


def _weight(
    module: nn.Module, attribute: str, own: torch.Tensor, name: str, left: dict[str, torch.Tensor], free: Sequence[str]
) -> nn.Parameter:
    """The parameter of a stand-in: another one of the same kind where `left` has one, which is taken out of it."""
    whole, up, down = left.pop(name, None), left.pop(name + UP, None), left.pop(name + DOWN, None)
    if whole is None and up is None and down is None:
        return own
    if whole is None:
        if up is None or down is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
            raise Unfitting(f"half of the change of {name[:80]} is missing or of another shape")
        backup = getattr(module, f"network_{attribute}s_backup", None)
        without = backup if isinstance(backup, torch.Tensor) else own
        if up.shape[0] * down.shape[1] != own.numel():
            raise Unfitting(f"the change of {name[:80]} has another shape than the model's")
        with without_autocast(up.device):
            change = (up.float() @ down.float()).reshape(-1)
        whole = without.detach().float().cpu() + change.view(own.shape)
    if whole.shape[name in free :] != own.shape[name in free :]:
        raise Unfitting(f"{name[:80]} has shape {list(whole.shape)}, the model's has {list(own.shape)}")
    # Training turns gradients on for the weights that it puts into the U-Net itself, never for these.
    return nn.Parameter(whole.to(own.device, own.dtype), requires_grad=False)
