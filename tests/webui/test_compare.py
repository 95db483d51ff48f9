"""Compare off / on: the same seeds twice, pairs and differences in the gallery, nothing left behind."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

ON = {"compare": True, "near_sighted": {"enabled": True}}


@pytest.fixture
def compare(host):
    from lib_attn.webui import compare

    return compare


def picture(level, size=(64, 48)):
    return Image.new("RGB", size, (level, level, level))


class Job:
    """A host's job that draws grey pictures: 100 without Attention Lab, 110 with it."""

    def __init__(self, selected=0, batch_size=2):
        self.scripts, self.batch_size, self.n_iter, self.seed, self.steps = object(), batch_size, 1, -1, 20
        self.script_args, self.extra_generation_params, self.override_settings = [selected, ON], {}, {}
        self.styles, self.comments, self.closed = [], {}, False

    def comment(self, text):
        self.comments[text] = 1

    def sample(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def drawn(host, monkeypatch):
    """Every job that the host was asked to draw, with what it was asked."""
    seen = []

    def process_images(p):
        seen.append((p, p.script_args[1], p.seed, p.steps, p.scripts is None))
        p.sample()
        level = 100 if p.script_args[1] == {"enabled": False} else 110
        return processed(p, level)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    monkeypatch.setattr(host.processing, "fix_seed", lambda p: setattr(p, "seed", 7))
    return seen


def processed(p, level):
    pictures = [picture(level) for _ in range(p.batch_size)]
    texts = [f"text {i}" for i in range(len(pictures) + 1)]
    return SimpleNamespace(images=[picture(0), *pictures], infotexts=texts, index_of_first_image=1, comments="")


def run(compare, host, p):
    script = SimpleNamespace(args_from=1)
    compare.before(p, script, p.script_args[1:])
    done = host.processing.process_images(p)
    compare.after(p, done)
    return done


def test_pairs_of_a_batch(compare, host, drawn):
    p = Job()
    done = run(compare, host, p)
    warm, plain, ours = drawn
    assert warm[1:] == ({"enabled": False}, 7, 1, True) and plain[1:] == ({"enabled": False}, 7, 20, False)
    assert ours[0] is p and ours[1:] == (ON, 7, 20, False) and p.script_args == [0, ON]
    assert len(done.images) == 3 + 4 and len(done.infotexts) == len(done.images)
    pair, difference = done.images[3:5]
    assert pair.width == 2 * 64 + 4 and difference.width == 64
    assert difference.getpixel((32, difference.height - 8)) == (40, 40, 40)  # ten levels, four times as large
    assert pair.getpixel((10, pair.height - 8))[0] == 100 and pair.getpixel((100, pair.height - 8))[0] == 110
    assert (
        done.comments.startswith("Compare off / on: 0.0 s of sampling without, 0.0 s with")
        and "28.1 dB" in done.comments
    )
    assert all(job.closed for job, *_ in (warm, plain)) and not p.closed
    assert "sample" not in vars(p) and getattr(p, compare.ATTRIBUTE) is None and host.shared.state.job_count == 2


@pytest.mark.parametrize(
    "args, word",
    [
        ([0, {"compare": True}], "nothing is on"),
        ([0, {"compare": True, "enabled": False, "near_sighted": {"enabled": True}}], "nothing is on"),
        ([3, ON], "without a script"),
        ([0, {"near_sighted": {"enabled": True}}], None),
        ([0], None),
    ],
)
def test_when_there_is_nothing_to_compare(compare, host, drawn, args, word):
    p = Job()
    p.script_args = args
    compare.before(p, SimpleNamespace(args_from=1), args[1:])
    assert drawn == [] and len(p.comments) == (word is not None) and all(word in text for text in p.comments)
    done = processed(p, 110)
    compare.after(p, done)
    assert len(done.images) == 3


@pytest.mark.parametrize("shown", [("return_mask",), ("return_mask", "return_mask_composite"), ()])
def test_masks_behind_inpainted_pictures_are_not_compared(compare, host, drawn, monkeypatch, shown):
    """The host shows them behind each picture where its settings say so."""
    p = Job()
    p.mask_for_overlay = picture(255)
    for name in shown:
        monkeypatch.setattr(host.shared.opts, name, True, raising=False)

    def process_images(job):
        job.sample()
        level, found = 100 if job.script_args[1] == {"enabled": False} else 110, []
        for number in range(job.batch_size):
            found += [picture(level + number), *(picture(255) for _ in shown)]
        return SimpleNamespace(images=found, infotexts=["text"] * len(found), index_of_first_image=0, comments="")

    monkeypatch.setattr(host.processing, "process_images", process_images)
    done = run(compare, host, p)
    assert len(done.images) == 2 * (1 + len(shown)) + 4
    assert done.comments.count("28.1 dB") == 2, "each picture against its own"


def test_an_interrupted_job_shows_no_pairs(compare, host, drawn):
    p = Job()
    compare.before(p, SimpleNamespace(args_from=1), p.script_args[1:])
    done = SimpleNamespace(images=[], infotexts=[], index_of_first_image=0, comments="")
    compare.after(p, done)
    assert done.images == [] and done.comments == "" and "sample" not in vars(p)


def test_an_error_without_leaves_the_job_as_it_was(compare, host, drawn, monkeypatch):
    p = Job()

    def fail(job):
        if job.steps == 20:
            raise RuntimeError("out of memory")
        return processed(job, 100)

    monkeypatch.setattr(host.processing, "process_images", fail)
    with pytest.raises(RuntimeError):
        compare.before(p, SimpleNamespace(args_from=1), p.script_args[1:])
    assert "sample" not in vars(p) and getattr(p, compare.ATTRIBUTE) is None


def test_psnr(compare):
    assert math.isinf(compare.psnr(picture(5), picture(5)))
    assert compare.psnr(picture(0), picture(255)) == 0.0
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    assert compare.psnr(noise, picture(128, (8, 8))) == pytest.approx(10 * math.log10(255**2 / np.mean(
        (np.asarray(noise, float) - 128) ** 2)))  # fmt: skip
