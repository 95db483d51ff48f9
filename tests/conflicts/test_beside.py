"""Beside each neighbour: off is absent to the bit, on ends in a picture, and leaves no trace in the next one."""

import pytest

from tests.conflicts.jobs import (
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


def note(results, neighbour, what, value):
    results.note("beside", neighbour.name, results.found.get("beside", {}).get(neighbour.name, {}) | {what: value})


def test_off_is_absent(pair, neighbour, results):
    """Drawn twice where it differs, because some neighbours do not draw the same picture twice."""
    wrong = []
    for used in (False, True) if neighbour.used else (False,):
        for kind, fields in KINDS.items():
            absent = pair.absent(neighbour, used=used, **fields)
            off = pair.with_ours(neighbour, OFF, used=used, **fields)
            if off.pixels != absent.pixels:
                repeat = pair.draw(pair.without, neighbour, used=used, **fields)
                by_itself = distance(absent, repeat)
                wrong.append(f"{kind}, used: {used}: off by {distance(off, absent):.2f}, itself by {by_itself:.2f}")
            if said(off):
                wrong.append(f"{kind}: speaks although off: {said(off)}")
    note(results, neighbour, "off", wrong or "equal")
    assert not wrong


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_technique_beside(pair, neighbour, technique, results):
    wrong, outcomes = [], {}
    for kind, fields in KINDS.items():
        theirs = pair.absent(neighbour, **fields)
        try:
            made = pair.technique(neighbour, technique, **fields)
        except Refused as error:
            outcomes[kind] = "no picture"
            wrong.append(f"{kind}: {error}")
            wrong += [f"{kind}: {trace}" for trace in pair.traces(neighbour)]
            continue
        changed, sentences = distance(made, theirs), said(made)
        outcomes[kind] = {"changed": round(changed, 2), "said": sentences}
        if technique == MASTER and changed > ROUNDING:
            wrong.append(f"{kind}: the master switch alone moves the picture by {changed:.2f}")
        if technique != MASTER and changed <= ROUNDING and not sentences:
            page = pair.ours.probe("state")["comments"]
            wrong.append(f"{kind}: changed nothing ({changed:.3f}), no sentence in the answer; on the page: {page}")
    wrong += pair.traces(neighbour)
    note(results, neighbour, technique, {"jobs": outcomes, "wrong": wrong})
    assert not wrong


@pytest.mark.parametrize("technique", [t for t in TECHNIQUES if t not in MIXES_IMAGES])
def test_image_of_a_batch_is_the_one_drawn_alone(pair, neighbour, technique, results):
    """As nearly as without ours."""
    wrong = []
    for cfg in (7, 1):
        both = KINDS[f"batch 2, CFG {cfg}"]
        alone = {**KINDS[f"batch 1, CFG {cfg}"], "seed": SMALL["seed"] + 1}
        try:
            ours = _second(*(pair.technique(neighbour, technique, **fields) for fields in (both, alone)))
        except Refused as error:
            wrong.append(f"CFG {cfg}: {error}")
            continue
        theirs = _second(pair.absent(neighbour, **both), pair.absent(neighbour, **alone))
        if ours > theirs + MORE_THAN_THEIRS:
            wrong.append(f"CFG {cfg}: {ours:.1f} apart with ours, {theirs:.1f} without")
    note(results, neighbour, f"{technique}: batch", wrong or "equal")
    assert not wrong


def _second(batch, alone):
    """Distance of a batch's last picture from one that was drawn alone."""
    return abs(arrays(batch)[-1] - arrays(alone)[0]).mean()


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_merely_installed_takes_nothing_away(pair, neighbour, technique, by_ourselves, results):
    """Ours draws beside an installed but unused neighbour what it draws without it, to the bit or with a sentence.

    The same saving may be refused, which moves a picture by the rounding of another batch size.
    """
    if not neighbour.folders:
        pytest.skip("there is nothing to be installed")
    if neighbour is not next(n for n in NEIGHBOURS if n.folders == neighbour.folders):
        pytest.skip("this was tried with these extensions already")
    wrong = []
    for kind in INSTALLED_KINDS:
        expected = by_ourselves(neighbour.checkpoint)[technique, kind]
        found = pair.technique(neighbour, technique, used=False, **KINDS[kind])
        if (moved := distance(found, expected)) > ROUNDING:
            wrong.append(f"{kind}: moved by {moved:.2f}; said {said(found)}")
    wrong += pair.traces(neighbour)
    note(results, neighbour, f"{technique}: installed", wrong or "equal")
    assert not wrong
