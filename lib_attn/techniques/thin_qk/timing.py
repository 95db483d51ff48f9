"""Whether thin attention is faster on a device: both are timed for a few milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F

from lib_attn.techniques.thin_qk.maths import thin

QUERIES = 512  # that are timed against all keys; enough for a CPU, and more than a CPU wants to spend
QUERIES_GPU = 8192  # so that starting a kernel is not what is timed
REPEATS = 3
GAIN = 0.97  # of the time of full attention above which nothing is gained


@lru_cache(maxsize=1024)
def pays(device: torch.device, dtype: torch.dtype, points: int, heads: int, width: int, rank: int, values: int) -> bool:
    """Whether a layer of `points` tokens is faster with `rank` of `width` channels, and values of `values`.

    Full attention, or the maps and attention on what they give, with numbers that do not matter; nothing is drawn at
    random. Kept for the life of the process, so that all pictures of it are computed alike.
    """
    gpu = device.type != "cpu"
    if not gpu and values > rank:
        return False  # torch's fast kernel for a CPU takes one width only
    queries, heads = min(points, QUERIES_GPU if gpu else QUERIES), heads if gpu else 1
    q, k = (torch.full((1, n, heads, width), 0.5, device=device, dtype=dtype) for n in (queries, points))
    maps = torch.full((heads, width, rank), 0.5, device=device, dtype=dtype)
    v_maps = torch.full((heads, width, values), 0.5, device=device, dtype=dtype)
    thin_k, thin_v = thin(k, maps), k if values == width else thin(k, v_maps)

    def full() -> torch.Tensor:
        return attend(q, k, k, width)

    def thinned() -> torch.Tensor:
        some = k[:, :queries]
        thin(some, maps)  # every token passes the maps of keys and values once, as it does those of queries
        if values == width:
            return attend(thin(q, maps), thin_k, k, width)
        thin(some, v_maps)
        return thin(attend(thin(q, maps), thin_k, thin_v, width), v_maps.mT)

    with torch.inference_mode():
        return _seconds(thinned, not gpu) < GAIN * _seconds(full, not gpu)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, width: int) -> torch.Tensor:
    """Attention of ``[B, N, H, …]`` with logits scaled as those of `width` channels."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=width**-0.5).transpose(1, 2)


def _seconds(function: Callable[[], torch.Tensor], on_cpu: bool) -> float:
    """Least time of a few runs after one that is not counted. Reading a number waits for the device.

    On a CPU it is the processor's time, which other programs hardly touch.
    """
    clock, times = time.process_time if on_cpu else time.perf_counter, []
    for _ in range(1 + REPEATS):
        start = clock()
        function()[0, 0, 0, 0].item()
        times.append(clock() - start)
    return min(times[1:])
