"""Put a finer level around a trained U-Net, so that pictures of twice the edge look to it as they did before.

A U-Net trained at one size knows how large things are in its own places, and at twice the size it draws twice as many.
With one level more, what was the finest level sees the picture at half its resolution, which is the size it knows; only
the new level has to be learned (progressive growing, Karras et al. 2018, arXiv 1710.10196, done to a U-Net).
"""

from __future__ import annotations

import torch

from .models import UNetConfig


def _moved(key: str, outermost: int) -> str | None:
    """Name in the larger U-Net of a weight of the smaller one; None when it has no place there."""
    part, _, rest = key.partition(".")
    if part == "input_blocks":
        number, _, rest = rest.partition(".")
        return f"input_blocks.{int(number) + outermost}.{rest}" if number != "0" else None
    return key


Weights = dict[str, torch.Tensor]


def grown(small: Weights, config: UNetConfig, fresh: Weights) -> Weights:
    """Weights of a U-Net with one finer level in front.

    small: the trained U-Net's state; config: that of the larger one, whose first two levels are equally wide; fresh: a
    newly drawn state of the larger one. At the start the new level hands the picture, twice its average over 2 x 2
    places, to the old network and passes what comes back on to all four; its own branches add nothing yet.

    Raises ValueError when the larger network is not the smaller one with a level more.
    """
    if config.channel_mult[0] != config.channel_mult[1]:
        raise ValueError("A U-Net grows by a level only where its first two levels are equally wide.")
    out = dict(fresh)
    for key, value in small.items():
        name = _moved(key, config.num_res_blocks + 1)
        if name is None:
            continue
        if name not in out or out[name].shape != value.shape:
            raise ValueError(f"The larger U-Net has no place for {key} of shape {list(value.shape)}.")
        out[name] = value.clone()
    for key in ("input_blocks.0.0.weight", "input_blocks.0.0.bias"):
        out[key] = small[key].clone()
    down = f"input_blocks.{config.num_res_blocks + 1}.0.op"
    width = out[f"{down}.weight"].shape[0]
    eye = torch.eye(width).to(out[f"{down}.weight"])
    # Stride 2 with padding 1: the taps at 1 and 2 are the two places that are halved into one.
    out[f"{down}.weight"] = torch.zeros_like(out[f"{down}.weight"])
    # Twice the average: averaged noise has half the spread, and the old network knows spread 1.
    out[f"{down}.weight"][:, :, 1:, 1:] = eye[:, :, None, None] / 2
    # Doubling doubles the first layer's bias as well, which the old network knows once.
    out[f"{down}.bias"] = -small["input_blocks.0.0.bias"]
    each = config.num_res_blocks + 1
    last = each * (len(config.channel_mult) - 1)
    up = f"output_blocks.{last - 1}.2.conv"
    out[f"{up}.weight"] = torch.zeros_like(out[f"{up}.weight"])
    out[f"{up}.weight"][:, :, 1, 1] = eye
    out[f"{up}.bias"] = torch.zeros_like(out[f"{up}.bias"])
    for block in range(last, last + each):
        key = f"output_blocks.{block}.0.skip_connection"
        out[f"{key}.weight"] = torch.zeros_like(out[f"{key}.weight"])
        out[f"{key}.weight"][:, :width, 0, 0] = eye
        out[f"{key}.bias"] = torch.zeros_like(out[f"{key}.bias"])
    return out
