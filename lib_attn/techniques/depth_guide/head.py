"""A small network that reads a map from predicted latents, and steps of latents towards a wanted map.

The gradient passes the small network alone, never the U-Net, so LoRA, samplers and fast paths are as they were. After
Universal Guidance (2302.07121) and Readout Guidance (2312.02150), which go through a decoder or the U-Net.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from lib_attn.learned.header import Refused
from lib_attn.techniques.base import Context
from lib_attn.techniques.depth_guide.settings import KIND, DepthGuide
from lib_attn.unet.precision import without_autocast

#: In front of the names of the network's tensors in a learned file.
PREFIX = "head."
WIDTH, WIDEST = 32, 128
#: Steps of one correction, and how far all of them go at strength 1, in spreads of the latents.
ROUNDS, REACH = 4, 6.0
#: Slopes below this are not stretched to full steps: where the map is right already, steps would only be grain.
FLOOR = 3.0


class Head(nn.Module):
    """Latents ``[B, C, h, w]`` of any size -> logits of the map ``[B, h, w]``: two levels down and up again."""

    def __init__(self, channels: int = 4, width: int = WIDTH):
        super().__init__()
        self.fine = nn.Conv2d(channels, width, 3, padding=1)
        self.middle = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.coarse = nn.Conv2d(2 * width, 2 * width, 3, 2, 1)
        self.bottom = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.Conv2d(4 * width, width, 3, padding=1)
        self.out = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        fine = F.silu(_convolved(self.fine, latents))
        middle = F.silu(_convolved(self.middle, fine))
        coarse = F.silu(_convolved(self.bottom, F.silu(_convolved(self.coarse, middle))))
        up = F.silu(_convolved(self.up, torch.cat([middle, F.interpolate(coarse, middle.shape[-2:])], 1)))
        return _convolved(self.out, torch.cat([fine, F.interpolate(up, fine.shape[-2:])], 1))[:, 0]


def _convolved(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What `layer` gives. Where there is no autocast, the webui patches the layers' own ``forward`` to cast weights for
    its duration, so that a gradient would meet others than the forward pass."""
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def read_head(tensors: Mapping[str, torch.Tensor]) -> Head | None:
    """The network of a learned file, None where it has none. Raises ValueError when it does not fit together."""
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    if not own:
        return None
    first = own.get("fine.weight")
    # Layers are made before their weights can be compared, and take the square of a width in memory.
    if first is None or first.ndim != 4 or first.shape[0] > WIDEST or first.shape[1] > WIDEST:
        raise ValueError("the network that reads maps is not complete")
    # No gradient passes tensors of inference mode, in which a host may sample; and layers draw their first weights from
    # the global generator.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        head = Head(first.shape[1], first.shape[0])
        try:
            head.load_state_dict({name: value.float() for name, value in own.items()})
        except RuntimeError:
            raise ValueError("the network that reads maps is not complete") from None
        return head.requires_grad_(False)


NO_FILE = (
    "The picture is drawn without its map: guided by predicted picture, it is read by the network of a file with map "
    "blocks. Choose one."
)


def head_of(settings: DepthGuide, context: Context) -> Head | None:
    """The network of the file that `settings` name; None, and a sentence, when there is none that can be used."""
    if not settings.file:
        context.say(NO_FILE)
        return None
    try:
        head = read_head(context.learned(KIND, settings.file).tensors)
    except Refused as refused:
        context.say(str(refused))
        return None
    except ValueError as error:
        context.say(f"The picture is drawn without its map: {error}.")
        return None
    if head is None:
        context.say("The picture is drawn without its map: the file has no network that reads maps.")
    return head


def blurred(latents: torch.Tensor, spread: float) -> torch.Tensor:
    """Latents ``[B, C, h, w]`` under a Gaussian of `spread` places, edges repeated."""
    if spread <= 0:
        return latents
    reach = max(1, min(int(3 * spread + 0.5), min(latents.shape[-2:]) - 1))
    line = torch.arange(-reach, reach + 1, device=latents.device, dtype=latents.dtype)
    kernel = torch.exp(-0.5 * (line / spread) ** 2)
    kernel = (kernel / kernel.sum()).expand(latents.shape[1], 1, -1)
    padded = F.pad(latents, (reach,) * 4, mode="replicate")
    with without_autocast(latents.device):
        out = F.conv2d(padded, kernel[:, :, None], groups=latents.shape[1])
        return F.conv2d(out, kernel[..., None], groups=latents.shape[1])


def error(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far maps ``[B, h, w]`` are from the wanted ones, 0 … 1: cross-entropy, for each picture ``[B]``.

    Its gradient is not lost where the network is sure of the opposite, as that of a squared error would be.
    """
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((1, 2))


def towards(latents: torch.Tensor, wanted: torch.Tensor, head: Head, amount: float, rounds: int = ROUNDS):
    """What to add to predicted latents ``[B, C, h, w]`` for their map to be nearer to `wanted` ``[B, h, w]``.

    Each round goes along the gradient, scaled so that its largest places move by the latents' own spread times
    `REACH` * `amount` / `rounds`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        start = latents.detach().clone().float()
        goal, moved = wanted.clone().float(), start.clone()
        spread = start.std((1, 2, 3), keepdim=True)
        for _ in range(rounds):
            x = moved.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(goal[0].numel() * error(head(x), goal).sum(), x)
            size = slope.abs().flatten(1).quantile(0.99, dim=1)[:, None, None, None].clamp_min(FLOOR)
            moved = x.detach() - (REACH * amount / rounds) * spread * (slope / size).clamp(-1, 1)
        return (moved - start).to(latents.dtype)
