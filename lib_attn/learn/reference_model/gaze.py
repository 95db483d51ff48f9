"""Where cross-attention looks while it learns: each part of the picture at the token that stands for that part.

After the stage `text`, padding tokens stand for the left, the centre and the right of the picture. That a place should
look at its own token a U-Net finds out by itself, but late: with two objects it first draws both and leaves to chance
which goes where, and where chance puts the same on both sides. So it is told. Only the share among the tokens of places
is asked about, never how much they get in all.
"""

from __future__ import annotations

import torch

from .models import VOCABULARY
from .text import OCCUPIED, PLACES


def roles(tokens: torch.Tensor) -> torch.Tensor:
    """Token ids (B, 77) -> float (B, 77, 3): 1 where a padding token stands for the left, centre or right."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    first = (tokens == VOCABULARY - 1).int().argmax(1, keepdim=True)
    place = torch.nn.functional.one_hot(positions % len(PLACES), len(PLACES))[:, :3]
    return (positions >= first)[..., None] * place[None].float()


def owners(objects: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers of objects (B,), 0 for "not known" -> float (B, width, 3): whose column of the picture it is."""
    table = torch.zeros(len(OCCUPIED) + 1, width, 3)
    for count, places in OCCUPIED.items():
        column = torch.arange(width) * len(places) // width
        table[count, torch.arange(width), torch.tensor(places)[column]] = 1
    return table.to(objects.device)[objects]


class Gaze:
    """Collects the loss of all watched layers in one forward pass."""

    def __init__(self):
        self.roles = self.objects = None
        self.losses: list[torch.Tensor] = []

    def begin(self, tokens: torch.Tensor, objects: torch.Tensor) -> None:
        """Say what the next pass draws: token ids (B, 77) and numbers of objects (B,)."""
        self.roles, self.objects, self.losses = roles(tokens), objects, []

    def see(self, attention: torch.Tensor) -> None:
        """attention: probabilities (B, heads, N, 77) of a square picture's N places, row by row."""
        heads = attention.float()
        width = int(heads.shape[2] ** 0.5)
        share = torch.einsum("bhnt,btp->bhnp", heads, self.roles)
        own = owners(self.objects, width)[:, None].expand(-1, width, -1, -1).reshape(len(heads), 1, width * width, 3)
        right = (share * own).sum(-1) / share.sum(-1).clamp(min=1e-6)
        asked = own.sum(-1).expand_as(right)
        self.losses.append(-(asked * right.clamp(min=1e-4).log()).sum() / asked.sum().clamp(min=1))

    def loss(self) -> torch.Tensor:
        """Mean over the layers: 0 when every place looks at its own token, log 3 when it does not care."""
        return torch.stack(self.losses).mean()

    def watch(self, model: torch.nn.Module) -> None:
        """Let the cross-attention layers of `model` report here; see `unet.use_fast_attention`."""
        for name, module in model.named_modules():
            if name.endswith("attn2") and hasattr(module, "to_q"):
                module.gaze = self
