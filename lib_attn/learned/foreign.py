"""Model files of others that are taken for a learned file, recognised by the names of their weights.

=============================  ==================================  ==================================================
layout                         recognised by                       what is taken
=============================  ==================================  ==================================================
checkpoint of SD 1.x           ``model.diffusion_model.…``         its U-Net; its decoder where that draws 4 channels
U-Net of diffusers             ``down_blocks.0.resnets.0.…``       all of it
LoRA of kohya-ss               ``lora_unet_….lora_down.weight``    what it changes in the U-Net
LoRA of diffusers              ``unet.….lora_A.weight``            what it changes in the U-Net
autoencoder beside NAME, in    ``decoder.…``, of ldm or            its decoder where that draws 4 channels
NAME.vae.safetensors           diffusers
=============================  ==================================  ==================================================

Weights come out under ldm's names (`lib_attn.unet.diffusers`), those of a decoder behind ``vae.``, changes of low rank
as `lib_attn.unet.replace.replaced` takes them. Whether they are for the loaded model is found out when they are put on
it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from lib_attn.learned.header import LENGTH, Damaged, Entry, Header
from lib_attn.unet.diffusers import Unnamed, decoder_names, decoder_weight, joined, unet_names

if TYPE_CHECKING:
    import torch

#: Of learned files that such a file is taken for.
KIND = "depth"
MAX_BYTES = 4 << 30
#: Files above this are kept in half precision.
HALVED = 1 << 30
#: In front of the names of a decoder's weights.
VAE = "vae."
#: Behind the name of a file stands that of its autoencoder.
BESIDE = ".vae"
#: A decoder of 4 channels draws a picture or normals, and depth: RichDreamer (2311.16918), LDM3D-4c (2305.10853).
CHANNELS = {"normal": [0, 1, 2], "depth": [3]}
UNKNOWN = "it is no model file of a layout that is read here"

Names = Mapping[str, str]
"""Names in a file of the weights that are taken -> what they are called here."""


@dataclass(frozen=True)
class Layout:
    """fits: whether names of weights are of it. take: what is taken. changes: it holds changes, not weights."""

    name: str
    fits: Callable[[Iterable[str]], bool]
    take: Callable[[Mapping[str, Entry]], Names]
    changes: bool = False


def recognised(header: Header) -> Layout | None:
    """The layout of a file that may be taken, None for any other."""
    return next((layout for layout in LAYOUTS if layout.fits(header.tensors)), None)


def map_of(name: str) -> str:
    """What a file draws, by its name: nothing in it says so."""
    return "normal" if "normal" in name.lower() else "depth"


def read(
    name: str, layout: Layout, header: Header, stream: BinaryIO, beside: tuple[Header, BinaryIO] | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any], str]:
    """Weights, what is told of them, and the sha256.

    Args:
        header, stream: of the file, which is read to its end, as that of the autoencoder `beside` it.

    Raises:
        Damaged: when it is not what it has to be.
    """
    digest = hashlib.sha256()
    tensors = _load(header, stream, _named(layout.take, header.tensors), digest)
    if layout.changes:
        tensors = _factors(tensors)
    if beside is not None:
        tensors |= _load(*beside, _named(_decoder, beside[0].tensors), digest)
    about: dict[str, Any] = {"layout": layout.name, "layers": {}, "map": map_of(name), "licence": ""}
    last = tensors.get(f"{VAE}decoder.conv_out.weight")
    if last is not None:
        about["channels"] = CHANNELS[about["map"]]
    return tensors, about, digest.hexdigest()


def _named(take: Callable[[Mapping[str, Entry]], Names], entries: Mapping[str, Entry]) -> Names:
    try:
        return take(entries)
    except Unnamed as name:
        raise Damaged(f"{name} is no weight of SD 1.x") from None


def _load(header: Header, stream: BinaryIO, names: Names, digest: Any) -> dict[str, torch.Tensor]:
    """The weights in `names`; the bytes of all go into `digest`, so that what is checked is what is used."""
    import torch

    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    stream.seek(0)
    start = stream.read(LENGTH)
    start += stream.read(int.from_bytes(start, "little"))
    digest.update(start)
    total = max((entry.end for entry in header.tensors.values()), default=0)
    found: dict[str, torch.Tensor] = {}
    for name, entry in sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        data = bytearray(stream.read(entry.end - entry.begin))
        digest.update(data)
        if len(data) != entry.end - entry.begin:
            raise Damaged("it is cut off")
        if name not in names:
            continue
        if entry.dtype not in types or not data:
            raise Damaged("a tensor in it has an unknown type of numbers")
        value = torch.frombuffer(data, dtype=types[entry.dtype]).reshape(entry.shape)
        value = value.half() if total > HALVED and value.dtype in (torch.float64, torch.float32) else value
        if not torch.isfinite(value).all():
            raise Damaged("a number in it is not finite")
        found[names[name]] = decoder_weight(names[name], value)
    return found


def _checkpoint(entries: Mapping[str, Entry]) -> Names:
    unet, vae = "model.diffusion_model.", "first_stage_model."
    decoder = {name.removeprefix(vae): entry for name, entry in entries.items() if name.startswith(vae)}
    own = {name: name.removeprefix(unet) for name in entries if name.startswith(unet)}
    return own | {vae + name: as_here for name, as_here in _decoder(decoder).items()}


def _unet(entries: Mapping[str, Entry]) -> Names:
    return unet_names(entries)


def _decoder(entries: Mapping[str, Entry]) -> Names:
    """A decoder of 4 channels; nothing where it draws 3, as that of the loaded checkpoint does."""
    last = entries.get("decoder.conv_out.weight")
    if last is None or last.shape[:1] == (3,):
        return {}
    if last.shape[:1] != (4,):
        raise Damaged("its autoencoder draws neither 3 nor 4 channels")
    if any(name.startswith("decoder.up_blocks.") for name in entries):
        return {name: VAE + own for name, own in decoder_names(entries).items()}
    return {name: VAE + name for name in entries if name.startswith(("decoder.", "post_quant_conv."))}


#: Endings of a LoRA's tensors: the two factors, and what the change is scaled by, over the rank.
_DOWN, _UP, _ALPHA = (".lora_down.weight", ".lora_A.weight"), (".lora_up.weight", ".lora_B.weight"), ".alpha"
#: Residual blocks of each stage on the way in, in SD 1.x and 2.x.
_DEPTH = 2


def _kohya(entries: Mapping[str, Entry]) -> Names:
    layers, front, names = joined(_DEPTH), "lora_unet_", {}
    for name in entries:
        if not name.startswith(front):
            continue  # of the text encoder
        layer, ending = _split(name.removeprefix(front))
        if layer not in layers:
            raise Unnamed(layer[:80])
        names[name] = layers[layer] + ending
    return names


def _peft(entries: Mapping[str, Entry]) -> Names:
    front, names = "unet.", {}
    split = {name: _split(name.removeprefix(front)) for name in entries if name.startswith(front)}
    own = unet_names((f"{layer}.weight" for layer, _ in split.values()), _DEPTH)
    for name, (layer, ending) in split.items():
        names[name] = own[f"{layer}.weight"].removesuffix(".weight") + ending
    return names


def _split(name: str) -> tuple[str, str]:
    """Layer and what of its change a tensor is, as `_factors` knows it."""
    for endings, ending in ((_DOWN, _DOWN[0]), (_UP, _UP[0]), ((_ALPHA,), _ALPHA)):
        for found in endings:
            if name.endswith(found):
                return name.removesuffix(found), ending
    raise Damaged("its changes are of a kind that is not read, as those of LoHa, LoKr and DoRA are")


def _factors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``layer.lora_down.weight`` and the others as ``layer.weight.down`` and ``layer.weight.up``, the scale in it."""
    found: dict[str, torch.Tensor] = {}
    for name, down in tensors.items():
        if not name.endswith(_DOWN[0]):
            continue
        layer = name.removesuffix(_DOWN[0])
        up = tensors.get(layer + _UP[0])
        if up is None or up.ndim < 2 or down.ndim < 2 or up[0].numel() != len(down):
            name = layer[:80]
            raise Damaged(f"half of the change of {name} is missing or of another shape")
        alpha = tensors.get(layer + _ALPHA)
        scale = float(alpha) / len(down) if alpha is not None and alpha.numel() == 1 else 1.0
        found[f"{layer}.weight.down"] = down.float().flatten(1)
        found[f"{layer}.weight.up"] = up.float().flatten(1) * scale
    return found


def _has(*marks: str) -> Callable[[Iterable[str]], bool]:
    return lambda names: all(mark in names for mark in marks)


def _any(front: str, within: str) -> Callable[[Iterable[str]], bool]:
    return lambda names: any(name.startswith(front) and within in name for name in names)


LAYOUTS = (
    Layout("checkpoint", _has("model.diffusion_model.input_blocks.0.0.weight"), _checkpoint),
    Layout("U-Net", _has("down_blocks.0.resnets.0.conv1.weight", "conv_out.weight"), _unet),
    Layout("LoRA of kohya-ss", _any("lora_unet_", "."), _kohya, changes=True),
    Layout("LoRA of diffusers", _any("unet.", ".lora_"), _peft, changes=True),
)
