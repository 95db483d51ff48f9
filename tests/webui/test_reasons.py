"""Why a technique changes nothing: what the panel says before drawing is said under the picture as well."""

import ast

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn import techniques
from lib_attn.preview import preview
from lib_attn.settings import Settings
from tests.acting import TECHNIQUES
from tests.conftest import ROOT
from tests.webui.jobs import Job, Model, Sampler, run

OFF = {"negative_skip": {"enabled": True, "penalty": "off"}}

NOTHING_TO_GAIN = "At this size nothing is left to gain: larger pictures or other values are needed."
EQUALS_FULL = "With these values it equals full attention at this size."
PENALTY = "The penalty works at CFG 1 only."
NOT_SAVED = "Every step computes the negative: nothing is saved."
NOT_GUIDED = "At CFG 1 no step needs the negative, so there is nothing to skip: it works above CFG 1."
FEW = "With so few steps all of them are computed"
NO_HIRES = "Acts in the hires pass only, and this picture has none."
CFG1 = {"cfg_scale": 1.0}

#: Technique, its values, fields of the job, what else is on, and the reason.
CASES = [
    ("near_sighted", {}, {}, {}, NOTHING_TO_GAIN),
    ("near_sighted", {"blocks": "all", "tile": 256}, {}, {}, EQUALS_FULL),
    ("negative_skip", {}, {"steps": 1}, {}, f"One step is always computed in full: more steps are needed. {PENALTY}"),
    ("negative_skip", {}, {"steps": 2}, {}, f"{FEW} in full (Full steps early): more steps are needed. {PENALTY}"),
    ("negative_skip", {"key_every": 1, "penalty": "off"}, {}, {}, NOT_SAVED),
    ("negative_skip", {"key_every": 1}, {}, {}, f"{NOT_SAVED} {PENALTY}"),
    *(("negative_skip", {"key_every": n, "penalty": "off"}, CFG1 | {"steps": steps}, {}, NOT_GUIDED)
      for n in (1, 3) for steps in (1, 6, 20)),
    ("contrast", {"feature": 0}, {}, {}, "All strengths are 0: nothing is changed."),
    ("contrast", {}, CFG1, OFF, "Negative skip leaves the negative out at CFG 1: nothing to compare with."),
    ("contrast", {"feature": 0, "map_strength": 1}, CFG1, {}, "The difference map works above CFG 1 only."),
    ("key_mix", {"amount": 0}, {}, {}, "All amounts are 0: nothing is mixed."),
    ("key_mix", {}, {}, {}, "Needs batch size 2 or more."),
    ("key_mix", {"source": "batch mean"}, {}, {}, "Needs batch size 2 or more."),
    ("key_mix", {"source": "recorded run"}, {}, {}, "There is no recorded run yet: make one picture with Record this "
     "run."),
    ("key_mix", {"source": "recorded run", "record": True}, {}, {}, "A run that is being recorded cannot follow a "
     "recorded run."),
    ("key_mix", {"source": "negative"}, CFG1, OFF, "Negative skip leaves the negative out at CFG 1: "
     "nothing to mix with."),
    ("key_mix", {"source": "blurred", "side": "negative"}, CFG1, {}, "At CFG 1 there is no negative to "
     "mix."),
    ("dictionary", {}, {}, {}, NOTHING_TO_GAIN),
    ("dictionary", {"mode": "static"}, {}, {}, "Needs a file: learn one, or choose one that is there."),
    ("dictionary", {"mode": "full", "strength": 1}, {}, {}, "Needs a file: learn one, or choose one that is there."),
    ("dictionary", {"mode": "full"}, {}, {}, "Full attention without a style strength changes nothing."),
    ("dictionary", {"blend": 0}, {}, {}, "Blend 0 is full attention: nothing is changed."),
    ("thin_qk", {}, {}, {}, NOTHING_TO_GAIN),
    ("thin_qk", {"energy": 1.0}, {}, {}, "Every channel is kept: nothing is changed."),
    ("step_skip", {}, {"steps": 2}, {}, "The first two steps are always computed: more steps are needed."),
    ("step_skip", {}, {"steps": 3}, {}, f"{FEW} (Computed steps early): more steps are needed."),
    ("step_skip", {"key_every": 1}, {}, {}, "Every step is computed: nothing is saved."),
    *((t.name, {"start": 0.5, "end": 0.5}, {}, {}, "No step lies between Start and End.") for t in TECHNIQUES),
    *((t.name, {"hires": "only"}, {}, {}, NO_HIRES) for t in TECHNIQUES),
    *(
        (t.name, {"blocks": "in99"}, {}, {}, "This model has no attention in the blocks in99.")
        for t in TECHNIQUES if t().only_in_blocks and any(p.name == "blocks" for p in t.params())
    ),
]  # fmt: skip


@pytest.fixture
def job(host, monkeypatch):
    """``job(**fields)``: of one image at 128 px."""
    host.shared.sd_model = Model()
    monkeypatch.setattr(host.sd_models.model_data, "sd_model", host.shared.sd_model)

    def make(steps=3, cfg_scale=7.0):
        sampler = Sampler(host, host.script_callbacks, steps=steps)
        sampler.sampler_extra_args["cond_scale"] = cfg_scale
        return Job(sampler, steps=steps, cfg_scale=cfg_scale, width=128, height=128, batch_size=1)

    return make


@pytest.fixture
def script(script_module, monkeypatch):
    from lib_attn.webui import job

    job.forget_recorded()
    yield script_module.AttentionLab()
    job.forget_recorded()


@pytest.mark.parametrize("technique, values, fields, others, reason", CASES)
def test_the_reason_before_is_the_reason_after(script, job, technique, values, fields, others, reason):
    from lib_attn.webui import grid

    settings = others | {technique: {"enabled": True, **values}}
    p = job(**fields)
    told = preview(Settings.read(settings)[0], grid.facts_of(p, False)).techniques[technique]
    assert " ".join(map(str, told.reasons)) == reason
    out, label = run(script, p, settings), next(t.label for t in TECHNIQUES if t.name == technique)
    assert f"{label} changed nothing. {reason}" in p.comments
    other = job(**fields)
    assert all(torch.equal(x, y) for x, y in zip(out, run(script, other, {"enabled": True, **others}), strict=True))


@pytest.mark.parametrize("technique, reason", [
    ("step_skip", "5 of 6 steps are computed: with fewer than 20, one step is often too long for a forecast "
                  "(Computed steps early)."),
    ("negative_skip", "Negative computed in 5 of 6 steps: with fewer than 20, one step is often too long for an "
                      "estimate (Full steps early)."),
])  # fmt: skip
def test_less_than_asked_for_is_said_with_its_reason(script, job, technique, reason):
    from lib_attn.webui import grid

    settings = {technique: {"enabled": True, "key_every": 2, **({"penalty": "off"} if "negative" in technique else {})}}
    p, label = job(steps=6), next(t.label for t in TECHNIQUES if t.name == technique)
    told = preview(Settings.read(settings)[0], grid.facts_of(p, False)).techniques[technique]
    assert not told.idle and [str(s) for s in told.slight] == [str(s) for s in told.warnings] == [reason]
    run(script, p, settings)
    assert f"{label} did less than it could. {reason}" in p.comments
    p = job(steps=20)
    run(script, p, settings)
    assert not any("less than" in text for text in p.comments)


def test_every_reason_has_a_case():
    """Those of techniques that have something drawn first are tested with their maps."""
    known = " ".join(case[-1] for case in CASES)
    for name in (t.name for t in TECHNIQUES):
        tell = techniques.teller_of(name)
        tree = ast.parse((ROOT / "lib_attn" / "techniques" / name / "preview.py").read_text())
        for node in ast.walk(tree):
            if getattr(getattr(node, "func", None), "attr", "") != "warn" or "idle" not in map(_name, node.keywords):
                continue
            text = node.args[0]
            if isinstance(text, ast.Call):
                continue  # chosen by a function: its texts are above
            said = text.value if isinstance(text, ast.Constant) else tell.__globals__[text.id]
            assert said in known, f"{name}: {said}"


def _name(keyword):
    return keyword.arg
