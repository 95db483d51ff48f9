"""What techniques are told of the negative prompt, and the saving at CFG 1, in the fake host."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from tests.unets import snapshot
from tests.webui.jobs import Job, Model, Sampler, run

START, END = 1, 2


class Encoder:
    """The host's text encoder: a word a token, chunks of 75, the end token repeated behind the words."""

    id_start, id_end = START, END

    def tokenize_line(self, line):
        tokens = [10 + len(word) for word in line.split()]
        chunks = [tokens[i : i + 75] for i in range(0, len(tokens), 75)] or [[]]
        return [SimpleNamespace(tokens=[START, *c, *[END] * (76 - len(c))]) for c in chunks], len(tokens)


@pytest.fixture
def model(host):
    host.shared.sd_model = Model()
    host.shared.sd_model.cond_stage_model = Encoder()
    return host.shared.sd_model


@pytest.fixture(autouse=True)
def nothing_stays(model):
    before = snapshot(model.unet)
    yield
    assert snapshot(model.unet) == before


def schedule(*ends):
    return [SimpleNamespace(end_at_step=end, cond=None) for end in ends]


def denoiser(step=0, uncond=None, **extra):
    sampler = SimpleNamespace(sampler_extra_args={"uncond": uncond, "cond_scale": 7.0})
    return SimpleNamespace(step=step, steps=10, total_steps=10, sampler=sampler, **extra)


def test_columns_of_words(host, model):
    from lib_attn.webui.negatives import columns

    assert columns(Encoder(), "") == ()
    assert columns(Encoder(), "red cube") == (1, 2, 3), "both words and the end, not the begin"
    long = columns(Encoder(), "word " * 77)
    assert len(long) == 76 + 3 and long[75:] == (76, 78, 79, 80)


@pytest.mark.parametrize("step, expected", [(0, (1, 2)), (5, (1, 2)), (6, (1, 2, 3))])
def test_prompt_editing_is_followed(host, model, step, expected):
    from lib_attn.webui.negatives import Words

    p = SimpleNamespace(negative_prompts=["a>b c", "x"], steps=10)
    assert Words().of(p, denoiser(step, [schedule(5, 10), schedule(10)])) == (expected, (1, 2))


def test_unclear_words_are_none(host, model):
    from lib_attn.webui.negatives import Words

    p = SimpleNamespace(negative_prompts=["a>b"], steps=10)
    assert Words().of(p, denoiser(0, [schedule(10)])) is None, "the host has another schedule"
    assert Words().of(p, denoiser(0, [schedule(10), schedule(10)])) is None
    assert Words().of(SimpleNamespace(steps=10), denoiser(0, [schedule(10)])) is None
    model.cond_stage_model = None
    assert Words().of(p, denoiser(0, [schedule(5, 10)])) is None


def test_hires_prompts_and_sdxl(host, model):
    from lib_attn.webui.negatives import Words, told

    model.cond_stage_model = SimpleNamespace(embedders=[object(), Encoder()])
    p = SimpleNamespace(negative_prompts=["a"], hr_negative_prompts=["a b"], is_hr_pass=True, steps=10)
    text = torch.zeros(1, 77, 4)
    conditions = {"crossattn": text, "vector": None}
    params = SimpleNamespace(denoiser=denoiser(0, [schedule(10)]), text_uncond=conditions, sigma=torch.ones(2))
    without = {"cfg": 7.0, "editions": None, "positive_only": False, "adaptive": False}

    def found(words):
        answer = told(p, params, words)
        assert answer.pop("reads")() == ""
        return answer

    assert found(None) == without
    assert found(Words()) == without | {"negative": text, "words": ((1, 2, 3),)}


def test_prompts_are_taken_apart_once(host, model, monkeypatch):
    """Not in every step, and not at all when no technique reads them."""
    from lib_attn.webui import negatives

    lines, columns = [], negatives.columns
    monkeypatch.setattr(negatives, "columns", lambda tokenizer, line: lines.append(line) or columns(tokenizer, line))
    words, p = negatives.Words(), SimpleNamespace(negative_prompts=["a>b c", "a"], steps=10)
    for step in range(10):
        words.of(p, denoiser(step, [schedule(5, 10), schedule(10)]))
    assert lines == ["a", "b c"]
    p.negative_prompts = ["d", "a"]
    assert words.of(p, denoiser(0, [schedule(10), schedule(10)])) == ((1, 2), (1, 2))
    assert lines == ["a", "b c", "d", "a"]


def test_which_prompts_each_image_is_at(host):
    """All parts of AND prompts and the negatives, by the host's own rule."""
    from lib_attn.webui.negatives import editions

    parts = [[schedule(10)], [schedule(4, 10), schedule(10)]]
    cond = SimpleNamespace(batch=[[SimpleNamespace(schedules=s, weight=1.0) for s in image] for image in parts])
    found = []
    for step in (0, 4, 5, 7, 30):
        now = denoiser(step, [schedule(6, 10), schedule(10)])
        now.sampler.sampler_extra_args["cond"] = cond
        found.append(editions(now))
    assert found == [((0, 0), (0, 0, 0))] * 2 + [((0, 0), (1, 0, 0)), ((0, 1), (1, 0, 0)), ((0, 0), (0, 0, 0))]
    assert editions(denoiser(0, None)) is None


@pytest.mark.parametrize(
    "options, least, left_out",
    [
        ({}, 0.0, []),
        ({}, 3.0, [5, 7, 9]),
        ({"s_min_uncond_all": True}, 3.0, [5, 6, 7, 8, 9]),
        ({"skip_early_cond": 0.2}, 0.0, [0, 1, 2]),
    ],
)
def test_the_hosts_own_options_are_foretold(host, model, monkeypatch, options, least, left_out):
    from lib_attn.webui.negatives import leaves_negatives_out

    for name, value in options.items():
        monkeypatch.setattr(host.shared.opts, name, value, raising=False)
    found = []
    for step in range(10):
        now = denoiser(step)
        now.image_cfg_scale = None
        now.sampler.sampler_extra_args["s_min_uncond"] = least
        if leaves_negatives_out(now, torch.full((2,), 7.5 - step)):
            found.append(step)
    assert found == left_out


def test_other_readers_of_the_negative(host):
    from lib_attn.webui.negatives import why_read

    class Other:
        def combine_denoised(self):
            pass

    assert not why_read(denoiser()) and why_read(denoiser(need_last_noise_uncond=True))
    assert why_read(denoiser(combine_denoised=lambda: 0)) and why_read(Other())
    Other.combine_denoised.__module__ = "modules.sd_samplers_cfg_denoiser"
    assert not why_read(Other())


@pytest.fixture
def script(script_module, model):
    return script_module.AttentionLab()


def job(host, cfg, **fields):
    sampler = Sampler(host, host.script_callbacks, **fields)
    sampler.sampler_extra_args["cond_scale"] = cfg
    return Job(sampler, cfg_scale=cfg)


def rows_of(model, action):
    seen = []
    handle = model.unet.input_blocks[0][0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    try:
        return action(), seen
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "args, cfg, weights, rows",
    [
        ({"enabled": True}, 1.0, ((1.0,),), 1),
        ({"enabled": True}, 1, ((1.0,), (0.5, 0.5)), 3),
        ({"enabled": True}, 1.0, ((0.5,),), 2),
        ({"enabled": True}, 1.5, ((1.0,),), 2),
        ({"enabled": True, "skip_cfg1": False}, 1.0, ((1.0,),), 2),
        ({}, 1.0, ((1.0,),), 2),
    ],
)
def test_no_negative_at_guidance_one(host, script, model, args, cfg, weights, rows):
    p = job(host, cfg, weights=weights)
    plain = job(host, cfg, weights=weights).sampler.sample(p)
    out, seen = rows_of(model, lambda: run(script, p, args))
    assert seen == [rows] * 2 and p.comments == {} and p.extra_generation_params == {}
    n = sum(map(len, weights))
    torch.testing.assert_close(out[0][:n], plain[0][:n], atol=1e-5, rtol=1e-4)


def test_negative_skip_in_a_job(host, script, model):
    p = job(host, 7.0, steps=4)
    _, seen = rows_of(model, lambda: run(script, p, {"negative_skip": {"enabled": True, "key_every": 2, "early": 0}}))
    assert seen == [2, 1, 2, 1] and p.comments == {}
    assert "key every: 2" in p.extra_generation_params["Attn negative-skip"]


def test_penalty_needs_no_negative_row(host, script, model):
    p = job(host, 1.0)
    plain = job(host, 1.0).sampler.sample(p)
    out, seen = rows_of(model, lambda: run(script, p, {"negative_skip": {"enabled": True}}))
    assert seen == [1, 1] and torch.equal(out[0][0], out[0][1])
    assert not torch.allclose(out[0][0], plain[0][0], atol=1e-3)
