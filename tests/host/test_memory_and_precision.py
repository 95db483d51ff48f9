"""Settings and flags of the host that move the model about or store it in other precisions."""

import io

import pytest

from tests.conftest import ROOT
from tests.host.conftest import HERE
from tests.host.server import FLAGS

ON = {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "all"}}
OFF = {"near_sighted": {"enabled": False}}
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
    on = webui.picture(ON, **size)
    state = webui.probe("state")
    assert min(state["patched"]) > 0
    assert state["comments"] == [] and state["leftovers"] == [] and state["errors"] == []
    assert on.pixels != plain.pixels and spread(on) > 5 and spread(plain) > 5
    assert webui.picture(**size).pixels == plain.pixels
    return plain


def spread(pictures):
    """Standard deviation: a picture of NaN is black."""
    import base64

    import numpy
    from PIL import Image

    return numpy.asarray(Image.open(io.BytesIO(base64.b64decode(pictures.encoded[0])))).std()


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
