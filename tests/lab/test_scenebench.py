"""The benchmark's figures, against pictures whose answers are known."""

import json

import numpy as np
import pytest
import torch

from lib_attn.lab.commands import cli
from lib_attn.lab.judging import judge as judges
from lib_attn.lab.judging import metrics, prompts
from lib_attn.lab.judging.judge import Judge, JudgeNet, Verdict, expected
from lib_attn.lab.judging.training import train_judge
from lib_attn.lab.measuring import autoencoder
from lib_attn.lab.measuring.autoencoder import SURFACES
from lib_attn.lab.measuring.scenebench import PromptCounts, run
from lib_attn.lab.reports.scenes import scenes_block, scenes_table
from lib_attn.lab.shared.distances import psnr, relative_l2, ssim
from lib_attn.learn.scenes import layout, vocabulary
from lib_attn.learn.scenes.vocabulary import Thing


def pair():
    return layout.scene_of([Thing("cube", "red"), Thing("cone", "blue")], relation="right of", background="white")


def test_expected_reads_from_left_to_right():
    assert expected(pair()) == Verdict((("blue", "cone"), ("red", "cube")), "white")
    three = layout.scene_of([Thing("star", "pink")], count=3)
    assert expected(three).objects == (("pink", "star"),) * 3


def test_score_counts_each_thing_apart():
    scenes = [pair()] * 4
    seen = [
        Verdict((("blue", "cone"), ("red", "cube")), "white"),
        Verdict((("red", "cube"), ("blue", "cone")), "white"),
        Verdict((("blue", "cube"), ("red", "cone")), "black"),
        Verdict((("blue", "cone"),), "white"),
    ]
    score = metrics.score(seen, scenes)
    assert (score.colour, score.shape, score.both) == (0.75, 0.75, 0.5)
    assert (score.relation, score.count, score.background) == (0.25, 0.75, 0.75)
    with pytest.raises(ValueError, match="cannot be judged"):
        metrics.score(seen, scenes[:2])


@pytest.mark.parametrize("make", [prompts.single_prompts, prompts.pair_prompts, prompts.count_prompts])
def test_prompts_are_held_out(make):
    scenes = make(12)
    assert len(scenes) == 12 and all(vocabulary.is_held_out(s.things) for s in scenes)
    assert [s.caption for s in scenes] == [s.caption for s in make(12)]


def test_labels_fit_the_heads():
    for scene in (pair(), layout.scene_of([Thing("star", "pink")], count=3)):
        answers = torch.zeros(1, sum(judges.HEADS))
        start = 0
        for head, label in zip(judges.HEADS, judges.labels(scene), strict=True):
            answers[0, start + label] = 1
            start += head
        assert judges.read_answers(answers) == [expected(scene)]


def test_distances():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + 10, 0, 255).astype(np.uint8)
    assert psnr(a, a) == float("inf") and ssim(a, a) == pytest.approx(1)
    flat = np.full_like(a, 100)
    assert psnr(flat, flat + 10) == pytest.approx(20 * np.log10(25.5))
    assert 0.9 < ssim(a, b) < 1 and ssim(a, 255 - a) < 0
    assert relative_l2(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])) == 1.0
    left, both = np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)
    left[:, :, :2] = True
    assert metrics.silhouette_overlap(left, both) == 0.5
    assert metrics.silhouette_overlap(~both, ~both) == 1.0


def test_ssim_agrees_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    _, full = metrics.structural_similarity(
        a[0],
        b[0],
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    assert ssim(a, b) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)


def test_negative_rate():
    verdicts = [Verdict((("red", "cube"),), "grey"), Verdict((("blue", "cone"),), "grey")]
    assert metrics.appearance(verdicts, "red") == 0.5
    assert metrics.appearance(verdicts, "cone") == 0.5
    assert metrics.appearance(verdicts, "grey") == 1.0


def painted(count, seed):
    """Discs of one colour on a background: enough to see that the judge learns."""
    rng = np.random.default_rng(seed)
    pictures, answers, masks = [], [], []
    disc = ((np.arange(64)[:, None] - 32) ** 2 + (np.arange(64) - 32) ** 2) < 200
    for _ in range(count):
        colour, background = str(rng.choice(judges.COLOURS)), str(rng.choice(judges.BACKGROUNDS))
        scene = layout.scene_of([Thing("sphere", colour)], background=background)
        rgb = np.where(disc[..., None], vocabulary.COLOURS[colour], vocabulary.BACKGROUNDS[background])
        pictures.append((rgb * 255).astype(np.uint8))
        answers.append(judges.labels(scene))
        masks.append(disc[::2, ::2])
    return np.stack(pictures), np.array(answers), np.stack(masks)


def test_judge_learns_is_kept_and_leaves_the_global_generator_alone(tmp_path):
    before = torch.random.get_rng_state()
    judge = train_judge(painted(128, 0), painted(64, 1), epochs=16, batch=16, width=8)
    assert torch.equal(before, torch.random.get_rng_state())
    assert judge.accuracy["colour"] > 0.8 and judge.accuracy["mask_iou"] > 0.6
    judge.save(tmp_path / "j.safetensors")
    again = Judge.load(tmp_path / "j.safetensors")
    assert again.accuracy == judge.accuracy
    pictures = painted(8, 2)[0]
    assert [v.background for v in judge.look(pictures)[0]] == [v.background for v in again.look(pictures)[0]]
    big = pictures.repeat(2, axis=1).repeat(2, axis=2)
    assert judge.look(big)[0] == judge.look(pictures)[0]
    same = metrics.distance(judge, pictures, pictures, torch.ones(2), torch.ones(2))
    assert same.silhouette == 1.0 and same.latent_l2 == 0.0


def test_run_asks_for_the_same_seeds_every_time():
    asked = []

    def generate(prompts, negatives, seeds):
        asked.append((prompts, negatives, seeds))
        return np.zeros((len(prompts), 64, 64, 3), np.uint8), torch.ones(len(prompts), 4, 8, 8)

    judge = Judge(JudgeNet(8), {"shape": 0.5})
    result = run(generate, judge, PromptCounts(6, 4, 3, 3, 5))
    assert set(result) == {"judge", "single", "pair", "several", "agreement", "negative"}
    json.dumps(result)
    first = list(asked)
    asked.clear()
    run(generate, judge, PromptCounts(6, 4, 3, 3, 5))
    assert asked == first
    assert first[-1][1] == ["red"] * 3 and "red" not in " ".join(first[-1][0])


def test_a_technique_is_held_against_the_same_seeds_without():
    rng = np.random.default_rng(2)
    asked = []

    def plain(prompts, negatives, seeds):
        asked.append((prompts, seeds))
        return rng.integers(0, 256, (len(prompts), 64, 64, 3), dtype=np.uint8), torch.full((len(prompts), 4, 8, 8), 2.0)

    def changed(prompts, negatives, seeds):
        pictures, latents = plain(prompts, negatives, seeds)
        return pictures, latents * 1.5

    distance = run(changed, Judge(JudgeNet(8)), PromptCounts(2, 2, 0, 0, 0), plain)["distance"]
    assert asked[0] == asked[1] and asked[2] == asked[3] and len(asked) == 4
    assert distance["latent_l2"] == pytest.approx(0.5) and 0 < distance["psnr"] < 20 and abs(distance["ssim"]) < 0.2


def test_the_command_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "figures.json"
    words = ["scenebench", "run", "--singles", "2", "--pairs", "1", "--counts", "1", "--negatives", "1", "--agreements",
             "2", "--steps", "2", "--decoded", "2"]  # fmt: skip
    words += ["--width", "64", "--height", "64", "--contrast.feature", "1"]
    assert cli.main([*words, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    figures = result["results"]
    assert json.loads(capsys.readouterr().out) == figures and str(tmp_path) not in out.read_text()
    assert [figures[part]["pictures"] for part in ("single", "pair", "several", "negative")] == [2, 1, 1, 1]
    assert figures["judge"]["everything"] >= 0.97, "the shipped judge is not good enough to judge by"
    assert 0 < figures["distance"]["latent_l2"] < 2
    assert {surface: trip["pictures"] for surface, trip in figures["autoencoder"].items()} == dict.fromkeys(SURFACES, 2)
    assert figures["autoencoder"]["plain"]["psnr"] > 15
    shown = scenes_block(result)
    assert "| two objects: in the right order too | 1 |" in shown and "one object: in the right order" not in shown
    for surface, trip in figures["autoencoder"].items():
        assert f"| autoencoder, {surface} renders | 2 | {trip['psnr']:.1f} ± {trip['error']:.1f} dB |" in shown


def test_the_autoencoder_is_held_against_held_out_renders(monkeypatch):
    """One that gives back what it got loses what rounding loses, and a patterned render is no plain one."""
    monkeypatch.setattr(autoencoder, "encoded", lambda spec, pictures: list(pictures))
    monkeypatch.setattr(autoencoder, "decode", lambda model, picture: [np.where(picture > 9, picture - 1, picture + 1)])
    trips = autoencoder.round_trips(None, None, 3, 64)
    assert set(trips) == {"plain", "patterned"}
    assert all(trip.pictures == 3 and trip.psnr == pytest.approx(48.13, abs=0.01) for trip in trips.values())
    plain, patterned = (autoencoder.renders(2, 64, surface) for surface in ("plain", "patterned"))
    assert plain[0].shape == (64, 64, 3) and not (plain[0] == patterned[0]).all()


def test_a_share_has_its_error():
    table = scenes_table({"single": {"pictures": 25, "both": 0.8, **dict.fromkeys(("colour", "shape", "count",
                                     "relation", "background"), 1.0)}})  # fmt: skip
    assert "| one object: every object's colour and shape right | 25 | 80 % ± 8 |" in table
    found = {"pictures": 7, "all": 0.5, "all_error": 0.1, "floor": 0.2, "floor_error": 0.3, "floor_pictures": 3}
    *_, agreed, floor = scenes_table({"agreement": found}).splitlines()
    assert agreed == "| agreement: where the prompt leaves something open | 7 | 0.50 ± 0.10 |"
    assert floor == "| agreement: the floor's pattern goes on behind what stands there | 3 | 0.20 ± 0.30 |"


@pytest.mark.parametrize(
    "words",
    [
        ["--batch", "0"],
        ["--pairs", "-1"],
        ["--width", "100"],
        ["--sampler", "Euler b"],
        ["--steps", "0"],
        ["--seed", "-1"],
        ["--checkpoint", "none.safetensors"],
    ],
)
def test_bad_options_are_one_sentence(words, capsys):
    assert cli.main(["scenebench", "run", "--singles", "1", "--counts", "0", "--negatives", "0", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert sum(line.endswith(".") for line in said) == 1 and not any("Traceback" in line for line in said)


def test_damaged_judge_is_one_sentence(tmp_path):
    (tmp_path / "j.safetensors").write_bytes(b"nothing")
    with pytest.raises(judges.JudgeError, match="cannot be used as a judge") as caught:
        Judge.load(tmp_path / "j.safetensors")
    assert "\n" not in str(caught.value)
    assert cli.main(["scenebench", "run", "--judge", str(tmp_path / "none.safetensors")]) == 2
