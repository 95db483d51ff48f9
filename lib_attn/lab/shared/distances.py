"""Distances between pictures and between latents, and the mean of many with its error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional


def relative_l2(values: torch.Tensor, baseline: torch.Tensor) -> float:
    """||values - baseline|| / ||baseline|| over everything; tensors of the same shape."""
    return float((values.double() - baseline.double()).norm() / baseline.double().norm())


def psnr(a, b) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit pictures of the same shape (PIL or arrays); infinite when equal."""
    error = float(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of uint8 pictures (B, H, W, 3) with the 11-pixel Gaussian window of 1.5 pixels
    (Wang et al. 2004, "Image quality assessment", IEEE TIP 13(4)), mean over pixels and channels."""
    x, y = (torch.from_numpy(np.ascontiguousarray(p.transpose(0, 3, 1, 2))).double() for p in (a, b))
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)

    def blur(t):
        return functional.conv2d(t, window, groups=3)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; nan values are left out, and an error that cannot be known is nan."""
    kept = [float(v) for v in values if v == v]
    if not kept:
        return float("nan"), float("nan")
    return statistics.fmean(kept), statistics.stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else float("nan")
