"""Samplers and the guided loop."""

import dataclasses

import pytest
import torch

from lib_attn.lab.drawing import variants
from lib_attn.lab.drawing.sampling import SAMPLERS, Request, decode, evaluations, sample
from lib_attn.lab.drawing.variants import parse_setting
from lib_attn.lab.shared.errors import LabError

SMALL = {"height": 64, "width": 128, "steps": 2}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_and_an_image_can_be_made_alone(model, sampler):
    asked = Request(("a cat",), (3, 4), "dog", sampler=sampler, **SMALL)
    before = torch.random.get_rng_state()
    both, steps = sample(model, asked), []
    alone = sample(model, asked.one(1), progress=lambda: steps.append(1))
    assert both.shape == (2, 4, 8, 16) and both.isfinite().all() and not torch.equal(both[0], both[1])
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-3)
    assert len(steps) == evaluations(model, asked) and torch.equal(before, torch.random.get_rng_state())


def test_odd_latents_and_no_guidance(model):
    latents = sample(model, Request(("a",), (1,), height=72, width=104, steps=2, cfg=1.0))
    assert latents.shape == (1, 4, 9, 13)
    assert decode(model, latents)[0].size == (104, 72)


def test_a_setting_changes_the_picture_and_leaves_the_model_as_it_was(model):
    asked = Request(("a",), (1,), height=128, width=192, steps=3)
    full = sample(model, asked)
    for text in ("tile=8 blocks=all", "tile=8 blocks=all exact_every=2"):
        assert not torch.equal(sample(model, asked, parse_setting(text)), full)
    neutral = sample(model, asked, parse_setting("tile=256 blocks=all"))
    assert torch.equal(neutral, full) and torch.equal(sample(model, asked), full)
    assert not any("forward" in vars(m) for m in model.unet.modules())


@pytest.mark.parametrize("prediction, kind", [("epsilon", "epsilon"), ("v_prediction", "v")])
def test_techniques_are_told_what_the_model_predicts(model, monkeypatch, prediction, kind):
    """Estimated guidance goes with the noise level in another way where a model predicts v."""
    told = []

    def attach(unet, groups, **options):
        told.append(options["prediction"])
        return variants.attach.original(unet, groups, **options)

    attach.original = variants.attach
    monkeypatch.setattr(variants, "attach", attach)
    asked = Request(("a",), (1,), "b", **SMALL)
    sample(dataclasses.replace(model, prediction=prediction), asked, parse_setting("key_every=2"))
    assert told == [kind]


@pytest.mark.parametrize("change", [{"sampler": "Euler b"}, {"steps": 0}, {"seeds": ()}, {"prompts": ("a", "b", "c")}])
def test_bad_requests_are_one_sentence(change):
    with pytest.raises(LabError, match="^[^\n]+$"):
        Request(**({"prompts": ("a",), "seeds": (1, 2)} | change))
