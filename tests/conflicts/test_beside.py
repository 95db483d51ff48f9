"""Beside each neighbour: off is absent to the bit, on ends in a picture, and leaves no trace in the next one."""

import pytest

from tests.conflicts.jobs import (
    ALL,
    INSTALLED_KINDS,
    KINDS,
    MASTER,
    MIXES_IMAGES,
    OFF,
    ROUNDING,
    SMALL,
    TECHNIQUES,
    distance,
    said,
)  # fmt: skip
from tests.conflicts.neighbours import NEIGHBOURS
from tests.host.negatives import arrays
from tests.host.server import Refused

MORE_THAN_THEIRS = 3.0  # of 255, between an image of a batch and the same one alone
DRAWN_ANEW = 0.25  # of 255: theirs draws an image of a batch otherwise (CADS: other noise), so there is nothing to hold


def note(results, neighbour, what, value):
    results.note("beside", neighbour.name, results.found.get("beside", {}).get(neighbour.name, {}) | {what: value})


def test_off_is_absent(beside, neighbour, start, results):
    """Drawn twice where it differs, because some neighbours do not draw the same picture twice."""
    wrong, ours = [], {}
    jobs = [(used, kind) for used in (False, True) if neighbour.used or not used for kind in KINDS]
    for used, kind in jobs:
        ours[used, kind] = beside.draw(OFF, **neighbour.work if used else {}, **KINDS[kind])
    without = start(beside.others)
    try:
        without.call("/sdapi/v1/options", {"sd_model_checkpoint": neighbour.checkpoint})
        for used, kind in jobs:
            fields = {**(neighbour.work if used else {}), **KINDS[kind]}
            absent, off = beside.draw(None, webui=without, **fields), ours[used, kind]
            if off.pixels != absent.pixels:
                repeat = distance(absent, beside.draw(None, webui=without, **fields))
                wrong.append(f"{kind}, used: {used}: off by {distance(off, absent):.2f}, without ours by {repeat:.2f}")
            if said(off):
                wrong.append(f"{kind}: speaks although off: {said(off)}")
    finally:
        without.stop()
    note(results, neighbour, "off", wrong or "equal")
    assert not wrong


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_technique_beside(beside, neighbour, technique, results):
    wrong, outcomes = [], {}
    for kind, fields in KINDS.items():
        theirs = beside.once("off", OFF, **neighbour.work, **fields)
        try:
            made = beside.once(technique, TECHNIQUES[technique], **neighbour.work, **fields)
        except Refused as error:
            outcomes[kind] = "no picture"
            wrong.append(f"{kind}: {error}")
            wrong += [f"{kind}: {trace}" for trace in beside.traces()]
            continue
        changed, sentences = distance(made, theirs), said(made)
        outcomes[kind] = {"changed": round(changed, 2), "said": sentences}
        if len(made.encoded) != len(theirs.encoded):
            wrong.append(f"{kind}: {len(made.encoded)} pictures, {len(theirs.encoded)} without ours")
        if technique == MASTER and changed > ROUNDING:
            restless = beside.restless(**neighbour.work, **fields)
            if changed > 2 * restless + ROUNDING:
                wrong.append(f"{kind}: the master switch moves the picture by {changed:.2f}, itself by {restless:.2f}")
        if technique != MASTER and changed <= ROUNDING and not sentences:
            wrong.append(f"{kind}: changed nothing ({changed:.3f}), no sentence in the answer; page: {beside.page()}")
    wrong += beside.traces()
    note(results, neighbour, technique, {"jobs": outcomes, "wrong": wrong})
    assert not wrong


@pytest.mark.parametrize("technique", [t for t in TECHNIQUES if t not in MIXES_IMAGES])
def test_image_of_a_batch_is_the_one_drawn_alone(beside, neighbour, technique, results):
    """As nearly as without ours, where theirs is."""
    wrong = []
    for cfg in (7, 1):
        both = KINDS[f"batch 2, CFG {cfg}"]
        alone = {**KINDS[f"batch 1, CFG {cfg}"], "seed": SMALL["seed"] + 1}
        apart = {}
        try:
            for name, settings in (("off", OFF), (technique, TECHNIQUES[technique])):
                batch, one = (beside.once(name, settings, **neighbour.work, **fields) for fields in (both, alone))
                apart[name] = abs(arrays(batch)[1] - arrays(one)[0]).mean()
        except Refused as error:
            wrong.append(f"CFG {cfg}: {error}")
            continue
        if apart["off"] <= DRAWN_ANEW and apart[technique] > apart["off"] + MORE_THAN_THEIRS:
            wrong.append(f"CFG {cfg}: {apart[technique]:.1f} apart with ours, {apart['off']:.1f} without")
    note(results, neighbour, f"{technique}: batch", wrong or "equal")
    assert not wrong


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_merely_installed_takes_nothing_away(beside, neighbour, technique, by_ourselves, results):
    """Ours draws beside an installed but unused neighbour what it draws without it.

    Up to the rounding of another batch size: a saving may be refused. Where the negative is computed after all for
    whoever may read it, Contrast has it to compare with at CFG 1 too, and the reader is named.
    """
    if not neighbour.folders:
        pytest.skip("there is nothing to be installed")
    if neighbour is not next(n for n in NEIGHBOURS if n.folders == neighbour.folders):
        pytest.skip("this was tried with these extensions already")
    wrong = []
    for kind in INSTALLED_KINDS:
        expected = by_ourselves(neighbour.checkpoint)[technique, kind]
        found = beside.once(technique, TECHNIQUES[technique], **KINDS[kind])
        compared = technique == ALL and kind.endswith("CFG 1") and "may use the negative's prediction" in said(found)
        if (moved := distance(found, expected)) > ROUNDING and not compared:
            wrong.append(f"{kind}: moved by {moved:.2f}; said {said(found)}")
    wrong += beside.traces()
    note(results, neighbour, f"{technique}: installed", wrong or "equal")
    assert not wrong
