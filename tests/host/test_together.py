"""Techniques together in the real webui, pair by pair, and many jobs in a row."""

import itertools
import os
import statistics
from pathlib import Path

import pytest

from tests.acting import TECHNIQUES, acting
from tests.host.negatives import FIELDS, arrays, spread
from tests.host.server import Refused

PAIRS = list(itertools.combinations(TECHNIQUES, 2))
JOBS, WARM_UP = 200, 50
MOST_MIB = 24  # how far the resident memory may grow over the jobs after the warm-up


def on(*techniques):
    return {technique.name: acting(technique)[0] for technique in techniques}


@pytest.fixture(scope="module")
def plain(webui):
    return webui.picture(**FIELDS)


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{one.name} and {other.name}" for one, other in PAIRS])
def test_a_pair(webui, plain, pair):
    """A picture comes, unlike that of either alone; each acts or says why not; broken off, nothing is left."""
    both = webui.picture(on(*pair), **FIELDS)
    state = webui.probe("state")
    assert min(spread(picture) for picture in arrays(both)) > 5 and both.pixels != plain.pixels
    assert state["leftovers"] == [] and state["errors"] == [] and min(state["patched"]) > 0
    for technique in pair:
        told = any(technique.label in comment for comment in state["comments"])
        assert told or any(technique.label.lower().replace(" ", "-") in key.lower() for key in both.parameters)
    for how in ("interrupt", "skip", "error"):
        broken = {"Probe": {"args": [how, 2]}}
        if how == "error":
            with pytest.raises(Refused):
                webui.picture(on(*pair), **FIELDS, scripts=broken)
        else:
            webui.picture(on(*pair), **FIELDS, scripts=broken)
        assert webui.probe("state")["leftovers"] == []
        assert webui.picture(**FIELDS).pixels == plain.pixels


def test_everything_at_once(webui, plain):
    """With hires. fix and a batch, twice the same."""
    fields = FIELDS | {"width": 64, "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "batch_size": 2}
    fields["denoising_strength"] = 0.7
    one, other = (webui.picture(on(*TECHNIQUES), **fields) for _ in range(2))
    assert one.pixels == other.pixels and webui.probe("state")["errors"] == []
    assert webui.picture(**FIELDS).pixels == plain.pixels


def resident(webui):
    """MiB of the webui's process that are in memory."""
    pages = int(Path(f"/proc/{webui.process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_two_hundred_jobs_in_a_row(webui):
    """Each technique alone and all together, at a small size."""
    settings = [on(technique) for technique in TECHNIQUES] + [on(*TECHNIQUES), {}]
    found = []
    for number in range(JOBS):
        webui.picture(settings[number % len(settings)], steps=3, width=64, height=64)
        found.append(resident(webui))
    before, after = (statistics.median(part) for part in (found[WARM_UP - 10 : WARM_UP], found[-10:]))
    print(f"resident MiB: {found[0]:.0f} after the first job, {before:.0f} after {WARM_UP}, {after:.0f} after {JOBS}")
    assert after - before < MOST_MIB
