"""The same seeds without and with Attention Lab, one after the other, as pairs in the gallery."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from modules import images, processing, shared
from PIL import Image, ImageDraw

from lib_attn.webui import api, host

ATTRIBUTE = "attention_lab_compare"
OFF = {"enabled": False}
AMPLIFY = 4  # the difference is shown this many times as large


@dataclass
class Comparison:
    """One job's plain pictures, and seconds of sampling without and with."""

    plain: list[Any]
    without: list[float]
    seconds: list[float]
    untime: Callable[[], None]


def before(p: Any, script: Any, args: Sequence[Any]) -> None:
    """Before job `p`: draw it without Attention Lab if a comparison is wished for."""
    setattr(p, ATTRIBUTE, None)
    settings, _ = api.read_args(args)
    if not settings.general.compare:
        return
    if not settings.general.enabled or not (any(settings.active()) or settings.general.skip_cfg1):
        host.comment(p, "Compare off / on: nothing is on, so there is nothing to compare.")
        return
    if not p.scripts or (p.script_args and p.script_args[0] not in (0, None)):
        host.comment(p, "Compare off / on works without a script chosen under Script.")
        return
    processing.fix_seed(p)
    if shared.state.job_count > 0:
        shared.state.job_count += p.n_iter
    else:
        shared.state.job_count = 2 * p.n_iter
    _warm_up(p, script)
    plain, without = _copy(p, script), []
    untime = _time(plain, without)
    try:
        done = processing.process_images(plain)
    finally:
        untime()
        plain.close()
    seconds: list[float] = []
    pictures = _pictures(plain, done)
    setattr(p, ATTRIBUTE, Comparison(pictures, without, seconds, _time(p, seconds)))


def after(p: Any, processed: Any) -> None:
    """After job `p`: put pairs, differences, times and PSNR beside its pictures."""
    found: Comparison | None = getattr(p, ATTRIBUTE, None)
    if found is None:
        return
    setattr(p, ATTRIBUTE, None)
    found.untime()
    ours = _pictures(p, processed)
    if not ours or len(ours) != len(found.plain):
        return  # interrupted
    off, on = times = sum(found.without), sum(found.seconds)
    first = processed.index_of_first_image
    shown, ratios = [], []
    for plain, picture in zip(found.plain, ours, strict=True):
        ratios.append(psnr(plain, picture))
        shown.append(pair(plain, picture, times))
        shown.append(labelled(difference(plain, picture), f"Difference x {AMPLIFY}, PSNR {_decibel(ratios[-1])}"))
    processed.images.extend(shown)
    texts = processed.infotexts[first : first + len(ours)]
    processed.infotexts.extend(text for text in texts for _ in range(2))
    factor, ratio = off / max(on, 1e-9), ", ".join(map(_decibel, ratios))
    processed.comments += (
        f"Compare off / on: {off:.1f} s of sampling without, {on:.1f} s with Attention Lab ({factor:.2f}x as fast); "
        f"PSNR {ratio}.\n"
    )


def psnr(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio of two pictures of one size in dB; infinite for equal ones."""
    error = float(np.mean((_array(a) - _array(b)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def difference(a: Any, b: Any) -> Any:
    """Absolute difference of two pictures, `AMPLIFY` times as large."""
    return Image.fromarray(np.clip(np.abs(_array(a) - _array(b)) * AMPLIFY, 0, 255).round().astype(np.uint8))


def pair(without: Any, ours: Any, times: tuple[float, float]) -> Any:
    """Both pictures side by side with their labels."""
    parts = [
        labelled(without, f"Without, {times[0]:.1f} s"),
        labelled(ours, f"With Attention Lab, {times[1]:.1f} s"),
    ]
    out = Image.new("RGB", (sum(x.width for x in parts) + 4, max(x.height for x in parts)), "white")
    out.paste(parts[0], (0, 0))
    out.paste(parts[1], (parts[0].width + 4, 0))
    return out


def labelled(picture: Any, text: str) -> Any:
    """The picture with a line of text above it, as large as fits."""
    size = max(10, picture.width // 20)
    font = images.get_font(size)
    while size > 8 and font.getbbox(text)[2] > picture.width - 8:
        size -= 1
        font = images.get_font(size)
    bar = int(size * 1.6)
    out = Image.new("RGB", (picture.width, picture.height + bar), "white")
    ImageDraw.Draw(out).text((4, int(size * 0.2)), text, font=font, fill="black")
    out.paste(picture.convert("RGB"), (0, bar))
    return out


def _decibel(value: float) -> str:
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def _array(picture: Any) -> Any:
    return np.asarray(picture.convert("RGB"), dtype=np.float64)


def _copy(p: Any, script: Any) -> Any:
    """A job like `p` without Attention Lab, as X/Y/Z plot makes its cells."""
    plain = copy.copy(p)
    plain.extra_generation_params, plain.comments = dict(p.extra_generation_params), {}
    plain.override_settings, plain.styles = dict(p.override_settings), list(p.styles)
    args = list(p.script_args)
    args[script.args_from] = OFF
    plain.script_args = args
    return plain


def _warm_up(p: Any, script: Any) -> None:
    """One step, so that what is set up once at a new size is not charged to the first picture."""
    warm = _copy(p, script)
    warm.scripts = None
    warm.steps = warm.n_iter = 1
    warm.do_not_save_samples = warm.do_not_save_grid = True
    if hasattr(warm, "hr_second_pass_steps"):
        warm.hr_second_pass_steps = 1
    try:
        processing.process_images(warm)
    except Exception:
        host.log.info("compare: no warm-up with this sampler, the first time may be long", exc_info=True)
    finally:
        warm.close()


def _time(p: Any, seconds: list[float]) -> Callable[[], None]:
    """Note how long each sampling of `p` takes; returns what ends it."""
    sample = p.sample

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return sample(*args, **kwargs)
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)

    p.sample = timed
    return lambda: vars(p).pop("sample", None)


def _pictures(p: Any, processed: Any) -> list[Any]:
    """The pictures of job `p` without what the host shows behind each of an inpainting job."""
    first, behind = processed.index_of_first_image, 0
    if getattr(p, "mask_for_overlay", None) is not None:
        behind = sum(bool(getattr(shared.opts, name, False)) for name in ("return_mask", "return_mask_composite"))
    return list(processed.images[first : first + (1 + behind) * p.batch_size * p.n_iter : 1 + behind])
