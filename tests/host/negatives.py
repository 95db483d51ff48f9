"""Settings of Negative skip, Contrast and Key mix, and what is asked of every picture made with them."""

import base64
import io

import numpy
from PIL import Image

FIELDS = {"steps": 4, "sampler_name": "Euler a"}
NEUTRAL = {
    "negative_skip": {"enabled": True, "key_every": 1},
    "contrast": {"enabled": True, "feature": 0.0, "blocks": "all"},
    "key_mix": {"enabled": True, "amount": 0.0, "features": "follow", "feature_amount": 0.0, "blocks": "all"},
}
ALL = {
    "negative_skip": {"enabled": True, "key_every": 2, "early": 0.0, "penalty_when": "skipped steps"},
    "contrast": {"enabled": True, "feature": 0.5, "keys": 0.5, "orthogonal": 0.3, "map_strength": 0.5, "blocks": "all"},
    "key_mix": {"enabled": True, "source": "blurred", "values": "AdaIN", "features": "follow", "blocks": "all"},
}


def skip(**values):
    """Negative skip every second step, without penalty."""
    return {"negative_skip": {"enabled": True, "key_every": 2, "early": 0.0, "penalty": "off", **values}}


def penalty(kind, **values):
    return skip(penalty=kind, penalty_when="skipped steps", **values)


def contrast(**values):
    """Contrast with nothing but what is named."""
    return {"contrast": {"enabled": True, "feature": 0.0, "blocks": "all", **values}}


def mix(source, **values):
    return {"key_mix": {"enabled": True, "source": source, "blocks": "all", **values}}


def arrays(pictures):
    """The pictures of an answer, the grid left out."""
    found = [Image.open(io.BytesIO(base64.b64decode(e))).convert("RGB") for e in pictures.encoded]
    return [numpy.asarray(picture, dtype=float) for picture in found]


def spread(picture):
    """Standard deviation: a picture of NaN is black."""
    return picture.std()


def differences(ones, others):
    """Mean difference out of 255 of each picture."""
    pairs = zip(arrays(ones), arrays(others), strict=True)
    return [abs(one - other).mean() for one, other in pairs]


def rows(state):
    """Rows that entered the U-Net's first block, call by call."""
    return [shape[0] for shape in state["calls"]]


def work(state):
    """Places computed in all calls together: the stand-in for a call that has no row left is a small one."""
    return sum(n * h * w for n, _, h, w in state["calls"])


def made(webui, settings, *, comments=(), **fields):
    """A picture with `settings`: real, nothing left behind, no error, and exactly the sentences with `comments`."""
    pictures = webui.picture(settings, **FIELDS | fields)
    state = webui.probe("state")
    assert min(spread(picture) for picture in arrays(pictures)) > 5
    assert state["leftovers"] == [] and state["errors"] == [] and min(state["patched"]) > 0
    assert len(state["comments"]) == len(comments), state["comments"]
    for word in comments:
        assert any(word in comment for comment in state["comments"]), state["comments"]
    return pictures, state
