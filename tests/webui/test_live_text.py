"""The browser's estimate is Python's."""

import json
import random
import shutil
import subprocess

import pytest

from lib_attn.estimate import FAMILIES, estimate
from lib_attn.settings import NearSighted
from tests.conftest import ROOT

SCRIPT = ROOT / "javascript" / "attention_lab.js"
BLOCKS = ["auto", "all", "in", "out6-11", "d0,d1", "all,!mid", "IN04;out3-5 M", "!d0", "mid"]


def node(code, data):
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    start = "const vm = require('vm'), fs = require('fs');" + (
        f"vm.runInThisContext(fs.readFileSync({json.dumps(str(SCRIPT))}, 'utf8'));"
        "const data = JSON.parse(fs.readFileSync(0, 'utf8'));"
    )
    done = subprocess.run(
        [program, "-e", start + code], input=json.dumps(data), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def random_settings(rng):
    values = {}
    for p in NearSighted.params():
        if p.kind == "int":
            values[p.name] = rng.choice([p.default, rng.randint(p.low, min(p.high, 40))])
        elif p.kind == "float":
            values[p.name] = rng.choice([p.default, round(rng.uniform(p.low, p.high), 2)])
        elif p.kind == "choice":
            values[p.name] = rng.choice(p.choices)
    return values | {"blocks": rng.choice(BLOCKS), "enabled": True}


def test_both_estimates_agree():
    rng = random.Random(1)
    cases = [
        (rng.randrange(64, 2560, 8), rng.randrange(64, 2560, 8), random_settings(rng), rng.choice(list(FAMILIES)))
        for _ in range(600)
    ]
    found = node("console.log(JSON.stringify(data.map(c => attentionLab.estimate(...c))))", cases)
    for (width, height, values, family), theirs in zip(cases, found, strict=True):
        ours = estimate(width, height, NearSighted(**values), family)
        assert theirs["tiles"] == ours.tiles and theirs["left"] == pytest.approx(ours.left, rel=1e-9)


def test_the_text():
    values = NearSighted().to_dict()
    texts = node(
        "console.log(JSON.stringify(data.map(c => attentionLab.describe(...c))))",
        [(1024, 1024, values), (512, 512, values), (1024, 1024, values | {"tile": 0}), (256, 256, values)],
    )
    assert "64 tiles" in texts[0] and "1024 × 1024" in texts[0]
    assert "little to gain" in texts[1] and "no tiles" in texts[2] and "nothing to gain" in texts[3]


def test_the_tables_are_those_of_the_real_unet():
    pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")
    from lib_attn.unet.families import find_layers
    from tests.unets import tiny_unet

    real = sorted((layer.section, layer.number, layer.depth) for layer in find_layers(tiny_unet()))
    # The tiny one has attention on every level that SD 1.x has it, and in the middle.
    table = sorted((section, n, depth) for section, numbers, depth, _ in FAMILIES["SD 1, 2"] for n in numbers)
    assert set(table) <= set(real)


def test_no_markup_is_made_of_texts():
    source = SCRIPT.read_text()
    assert "innerHTML" not in source and "eval" not in source and "MutationObserver" not in source
