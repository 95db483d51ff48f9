"""The negative prompt inside cross-attention: a penalty on the positive rows, at the cost of a few keys more.

All three share the positive rows' query. Z+ is the ordinary result, Z- what the same query finds in the negative
prompt's words. Each comes before the output projection, and is the identity at strength 0 and continuous towards it.

- Normalized attention guidance (NAG, arXiv 2505.21179): Z+ + f (Z+ - Z-), capped and blended.
- Value sign flip (VSF, arXiv 2508.10931): the negative's keys join the positive's, their values with the sign turned;
  what a query finds fitting to the negative takes away the more.
- Negative-away steering (NASA, arXiv 2412.02687): Z+ - f Z-.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lib_attn.techniques.guidance import cap
from lib_attn.unet.flight import CHUNK
from lib_attn.unet.fused import full_attention
from lib_attn.unet.precision import without_autocast

MARK = 1000.0  # ControlNet puts one column of +-1024 in front of a text


def attend(q, k, v, mask=None, scale=None):
    """softmax(q k^T) v for heads-first tensors ``[B, H, *, d]``; mask ``[B, 1, 1, keys]``: True takes part."""
    return full_attention(q, k, v, mask, scale)


def push_away(positive, negative, strength: float):
    """Z+ + f (Z+ - Z-): the extrapolation of NAG (arXiv 2505.21179), still without cap and blend.

    Args:
        positive, negative: results of cross-attention before its output projection, ``[B, N, C]``. strength: the
            paper's phi; 0 is the identity.
    """
    return positive + strength * (positive - negative)


def subtract(positive, negative, strength: float):
    """Z+ - f Z-, as NASA (arXiv 2412.02687) has it; shapes as in `push_away`, strength 0 is the identity."""
    return positive - strength * negative


def flip_values(q, k, z, k_negative, v_negative, strength: float, bias: float, mask=None, scale=None):
    """Value sign flip: (1 - w) Z+ - s w Z-, w being each query's softmax share of the negative's keys.

    That equals attention over ``[K+; K-]`` with values ``[V+; -s V-]``. Below strength 1 the negative's odds shrink
    with it: with the values alone, keys of no value would still draw attention away at strength 0.

    Args:
        q, z: ``[B, H, N, d]``. k: the positive's keys ``[B, H, T, d]``. k_negative, v_negative: ``[B, H, U, d]``.
        strength: s. bias: added to the logits of the negative's keys.
        mask: ``[B, 1, 1, U]``: True where the negative has a word.
    """
    if strength <= 0:
        return z
    keys = torch.cat([k, k_negative], 2)
    # One more channel of ones gives w itself; the positive's values are zero, so w Z- comes out beside it.
    values = F.pad(torch.cat([v_negative, torch.ones_like(v_negative[..., :1])], -1), (0, 0, k.shape[2], 0))
    logits = keys.new_zeros(mask.shape[0] if mask is not None else 1, 1, 1, keys.shape[2])
    logits[..., k.shape[2] :] = bias + math.log(min(strength, 1.0))
    if mask is not None:
        logits[..., k.shape[2] :].masked_fill_(~mask, float("-inf"))
    out = full_attention(q, keys, values, logits, scale)
    return (1.0 - out[..., -1:]) * z - strength * out[..., :-1]


def pick_words(text: torch.Tensor, words: Sequence[Sequence[int]] | None):
    """The words of the negatives, without begin, padding and ControlNet's mark.

    Args:
        text: ``[images, T, C]``. words: for each image the columns (of the text without mark) to keep; None: all but
            the first of each chunk, where the begin token sits.

    Returns:
        the words ``[images, U, C]`` and a mask ``[images, U]``, True where there is one; U is 0 when nobody has any.
    """
    if text.shape[1] % CHUNK == 1 and bool((text[:, 0].abs() >= MARK).all()):
        text = text[:, 1:]
    if words is None:
        words = [[i for i in range(text.shape[1]) if i % CHUNK]] * text.shape[0]
    # An all-zero text (SDXL's empty negative) gives keys and values of zero: it is no negative.
    some = text.flatten(1).any(1).tolist()
    kept = [[i for i in columns if i < text.shape[1]] if some[n] else [] for n, columns in enumerate(words)]
    most = max((len(columns) for columns in kept), default=0)
    index = torch.tensor([[*columns, *[0] * (most - len(columns))] for columns in kept], dtype=torch.long)
    mask = torch.tensor([[i < len(columns) for i in range(most)] for columns in kept], dtype=torch.bool)
    index, mask = index.reshape(len(kept), most).to(text.device), mask.reshape(len(kept), most)
    return text.gather(1, index[..., None].expand(-1, -1, text.shape[2])), mask


class NegativeText:
    """The negatives of a batch, projected once per layer until the text, LoRA or the model change."""

    def __init__(self):
        self._source, self._words = None, None
        self._text = self._mask = None
        self._projected = {}

    def take(self, text, words) -> None:
        """Use these negatives (see `pick_words`) from now on; None when there are none."""
        if text is self._source and words == self._words:
            return
        same = (
            text is not None
            and self._source is not None
            and words == self._words
            and text.shape == self._source.shape
            and torch.equal(text, self._source)
        )
        self._source, self._words = text, words
        if same:
            return
        self._projected.clear()
        self._text = self._mask = None
        if text is not None and (words is None or len(words) == text.shape[0]):
            self._text, self._mask = pick_words(text, words)
            if bool((self._text == self._text[:1]).all()) and bool((self._mask == self._mask[:1]).all()):
                self._text, self._mask = self._text[:1], self._mask[:1]

    def has(self, image: int) -> bool:
        """Whether the negative of `image` has a word."""
        if self._text is None:
            return False
        row = image if len(self._mask) > 1 else 0
        return row < len(self._mask) and bool(self._mask[row].any())

    def project(self, call, images: Sequence[int]):
        """K-, V- ``[n, U, C]`` for these images and their mask ``[n, U]`` or None when all is words."""
        state = (call.projection_state, call.z.dtype)
        found = self._projected.get(call.layer.index)
        if found is None or found[0] != state:
            k, v = call.project(self._text)
            # The modules may have taken up LoRA's present weights while they were called.
            found = (call.projection_state, call.z.dtype), k, v
            self._projected[call.layer.index] = found
        rows = [image if len(self._mask) > 1 else 0 for image in images]
        mask = self._mask[rows]
        return found[1][rows], found[2][rows], None if bool(mask.all()) else mask.to(call.z.device)


def penalise(call, text: NegativeText, chosen: Sequence[int], settings) -> torch.Tensor:
    """The result ``[B, N, C]`` of a `lib_attn.unet.cross_attention.CrossCall` with the penalty on the rows `chosen`."""
    every = len(chosen) == len(call.rows)

    def pick(x):
        return x if every else x[list(chosen)]

    def heads(x):
        return (x.float() if call.upcast else x).unflatten(-1, (call.heads, -1)).transpose(1, 2)

    k, v, mask = text.project(call, [call.rows[i].image for i in chosen])
    mask = None if mask is None else mask[:, None, None]
    z = pick(call.z)
    # Under autocast q, k and the projections have its type already; without it, all of them have the model's.
    q, k, v, own = heads(pick(call.q)), heads(k), heads(v), heads(z)
    with without_autocast(call.z.device):
        if settings.penalty == "value sign flip":
            changed = flip_values(
                q, heads(pick(call.k)), own, k, v, settings.strength, settings.flip_bias, mask, call.scale
            )
        else:
            negative = attend(q, k, v, mask, call.scale)
            change = push_away if settings.penalty == "NAG" else subtract
            changed = change(own.float(), negative.float(), settings.strength)
        changed = cap(changed.transpose(1, 2).flatten(-2), z, settings.tau, settings.blend)
    if every:
        return changed
    out = call.z.clone()
    out[list(chosen)] = changed
    return out
