"""Peak memory of one guided U-Net evaluation: counted on tensors without data, or measured on this process.

To count, the U-Net runs on torch's meta device: every operation is taken through, nothing is computed, so any picture
size takes seconds. What is counted is the bytes of all tensors alive at the same time besides the weights. A kernel's
own workspace is not counted; attention is taken for a fused kernel, which keeps nothing but its result.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib_attn.lab.drawing import unet
from lib_attn.lab.drawing.variants import FULL, SamplingPass, Variant
from lib_attn.lab.measuring.speed import MODELS, TIMESTEPS, Bench
from lib_attn.lab.shared.progress import Progress, silent
from lib_attn.unet.rows import plan_rows


@dataclass(frozen=True)
class MemorySpec:
    """What is counted. model: of `speed.MODELS`. sizes: (height, width) in pixels. rows: of the U-Net batch."""

    model: str
    precision: str
    variants: tuple[Variant, ...]
    sizes: tuple[tuple[int, int], ...]
    rows: int = 2


@dataclass(frozen=True)
class MemoryRow:
    """One variant at one size. growth: MiB on top of the weights. weights: MiB before, where it was measured."""

    name: str
    label: str
    height: int
    width: int
    growth: float
    weights: float | None = None


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


def count(network, params: dict, variant: Variant, height: int, width: int, rows: int = 2) -> MemoryRow:
    """MiB alive at the peak of a cycle of steps of `variant`, its own lasting state included.

    Args:
        network: of `meta_unet`. height, width: in pixels. rows: of the U-Net batch, conditions first.
    """
    dtype = network.dtype
    x = torch.empty(rows, params["in_channels"], height // 8, width // 8, device="meta", dtype=dtype)
    context = torch.empty(rows, 77, params["context_dim"], device="meta", dtype=dtype)
    planned = plan_rows([[1.0]] * max(1, rows // 2), negatives=rows > 1)
    with torch.inference_mode(), fused_attention(), variant.on(network, SamplingPass(height, width)) as begin:
        with LiveBytes() as live:
            for step in range(min(2, variant.cycle)):
                begin(planned, step, 20)
                network(x, torch.full((rows,), 600.0), context=context)
    return MemoryRow(variant.name, variant.label, height, width, live.peak / 2**20)


def count_sizes(spec: MemorySpec, progress: Progress = silent) -> list[MemoryRow]:
    """`count` of full attention and every variant at every size."""
    params, rows = MODELS[spec.model], []
    network = meta_unet(params, spec.precision)
    for height, width in spec.sizes:
        for variant in (FULL, *spec.variants):
            progress(f"{width}x{height}: {variant.label}")
            rows.append(count(network, params, variant, height, width, spec.rows))
    return rows


def peak_memory(bench: Bench, variant: Variant, height: int, width: int) -> MemoryRow:
    """MiB that a cycle of steps needs on top of the weights. Run it in a process of its own.

    On CUDA the allocator's peak; on a CPU the growth of the process' resident memory, high-water mark reset first.
    """
    # The same kernels at a small size first: libraries' own start-up memory is not the variant's.
    bench.call(*_small(bench))
    x, context = bench.inputs(height, width)
    cuda = bench.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = _reset_high_water()
    with variant.on(bench.unet, SamplingPass(height, width)) as begin:
        for step in range(min(2, variant.cycle)):
            begin(bench.plan(), step, 20)
            bench.call(x, TIMESTEPS[0], context)
    after = torch.cuda.max_memory_allocated() / 2**20 if cuda else _high_water()
    # A peak that stays below what was resident before comes out a page or so below it.
    return MemoryRow(variant.name, variant.label, height, width, max(0.0, after - before), before)


def _small(bench: Bench):
    x, context = bench.inputs(128, 128)
    return x, 500, context


def _reset_high_water() -> float:
    """Reset Linux' high-water mark of resident memory; MiB resident now."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass
    return _status("VmRSS") or _high_water()


def _high_water() -> float:
    value = _status("VmHWM")
    if value is None:
        import resource  # not on Windows

        value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return value


def _status(name: str) -> float | None:
    try:
        with open("/proc/self/status") as file:
            return next(float(line.split()[1]) / 1024 for line in file if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return None
