"""Steps left out or thinned in the lab: the published methods' formulas, and what is measured."""

import json

import pytest
import torch

from lib_attn.lab.commands import cli
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import setting
from lib_attn.lab.measuring.steps import StepCase, Thinned, measure, outer_share, step_cases, thinned
from lib_attn.lab.reports import figures

ASKED = Request(("a", "b"), (1, 2), "", 64, 64, 6, "DDIM", 5.0)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("fit", [False, True])
def test_with_every_step_computed_nothing_changes(model, deep, fit):
    torch.testing.assert_close(
        sample(model, ASKED, thinned(1, deep=deep, fit=fit)), sample(model, ASKED), atol=0.02, rtol=0.0
    )
    assert "forward" not in vars(model.unet)


def test_deep_features_are_those_of_the_step_before(model):
    """Where latent and time stand still so does the result; with another latent only the outermost blocks see it."""
    unet, context = model.unet, model.text(["a"])
    x, y = torch.randn(2, 1, 4, 8, 8).unbind(0)
    t, seen = torch.full((1,), 500), []
    handle = unet.output_blocks[-1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        forward = Thinned(unet, 50, 50, True, False)
        outs = [forward(z, t, context) for z in (y, x, x, y)]
        plain = unet(x, t, context)
    handle.remove()
    torch.testing.assert_close(outs[2], plain, atol=1e-5, rtol=1e-4)
    width = unet.input_blocks[0][0].out_channels
    assert torch.equal(seen[3][:, :-width], seen[1][:, :-width]) and torch.equal(
        seen[3][:, -width:], seen[0][:, -width:]
    )


def test_a_ridge_fit_follows_a_line(model):
    """lambda 0.1 draws the forecast somewhat towards nothing, so it is near the line and not on it."""
    fitted = Thinned(model.unet, 2, 20, False, True)
    for step in range(10):
        fitted._step = step
        fitted._learn(torch.tensor(1.0 + step / 20))
    fitted._step = 10
    assert fitted._put_in().item() == pytest.approx(1.5, abs=0.2)


def test_work_is_what_passes_the_model(model):
    half, few = setting("", "step_skip.key_every=2; step_skip.early=0"), StepCase("few", steps=3)
    cases = [StepCase("all"), few, StepCase("skip", half), StepCase("deep", thinned(50, deep=True))]
    rows = {row.name: row for row in measure(model, cases, ASKED)}
    outer = outer_share(model.unet, model.text([""]), side=8)
    assert rows["all"].l2 == 0.0 and rows["all"].work == 1.0 and rows["few"].work == pytest.approx(3 / 6)
    assert rows["skip"].work == pytest.approx(4 / 6) and rows["skip"].l2 > 0.0 and rows["skip"].images == 2
    assert 0.0 < outer < 1.0 and 2 / 6 < rows["deep"].work < 1.0


def test_the_command_writes_rows_and_a_page_shows_them(tiny, tmp_path):
    words = ["--checkpoint", str(tiny), "--images", "2", "--size", "64", "--steps", "6", "--samplers", "DDIM,Euler a"]
    words += ["--only", "3 steps;step skip 2", "--out", str(tmp_path / "steps.json")]
    assert cli.main(["bench", "steps", *words]) == 0
    rows = json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))["rows"]
    assert [(r["sampler"], r["name"]) for r in rows] == [
        (sampler, name) for sampler in ("DDIM", "Euler a") for name in ("3 steps", "step skip 2")
    ]
    text = figures.filled("before\n<!-- steps.json -->\nold\n<!-- /steps.json -->\nafter", tmp_path)
    assert text.startswith("before\n<!-- steps.json -->") and text.endswith("<!-- /steps.json -->\nafter")
    assert "old" not in text and "| step skip 2 |" in text and figures.filled(text, tmp_path) == text


def test_cases_have_names_of_their_own():
    names = [case.name for case in step_cases(20)]
    assert len(set(names)) == len(names) and "10 steps" in names
