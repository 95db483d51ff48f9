"""A fixed list of settings on the embedded model draws what it always drew: final latents kept in `same_pictures.npz`.

Kernels of other processors and other builds of torch round differently. So latents are the same bit for bit only where
processor and torch are those of the record (its ``print``), and within 1e-4 everywhere else. After a change that is
meant to change pictures: ``python -m tests.lab.test_same_pictures`` writes the record anew.
"""

import hashlib
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_attn.lab.drawing import checkpoint, embedded
from lib_attn.lab.drawing.sampling import Request, sample
from lib_attn.lab.drawing.variants import FULL, parse_setting, preset

RECORD = Path(__file__).with_name("same_pictures.npz")
NEUTRAL = "no technique"
PROMPTS = ("a large red sphere left of a small blue cube", "a green cone, white background")
MIX = "key_mix.blocks=all;"

#: By name: the setting, the guidance scale, the sampler.
CASES = {
    NEUTRAL: (FULL, 5.0, "DDIM"),
    f"{NEUTRAL}, Euler a": (FULL, 5.0, "Euler a"),
    "near-sighted": (parse_setting("tile=4 pool=2 halo=1 blocks=all"), 5.0, "Euler a"),
    "near-sighted, exact steps": (parse_setting("tile=4 pool=4 exact_every=2 local_pool=2 blocks=all"), 5.0, "DDIM"),
    "ToDo": (parse_setting("tile=0 pool=2 global_keys=subsample blocks=all"), 5.0, "DDIM"),
    "negative skip": (parse_setting("key_every=3; trend=0.5; penalty=off"), 5.0, "DDIM"),
    "negative skip, through": (parse_setting("key_every=2; fill=copy; through=2; penalty=off"), 5.0, "Euler a"),
    "NAG at CFG 1": (preset("Negative prompt at CFG 1 (NAG)"), 1.0, "DDIM"),
    "VSF at CFG 1": (preset("Negative prompt at CFG 1 (VSF)"), 1.0, "Euler a"),
    "contrast": (parse_setting("feature=0.5; contrast.keys=0.5; orthogonal=0.5; map_strength=0.5"), 3.0, "DDIM"),
    "key mix, first image": (preset("Layout only"), 5.0, "DDIM"),
    "key mix, StyleAligned": (preset("Same style (StyleAligned)"), 5.0, "Euler a"),
    "key mix, blurred": (parse_setting(f"{MIX} source=blurred; blur=2; operator=contrast; amount=1"), 5.0, "DDIM"),
    "all four": (parse_setting("tile=4; near_sighted.pool=2; near_sighted.blocks=all; key_every=2; penalty=off; "
                               "feature=0.3; key_mix.amount=0.3; key_mix.blocks=out"), 5.0, "DDIM"),
}  # fmt: skip


def machine() -> str:
    """What decides which kernels compute, as a short print."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), processor)
    parts = [torch.__version__, torch.__config__.show(), torch.backends.cpu.get_cpu_capability(), processor]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def draw(model, name: str) -> np.ndarray:
    """Final latents ``[2, 4, 12, 8]`` of one case, on one thread."""
    variant, cfg, sampler = CASES[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        request = Request(PROMPTS, (11, 12), "blue", height=96, width=64, steps=4, sampler=sampler, cfg=cfg)
        return sample(model, request, variant).numpy()
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def embedded_model():
    return checkpoint.load(embedded.default_checkpoint())


@pytest.fixture(scope="module")
def record():
    with np.load(RECORD, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def test_the_record_holds_every_case_and_they_differ(record):
    assert set(record) == {*CASES, "print"}
    latents = [record[name] for name in CASES]
    assert all(not np.array_equal(a, b) for i, a in enumerate(latents) for b in latents[:i])


@pytest.mark.parametrize("name", CASES)
def test_latents_are_those_of_the_record(name, record, embedded_model):
    drawn = draw(embedded_model, name)
    if machine() == str(record["print"]):
        assert np.array_equal(drawn, record[name]), np.abs(drawn - record[name]).max()
    else:
        np.testing.assert_allclose(drawn, record[name], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    loaded = checkpoint.load(embedded.default_checkpoint())
    np.savez_compressed(RECORD, **{name: draw(loaded, name) for name in CASES}, print=np.array(machine()))
