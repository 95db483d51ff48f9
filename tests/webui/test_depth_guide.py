"""Two passes in one job of the host: the map, drawn with other blocks by the host's sampler, then the picture."""

import base64
import hashlib
import importlib
import io
import sys
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn.learned.files import Loader, save
from lib_attn.learned.folders import Folders
from lib_attn.settings import Settings
from lib_attn.techniques.depth_guide.head import PREFIX, Head
from lib_attn.techniques.depth_guide.normals import normal_map
from lib_attn.unet.families import find_layers
from lib_attn.unet.layers import layer_keys
from lib_attn.webui.infotext import write_maps
from tests.conftest import write_infotext
from tests.techniques.test_dictionary import written
from tests.unets import snapshot, tiny_unet
from tests.webui.jobs import Interrupted, Job, Model, Sampler, run

ON = {"depth_guide": {"enabled": True, "file": "relief", "map_steps": 2}}


def blocks():
    return {k: v for k, v in tiny_unet(5).state_dict().items() if k.startswith(("output_blocks.", "out."))}


def write(folder, unet, tensors):
    layers = find_layers(unet)
    widths = dict(zip(layer_keys(layers), (layer.attn1.to_q.in_features for layer in layers), strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = {PREFIX + k: v for k, v in Head().state_dict().items()}
    save(folder / "relief.safetensors", "depth", tensors | head, {"family": "other", "layers": widths})


class Rng:
    def __init__(self, shape, seeds, **_):
        self.shape, self.seeds = shape, seeds

    def next(self):
        return torch.stack([torch.randn(self.shape, generator=torch.Generator().manual_seed(s)) for s in self.seeds])


class MapSampler(Sampler):
    """What ``create_sampler`` gives: samples what it is handed."""

    made = []

    def sample(self, p, x, conditioning, unconditional, image_conditioning=None):
        MapSampler.made.append(self)
        self.asked, self.noise, self.jobs = p, x, self.host.shared.state.job_count
        unet = self.host.shared.sd_model.unet
        self.weights_between = unet.out[-1].weight.clone()
        look = unet.time_embed.register_forward_pre_hook(self._see)
        try:
            super().sample(p)
        finally:
            look.remove()
        return x.tanh()

    def _see(self, module, args):
        unet = self.host.shared.sd_model.unet
        self.weights_seen = unet.out[-1].weight.clone()
        inner = [m for m in unet.modules() if m is not unet and m is not module]
        self.treated = any("forward" in vars(m) or m._forward_pre_hooks or m._forward_hooks for m in inner)


class MapJob(Job):
    def __init__(self, sampler, **fields):
        super().__init__(sampler, **fields)
        self.prompts, self.negative_prompts, self.subseeds = (
            ["a cube"] * len(self.seeds),
            [""] * len(self.seeds),
            self.seeds,
        )
        self.subseed_strength, self.seed_resize_from_h, self.seed_resize_from_w = 0.0, 0, 0
        self.width = self.height = 128
        self.sampler_name, self.steps, self.cfg_scale, self.sd_model = "Euler", 2, 5.0, None
        self.rng, self.outpath_samples = Rng((4, 16, 16), self.seeds), "out"

    def txt2img_image_conditioning(self, x):
        return None

    def save_samples(self):
        return True


@pytest.fixture
def model(host):
    host.shared.sd_model = Model()
    return host.shared.sd_model


@pytest.fixture
def script(host, script_module, model, tmp_path, monkeypatch):
    host_room = sys.modules["lib_attn.webui.host"]
    sys.modules["lib_attn.webui.job"]._store.clear()
    write(tmp_path, model.unet, blocks())
    monkeypatch.setattr(host_room, "files", Loader(lambda: Folders([tmp_path])))
    state = SimpleNamespace(job_count=1, textinfo=None, interrupted=False, skipped=False, stopping_generation=False)
    monkeypatch.setattr(host.shared, "state", state)
    monkeypatch.setattr(host.rng, "ImageRNG", Rng, raising=False)
    monkeypatch.setattr(
        host.sd_samplers,
        "create_sampler",
        lambda name, sd_model: MapSampler(host, host.script_callbacks, weights=host.weights),
        raising=False,
    )
    monkeypatch.setattr(
        host.processing,
        "decode_latent_batch",
        lambda sd_model, latents, target_device, check_for_nans: list(F.interpolate(latents[:, :3], scale_factor=8)),
        raising=False,
    )
    for name, value in {"enable_pnginfo": True, "samples_format": "png"}.items():
        monkeypatch.setattr(host.shared.opts, name, value, raising=False)
    monkeypatch.setattr(host.processing, "create_infotext", infotext, raising=False)
    MapSampler.made = []
    host.weights = ((1.0,),)
    return script_module.AttentionLab()


def infotext(p, prompts, seeds, subseeds, index, all_negative_prompts):
    """Stands for the host's."""
    return f"{prompts[index]}\nSeed: {seeds[index]}, {write_infotext(p.extra_generation_params)}"


@pytest.fixture(autouse=True)
def nothing_stays(model):
    before, weights = snapshot(model.unet), {k: v.clone() for k, v in model.unet.state_dict().items()}
    yield
    assert snapshot(model.unet) == before
    assert all(torch.equal(v, weights[k]) for k, v in model.unet.state_dict().items())


def job(host, **sampler):
    return MapJob(Sampler(host, host.script_callbacks, weights=host.weights, **sampler), seeds=[1] * len(host.weights))


def conds(p):
    """What the host made of the prompts."""
    extra = p.sampler.sampler_extra_args
    return {"c": extra["cond"], "uc": extra["uncond"]}


def gallery(script, p, args=ON):
    """Run a job; returns (what the sampler gave, the gallery)."""
    processed = SimpleNamespace(images=[], infotexts=[], info="")
    script.before_process(p, args)
    script.process(p, args)
    script.process_before_every_sampling(p, args, x=None, noise=None, **conds(p))
    out = p.sampler.sample(p)
    script.postprocess_batch(p, args, batch_number=0)
    script.postprocess(p, processed, args)
    return out, processed.images


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_map_is_drawn_with_the_other_blocks_and_the_picture_follows_it(host, script, model):
    plain = job(host).sampler.sample(job(host))
    p = job(host)
    out, pictures = gallery(script, p)
    (drawn,) = MapSampler.made
    assert torch.equal(drawn.weights_seen, blocks()["out.2.weight"])
    assert torch.equal(drawn.weights_between, host.shared.sd_model.unet.out[-1].weight)
    assert not drawn.treated, "no technique of ours sits on the model while the map is drawn"
    assert drawn.asked.steps == 2 and drawn.asked.cfg_scale == 4.0 and p.steps == 2 and p.cfg_scale == 5.0
    assert torch.equal(drawn.noise[0], Rng((4, 16, 16), [1]).next()[0])
    assert len(pictures) == 1 and pictures[0].size == (128, 128)
    assert not same(out, plain) and not p.comments
    assert len(p.extra_generation_params["Attn map hashes"]) == 10
    assert drawn.jobs == 1, "of more than one job the host stops only after the present picture"


def test_the_map_is_kept_while_prompt_and_seed_stay(host, script):
    first, _ = gallery(script, job(host))
    again, pictures = gallery(script, job(host))
    assert len(MapSampler.made) == 1 and len(pictures) == 1 and same(first, again)
    p = job(host)
    p.subseeds = [77]  # the host draws another one for each job, and does not use it at strength 0
    gallery(script, p)
    assert len(MapSampler.made) == 1
    p = job(host)
    (entry,) = conds(p)["c"].batch[0][0].schedules
    entry.cond = entry.cond + 1.0
    gallery(script, p)
    gallery(script, job(host), {"depth_guide": {**ON["depth_guide"], "map_seed": 1}})
    assert len(MapSampler.made) == 3 and MapSampler.made[-1].asked.rng.seeds == [2]
    host.shared.opts.data["CLIP_stop_at_last_layers"] = 2
    gallery(script, job(host))
    p = job(host)
    p.eta = 0.5
    gallery(script, p)
    assert len(MapSampler.made) == 5


def test_another_map_is_drawn_where_other_scripts_are_handed_something_else(host, script):
    """CADS, CFG rescale and others act on the map as they do on a picture."""

    def drawn_with(strength, ours=0, picture=1):
        theirs = SimpleNamespace(title=lambda: "CADS", args_from=1, args_to=3)
        own = SimpleNamespace(title=lambda: "Attention Lab", args_from=3, args_to=4)
        p = job(host)
        p.scripts = SimpleNamespace(scripts=[theirs, own])
        p.script_args = [0, {"scale": strength}, np.full((64, 64, 3), picture), ours]
        gallery(script, p)
        return len(MapSampler.made)

    assert [drawn_with(0.1), drawn_with(0.1), drawn_with(0.1, ours=1)] == [1, 1, 1]
    assert [drawn_with(0.2), drawn_with(0.2, picture=2), drawn_with(0.2, picture=2)] == [2, 3, 3]


def test_prompt_editing_goes_by_the_steps_of_the_map(host, script):
    p, asked = job(host), []

    def of_copy(copied):
        asked.append((copied.steps, copied.cached_c, copied.cached_uc))
        copied.c, copied.uc = conds(p)["c"], conds(p)["uc"]

    MapJob.setup_conds = of_copy
    try:
        gallery(script, p)
        assert asked == []
        schedules = conds(p)["c"].batch[0][0].schedules
        schedules += schedules
        gallery(script, p)
        assert asked == [(2, [None, None], [None, None])]
    finally:
        del MapJob.setup_conds


def test_the_global_generator_stays(host, script, monkeypatch):
    """The host seeds it for the noise of the map, and takes from it later what the hires pass is encoded with."""
    monkeypatch.setattr(Rng, "next", lambda self: torch.manual_seed(9) and torch.randn(1, *self.shape))
    before = torch.random.get_rng_state()
    gallery(script, job(host))
    assert torch.equal(torch.random.get_rng_state(), before) and len(MapSampler.made) == 1


def test_a_job_that_begins_with_the_hires_pass_has_a_map_of_its_own(host, script):
    gallery(script, job(host))
    p = job(host)
    p.is_hr_pass, p.seeds, p.rng = True, [5], Rng((4, 16, 16), [5])
    _, pictures = gallery(script, p)
    assert len(MapSampler.made) == 2 and len(pictures) == 1


def test_a_mask_of_the_picture_is_none_of_the_map(host, script):
    p = job(host)
    p.mask = p.nmask = torch.ones(1)
    gallery(script, p)
    assert MapSampler.made[0].asked.mask is None and MapSampler.made[0].asked.nmask is None and p.mask is not None


def test_strength_0_draws_no_map_and_says_so(host, script):
    p = job(host)
    plain = job(host).sampler.sample(job(host))
    out, pictures = gallery(script, p, {"depth_guide": {**ON["depth_guide"], "strength": 0}})
    assert same(out, plain) and not pictures and not MapSampler.made
    assert any("strength is 0" in text for text in p.comments)


@pytest.mark.parametrize("saves", [True, False])
def test_a_map_has_the_text_of_its_picture(host, script, monkeypatch, saves):
    """In its file and in the gallery, as it is when the picture is done: with its hash and all that was told."""
    host.weights, saved = ((1.0,), (1.0,)), []

    def save(picture, path, basename, seed, prompt, extension, info, p, suffix):
        saved.append((path, seed, prompt, extension, info, suffix))

    monkeypatch.setattr(host.images, "save_image", save, raising=False)
    p, args = job(host), {"depth_guide": {**ON["depth_guide"], "save": saves, "file": ""}}
    p.seeds, p.prompts = [3, 4], ["a cube", "a ball"]
    processed = SimpleNamespace(images=[], infotexts=[], info="another")
    script.before_process(p, args)
    script.process(p, args)
    script.process_before_every_sampling(p, args, x=None, noise=None, **conds(p))
    p.sampler.sample(p)
    assert saved == []
    script.postprocess_batch(p, args, batch_number=0)
    wanted = [infotext(p, p.prompts, p.seeds, p.subseeds, i, p.negative_prompts) for i in (0, 1)]
    assert "Attn map hashes: " in wanted[0] and "relief is used" in wanted[0]
    script.postprocess(p, processed, args)
    assert processed.infotexts == wanted and [picture.info["parameters"] for picture in processed.images] == wanted
    told = [
        ("out", seed, prompt, "png", text, "-map")
        for seed, prompt, text in zip(p.seeds, p.prompts, wanted, strict=True)
    ]
    assert saved == (told if saves else [])


def test_the_one_file_that_fits_is_taken_where_none_is_named(host, script, model, tmp_path):
    p = job(host)
    _, pictures = gallery(script, p, {"depth_guide": {"enabled": True, "map_steps": 2}})
    assert len(pictures) == 1 and "file: relief#" in p.extra_generation_params["Attn depth-guide"]
    assert any("relief is used" in text for text in p.comments)
    write(tmp_path, model.unet, blocks())
    (tmp_path / "relief.safetensors").rename(tmp_path / "another.safetensors")
    write(tmp_path, model.unet, blocks())
    p = job(host)
    _, pictures = gallery(script, p, {"depth_guide": {"enabled": True}})
    assert not pictures and any("choose a file" in text for text in p.comments)


def test_the_one_dictionary_that_fits_is_taken_and_named(host, script, model, tmp_path):
    """The picture's text names the file, so that pasting it draws the same; one of another model is no second one."""
    written(tmp_path, model.unet)
    written(tmp_path, model.unet, "others", family="sdxl")
    asked = {"mode": "full", "strength": 1.0, "blocks": "all", "style_rows": "both"}
    found = {}
    for file in ("", "look", "others"):
        p = job(host)
        found[file], _ = gallery(script, p, {"dictionary": {"enabled": True, **asked, "file": file}})
        text = p.extra_generation_params["Attn dictionary"]
        assert ("file: look#" in text) == (file != "others")
        assert any("No file was chosen for Dictionary: look is used" in told for told in p.comments) == (file == "")
    assert same(found[""], found["look"]) and not same(found["look"], found["others"])


def test_a_sampler_that_chooses_its_steps_is_told(host, script, monkeypatch):
    monkeypatch.setattr(MapSampler, "funcname", "sample_dpm_adaptive", raising=False)
    p = job(host)
    p.sampler_name = "DPM adaptive"
    _, pictures = gallery(script, p)
    assert len(pictures) == 1 and any("Map steps does nothing" in text for text in p.comments)


def encoded(picture, mode=None):
    """A picture as the page and the API send it."""
    stream = io.BytesIO()
    Image.fromarray(picture, mode).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def two_things():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[20:40, 6:20], picture[20:50, 40:54] = 255, 160
    return picture


def with_own(**values):
    return {"depth_guide": {**ON["depth_guide"], "own_map": encoded(two_things()), **values}}


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_a_map_of_ones_own_is_followed_and_none_is_drawn(host, script, head):
    plain, p = job(host).sampler.sample(job(host)), job(host)
    out, pictures = gallery(script, p, with_own(own_map=head + encoded(two_things())))
    assert not MapSampler.made and not same(out, plain) and not p.comments
    (shown,) = pictures
    assert shown.size == (128, 128) and shown.getpixel((26, 60)) == (255, 255, 255)
    assert shown.getpixel((94, 70)) == (160, 160, 160) and shown.getpixel((60, 60)) == (0, 0, 0)
    wanted = hashlib.sha256(two_things().tobytes()).hexdigest()[:10]
    assert p.extra_generation_params["Attn map hashes"] == wanted
    assert f"map hash: {wanted}" in p.extra_generation_params["Attn depth-guide"]
    assert "own" not in p.extra_generation_params["Attn depth-guide"]


@pytest.mark.parametrize(
    ("file", "why"),
    [("", "it is read by the network of a file with map blocks. Choose one."), ("none", "there is none of this name")],
)
def test_a_map_of_ones_own_that_no_network_reads_is_not_shown(host, script, monkeypatch, file, why):
    monkeypatch.setattr("lib_attn.webui.host.fitting", lambda kind: [])
    plain, p = job(host).sampler.sample(job(host)), job(host)
    out, pictures = gallery(script, p, with_own(file=file))
    assert same(out, plain) and not pictures
    (said,) = p.comments
    assert why in said and "?" not in said
    assert not p.extra_generation_params.get("Attn map hashes")


@pytest.mark.parametrize("guide", ["predicted picture", "first steps"])
def test_a_map_of_other_proportions_is_cropped_in_the_middle_and_that_is_said(host, script, monkeypatch, guide):
    """Twice as wide as the picture: a quarter at its left and a quarter at its right are left out."""
    wide, asked = np.zeros((64, 128, 3), np.uint8), []
    wide[:, :32], wide[:, 32:64], wide[:, 64:96], wide[:, 96:] = 10, 60, 160, 255
    encode = lambda pixels, model=None: asked.append(pixels) or torch.zeros(1, 4, 16, 16)  # noqa: E731
    monkeypatch.setattr(host.sd_samplers_common, "images_tensor_to_samples", encode)
    p = job(host)
    _, (shown,) = gallery(script, p, with_own(own_map=encoded(wide), guide=guide))
    row = np.asarray(shown)[64, :, 0]
    assert (row[:56] == 60).all() and (row[72:] == 160).all() and shown.size == (128, 128)
    assert [text for text in p.comments if "cut off" in text] == [
        "The map is wider than the picture: 25 % of it are cut off on the left, and as much on the right."
    ]
    wanted = hashlib.sha256(wide.tobytes()).hexdigest()[:10]
    assert p.extra_generation_params["Attn map hashes"] == wanted, "the hash is that of the whole map"
    if guide == "first steps":
        assert np.allclose(asked[0][0, 0, 64].numpy() * 255, row)
    slim = job(host)
    gallery(script, slim, with_own(own_map=encoded(np.ascontiguousarray(wide.transpose(1, 0, 2)))))
    assert any("taller than the picture: 25 %" in text for text in slim.comments)


def test_a_map_of_ones_own_is_read_once_for_all_jobs(host, script, monkeypatch):
    given, read, times = sys.modules["lib_attn.techniques.depth_guide.given"], [], 2
    once = given.read_map
    monkeypatch.setattr(given, "read_map", lambda text: read.append(text) or once(text))
    for _ in range(times):
        gallery(script, job(host), with_own())
    assert len(read) == 1


def test_a_pasted_picture_finds_its_map_while_it_is_here_and_says_when_it_is_not(host, script):
    p = job(host)
    first, _ = gallery(script, p, with_own())
    values, messages = Settings.from_infotext(p.extra_generation_params)
    pasted = {"depth_guide": values["depth_guide"].to_dict()}
    assert not messages and pasted["depth_guide"]["own_map"] == ""
    again, pictures = gallery(script, job(host), pasted)
    assert same(again, first) and len(pictures) == 1
    sys.modules["lib_attn.webui.job"]._store.clear()
    p, plain = job(host), job(host).sampler.sample(job(host))
    out, pictures = gallery(script, p, pasted)
    missing = pasted["depth_guide"]["map_hash"]
    assert same(out, plain) and not pictures and any(f"{missing}, which is not here" in text for text in p.comments)
    p, other = job(host), two_things()[::-1]
    gallery(
        script, p, with_own(own_map=encoded(np.ascontiguousarray(other)), map_hash=pasted["depth_guide"]["map_hash"])
    )
    assert any("which is not the map" in text for text in p.comments)


def test_a_drawn_map_can_be_used_for_another_seed(host, script):
    p = job(host)
    gallery(script, p)
    drawn = p.extra_generation_params["Attn map hashes"]
    host.weights = ((1.0,), (1.0,))
    p = job(host)
    p.seeds = p.subseeds = p.rng.seeds = [3, 4]
    gallery(script, p, {"depth_guide": {**ON["depth_guide"], "map_hash": drawn}})
    assert len(MapSampler.made) == 1 and p.extra_generation_params["Attn map hashes"] == drawn and not p.comments


@pytest.mark.parametrize(
    "own, why",
    [
        (encoded(np.full((8, 8, 3), 99, np.uint8)), "of one grey"),
        *((own, "no picture that can be read") for own in (base64.b64encode(b"no picture").decode(), "!!!!", "üü",
          "abc", "file:///etc/passwd", "https://example.org/a.png", 5, ["a"], {})),
    ],
)  # fmt: skip
def test_what_is_no_map_is_told_and_the_picture_comes_unguided(host, script, own, why):
    """No map is drawn in its place."""
    plain, p = job(host).sampler.sample(job(host)), job(host)
    args = with_own(own_map=own)
    out, pictures = gallery(script, p, args)
    assert same(out, plain) and not pictures and any(why in text for text in p.comments)


def test_first_steps_encodes_a_map_of_ones_own_at_the_picture_s_size(host, script, monkeypatch):
    asked = []

    def encode(pixels, model=None):
        torch.rand(1)  # as the host's VAE does
        asked.append(pixels)
        return torch.zeros(1, 4, 16, 16)

    generator = torch.random.get_rng_state()

    monkeypatch.setattr(host.sd_samplers_common, "images_tensor_to_samples", encode)
    plain, p = job(host).sampler.sample(job(host)), job(host)
    out, _ = gallery(script, p, {"depth_guide": {**with_own()["depth_guide"], "guide": "first steps", "file": ""}})
    assert asked[0].shape == (1, 3, 128, 128) and asked[0].max() == 1 and not same(out, plain)
    assert not p.comments and "file" not in p.extra_generation_params["Attn depth-guide"], "none is needed"
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert not any("choose a file" in text for text in p.comments)


def test_the_noise_of_a_picture_that_follows_a_map_loses_its_layout(host, script):
    noise = torch.randn(1, 4, 16, 16)
    for args, changed in ((ON, True), ({"depth_guide": {**ON["depth_guide"], "guide": "first steps"}}, False)):
        p, x = job(host), noise.clone()
        script.before_process(p, args)
        script.process(p, args)
        script.process_before_every_sampling(p, args, x=x, noise=x, **conds(p))
        assert torch.equal(x, noise) is not changed
    p, x = job(host), noise.clone()
    script.before_process(p, ON)
    script.process(p, ON)
    script.process_before_every_sampling(p, ON, x=x, noise=x.clone(), **conds(p))
    assert torch.equal(x, noise), "img2img: the picture is there already"


def test_one_map_for_each_picture_of_a_batch(host, script):
    host.weights = ((1.0,), (1.0,))
    p = job(host)
    p.seeds = p.subseeds = p.rng.seeds = [3, 4]
    _, pictures = gallery(script, p)
    assert len(MapSampler.made) == 1 and len(pictures) == 2
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_a_host_that_is_to_stop_after_this_picture_draws_it_with_its_map(host, script):
    """Its "stopping_generation" ends the job after the present pictures, and no sampling."""
    host.shared.state.stopping_generation = True
    p = job(host)
    out, pictures = gallery(script, p)
    assert len(pictures) == 1 and not p.comments and not same(out, job(host).sampler.sample(job(host)))


@pytest.mark.parametrize("event", [RuntimeError("out of memory"), Interrupted()])
def test_a_map_that_fails_says_so_and_the_picture_comes_unguided(host, script, event, monkeypatch):
    plain = job(host).sampler.sample(job(host))

    def fail(step):
        host.shared.state.interrupted = isinstance(event, Interrupted)
        raise event

    made = host.sd_samplers.create_sampler
    monkeypatch.setattr(
        host.sd_samplers, "create_sampler", lambda *a: MapSampler(host, host.script_callbacks, event=fail)
    )
    p = job(host)
    out, pictures = gallery(script, p)
    assert same(out, plain) and not pictures
    (told,) = p.comments
    assert told.startswith(
        "Interrupted while its map was drawn: " if isinstance(event, Interrupted) else "The map could"
    )
    host.shared.state.interrupted = False
    monkeypatch.setattr(host.sd_samplers, "create_sampler", made)
    assert len(gallery(script, job(host))[1]) == 1, "the next job draws a map again"


@pytest.mark.parametrize(
    "tensors, file, why",
    [(None, "nothing", "there is none of this name"), ({"out.2.weight": torch.zeros(2, 2)}, "relief", "has shape")],
)
def test_a_file_that_does_not_fit_is_told(host, script, model, tmp_path, tensors, file, why):
    if tensors:
        write(tmp_path, model.unet, tensors)
    plain = job(host).sampler.sample(job(host))
    p = job(host)
    out, pictures = gallery(script, p, {"depth_guide": {**ON["depth_guide"], "file": file}})
    assert same(out, plain) and not pictures and not MapSampler.made
    assert any(why in text for text in p.comments)


def test_the_latest_map_can_be_filled_in(host, script):
    """What the button "Use the last map" fills in: the hash of the last map drawn, of a batch the last one."""
    jobs = sys.modules["lib_attn.webui.job"]
    assert jobs.latest("depth_guide.map_hash") == ""
    host.weights = ((1.0,), (1.0,))
    p = job(host)
    p.seeds = p.subseeds = p.rng.seeds = [3, 4]
    gallery(script, p)
    assert jobs.latest("depth_guide.map_hash") == p.extra_generation_params["Attn map hashes"].split()[1]


def test_each_picture_s_text_has_the_hash_of_its_own_map(host, script):
    """The host asks with the picture's place in the batch at hand, and for the grid with the main prompt."""
    host.weights = ((1.0,), (1.0,))
    p = job(host)
    p.seeds = p.subseeds = p.rng.seeds = [3, 4]
    gallery(script, p)
    text = p.extra_generation_params["Attn map hashes"]
    first, second = text.split()
    assert [text(p=p, index=i, use_main_prompt=False) for i in range(2)] == [first, second]
    assert text(p=p, index=0, use_main_prompt=True) == text == f"{first} {second}"
    write_maps(p.extra_generation_params, [second, "abcdefghij"])
    text = p.extra_generation_params["Attn map hashes"]
    assert text == f"{first} {second} abcdefghij"
    assert [text(p=p, index=i) for i in range(2)] == [second, "abcdefghij"]
    p.all_seeds = [3, 4, 5, 6]
    assert [text(p=p, index=i, all_seeds=p.all_seeds) for i in range(4)] == [first, second, second, "abcdefghij"]
    assert [text(p=p, index=i, all_seeds=[5, 6]) for i in range(2)] == [second, "abcdefghij"]
    write_maps(p.extra_generation_params, [None, None])
    text = p.extra_generation_params["Attn map hashes"]
    assert text(p=p, index=0) is None, "this batch followed none"
    assert text(p=p, index=3, all_seeds=p.all_seeds) == "abcdefghij"


def test_no_hash_is_written_of_a_map_that_the_picture_does_not_follow(host, script):
    """Drawn and shown, but no step follows it: the host asks for the text after the picture is drawn."""
    p, followed = job(host), job(host)
    _, pictures = gallery(script, p, {"depth_guide": {**ON["depth_guide"], "until": 0.0}})
    assert len(pictures) == 1 and p.extra_generation_params["Attn map hashes"](p=p) is None
    gallery(script, followed)
    assert len(followed.extra_generation_params["Attn map hashes"](p=followed)) == 10


def test_off_no_map_is_drawn(host, script):
    plain = job(host).sampler.sample(job(host))
    assert same(run(script, job(host), {"depth_guide": {"file": "relief"}}), plain) and not MapSampler.made


class Option(Enum):
    BOTH, LOW_RES_ONLY, HIGH_RES_ONLY = "Both", "Low res only", "High res only"


class Unit(SimpleNamespace):
    """``ControlNetUnit``, as far as it is used."""

    def __init__(self, **fields):
        super().__init__(**{"enabled": False, "hr_option": Option.BOTH, "image": None, "model": "None", **fields})


class ControlNet:
    """``external_code`` of Mikubill/sd-webui-controlnet, and the script that has read its units."""

    ControlNetUnit = Unit

    def __init__(self, units, models=("control_v11f1p_sd15_depth [cfd03158]",)):
        self.units, self.models, self.latest_network = units, list(models), None
        self.starts = []

    def find_cn_script(self, runner):
        return self

    def get_all_units_in_processing(self, p):
        return list(self.units)

    def get_models(self, update=False):
        return self.models

    def update_cn_script_in_processing(self, p, units):
        assert len(units) == len(self.units)
        self.units = units

    def process(self, p):
        """What the extension does in its own ``process``."""
        params = [
            SimpleNamespace(
                start_guidance_percent=u.guidance_start, stop_guidance_percent=u.guidance_end, weight=u.weight,
                hint_cond=torch.from_numpy(u.image).permute(2, 0, 1)[None] / 255, hr_hint_cond=None,
            )
            for u in self.units if u.enabled
        ]  # fmt: skip
        self.latest_network = SimpleNamespace(control_params=params)
        self.used = list(self.units)
        p.extra_generation_params.update({f"ControlNet {i}": "" for i in range(len(params))})
        return params


USED = {
    "enabled": True,
    "image": np.zeros((128, 128, 3), np.uint8),
    "guidance_start": 0.1,
    "guidance_end": 1.0,
    "weight": 1.0,
}


@pytest.fixture
def controlnet(host, monkeypatch):
    def install(*units, **options):
        there = ControlNet([Unit(**u) for u in units], **options)
        monkeypatch.setattr(host.extensions, "active", lambda: [SimpleNamespace(name="sd-webui-controlnet")])
        monkeypatch.setitem(sys.modules, "extensions.sd-webui-controlnet.scripts.external_code", there)
        monkeypatch.setattr(importlib, "import_module", _import_fake(importlib.import_module))
        return there

    return install


def _import_fake(real):
    return lambda name, *a: sys.modules[name] if name.startswith("extensions.") else real(name, *a)


def with_controlnet(script, p, there, args):
    """A job in which ControlNet reads its units before the map is drawn."""
    processed = SimpleNamespace(images=[], infotexts=[], info="")
    script.before_process(p, args)
    params = there.process(p) if there else []
    script.process(p, args)
    script.process_before_every_sampling(p, args, **conds(p))
    out = p.sampler.sample(p)
    script.postprocess_batch(p, args, batch_number=0)
    script.postprocess(p, processed, args)
    return out, processed.images, params


TO_CONTROLNET = {
    "depth_guide": {**ON["depth_guide"], "guide": "ControlNet", "strength": 1.2, "until": 0.5, "hires": "off"}
}


def test_controlnet_gets_the_map_and_rests_while_it_is_drawn(host, script, controlnet):
    there = controlnet(USED, {}, {})
    p = job(host)
    p.scripts, p.batch_size, plain = None, 1, job(host).sampler.sample(job(host))
    seen = []
    made = host.sd_samplers.create_sampler
    host.sd_samplers.create_sampler = lambda *a: (
        seen.append([one.start_guidance_percent for one in there.latest_network.control_params]) or made(*a)
    )
    out, pictures, (other, ours) = with_controlnet(script, p, there, TO_CONTROLNET)
    host.sd_samplers.create_sampler = made
    assert [u.enabled for u in there.used] == [True, True, False]
    assert [u.enabled for u in there.units] == [True, False, False], "the unit is given back"
    unit = there.used[1]
    assert unit.save_detected_map is False and p.extra_generation_params.keys() >= {"ControlNet 0"}
    assert "ControlNet 1" not in p.extra_generation_params, "pasted, it would be a unit without a picture"
    assert unit.model.startswith("control_v11f1p_sd15_depth") and unit.weight == 1.2 and unit.module == "none"
    assert unit.hr_option is Option.LOW_RES_ONLY and unit.image.shape == (128, 128, 3)
    assert seen == [[2.0, 2.0]] and (other.start_guidance_percent, ours.start_guidance_percent) == (0.1, 0.0)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1)[None] / 255, (128, 128), mode="bilinear"
    )
    torch.testing.assert_close(ours.hint_cond, expected)
    assert other.hint_cond.abs().max() == 0 and same(out, plain) and not p.comments


def test_a_batch_that_controlnet_guides_names_the_one_map_that_it_follows(host, script, controlnet):
    host.weights = ((1.0,), (1.0,))
    there, p = controlnet(USED, {"enabled": False}), job(host)
    p.seeds = p.subseeds = p.rng.seeds = [3, 4]
    p.scripts, p.batch_size = None, 2
    with_controlnet(script, p, there, TO_CONTROLNET)
    text = p.extra_generation_params["Attn map hashes"]
    assert len(text) == 10 and [text(p=p, index=i) for i in range(2)] == [text, text]


@pytest.mark.parametrize(
    "units, models, why",
    [((USED,), ("depth",), "no free unit"), (({},), ("canny",), "no depth model"), (None, (), "not installed")],
)
def test_without_a_place_in_controlnet_it_says_so(host, script, controlnet, units, models, why):
    there = controlnet(*units, models=models) if units else None
    p = job(host)
    p.scripts, p.batch_size, plain = None, 1, job(host).sampler.sample(job(host))
    out, pictures, _ = with_controlnet(script, p, there, TO_CONTROLNET)
    assert same(out, plain) and not pictures and not MapSampler.made, "no map is drawn that nobody follows"
    (told,) = p.comments
    assert why in told and "Attn map hashes" not in p.extra_generation_params


@pytest.mark.parametrize(
    "models, normals, why",
    [(("depth",), False, None), (("normalbae",), False, None), (("canny",), False, "has no depth model"),
     (("depth",), True, "has no normal model"), (None, False, "not installed")],
)  # fmt: skip
def test_what_controlnet_lacks_is_known_before_there_is_a_job(host, script, controlnet, models, normals, why):
    if models is not None:
        controlnet({}, models=models)
    group = Settings.read({"depth_guide": {**TO_CONTROLNET["depth_guide"], "normals": normals}})[0]["depth_guide"]
    told = sys.modules["lib_attn.webui.controlnet"].lacking(group)
    assert told is None if why is None else why in str(told) and "none is drawn" in str(told)


def test_each_run_of_a_job_hands_over_its_own_map(host, script, controlnet):
    there = controlnet({})
    p = job(host)
    p.scripts, p.batch_size = None, 1
    with_first = {**TO_CONTROLNET["depth_guide"], "start": 0.9, "until": 0.5}
    _, _, (ours,) = with_controlnet(script, p, there, {"depth_guide": with_first})
    assert (ours.start_guidance_percent, ours.stop_guidance_percent) == (0.9, 0.9), (
        "a window that ends before it starts"
    )
    p = job(host)
    p.scripts, p.batch_size = None, 1
    script.before_process(p, TO_CONTROLNET)
    (ours,) = there.process(p)
    resets = []
    ours.control_model = SimpleNamespace(reset=lambda: resets.append(ours.hint_cond.clone()))
    script.process(p, TO_CONTROLNET)
    for seed in (1, 2):
        p.seeds, p.rng = [seed], Rng((4, 16, 16), [seed])
        script.process_before_every_sampling(p, TO_CONTROLNET, **conds(p))
        p.sampler.sample(p)
        script.postprocess_batch(p, TO_CONTROLNET, batch_number=0)
        assert ours.start_guidance_percent == 0.0
    assert len(resets) == 2 and not torch.equal(*resets), "adapters keep what they made of the first hint"
    again = job(host)
    again.scripts, again.batch_size = None, 1
    again.attention_lab_reserved = p.attention_lab_reserved
    script.before_process(again, TO_CONTROLNET)
    assert sum(u.enabled for u in there.units) == 1, "a run that ended with an error has given its unit back"


@pytest.mark.parametrize(
    "models, file, chosen",
    [
        (("a_xl_depth", "b_depth"), "depth", "b_depth"),
        (("a_normal", "b_normalbae"), "normal", "b_normalbae"),
        (("a_normal",), "normal", "a_normal"),
        (("a_lllite_depth",), "depth", None),
    ],
)
def test_the_model_fits_the_checkpoint_and_the_map(host, controlnet, models, file, chosen):
    there = controlnet({}, models=models)

    class Version(Enum):
        UNKNOWN, SD1, XL = 0, 1, 3

        @staticmethod
        def detect_from_model_name(name):
            return Version.XL if "xl" in name else Version.UNKNOWN

        def is_compatible_with(self, other):
            return other is not Version.XL

    there.global_state = SimpleNamespace(get_sd_version=lambda: Version.SD1)
    assert sys.modules["lib_attn.webui.controlnet"].model_for(there, file) == chosen


def test_a_unit_without_a_map_rests(host, script, controlnet):
    there = controlnet(USED, {})
    p = job(host)
    p.scripts, p.batch_size = None, 1
    args = {"depth_guide": {**TO_CONTROLNET["depth_guide"], "file": "nothing"}}
    _, pictures, (other, ours) = with_controlnet(script, p, there, args)
    assert (other.start_guidance_percent, ours.start_guidance_percent) == (0.1, 2.0) and not pictures


@pytest.mark.parametrize("asked", [False, True])
def test_where_controlnet_reads_normals_alone_it_gets_them_of_the_depth_map(host, script, controlnet, asked):
    there = controlnet({}, models=("control_v11p_sd15_normalbae [cb7296e6]",))
    p = job(host)
    p.scripts, p.batch_size = None, 1
    args = {"depth_guide": {**TO_CONTROLNET["depth_guide"], "normals": asked}}
    _, (shown,), (ours,) = with_controlnet(script, p, there, args)
    assert there.units[0].enabled is False or "normalbae" in there.units[0].model
    (drawn,) = sys.modules["lib_attn.webui.job"]._store.get("maps").current
    assert np.array_equal(np.asarray(shown), normal_map(drawn.picture) if asked else drawn.picture)
    wanted = torch.from_numpy(normal_map(drawn.picture)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(ours.hint_cond, F.interpolate(wanted, (128, 128), mode="bilinear"))
    assert not p.comments


def test_after_an_error_before_the_map_the_last_picture_s_is_not_followed(host, script, monkeypatch):
    plain = job(host).sampler.sample(job(host))
    gallery(script, job(host))

    def fails(*args, **others):
        raise RuntimeError("no noise")

    monkeypatch.setattr(host.rng, "ImageRNG", fails)
    p = job(host)
    out, pictures = gallery(script, p)
    assert same(out, plain) and not pictures and any("could not be drawn" in text for text in p.comments)


def test_clearing_the_recording_leaves_maps_to_be_used_again(host, script):
    p = job(host)
    gallery(script, p)
    drawn, in_job = p.extra_generation_params["Attn map hashes"], sys.modules["lib_attn.webui.job"]
    in_job.forget_recorded()
    assert in_job.keeps("depth_guide", drawn) and in_job.latest("depth_guide.map_hash") == drawn
