"""Settings and flags of the host that move the model about or store it in other precisions."""

import pytest

from tests.conftest import ROOT
from tests.host.conftest import HERE
from tests.host.negatives import ALL, NEUTRAL, arrays, differences, made, rows, spread
from tests.host.server import FLAGS

ON = {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "all"}}
OFF = {"near_sighted": {"enabled": False}}
AT_CFG1 = {"negative_skip": {"enabled": True, "penalty": "NAG"}}
STARTS = {
    "medvram": [*FLAGS, "--medvram"],
    "lowvram": [*FLAGS, "--lowvram"],
    # The host's default, autocast with half weights, asks for CUDA; this is the half precision that a CPU can do.
    "half": [flag for flag in FLAGS if flag not in ("--no-half", "--precision", "full")] + ["--precision", "half"],
}


def check(webui, *, size=None):
    """Off is as unmentioned, before and after; on acts, gives a real picture and leaves nothing behind."""
    size = size or {}
    plain = webui.picture(**size)
    assert webui.picture(OFF, **size).pixels == plain.pixels
    assert webui.picture(NEUTRAL, **size).pixels == plain.pixels
    assert min(spread(picture) for picture in arrays(plain)) > 5
    size = {"steps": 3} | size
    everything = ALL
    if size["steps"] == 1:  # nothing can be skipped in the only step
        everything = ALL | {"negative_skip": {**ALL["negative_skip"], "penalty_when": "all steps"}}
    for settings in (ON, everything):
        on, state = made(webui, settings, **size)
        assert on.pixels != plain.pixels
    assert size["steps"] == 1 or rows(state)[1] < rows(state)[0]
    saved, state = made(webui, AT_CFG1, **size, cfg_scale=1)
    assert set(rows(state)) == {size.get("batch_size", 1)}
    assert min(differences(saved, webui.picture(cfg_scale=1, **size))) > 0
    assert webui.picture(**size).pixels == plain.pixels
    return plain


@pytest.mark.parametrize("name", STARTS)
def test_flags(start, name):
    webui = start({"attention-lab": ROOT, "zz-probe": HERE / "probe"}, ui=False, flags=STARTS[name])
    try:
        check(webui)
    finally:
        webui.stop()


def test_fp8_storage(webui):
    """On a CPU the host then also computes in bfloat16 autocast, slowly: one step.

    With another checkpoint, because the host leaves the weights rounded when it is switched off again.
    """
    before, size = webui.picture(), {"steps": 1}
    with webui.options(sd_model_checkpoint="b"):
        plain = webui.picture(**size)
        with webui.options(fp8_storage="Enable"):
            assert check(webui, size=size).pixels != plain.pixels
    assert webui.picture().pixels == before.pixels


def test_sdxl(webui):
    """Both levels of SDXL's layout, its batch of conditions in dictionaries, and back to the other model."""
    plain = webui.picture()
    # For previews of SDXL the host would download a model.
    with webui.options(sd_model_checkpoint="xl", live_previews_enable=False):
        check(webui, size={"width": 256, "height": 192, "batch_size": 2, "steps": 2})
        # SDXL has no attention at the full size of the latents.
        webui.picture({"near_sighted": {**ON["near_sighted"], "blocks": "d0"}})
        comments = webui.probe("state")["comments"]
    assert len(comments) == 1 and "no attention in the blocks d0" in comments[0]
    assert webui.picture().pixels == plain.pixels
