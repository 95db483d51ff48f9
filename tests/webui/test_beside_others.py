"""Jobs beside other people's extensions: stand-ins with their habits, so that what holds does without them."""

import contextlib
import functools

import pytest
import torch

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn.unet.families import find_layers
from lib_attn.unet.neighbours import looks_at_arguments
from lib_attn.webui.infotext import MESSAGES
from tests.unets import snapshot
from tests.webui.jobs import Job, Model, Sampler, run

MASTER = {"enabled": True}
SKIP = {"negative_skip": {"enabled": True, "key_every": 2, "early": 0, "penalty": "off"}}
MIX = {"key_mix": {"enabled": True, "source": "first image", "blocks": "all", "amount": 0.8}}
NEAR = {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "all", "shift": 1.0}}
NAG = {"negative_skip": {"enabled": True, "penalty": "NAG", "strength": 2.0}}
BLUR = {"key_mix": {"enabled": True, "source": "blurred", "blocks": "all", "blur": 2.0}}
ALL = {**SKIP, **BLUR, **NEAR, "contrast": {"enabled": True, "keys": 0.5}}


@pytest.fixture
def model(host):
    host.shared.sd_model = Model()
    return host.shared.sd_model


@pytest.fixture
def script(script_module, model):
    return script_module.AttentionLab()


@pytest.fixture(autouse=True)
def nothing_stays(model):
    before, generator = snapshot(model.unet), torch.random.get_rng_state()
    yield
    assert snapshot(model.unet) == before
    assert torch.equal(torch.random.get_rng_state(), generator)


@pytest.fixture
def late(host):
    """Registers a callback behind ours, as an extension does that is loaded later or registers while a job runs."""

    def register(name, function):
        host.script_callbacks.registered.setdefault(name, []).append(function)

    return register


def job(host, cfg=7.0, **fields):
    sampler = Sampler(host, host.script_callbacks, **fields)
    sampler.sampler_extra_args["cond_scale"] = cfg
    return Job(sampler, cfg_scale=cfg, seeds=[11, 22, 33])


def plain(host, cfg=7.0, **fields):
    p = job(host, cfg, **fields)
    return p.sampler.sample(p)


@contextlib.contextmanager
def counted(model):
    """The rows of each call, seen where nobody else looks."""
    seen = []
    handle = model.unet.input_blocks[0][0].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        handle.remove()


@contextlib.contextmanager
def hooked(*handles):
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a, b):
    return len(a) == len(b) and all(torch.allclose(x, y, atol=1e-4, rtol=1e-3) for x, y in zip(a, b, strict=True))


def told(p, *words):
    """There is one sentence for each of `words`, below the picture and in its text."""
    assert len(p.comments) == len(words), list(p.comments)
    for word in words:
        assert any(word in text for text in p.comments), list(p.comments)
    assert p.extra_generation_params.get(MESSAGES, "") == " ".join(p.comments)
    assert not any("Error" in text or "object" in text for text in p.comments)
    return True


class ByArea:
    """Orders rows by area and then image, as regional prompter's Latent mode does, and back when they are computed."""

    def __init__(self, late, images, areas):
        self.order = [area + image * areas for area in range(areas) for image in range(images)]
        late("on_cfg_denoiser", self.before)
        late("on_cfg_denoised", self.after)

    def before(self, params):
        n = len(self.order)
        params.x[:n] = params.x[:n][self.order]
        params.text_cond[:] = params.text_cond[self.order]

    def after(self, params):
        back = torch.empty_like(params.x)
        back[self.order], back[len(self.order) :] = params.x[: len(self.order)], params.x[len(self.order) :]
        params.x[:] = back


AREAS = ((1.0, 1.0), (1.0, 1.0))


@pytest.mark.parametrize("technique, chunks", [(SKIP, None), (SKIP, 2), (MIX, None), (NEAR, 2), (ALL, None)])
def test_rows_put_in_another_order(host, script, late, technique, chunks):
    expected = run(script, job(host, weights=AREAS, steps=4, chunks=chunks), technique)
    ByArea(late, images=2, areas=2)
    assert close(plain(host, weights=AREAS, steps=4), plain(host, weights=AREAS, steps=4, chunks=chunks))
    p = job(host, weights=AREAS, steps=4, chunks=chunks)
    out = run(script, p, technique)
    assert close(out, expected) and not close(out, plain(host, weights=AREAS, steps=4))
    assert "unclear" not in " ".join(p.comments)


def test_each_image_of_another_order_comes_out_as_if_alone(host, script, late):
    """Every second negative is left out; what stands in is made of the image's own predictions."""
    alone = [run(script, job(host, weights=AREAS[:1], images=(i,), steps=4), SKIP) for i in (0, 1)]
    ByArea(late, images=2, areas=2)
    both = run(script, job(host, weights=AREAS, steps=4), SKIP)
    for image, own in enumerate(alone):
        for step in range(4):
            torch.testing.assert_close(
                both[step][[2 * image, 2 * image + 1, 4 + image]], own[step], atol=1e-4, rtol=1e-3
            )


@pytest.mark.parametrize("weights, clear", [(AREAS, True), (((1.0, 0.5), (1.0, 0.5)), True)])
def test_another_order_of_images_from_one_seed(host, script, late, monkeypatch, weights, clear):
    """Their latents are equal, so the texts tell."""
    original = Sampler.latents
    monkeypatch.setattr(
        Sampler, "latents", lambda self: original(self)[:1].expand(len(self.images), -1, -1, -1).clone()
    )
    expected = run(script, job(host, weights=weights, steps=4), SKIP)
    ByArea(late, images=2, areas=2)
    p = job(host, weights=weights, steps=4)
    assert close(run(script, p, SKIP), expected) == clear and p.comments


def test_rows_that_nobody_planned_are_left_alone(host, script, late):
    def exchange(params):
        params.x[:] = torch.randn(params.x.shape, generator=torch.Generator().manual_seed(9))

    late("on_cfg_denoiser", exchange)
    p = job(host, weights=AREAS)
    assert same(run(script, p, ALL), plain(host, weights=AREAS)) and told(p, "is unclear")


def test_latents_that_somebody_changed_are_still_one_image(host, script, late):
    late("on_cfg_denoiser", lambda params: params.x.add_(0.3).mul_(1.1).tanh_())
    p = job(host, weights=AREAS, steps=4)
    assert not close(run(script, p, NEAR), plain(host, weights=AREAS, steps=4)) and p.comments == {}


def splitter(module, args, output):
    """Smoothed energy guidance: the first half of the batch is taken for the negatives."""
    negative, positive = output.chunk(2)
    return torch.cat([negative, positive.mean(1, keepdim=True).expand_as(positive)])


PLACES = {
    "to_q": lambda layer: layer.attn1.to_q,
    "to_k": lambda layer: layer.attn2.to_k,
    "attention": lambda layer: layer.attn1,
    "block": lambda layer: layer.block,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "images, settings, cfg, word", [(1, MASTER, 1.0, "left nothing out"), (2, SKIP, 7.0, "in every step")]
)
def test_hooks_of_others_keep_every_row(host, script, model, place, images, settings, cfg, word):
    """With one row splitting fails, with two it takes the wrong one without an error."""
    layer = next(layer for layer in find_layers(model.unet) if layer.name == "M00")
    weights = ((1.0,),) * images
    with hooked(PLACES[place](layer).register_forward_hook(splitter)), counted(model) as rows:
        p = job(host, cfg, weights=weights, steps=4)
        out = run(script, p, settings)
        assert same(out, plain(host, cfg, weights=weights, steps=4)) and set(rows) == {2 * images}
    assert told(p, word) and "M00" in next(iter(p.comments))


def test_hooks_put_on_while_it_samples(host, script, model, late):
    module, handles = find_layers(model.unet)[0].attn1.to_q, []

    def hook(params):
        if params.denoiser.step == 1:
            handles.append(module.register_forward_hook(splitter))

    late("on_cfg_denoiser", hook)
    p = job(host, 1.0, steps=3)
    with counted(model) as rows:
        run(script, p, MASTER)
    with hooked(*handles):
        assert rows == [1, 2, 2] and told(p, "left nothing out")


def test_a_call_that_fails_is_made_again_with_all_rows(host, script, model):
    """Somebody counts the rows where we do not look, and draws a random number before."""

    def count(module, args):
        torch.rand(1)
        if len(args[0]) < 2:
            raise ValueError("not enough values to unpack (expected 2, got 1)")

    generator = torch.random.get_rng_state()
    first = model.unet.input_blocks[0][0]
    with hooked(first.register_forward_pre_hook(count)):
        before = plain(host, 1.0, steps=3)
        after = torch.random.get_rng_state()
        torch.random.set_rng_state(generator)
        p = job(host, 1.0, steps=3)
        with counted(model) as rows:
            assert same(run(script, p, MASTER), before)
            assert rows == [2, 2, 2] and torch.equal(torch.random.get_rng_state(), after)
            run(script, p, MASTER, passes=2)
        assert rows[3:] == [2] * 6, "in the passes to come as well"
        assert "computes every row from now on" in next(iter(p.comments))
        assert not any("unpack" in text for text in p.comments)
        with counted(model) as rows:
            p = job(host, 7.0, steps=4)
            run(script, p, SKIP)
        assert rows == [2] * 4
    torch.random.set_rng_state(generator)


def test_after_a_failed_call_negative_skip_goes_on_as_with_full_steps(host, script, model):
    def count(module, args):
        if len(args[0]) < 2:
            raise RuntimeError

    with hooked(model.unet.input_blocks[0][0].register_forward_pre_hook(count)):
        p = job(host, steps=4)
        assert same(run(script, p, SKIP), plain(host, steps=4))
    assert told(p, "computes every row")


class Scaler(torch.nn.Module):
    """Kohya's hires fix: a block inside of another module."""

    def __init__(self, block, scale):
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, x, *args):
        return self.block(torch.nn.functional.interpolate(x, scale_factor=self.scale, mode="nearest"), *args)


def wrap(unet, number=3):
    unet.input_blocks[number] = Scaler(unet.input_blocks[number], 0.5)
    unet.output_blocks[-number - 1] = Scaler(unet.output_blocks[-number - 1], 2.0)


def unwrap(unet):
    for blocks in (unet.input_blocks, unet.output_blocks):
        for number, block in enumerate(blocks):
            if isinstance(block, Scaler):
                blocks[number] = block.block


@pytest.mark.parametrize("technique", [MASTER, SKIP, ALL, {"negative_skip": {**SKIP["negative_skip"], "through": 4}}])
@pytest.mark.parametrize("when", ["before", "between", "until"])
def test_blocks_that_somebody_wrapped(host, script, model, late, technique, when):
    """A picture is drawn and the next job is untouched, whether the wrapper is there when we come, comes or goes."""
    cfg, fields = (1.0 if technique is MASTER else 7.0), {"steps": 4}
    clean = plain(host, **fields)

    def between(step):
        if (when, step) == ("between", 1):
            wrap(model.unet)
        if (when, step) == ("until", 2):
            unwrap(model.unet)

    outs = []
    for make in (lambda p: p.sampler.sample(p), lambda p: run(script, p, technique)):
        if when != "between":
            wrap(model.unet)
        p = job(host, cfg, event=between, **fields)
        try:
            outs.append(make(p))
        finally:
            unwrap(model.unet)
    assert p.comments == {} and all(out.isfinite().all() for out in outs[1])
    positive = [[out[:1] for out in found] for found in outs]
    assert close(*positive) == (technique is not ALL)
    assert same(plain(host, **fields), clean)


def reader(params):
    """Reads both predictions."""
    return params.x


@pytest.mark.parametrize("name", ["on_cfg_denoised", "on_cfg_after_cfg"])
@pytest.mark.parametrize("from_step", [None, 1])
def test_readers_of_both_predictions(host, script, model, late, name, from_step):
    """They may register as late as while the evaluation is put together."""

    def register(params):
        if params.denoiser.step == from_step:
            late(name, reader)

    late("on_cfg_denoiser", register)
    if from_step is None:
        late(name, reader)
    p = job(host, 1.0, steps=3)
    with counted(model) as rows:
        out = run(script, p, MASTER)
    assert rows == ([2, 2, 2] if from_step is None else [1, 2, 2]) and told(p, "may use the negative's prediction")
    first = from_step or 0
    assert same(out[first:], plain(host, 1.0, steps=3)[first:])


def test_who_does_not_look_is_no_reader(host, script, model, late):
    """FreeU counts steps so, merely installed too."""
    steps = []
    late("on_cfg_denoised", lambda *_args, **_kwargs: steps.append(1))
    p = job(host, 1.0)
    with counted(model) as rows:
        run(script, p, MASTER)
    assert rows == [1, 1] and p.comments == {} and len(steps) == 2


@pytest.mark.parametrize("function, looks", [
    (lambda params: params.x, True), (lambda *params: params, True), (lambda **params: params.items(), True),
    (lambda params: (lambda: params.x), True), (lambda params: (params, params), True), (print, True),
    (functools.partial(print), True), (lambda params: None, False), (lambda *_, **__: [1], False),
])  # fmt: skip
def test_a_callback_looks_at_what_it_is_given(function, looks):
    assert looks_at_arguments(function) is looks


def test_the_hosts_own_readers_are_none(host, script, model, late):
    code = compile("def inside(params): params.x", "/webui/extensions-builtin/x/scripts/y.py", "exec")
    exec(code, space := {"__name__": "y.py"})
    late("on_cfg_denoised", space["inside"])
    p = job(host, 1.0)
    with counted(model) as rows:
        run(script, p, MASTER)
    assert rows == [1, 1] and p.comments == {}


def test_a_penalty_needs_only_that_the_negative_drops_out(host, script, model):
    """Somebody has replaced the combination, used or not; the penalty acts all the same."""
    expected = run(script, job(host, 1.0, steps=3), NAG)
    p = job(host, 1.0, steps=3, combine_denoised=lambda *_: None)
    out = run(script, p, NAG)
    assert close([o[:1] for o in out], [o[:1] for o in expected])
    assert not close([o[:1] for o in out], [o[:1] for o in plain(host, 1.0, steps=3)])
    assert told(p, "may use the negative's prediction")


@pytest.mark.parametrize("cfg, weights", [(2.0, ((0.5,),)), (1.0, ((0.5, 0.5),))])
def test_a_penalty_goes_by_scale_times_weights(host, script, cfg, weights):
    p = job(host, cfg, weights=weights)
    out, n = run(script, p, NAG), len(weights[0])
    assert not close([o[:n] for o in out], [o[:n] for o in plain(host, cfg, weights=weights)]) and p.comments == {}


def test_a_penalty_without_words_is_said(host, script):
    p = job(host, 1.0)
    for schedule in p.sampler.sampler_extra_args["uncond"]:
        schedule[0].cond.zero_()
    out = run(script, p, NAG)
    p.sampler.seen.clear()
    assert close([o[:1] for o in out], [o[:1] for o in p.sampler.sample(p)]) and told(p, "has no words")


def test_a_reference_beside_a_penalty_is_not_called_nothing(host, script, model):
    """ControlNet's reference modes keep every row; the penalty acts."""
    block = find_layers(model.unet)[0].block
    block._forward = lambda *args, **kwargs: type(block)._forward(block, *args, **kwargs)
    try:
        p = job(host, 1.0)
        assert not close(run(script, p, NAG), plain(host, 1.0))
    finally:
        del block._forward
    assert told(p, "computes the negative in every step")
    assert not any("nothing" in text for text in p.comments)


def test_a_forward_left_behind(host, script, model):
    """Self-attention guidance puts the bound method back: that is the class's own, until it is somebody else's."""
    attn = next(layer.attn1 for layer in find_layers(model.unet) if layer.name == "M00")
    only = {"key_mix": {"enabled": True, "source": "blurred", "blocks": "mid", "amount": 1.0}}
    size = {"size": (32, 32), "steps": 1}
    attn.forward = attn.forward
    try:
        p = job(host, **size)
        assert not same(run(script, p, only), plain(host, **size)) and p.comments == {}
        attn.forward = lambda x, context=None, mask=None: type(attn).forward(attn, x, context, mask)
        p = job(host, **size)
        assert same(run(script, p, only), plain(host, **size)) and told(p, "loading the checkpoint again mends it")
        assert "M00" in next(iter(p.comments))
    finally:
        del attn.forward


def test_thinned_out_keys(host, script, model):
    """Token downsampling hands every layer a context, which is the input itself where it leaves the layer alone."""
    handles, near = [], {"near_sighted": {"enabled": True, "tile": 8, "pool": 4, "blocks": "d0-1"}}
    for layer in find_layers(model.unet):

        def hook(module, args, kwargs, step=2 if layer.depth == 0 else 1):
            return args, {**kwargs, "context": args[0] if step == 1 else args[0][:, ::step]}

        handles.append(layer.attn1.register_forward_pre_hook(hook, with_kwargs=True))
    with hooked(*handles):
        p = job(host, size=(32, 32))
        assert not same(run(script, p, near), plain(host, size=(32, 32))) and told(p, "thins out their keys")
        p = job(host, size=(32, 32))
        near["near_sighted"]["blocks"] = "d0"
        assert same(run(script, p, near), plain(host, size=(32, 32))) and told(p, "thins out their keys")


def test_one_step_is_always_full(host, script):
    p = job(host, steps=1)
    assert same(run(script, p, SKIP), plain(host, steps=1))
    assert told(p, "Negative skip changed nothing. One step is always computed in full")


@pytest.mark.parametrize("steps, why", [(2, "The first two steps are always"), (3, "With so few steps all of them")])
def test_few_steps_are_all_computed(host, script, steps, why):
    p = job(host, steps=steps)
    assert same(run(script, p, {"step_skip": {"enabled": True, "early": 1.0}}), plain(host, steps=steps))
    assert told(p, f"Step skip changed nothing. {why}")


def test_and_weights_that_cancel(host, script):
    """A picture as from the positive prompt, not the difference of two brought to a size."""
    weights, fill = ((1.0, -1.0),), {**SKIP["negative_skip"], "fill": "zeros"}
    p = job(host, weights=weights, steps=4)
    out = run(script, p, {"negative_skip": fill})
    assert torch.equal(out[1][2], out[1][0]) and told(p, "cancel each other")


@pytest.mark.parametrize("place", ["told", "neighbours", "matcher", "boundary", "technique"])
def test_an_error_of_ours_costs_no_picture(host, script, monkeypatch, place):
    from lib_attn.techniques.near_sighted.runtime import NearSightedRuntime
    from lib_attn.unet import batch, neighbours, rows
    from lib_attn.webui import negatives

    def broken(*args, **kwargs):
        raise ZeroDivisionError("float division by zero")

    owner, name = {
        "told": (negatives, "told"),
        "neighbours": (neighbours.Neighbours, "found"),
        "matcher": (rows.Matcher, "match"),
        "boundary": (batch.Boundary, "leave"),
        "technique": (NearSightedRuntime, "attend"),
    }[place]
    monkeypatch.setattr(owner, name, broken)
    p = job(host, steps=3)
    out = run(script, p, {**SKIP, **NEAR}, passes=2)
    assert same(out, plain(host, steps=3)) and not any("division" in text for text in p.comments)
    assert told(p, "is unclear" if place == "told" else "stood back")


def test_messages_are_in_the_pictures_text(host, script):
    """The API's answer has the text and no comments; what is said after sampling is in it as well."""
    p = job(host)
    run(script, p, {"near_sighted": {"enabled": True, "tile": 1e300, "blocks": "in99"}})
    assert told(p, "Tile size is a number from 0 to 256", "no attention in the blocks")
    from lib_attn.webui import infotext
    from tests.conftest import read_infotext, write_infotext

    pairs = read_infotext(write_infotext(p.extra_generation_params))
    assert pairs[MESSAGES] == p.extra_generation_params[MESSAGES]
    assert infotext.READERS["near_sighted.tile"](pairs) == 256
    run(script, p, False)
    assert MESSAGES not in p.extra_generation_params


@pytest.mark.parametrize("kept_out", [
    {"near_sighted": {"enabled": True, "tile": 8, "blocks": "all"}},
    {"dictionary": {"enabled": True, "blocks": "all", "atoms": 16}},
])  # fmt: skip
def test_who_is_kept_out_by_added_keys_is_told(host, script, kept_out):
    mix = {"key_mix": {"enabled": True, "operator": "concatenate", "blocks": "all"}}
    fields = {"weights": ((1.0,), (1.0,)), "size": (32, 32)}
    p = job(host, **fields)
    assert same(run(script, p, mix | kept_out), run(script, job(host, **fields), mix))
    assert told(p, "changed nothing. Key mix comes before it in the same blocks", "only in its whole batch")
