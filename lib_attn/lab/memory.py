"""Peak memory of one guided U-Net evaluation, counted on tensors without data.

The U-Net runs on torch's meta device: every operation is taken through, nothing is computed, so any picture size takes
seconds. What is counted is the bytes of all tensors alive at the same time besides the weights. A kernel's own
workspace is not counted; attention is taken for a fused kernel, which keeps nothing but its result.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib_attn.lab import unet
from lib_attn.lab.peers import Job
from lib_attn.lab.variants import Variant
from lib_attn.unet.rows import plan_rows


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made inside the block. now: alive; peak: most that were alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in before:
                self._note(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _note(self, storage) -> None:
        key = id(storage)
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key)


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """`torch.nn.functional.scaled_dot_product_attention` that makes its result's tensor and nothing else."""

    def only_result(q, k, v, attn_mask=None, **options):
        shape = (q.shape[0], q.shape[2], q.shape[1], v.shape[-1])  # fused kernels write tokens before heads
        return q.new_empty(shape).transpose(1, 2)

    original, F.scaled_dot_product_attention = F.scaled_dot_product_attention, only_result
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def meta_unet(params: dict, precision: str):
    """A U-Net without data whose activations are of `precision`, norms inside in float32."""
    network = unet.build_unet(params, meta=True)
    unet.to_precision(network, precision)
    network.dtype = unet.DTYPES[precision]
    network.time_embed.register_forward_pre_hook(lambda module, args: (args[0].to("meta", network.dtype),))
    for module in network.modules():
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm)):
            module.register_forward_hook(lambda module, args, out: out.to(network.dtype))
    return network


def count(network, params: dict, variant: Variant, height: int, width: int, rows: int = 2) -> dict:
    """MiB alive at the peak of a cycle of steps of `variant`, its own lasting state included.

    Args:
        network: of `meta_unet`. height, width: in pixels. rows: of the U-Net batch, conditions first.

    Returns:
        name, label, height, width and growth (MiB on top of the weights), as `speed.peak_memory` does.
    """
    dtype = network.dtype
    x = torch.empty(rows, params["in_channels"], height // 8, width // 8, device="meta", dtype=dtype)
    context = torch.empty(rows, 77, params["context_dim"], device="meta", dtype=dtype)
    planned = plan_rows([[1.0]] * max(1, rows // 2), negatives=rows > 1)
    with torch.inference_mode(), fused_attention(), variant.on(network, Job(height, width)) as begin:
        with LiveBytes() as live:
            for step in range(min(2, variant.cycle)):
                begin(planned, step, 20)
                network(x, torch.full((rows,), 600.0), context=context)
    found = {"name": variant.name, "label": variant.label, "height": height, "width": width}
    return found | {"growth": live.peak / 2**20}
