"""Which weights of a U-Net learn to draw maps, and how they are written into a blocks file."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

#: What is trained: the Out blocks and `out` (In and Middle are left as they are); what HyperHuman (2310.08579) gives
#: each kind of picture of its own, the way in, the first In block, the last Out block and the way out; low-rank deltas
#: of the transformers' linear layers; everything; everything, from random weights.
CHOICES = ("out", "experts", "lora", "full", "scratch")
#: Highest learning rate of each. Few weights that have to do much, and low-rank deltas, which begin at nothing, are
#: given larger steps than whole blocks, as is usual; no search was made.
RATES = {"out": 5e-4, "experts": 1e-3, "lora": 2e-3, "full": 5e-4, "scratch": 5e-4}
#: In torch's names of what is parametrized, in front of ``up`` and ``down``.
_DELTA = ".parametrizations.weight.0."


class LowRank(nn.Module):
    """W + up down (Hu et al. 2021, arXiv 2106.09685); starts at W."""

    def __init__(self, weight: torch.Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        out, width = weight.shape
        down = torch.randn(rank, width, generator=generator) * width**-0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(out, rank).to(weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def prepare(unet: nn.Module, choice: str, rank: int = 16, seed: int = 0) -> None:
    """Switch gradients on for what `choice` trains; "lora" puts its deltas on, "scratch" draws new weights."""
    last = f"output_blocks.{len(unet.output_blocks) - 1}."
    learns = {
        "out": ("output_blocks.", "out."),
        "experts": ("input_blocks.0.", "input_blocks.1.", last, "out."),
        "lora": (),
        "full": ("",),
        "scratch": ("",),
    }[choice]
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(name.startswith(learns))
    if choice == "lora":
        generator = torch.Generator().manual_seed(seed)
        for name, module in list(unet.named_modules()):
            if isinstance(module, nn.Linear) and ".transformer_blocks." in name:
                parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, generator))
    elif choice == "scratch":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in unet.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()


def written(unet: nn.Module, weights: dict[str, torch.Tensor], dtype=torch.float16) -> dict[str, torch.Tensor]:
    """What `unet` learned, out of `weights` by its names, as `lib_attn.unet.replace.replaced` takes it."""
    learned = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    return {name.replace(_DELTA, ".weight."): weights[name].to(dtype).contiguous() for name in learned}
