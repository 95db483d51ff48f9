"""The host's real CFGDenoiser against the row plan, on a matrix of everything that shapes its batches.

Runs inside the host. Each text condition is filled with a number that says which row it belongs to; a stand-in for
the model compares that with what the cursor deals out.
"""

import itertools
from types import SimpleNamespace
from unittest import mock

import torch
from modules import (
    prompt_parser,
    sd_samplers_cfg_denoiser,
    sd_samplers_common,
    sd_samplers_kdiffusion,
    sd_samplers_timesteps,
)

from lib_attn.unet.rows import IMAGE_ONLY, NEGATIVE, POSITIVE, Cursor
from lib_attn.webui import host, negatives

WIDTH, TOKENS = 4, 77
IMAGES = [((1.0,),), ((1.0,), (1.0,)), ((0.7, 0.3),), ((1.0,), (0.5, 0.25, 0.25)), ((1.0,), (0.6, 0.4), (1.0,))]
LENGTHS = {"equal": (1, 1), "longer": (2, 1), "shorter": (1, 2)}
SKIPS = {"none": {}, "early": {"skip_early_cond": 0.9}, "ngms": {"s_min_uncond": 99.0, "s_min_uncond_all": True}}
PADS = [{}, {"pad_cond_uncond": True}, {"pad_cond_uncond_v0": True}]


def code(sign, image, part=0):
    return {POSITIVE: 100, NEGATIVE: 200}[sign] + 10 * image + part


def condition(number, chunks, as_dict):
    filled = torch.full((TOKENS * chunks, WIDTH), float(number))
    return {"crossattn": filled, "vector": torch.full((WIDTH,), float(number))} if as_dict else filled


def conditions(weights, chunks, negative_chunks, as_dict):
    def scheduled(number, length):
        return [prompt_parser.ScheduledPromptConditioning(1000, condition(number, length, as_dict))]

    positive = [
        [prompt_parser.ComposableScheduledPromptConditioning(scheduled(code(POSITIVE, i, j), chunks), w)
         for j, w in enumerate(parts)]
        for i, parts in enumerate(weights)
    ]  # fmt: skip
    negative = [scheduled(code(NEGATIVE, i), negative_chunks) for i in range(len(weights))]
    return prompt_parser.MulticondLearnedConditioning((len(weights),), positive), negative


class Recorder:
    """Stands for the model inside the denoiser: one check per row of every call."""

    def __init__(self, cursor, edit):
        self.cursor, self.edit, self.wrong, self.rows = cursor, edit, [], 0

    def __call__(self, x, sigma, cond):
        rows = self.cursor[0].take(x.shape[0])
        texts = cond["crossattn"] if "crossattn" in cond else cond["c_crossattn"][0]
        images = cond["c_concat"][0]
        if rows is None:
            self.wrong.append(f"a call with {x.shape[0]} rows was taken for a foreign one")
            return x
        for i, row in enumerate(rows):
            number = int(texts[i, 0, 0])
            with_picture = bool(images[i].any())
            sign = POSITIVE if row.sign == POSITIVE else NEGATIVE
            good = number == code(sign, row.image, row.part) and int(x[i, 0, 0, 0]) == row.image
            if self.edit:
                good = good and with_picture == (row.sign != NEGATIVE)
            else:
                good = good and row.sign != IMAGE_ONLY
            if not good:
                self.wrong.append(f"{row} for text {number}, picture {with_picture}")
            self.rows += 1
        return x


def evaluate(kind, weights, lengths, as_dict, batched, pad, skip, edit):
    """One evaluation; returns the recorder and the rows that should have been evaluated."""
    options = {"pad_cond_uncond": False, "pad_cond_uncond_v0": False, "skip_early_cond": 0.0, "s_min_uncond_all": False}
    options |= {"batch_cond_uncond": batched, "live_preview_content": "Combined"} | pad
    options |= {k: v for k, v in skip.items() if k != "s_min_uncond"}
    opts = SimpleNamespace(**options)
    empty = torch.zeros(1, TOKENS, WIDTH)
    model = SimpleNamespace(
        cond_stage_key="edit" if edit else "txt",
        model=SimpleNamespace(conditioning_key="crossattn"),
        cond_stage_model_empty_prompt=empty,
        alphas_cumprod=torch.linspace(0.99, 0.01, 1000),
    )
    fake = SimpleNamespace(sd_model=model, opts=opts)
    cond, uncond = conditions(weights, *lengths, as_dict)
    cursor, foretold = [], []
    recorder = Recorder(cursor, edit)
    images = len(weights)

    def announce(params):
        planned = host.rows_of(params.denoiser, params.x.shape[0])
        cursor[:] = [Cursor(planned or ())]
        foretold.append(negatives.leaves_negatives_out(params.denoiser, params.sigma))

    with mock.patch.multiple(sd_samplers_cfg_denoiser, shared=fake, opts=opts, cfg_denoiser_callback=announce), \
            mock.patch.object(sd_samplers_timesteps, "shared", fake), mock.patch.object(host, "shared", fake), \
            mock.patch.object(negatives, "shared", fake), \
            mock.patch.object(sd_samplers_common, "store_latent"), \
            mock.patch.object(sd_samplers_common, "apply_refiner", return_value=False), \
            mock.patch.multiple(sd_samplers_cfg_denoiser, cfg_denoised_callback=mock.Mock(),
                                cfg_after_cfg_callback=mock.Mock()):  # fmt: skip
        extra = {"cond": cond, "uncond": uncond, "s_min_uncond": skip.get("s_min_uncond", 0)}
        sampler = SimpleNamespace(sampler_extra_args=extra, last_latent=None)
        denoiser = kind(sampler)
        denoiser.model_wrap, denoiser.step, denoiser.total_steps = recorder, 1, 4
        denoiser.image_cfg_scale = 1.5 if edit else None
        # Only for the preview, and the host's own fails on an image that comes after one with AND.
        denoiser.get_pred_x0 = lambda x_in, x_out, sigma: x_out
        denoiser.p = SimpleNamespace(extra_generation_params={}, scripts=None)
        x = torch.arange(images).float()[:, None, None, None].expand(-1, 4, 8, 8).contiguous()
        denoiser.init_latent = x
        with torch.no_grad():
            denoiser(x, torch.full((images,), 3.0), uncond=uncond, cond=cond, cond_scale=7.0,
                     s_min_uncond=extra["s_min_uncond"], image_cond=torch.ones(images, 4, 8, 8))  # fmt: skip
    expected = sum(len(parts) for parts in weights)
    skipped = bool(skip) and not (edit and "s_min_uncond" in skip)
    if foretold != [skipped]:
        recorder.wrong.append(f"foretold that the negatives are left out: {foretold}")
    return recorder, expected + (0 if skipped else images) + (images if edit else 0)


def run():
    """All cases; returns how many there were and a line for each that went wrong."""
    kinds = {
        "k": sd_samplers_kdiffusion.CFGDenoiserKDiffusion,
        "timesteps": sd_samplers_timesteps.CFGDenoiserTimesteps,
    }
    failures, cases = [], 0
    matrix = itertools.product(kinds, IMAGES, LENGTHS, (False, True), (True, False), PADS, SKIPS, (False, True))
    for case in matrix:
        kind, weights, lengths, as_dict, batched, pad, skip, edit = case
        # What the host itself cannot do: AND or unequal lengths with an edit model, an edit model that skips rows,
        # and dictionaries of conditions (SDXL) with an edit model.
        if edit and (lengths != "equal" or skip != "none" or as_dict or any(len(parts) > 1 for parts in weights)):
            continue
        cases += 1
        try:
            recorder, expected = evaluate(
                kinds[kind], weights, LENGTHS[lengths], as_dict, batched, pad, SKIPS[skip], edit
            )
        except Exception as error:
            failures.append(f"{case}: {type(error).__name__}: {error}")
            continue
        if recorder.wrong or recorder.rows != expected:
            failures.append(f"{case}: {recorder.rows} rows of {expected}, {recorder.wrong[:2]}")
    return {"cases": cases, "failures": failures[:20], "failed": len(failures)}
