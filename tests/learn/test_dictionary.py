"""Learning a dictionary: atoms against what is known of the tokens, pictures against a run of one piece."""

import builtins

import pytest
import torch

from lib_attn.attach import attach
from lib_attn.learn.capture import Capture
from lib_attn.learn.dictionary import learner
from lib_attn.learn.dictionary.atoms import METHODS, clusters, code_error, learn_atoms, nearest_error
from lib_attn.learn.dictionary.learner import LEARNER, Options, learn, wants
from lib_attn.learn.learners import learners
from lib_attn.learn.run import Run
from lib_attn.learn.shown import TIMESTEPS, noisy, plan_of, show
from lib_attn.learned.files import Loader
from lib_attn.learned.folders import Folders
from lib_attn.settings import Dictionary
from lib_attn.techniques.dictionary.content import read
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import layer_keys
from tests.unets import unet_input

SMALL = Options(atoms=16, bank=6, samples=400)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clouds(n=400, count=8, width=12):
    """Tokens around `count` centres, twice as many around each as around the next but one."""
    centres = 4 * rand(count, width, seed=1)
    which = torch.multinomial(0.7 ** torch.arange(count), n, True, generator=torch.Generator().manual_seed(2))
    return centres[which] + 0.1 * rand(n, width, seed=3), centres, which


def test_k_means_finds_clouds_and_how_many_are_in_each():
    x, centres, which = clouds()
    atoms, counts = learn_atoms(x, 24)
    assert counts.sum() == len(x) and torch.equal(counts, counts.sort(descending=True).values)
    assert nearest_error(x, atoms) < 0.03 < nearest_error(x, atoms[:2])
    nearest = (atoms[:, None] - centres).norm(dim=-1).argmin(-1)
    for cloud in range(len(centres)):
        assert counts[nearest == cloud].sum() == (which == cloud).sum()


@pytest.mark.parametrize("method", METHODS)
def test_more_atoms_put_tokens_together_better(method):
    if method == "sparse":
        pytest.importorskip("sklearn")
    x = rand(300, 4, seed=1) @ rand(4, 12, seed=2) + 0.01 * rand(300, 12, seed=3)
    few, many = (learn_atoms(x, count, method)[0] for count in (2, 8))
    assert code_error(x, many) < 0.6 * code_error(x, few)
    if method == "SVD":
        best = torch.linalg.svd(x, full_matrices=False)
        rest = (best.S[4:].square().sum() / best.S.square().sum()).sqrt().item()
        assert code_error(x, learn_atoms(x, 4, "SVD")[0]) == pytest.approx(rest, rel=0.02), "the best rank 4"


def test_sparse_coding_says_what_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        learn_atoms(rand(40, 4), 4, "sparse")


def test_fewer_tokens_than_clusters():
    means, counts = clusters(rand(5, 3), 9)
    assert means.shape == (5, 3) and torch.equal(counts, torch.ones(5))


def test_noise_is_that_of_the_schedule():
    latent = torch.full((1, 4, 64, 64), 3.0)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    for timestep in (0, 300, 900):
        x = noisy(latent, timestep, torch.Generator().manual_seed(1))
        assert x.mean().item() == pytest.approx(3 * kept[timestep].sqrt().item(), abs=0.05)
        assert x.std().item() == pytest.approx((1 - kept[timestep]).sqrt().item(), abs=0.02)


def predict(unet):
    context = unet_input(1, 1, 1)[1]
    return lambda x, timestep: unet(x, torch.tensor([timestep]), context=context)


def teach(unet, run, most=3):
    """Show at most so many of three pictures."""
    latents = (unet_input(1, 8, 8, seed=10 + i)[0] for i in range(run.done, 3))
    for done, _ in enumerate(show(run, unet, predict(unet), latents), 1):
        if done == most:
            break


def start(unet, folder, options=SMALL, names=("a", "b", "c"), **plan):
    return Run(
        plan_of("dictionary", names, options, **plan), find_layers(unet), folder / "unfinished" / "mine.safetensors"
    )


def test_a_dictionary_of_pictures_is_used(unet, tmp_path):
    run = start(unet, tmp_path, caption="a fox", checkpoint=("model", "0123456789"))
    teach(unet, run)
    file = run.finish(tmp_path / "models" / "mine.safetensors")
    content = read(file)
    layers = dict(zip(layer_keys(find_layers(unet)), find_layers(unet), strict=True))
    assert set(content.atoms) == set(content.bank) == set(layers)
    for key, layer in layers.items():
        width = layer.attn1.to_q.in_features
        assert content.atoms[key].shape == (max(4, 16 >> layer.depth), width)
        assert content.bank[key].x.shape == (learner.STRETCHES, 6, width)
        assert (content.bank[key].count.sum(1) > 0).all()
    errors = file.about["figures"]["error"]
    assert errors.keys() == layers.keys() and all(0 < e["nearest"] < 1 and 0 < e["of 4"] < 1 for e in errors.values())
    assert file.about["learned"]["pictures"]["count"] == 3 and file.about["checkpoint"] == ["model", "0123456789"]
    files = Loader(lambda: Folders([tmp_path / "models"]))
    on = Dictionary(enabled=True, mode="full", file="mine", strength=1.0)
    x, context = unet_input(1, 8, 8)
    plain = unet(x, torch.tensor([500.0]), context=context)
    with torch.no_grad(), attach(unet, [on], files=files) as attachment:
        assert not torch.equal(unet(x, torch.tensor([500.0]), context=context), plain)
    assert attachment.acted == {"dictionary"}


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_was_stopped_goes_on_without_loss(unet, tmp_path, stop):
    whole = start(unet, tmp_path / "whole")
    teach(unet, whole)
    first = start(unet, tmp_path)
    teach(unet, first, stop)
    assert first.done == stop
    second = start(unet, tmp_path)
    assert second.done == stop and not second.dropped
    teach(unet, second)
    one, two = (run.finish(tmp_path / f"{i}.safetensors").tensors for i, run in enumerate((whole, second)))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("other", [{"names": ("a", "b", "d")}, {"caption": "x"}, {"options": Options(atoms=17)}])
def test_other_pictures_begin_anew(unet, tmp_path, other):
    teach(unet, start(unet, tmp_path))
    again = start(unet, tmp_path, **other)
    assert again.done == 0 and again.dropped


def test_pictures_are_seen_in_all_stretches_and_the_model_stays_as_it_was(unet, tmp_path):
    run = start(unet, tmp_path)
    teach(unet, run)
    for key in run.capture.shapes:
        tokens = run.capture.tokens(key)
        assert set(tokens["stretch"].tolist()) == set(range(learner.STRETCHES))
    assert len(TIMESTEPS) >= learner.STRETCHES


def test_without_a_bank_and_with_too_little(unet, tmp_path):
    run = start(unet, tmp_path, Options(atoms=16, bank=0, samples=400))
    teach(unet, run)
    assert read(run.finish(tmp_path / "x.safetensors")).bank == {}
    layers = find_layers(unet)
    with pytest.raises(ValueError, match="Nothing to learn from"):
        learn(Capture(layers, **wants(SMALL)), SMALL, dict(zip(layer_keys(layers), layers, strict=True)))


def test_it_is_found_by_its_technique(unet):
    assert learners()["dictionary"] is LEARNER and LEARNER.options.name == "dictionary"
