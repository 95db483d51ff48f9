"""Self-attention with keys, values and queries mixed in from another source.

With K and V of a source S, of the same size as the picture's own:

- *blend* K' = (1 - m) K + m S_K: the attention is that of the picture to the power 1 - m times that of the source to
  the power m. With own values the result stays made of the picture's own colours: layout moves, the look does not.
  Queries that follow too bring the source's whole attention map: structure from there, appearance from here, as in
  Plug-and-Play (arXiv 2211.12572).
- *contrast* K' = (1 + m) K - m S_K: away from the source. A blurred self as source sharpens what attends to what; it
  is to keys what smoothed energy guidance (SEG, arXiv 2408.00760) is to predictions.
- *concatenate* [K; S_K]: each place weighs picture and source for itself; a bias b multiplies the source's odds by
  e^b. With matched queries and keys this is StyleAligned (arXiv 2312.02133); keys and values replaced are MasaCtrl
  (arXiv 2304.08465).

Attention decides what looks alike; where things stand is also in what a block hands to the next. So the output of
chosen blocks may follow the source, as Plug-and-Play has it for one block, or take its mean and spread.

Tensors of attention are ``[B, N, H, d]``: rows, tokens, heads, width; features are treated as one head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_attn.unet.precision import without_autocast


def adain(x: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """`x` with the mean and spread of `to` over the tokens, channel by channel.

    Adaptive instance normalisation (Huang and Belongie, arXiv 1703.06868), which StyleAligned (arXiv 2312.02133)
    applies to queries and keys. x: ``[B, N, H, d]``; to: ``[B, M, H, d]`` of any number of tokens.
    """
    own, other = x.float(), to.float()
    spread, wanted = (t.std(1, keepdim=True, unbiased=False).clamp_min(1e-5) for t in (own, other))
    out = (own - own.mean(1, keepdim=True)) * (wanted / spread) + other.mean(1, keepdim=True)
    return out.to(x.dtype)


def blur(x: torch.Tensor, grid: tuple[int, int], sigma: float) -> torch.Tensor:
    """Gaussian blur over the grid, `sigma` in tokens; weights at the border sum to 1, so a constant stays one."""
    if sigma <= 0:
        return x
    out = x.float().unflatten(1, grid)
    with without_autocast(x.device):
        for axis, size in ((1, grid[0]), (2, grid[1])):
            at = torch.arange(size, device=x.device)
            weights = torch.softmax(-((at[:, None] - at) ** 2) / (2 * sigma**2), -1)
            out = torch.tensordot(weights, out, dims=([1], [axis])).movedim(0, axis)
    return out.flatten(1, 2).to(x.dtype)


def shift(x: torch.Tensor, grid: tuple[int, int], down: int, right: int) -> torch.Tensor:
    """The picture moved; what leaves on one side comes in on the other."""
    return x.unflatten(1, grid).roll((down, right), (1, 2)).flatten(1, 2)


def resize(x: torch.Tensor, before: tuple[int, int], after: tuple[int, int]) -> torch.Tensor:
    """Another grid's tokens at this grid's places."""
    if before == after:
        return x
    picture = x.float().flatten(-2).unflatten(1, before).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=after, mode="bilinear", align_corners=False)
    return picture.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, x.shape[-2:]).to(x.dtype)


def mix(own: torch.Tensor, source: torch.Tensor, amount: float, operator: str) -> torch.Tensor:
    """Blend towards or contrast away from the source; amount 0 is the identity."""
    step = amount * (source - own)
    return own - step if operator == "contrast" else own + step


def mix_values(own: torch.Tensor, source: torch.Tensor, settings) -> torch.Tensor:
    """Values for blended or contrasted keys."""
    s = settings
    if s.values == "own" or not s.value_amount:
        return own
    if s.values == "AdaIN":
        return mix(own, adain(own, source), s.value_amount, "blend")
    return mix(own, source, s.value_amount, s.operator)


def appended_values(own: torch.Tensor, source: torch.Tensor, settings) -> torch.Tensor:
    """Values for the source's keys where they are concatenated.

    Own: those of the picture at the same places, for a source of another size the source's in the own statistics.
    Follow: from there to the source's by the value amount. AdaIN: the source's in the own statistics.
    """
    if settings.values == "follow" and settings.value_amount == 1.0:
        return source
    if settings.values == "AdaIN" or own.shape != source.shape:
        kept = adain(source, own)
    else:
        kept = own
    return mix(kept, source, settings.value_amount, "blend") if settings.values == "follow" else kept


def tokens(h: torch.Tensor) -> torch.Tensor:
    """Features ``[B, C, h, w]`` as ``[B, N, 1, C]``."""
    return h.flatten(2).transpose(1, 2).unsqueeze(2)
