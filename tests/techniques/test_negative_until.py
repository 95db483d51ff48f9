"""The negative stopped for good after a share of the steps, and what stands for it then."""

import dataclasses

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.settings import NegativeSkip
from lib_attn.unet.rows import plan_rows
from tests.techniques.test_negative_skip import CFG, Rows, combine, draw, run
from tests.unets import unet_input

FULL = NegativeSkip(enabled=True, key_every=1, penalty="off", trend=0.0)
KINDS = ("estimate", "T-GATE", "plain")


def replace(**changes):
    return [dataclasses.replace(FULL, **changes)]


@pytest.mark.parametrize("stopped", KINDS)
@pytest.mark.parametrize("until", [1.0, 0.99])
def test_up_to_the_end_it_never_stops(unet, stopped, until):
    for a, b in zip(draw(unet, replace(until=until, stopped=stopped)), draw(unet, []), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "stopped, rows", [("estimate", [4, 4, 2, 2]), ("T-GATE", [4, 4, 4, 2]), ("plain", [4, 4, 2, 2])]
)
def test_which_steps_have_a_negative(unet, stopped, rows):
    """T-GATE's first step after the share is the one whose cross-attention is held."""
    with Rows(unet) as computed:
        draw(unet, replace(until=0.5, stopped=stopped), images=2)
    assert computed.seen == rows


def test_together_with_skipped_steps(unet):
    for stopped, rows in (("estimate", [2, 1, 1, 2, 1, 1, 1, 1]), ("T-GATE", [2, 1, 1, 2, 2, 1, 1, 1])):
        with Rows(unet) as computed:
            draw(unet, replace(until=0.5, stopped=stopped, key_every=3, early=0.0), steps=8)
        assert computed.seen == rows


def test_an_estimate_without_a_full_step_before_makes_one(unet):
    with Rows(unet) as computed:
        draw(unet, replace(until=0.0), steps=4)
    assert computed.seen == [2, 1, 1, 1]


def test_what_stands_for_it(unet):
    full = draw(unet, [], images=2)
    estimate = draw(unet, replace(until=0.5, fill="copy"), images=2)[3]
    torch.testing.assert_close(estimate[2:], full[3][:2] - (full[1][:2] - full[1][2:]), atol=1e-5, rtol=1e-4)
    plain = draw(unet, replace(until=0.5, stopped="plain"), images=2)[3]
    torch.testing.assert_close(combine(plain, [[1.0]] * 2), full[3][:2], atol=1e-4, rtol=1e-4)


class Held:
    """T-GATE written down anew: what each cross-attention hands on, noted by name and put in its place."""

    def __init__(self, unet):
        self.outputs, self.hold, self._handles = {}, None, []
        for name, module in unet.named_modules():
            if name.endswith("attn2"):
                self._handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name):
        def hook(module, args, output):
            if self.hold is not None:
                return self.hold[name]
            self.outputs[name] = output

        return hook

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


@pytest.mark.parametrize("chunks", [None, 1])
@pytest.mark.parametrize("weights", [[[1.0], [1.0]], [[0.7, 0.6], [1.0]]])
def test_t_gate_against_hooks(unet, weights, chunks):
    rows = plan_rows(weights)
    n, images = len(rows), 2
    x, context = unet_input(images, 16, 16)[0], unet_input(n, 16, 16, seed=3)[1]
    x = torch.stack([x[row.image] for row in rows])
    out = draw(unet, replace(until=0.5, stopped="T-GATE"), images=2, weights=weights, chunks=chunks)
    with Held(unet) as held:
        gate = run(unet, x, context, 700.0)
        outputs = dict(held.outputs)
        own = [[i for i, row in enumerate(rows) if row.image == image][:-1] for image in range(images)]

        def mean(z):
            parts = []
            for image, mine in enumerate(own):
                total = sum(rows[i].weight for i in mine)
                positive = sum(z[i] * rows[i].weight for i in mine) / total
                parts.append((positive + z[n - images + image]) / 2)
            return torch.stack(parts)

        held.hold = {name: mean(z) for name, z in outputs.items()}
        first = [mine[0] for mine in own]
        expected = run(unet, x[first], context[first], 600.0)
    torch.testing.assert_close(out[2], gate, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(combine(out[3], weights), expected, atol=1e-4, rtol=1e-3)


def test_and_prompts_have_one_row_behind_the_gate(unet):
    with Rows(unet) as computed:
        draw(unet, replace(until=0.5, stopped="T-GATE"), weights=[[0.7, 0.6, 0.2]])
    assert computed.seen == [4, 4, 4, 1]


def test_an_image_of_a_batch_comes_out_as_if_alone(unet):
    for stopped in KINDS:
        settings = replace(until=0.5, stopped=stopped)
        both = draw(unet, settings, images=2)
        x, context = unet_input(2, 16, 16)[0], unet_input(4, 16, 16, seed=3)[1]
        with attach(unet, settings) as attachment:
            for step in range(4):
                attachment.begin_step(plan_rows([[1.0]]), step, 4, cfg=CFG)
                alone = run(unet, x[[1, 1]], context[[1, 3]], 900.0 - 100 * step)
                torch.testing.assert_close(alone, both[step][[1, 3]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "stopped, rows", [("estimate", [3, 2, 3, 2]), ("T-GATE", [4, 2, 3, 2]), ("plain", [2, 2, 2, 2])]
)
def test_an_edited_prompt_is_learnt_once_more(unet, stopped, rows):
    """Guidance and held cross-attention are those of the old prompt; nothing has to be known for the plain form."""
    planned, (x, context) = plan_rows([[1.0]] * 2), unet_input(4, 16, 16)
    with attach(unet, replace(until=0.5, stopped=stopped)) as attachment:
        attachment.begin_step(planned, 0, 8, cfg=CFG, editions=((0, 0), (1, 0)))
        run(unet, x, context, 900.0)
        with Rows(unet) as computed:
            for step, second in enumerate((0, 0, 1, 1)):
                attachment.begin_step(planned, 4 + step, 8, cfg=CFG, editions=((0, 0), (0, second)))
                run(unet, x, context, 800.0 - 100 * step)
    assert computed.seen == rows


@pytest.mark.parametrize(
    "stopped, rows", [("estimate", [2, 1, 2, 1]), ("T-GATE", [2, 1, 1, 1]), ("plain", [1, 1, 1, 1])]
)
def test_a_sampler_that_goes_back_up_in_noise(unet, stopped, rows):
    """The guidance of a lower noise level says nothing of a higher one; what is held belongs to no noise level."""
    x, context = unet_input(2, 16, 16)
    with Rows(unet) as computed, attach(unet, replace(until=0.0, stopped=stopped)) as attachment:
        for step, time in enumerate((500.0, 400.0, 800.0, 700.0)):
            attachment.begin_step(plan_rows([[1.0]]), step, 4, cfg=CFG)
            run(unet, x, context, time)
    assert computed.seen == rows


def test_guidance_one_has_no_gate_step(unet):
    with Rows(unet) as computed:
        draw(unet, replace(until=0.0, stopped="T-GATE"), images=2, cfg=1.0)
    assert computed.seen == [2] * 4


@pytest.mark.parametrize("stopped", ["T-GATE", "plain"])
def test_who_reads_the_negative_gets_it(unet, stopped):
    said = []
    out = draw(unet, replace(until=0.5, stopped=stopped), told={"negative_read": "somebody reads it"}, say=said.append)
    assert all(torch.equal(a, b) for a, b in zip(out, draw(unet, []), strict=True)) and len(said) == 1


def test_an_error_behind_the_gate_is_made_good_with_all_rows(unet):
    """A hook of somebody that cannot do with fewer rows: from then on every row is there, and nothing is held."""

    def needs_two(module, args):
        assert args[0].shape[0] == 2

    plain, said = draw(unet, []), []
    handle = unet.middle_block.register_forward_pre_hook(needs_two)
    needs_two.__module__ = "torch.nn"
    try:
        out = draw(unet, replace(until=0.0, stopped="T-GATE"), say=said.append)
    finally:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(out, plain, strict=True)) and len(said) == 1


def test_the_penalty_still_acts_on_its_own_blocks_only(unet):
    """The gate wants all layers; Blocks keeps meaning where the penalty acts."""
    words = {"words": (tuple(range(1, 9)),), "negative": unet_input(2, 16, 16, seed=3)[1][1:]}
    penalty = {"penalty": "NAG", "penalty_when": "all steps", "blocks": "in"}
    alone = draw(unet, replace(**penalty), told=words)
    gated = draw(unet, replace(until=0.75, stopped="T-GATE", **penalty), told=words)
    for a, b in zip(alone[:3], gated[:3], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(alone[0], draw(unet, [])[0])
