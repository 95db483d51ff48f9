"""What was reported from real use beside others' extensions, as it has to be. Each needs only the folders it names."""

import pytest

from lib_attn.lab.judging.judge import JUDGE, Judge
from tests.conflicts.jobs import HIRES, OFF, ROUNDING, distance, said
from tests.conflicts.neighbours import (
    EMBEDDED,
    KOHYA,
    NO_SCFG,
    NO_SEG,
    PROMPT,
    RANDOM,
    REPOSITORIES,
    SCFG,
    SEG,
    TWO_REGIONS,
    reference,
    regional,
)
from tests.host.negatives import arrays, differences, mix

MASTER = {"general": {"enabled": True}}
EVERY_THIRD = {"negative_skip": {"enabled": True, "key_every": 3, "penalty": "off"}}
NAG = {"negative_skip": {"enabled": True, "penalty": "NAG", "penalty_when": "at CFG 1", "strength": 2}}
LARGE = {"width": 256, "height": 256, "steps": 8}  # what the embedded model draws best
NOISE = 30.0  # mean difference out of 255 that nobody would call the same picture
CONTROLNET, INCANTATIONS, KOHYA_FIX = "sd-webui-controlnet", "sd-webui-incantations", "sd-webui-kohya-hiresfix"
REGIONAL, DYNAMIC = "sd-webui-regional-prompter", "sd-dynamic-thresholding"


class Case:
    """A webui with the extensions of a case; `absent` is without ours."""

    def __init__(self, host):
        self._host = host

    def draw(self, settings, scripts=None, **fields):
        return self._host.draw(settings, scripts, **{"steps": 6} | fields)

    def absent(self, scripts=None, **fields):
        return self._host.once("off", OFF, scripts=scripts, **{"steps": 6} | fields)

    def is_exact(self, made, scripts=None, **fields):
        """Whether `made` is the picture without ours, as far as that is the same each time."""
        moved = distance(made, self.absent(scripts, **fields))
        restless = self._host.restless(scripts=scripts, **{"steps": 6} | fields) if moved > ROUNDING else 0.0
        assert moved <= 2 * restless + ROUNDING, f"moved by {moved:.2f}, without ours by {restless:.2f}"
        return True

    def leaves_no_trace(self):
        assert self._host.traces() == []


@pytest.fixture
def beside(request, extensions, host_with):
    """``beside(*folders, checkpoint=…)``; a webui that a failed test may have spoiled is not used again."""
    hosts = []

    def get(*folders, checkpoint=EMBEDDED):
        for folder in folders:
            if not (extensions / folder).is_dir():
                pytest.skip(f"{folder} ({REPOSITORIES[folder]}) is not in the folder of extensions")
        hosts.append(host_with(folders, checkpoint))
        return Case(hosts[-1])

    yield get
    if not getattr(request.node, "report", None) or request.node.report.failed:
        for host in hosts:
            host.spoil()


@pytest.fixture(autouse=True)
def noted(request, results):
    """Each test's outcome, for the page."""
    yield
    report = getattr(request.node, "report", None)
    if report is not None and not report.skipped:
        name = request.node.name.removeprefix("test_").replace("_", " ")
        why = "" if report.passed else str(report.longrepr.reprcrash.message).splitlines()[0][:300]
        results.note("cases", name, "right" if report.passed else f"wrong: {why}")


@pytest.mark.parametrize("settings, cfg", [(EVERY_THIRD, 7), (MASTER, 1)], ids=["Negative skip", "master switch"])
def test_reference_only_with_kohya_loses_no_picture(beside, settings, cfg):
    both = beside(CONTROLNET, KOHYA_FIX, checkpoint=RANDOM)
    scripts = {
        "controlnet": reference("reference_only"),
        "Kohya Hires.fix": [True, True, 3, 4, 0.15, 0.3, "bicubic", 0.5, 2.0, True, False],
    }
    theirs, made = both.absent(scripts, cfg_scale=cfg), both.draw(settings, scripts, cfg_scale=cfg)
    assert "Error" not in said(made) and "Scaler" not in said(made)
    assert distance(theirs, both.absent(cfg_scale=cfg)) > ROUNDING, "the others are not at work"
    assert settings is not MASTER or both.is_exact(made, scripts, cfg_scale=cfg)
    both.leaves_no_trace()


@pytest.mark.parametrize("mode", ["Latent", "Attention"])
def test_negative_skip_in_a_batch_with_regions(beside, mode):
    """Each picture of the batch is as near to the one drawn alone as without ours."""
    regions, scripts = beside(REGIONAL), {"Regional Prompter": regional(mode)}
    fields = {**LARGE, **TWO_REGIONS}
    both = regions.draw(EVERY_THIRD, scripts, **fields, batch_size=2)
    for number in (0, 1):
        alone = regions.draw(EVERY_THIRD, scripts, **fields, seed=7 + number)
        assert abs(arrays(both)[number] - arrays(alone)[0]).mean() < 3.0
    regions.leaves_no_trace()


def test_key_mix_in_a_batch_with_latent_regions(beside):
    """The first image is the others' source and stays what it is; the second keeps its background."""
    regions, scripts = beside(REGIONAL), {"Regional Prompter": regional("Latent")}
    fields = {**LARGE, **TWO_REGIONS, "batch_size": 2}
    theirs = regions.absent(scripts, **fields)
    made = regions.draw(mix("first image"), scripts, **fields)
    first, second = differences(made, theirs)
    assert first < 1.0
    assert second > ROUNDING or said(made)
    seen, _ = Judge.load(JUDGE).look(arrays(made)[1][None].astype("uint8"))
    expected, _ = Judge.load(JUDGE).look(arrays(theirs)[1][None].astype("uint8"))
    assert seen[0].background == expected[0].background
    regions.leaves_no_trace()


@pytest.mark.parametrize("folder", ["sd-webui-neutral-prompt", "CFG_Rescale_webui"])
def test_nag_at_cfg_1_beside_a_replaced_combination(beside, folder):
    """Installed and not used: the penalty needs no more than that the scale is 1."""
    installed = beside(folder)
    made, plain = installed.draw(NAG, cfg_scale=1), installed.absent(cfg_scale=1)
    assert distance(made, plain) > 0.5
    installed.leaves_no_trace()


def test_nag_at_cfg_1_where_the_negative_is_read(beside):
    """Dynamic Thresholding reads it: drawn in full, and acted or said."""
    thresholding = beside(DYNAMIC)
    scripts = {"Dynamic Thresholding (CFG Scale Fix)": [True, 5.0, 95.0]}
    theirs, made = thresholding.absent(scripts, cfg_scale=1), thresholding.draw(NAG, scripts, cfg_scale=1)
    assert said(made) or distance(made, theirs) > 0.5
    thresholding.leaves_no_trace()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("part", ["SEG", "S-CFG"])
def test_saving_at_cfg_1_beside_incantations(beside, part, batch):
    """Its hooks count on both rows: the picture is the one without ours, and it is said that nothing was saved."""
    incantations = beside(INCANTATIONS, checkpoint=RANDOM)
    scripts = {"Incantations": SEG if part == "SEG" else [*NO_SEG, *SCFG]}
    fields = {"steps": 6, "cfg_scale": 1, "batch_size": batch}
    made = incantations.draw(MASTER, scripts, **fields)
    assert incantations.is_exact(made, scripts, **fields)
    assert said(made)
    incantations.leaves_no_trace()


def test_scfg_beside_negative_skip(beside):
    """No evaluation loses its row, or it is said."""
    incantations = beside(INCANTATIONS)
    scripts = {"Incantations": [*NO_SEG, True, 0.35, *NO_SCFG[2:]]}
    assert incantations.is_exact(incantations.draw(MASTER, scripts, cfg_scale=1), scripts, cfg_scale=1)
    incantations.leaves_no_trace()


@pytest.mark.parametrize("checkpoint", [EMBEDDED, RANDOM], ids=["embedded", "random"])
def test_saving_at_cfg_1_beside_sag(beside, checkpoint):
    """An exact saving is exact or off."""
    sag, scripts = beside("sd_webui_SAG", checkpoint=checkpoint), {"Self Attention Guidance": [True, 0.75, 1.0]}
    fields = {"steps": 8, "cfg_scale": 1}
    assert sag.is_exact(sag.draw(MASTER, scripts, **fields), scripts, **fields)
    sag.leaves_no_trace()


def test_the_layer_that_sag_keeps_is_ours_again(beside):
    """It leaves a bound forward on the middle block for ever: we act there as before, or say what mends it."""
    sag, scripts = beside("sd_webui_SAG"), {"Self Attention Guidance": [True, 0.75, 1.0]}
    settings = {"contrast": {"enabled": True, "feature": 1.0, "blocks": "mid"}}
    before = sag.draw(settings, **LARGE)
    assert distance(before, sag.absent(**LARGE)) > ROUNDING
    sag.draw(OFF, scripts)
    after = sag.draw(settings, **LARGE)
    named = "M00" in said(after) and "reload" in said(after).lower()
    assert after.pixels == before.pixels or named
    assert "hypertile" not in said(after).lower()


def test_kohya_in_the_hires_pass(beside):
    kohya = beside(KOHYA_FIX)
    fields = {**HIRES, "steps": 1, "hr_second_pass_steps": 4}
    scripts = {"Kohya Hires.fix": KOHYA}
    theirs, made = kohya.absent(scripts, **fields), kohya.draw(EVERY_THIRD, scripts, **fields)
    assert distance(made, theirs) < NOISE
    assert "Scaler" not in said(made)
    kohya.leaves_no_trace()


def test_an_api_client_gets_the_sentence(beside):
    made = beside().draw({"near_sighted": {"enabled": True, "tile": 1e300}})
    assert "outside" in said(made)


def test_reference_only_with_a_penalty_that_acts(beside):
    """It is not said to have changed nothing."""
    controlnet, scripts = beside(CONTROLNET, checkpoint=RANDOM), {"controlnet": reference("reference_only")}
    settings = {"negative_skip": {"enabled": True, "penalty": "NAG", "penalty_when": "all steps", "strength": 3}}
    theirs, made = controlnet.absent(scripts), controlnet.draw(settings, scripts)
    assert distance(made, theirs) > ROUNDING
    assert "nothing" not in said(made)
    controlnet.leaves_no_trace()


def test_fill_zeros_where_weights_cancel(beside):
    """A picture like the full one, or declined with a sentence."""
    nobody = beside()
    fields = {**LARGE, "prompt": f"{PROMPT} AND a green cone :-1.0"}
    settings = {"negative_skip": {**EVERY_THIRD["negative_skip"], "fill": "zeros"}}
    full, made = nobody.absent(**fields), nobody.draw(settings, **fields)
    assert distance(made, full) < NOISE or (distance(made, full) <= ROUNDING and said(made))


@pytest.mark.parametrize("technique", ["near_sighted", "key_mix"])
def test_token_downsampling_is_named(beside, technique):
    """Keys and values are subsampled by somebody else: that is said, not a reference or a video."""
    todo, options = beside("sd-webui-token-downsampling"), {"token_downsampling_factor": 2.0}
    theirs = todo.absent(batch_size=2, options=options)
    made = todo.draw({technique: {"enabled": True, "blocks": "all"}}, batch_size=2, options=options)
    assert "video" not in said(made)
    assert distance(made, theirs) > ROUNDING or "key" in said(made)


@pytest.mark.parametrize("cfg", [10, 20])
def test_negative_skip_with_reshaped_guidance(beside, cfg):
    """Close to the full picture, or it is said that more steps are needed."""
    thresholding = beside(DYNAMIC)
    scripts = {"Dynamic Thresholding (CFG Scale Fix)": [True, 7.0, 100.0]}
    settings = {"negative_skip": {"enabled": True, "penalty": "off"}}
    fields = {**LARGE, "steps": 20, "cfg_scale": cfg}
    theirs, made = thresholding.absent(scripts, **fields), thresholding.draw(settings, scripts, **fields)
    assert distance(made, theirs) < NOISE or said(made)
