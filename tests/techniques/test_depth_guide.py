"""The picture moved towards its map: the arithmetic on one image, and what a real U-Net's rows make of it."""

import base64
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("ldm", reason="the tiny U-Nets are ldm's")

from lib_attn.attach import attach
from lib_attn.learned.files import Loader, save
from lib_attn.learned.folders import Folders
from lib_attn.store import Store
from lib_attn.techniques.depth_guide import maps, runtime
from lib_attn.techniques.depth_guide.head import PREFIX, Head, error, read_head, towards
from lib_attn.techniques.depth_guide.layout import DEPTH, FAR, arranged, quieted
from lib_attn.techniques.depth_guide.maps import LARGEST, LIMIT, PLACE, Map, Maps, levelled, read_map
from lib_attn.techniques.depth_guide.normals import normal_map, normals_of_depth
from lib_attn.techniques.depth_guide.proportions import left_out, middle
from lib_attn.techniques.depth_guide.settings import DepthGuide
from lib_attn.unet.families import find_layers
from lib_attn.unet.flight import sigma_of
from lib_attn.unet.layers import layer_keys
from lib_attn.unet.rows import plan_rows
from tests import damaged
from tests.unets import tiny_unet, unet_input

CFG, TIME = 5.0, 500.0


def head(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head()


def a_map(seed=0, size=128):
    picture = np.zeros((size, size, 3), np.uint8)
    picture[size // 4 : size // 2, size // 8 * (1 + seed) : size // 2] = 200
    return Map(picture, torch.randn(4, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def files(tmp_path):
    layers = find_layers(tiny_unet())
    widths = dict(zip(layer_keys(layers), (layer.attn1.to_q.in_features for layer in layers), strict=True))
    tensors = {PREFIX + k: v for k, v in head().state_dict().items()}
    save(tmp_path / "relief.safetensors", "depth", tensors, {"family": "other", "layers": widths})
    return Loader(lambda: Folders([tmp_path]))


def predict(settings, maps, files, images=1, cfg=CFG, chunks=None, prediction="epsilon", said=None, share=0.0):
    """What the sampler makes of one evaluation of `images` pictures, and of its predicted latents."""
    unet, store = tiny_unet(), Store()
    kept = Maps()
    kept.current = maps
    store.keep(PLACE, kept)
    x, context = unet_input(images, 16, 16)
    rows = plan_rows([[1.0]] * images, negatives=cfg != 1)
    x, context = (torch.cat([t, t]) if cfg != 1 else t for t in (x, context))
    context = context.clone()
    context[images:] *= 0.5
    groups = [settings] if settings else []
    say = said.append if said is not None else None
    with (
        torch.inference_mode(),
        attach(unet, groups, store=store, files=files, prediction=prediction, say=say) as attached,
    ):
        attached.begin_step(rows, round(10 * share), 10, cfg=cfg)
        size = chunks or len(x)
        pieces = zip(x.split(size), context.split(size), strict=True)
        out = torch.cat([unet(a, torch.full((len(a),), TIME), context=c) for a, c in pieces])
    if cfg == 1:
        guided = out
    else:
        guided = out[images:] + cfg * (out[:images] - out[images:])
    sigma = sigma_of(TIME)
    signal = 1 / math.sqrt(1 + sigma**2)
    if prediction == "v":
        return out, signal * x[:images] - sigma * signal * guided
    return out, x[:images] / signal - sigma * guided


ON = DepthGuide(enabled=True, file="relief")


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("cfg, chunks", [(CFG, None), (CFG, 1), (1.0, None)])
def test_the_predicted_latents_move_by_what_towards_says(files, prediction, cfg, chunks):
    drawn = a_map()
    _, plain = predict(None, (drawn,), files, cfg=cfg, chunks=chunks, prediction=prediction)
    _, moved = predict(ON, (drawn,), files, cfg=cfg, chunks=chunks, prediction=prediction)
    wanted = plain + towards(plain, drawn.wanted((16, 16))[None], head(), 1.0)
    torch.testing.assert_close(moved, wanted, atol=2e-3, rtol=2e-3)
    assert (moved - plain).abs().max() > 0.05


def test_while_it_is_loud_colours_go_where_the_map_has_their_depth(files, monkeypatch):
    monkeypatch.setattr(runtime, "LOUD", 0.1)
    drawn = a_map()
    _, plain = predict(None, (drawn,), files)
    for strength in (0.25, 1.0, 3.0):
        _, moved = predict(replace(ON, strength=strength), (drawn,), files)
        target = arranged(plain, head()(plain).sigmoid(), drawn.wanted((16, 16))[None], strength)
        torch.testing.assert_close(moved, target, atol=2e-3, rtol=2e-3)


def test_arranged_moves_a_thing_and_keeps_its_colour():
    """A red thing on the left of a blue ground, wanted on the right: each place's colour by the naive sum."""
    latents, depth, wanted = torch.zeros(1, 4, 12, 16), torch.zeros(1, 12, 16), torch.zeros(1, 12, 16)
    latents[:, 0, 4:8, 2:6], latents[:, 1] = 3.0, 1.0
    depth[:, 4:8, 2:6], wanted[:, 4:8, 9:13] = 1.0, 1.0
    out = arranged(latents, depth, wanted)
    assert (
        out[0, 0, 4:8, 9:13].min() > 2.5
        and out[0, 0, 4:8, 2:6].max() < 0.1
        and torch.allclose(out[0, 1], out.new_ones(()))
    )
    total, weights = 0.0, 0.0
    for y in range(12):
        for x in range(16):
            away = ((y - 5) ** 2 + (x - 10) ** 2) / (FAR * 16) ** 2
            weight = math.exp(-0.5 * (away + ((1.0 - depth[0, y, x].item()) / DEPTH) ** 2))
            total, weights = total + weight * latents[0, 0, y, x].item(), weights + weight
    assert out[0, 0, 5, 10].item() == pytest.approx(total / weights, abs=1e-4)
    assert torch.allclose(arranged(latents, depth, depth), latents, atol=1e-6), "nothing is wrong there"
    part = arranged(latents, depth, wanted, 0.25)
    torch.testing.assert_close(part, latents + 0.25 * (out - latents))
    half = wanted * 0.1 + depth * 0.9  # nearly right where the thing stands
    near = [(arranged(latents, half, depth, amount) - latents).abs().max().item() for amount in (1.0, 2.0, 4.0)]
    assert 0 < near[0] < near[1] < near[2], near
    large = torch.randn(1, 4, 70, 96)
    assert arranged(large, large[:, 0].sigmoid(), large[:, 1].sigmoid()).shape == large.shape


@pytest.mark.parametrize("right", [0, 2])
def test_two_things_at_one_depth_keep_each_its_own_colours(right):
    """Red on the left, green on the right, wanted where they are or a little to the right."""
    latents, depth = torch.zeros(1, 4, 32, 32), torch.zeros(1, 32, 32)
    latents[:, 0, 8:24, 2:10] = latents[:, 1, 8:24, 20:28] = 3.0
    depth[:, 8:24, 2:10] = depth[:, 8:24, 20:28] = 1.0
    out = arranged(latents, depth, depth.roll(right, -1))
    for own, other, columns in ((0, 1, slice(2, 10)), (1, 0, slice(20, 28))):
        thing = out[0, :, 8:24, columns.start + right : columns.stop + right]
        assert thing[own].min() > 2.9 and thing[other].abs().max() < 0.1


def test_quieted_noise_has_no_coarse_parts_and_is_as_loud():
    noise = torch.randn(2, 4, 32, 48, generator=torch.Generator().manual_seed(3))
    quiet = quieted(noise, 1.0)
    assert torch.allclose(quiet.std((1, 2, 3)), noise.std((1, 2, 3)))
    coarse = [F.avg_pool2d(x, 16).std() for x in (noise, quiet)]
    assert coarse[1] < 0.5 * coarse[0] and (quiet - noise).std() < 0.2
    torch.testing.assert_close(quieted(noise, 0.0), noise)


def test_towards_makes_the_map_nearer_and_strength_0_is_nothing():
    latents, wanted = torch.randn(2, 4, 17, 23), torch.rand(2, 17, 23).round()
    before = error(head()(latents), wanted)
    after = error(head()(latents + towards(latents, wanted, head(), 0.3)), wanted)
    assert (after < before).all()
    assert towards(latents, wanted, head(), 0.0).abs().max() == 0


def test_each_image_follows_its_own_map_and_one_without_stays(files):
    maps = (a_map(0), None, a_map(1))
    _, plain = predict(None, (), files, images=3)
    _, moved = predict(ON, maps, files, images=3)
    assert torch.equal(moved[1], plain[1])
    for i in (0, 2):
        wanted = plain[i : i + 1] + towards(plain[i : i + 1], maps[i].wanted((16, 16))[None], head(), 1.0)
        torch.testing.assert_close(moved[i : i + 1], wanted, atol=2e-3, rtol=2e-3)


def test_first_steps_mixes_in_the_map_s_latents(files):
    drawn = a_map()
    settings = DepthGuide(enabled=True, guide="first steps", strength=0.25)
    _, plain = predict(None, (), files)
    _, moved = predict(settings, (drawn,), files)
    torch.testing.assert_close(moved[0], 0.75 * plain[0] + 0.25 * drawn.latent, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "changes, maps, share",
    [
        ({"strength": 0.0}, (a_map(),), 0.0),
        ({"until": 0.5}, (a_map(),), 0.6),
        ({"start": 0.5}, (a_map(),), 0.0),
        ({"guide": "ControlNet"}, (a_map(),), 0.0),
        ({}, (), 0.0),
        ({}, (None,), 0.0),
        ({"file": "none of this name"}, (a_map(),), 0.0),
    ],
)
def test_nothing_to_do_is_bit_identical(files, changes, maps, share):
    plain, _ = predict(None, (), files, share=share)
    out, _ = predict(DepthGuide(**{"enabled": True, "file": "relief", **changes}), maps, files, share=share)
    assert torch.equal(out, plain)


def test_what_stands_in_the_way_is_said(files):
    said = []
    predict(DepthGuide(enabled=True, file="gone"), (a_map(),), files, said=said)
    assert any("none of this name" in text for text in said)


def test_a_file_with_half_a_network_is_refused():
    tensors = {PREFIX + k: v for k, v in head().state_dict().items()}
    assert read_head({"out.2.weight": torch.zeros(1)}) is None
    for name in (PREFIX + "fine.weight", PREFIX + "out.bias"):
        with pytest.raises(ValueError, match="not complete"):
            read_head({k: v for k, v in tensors.items() if k != name})


def test_reading_the_network_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    read_head({PREFIX + k: v for k, v in head().state_dict().items()})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_maps_are_levelled_and_few_are_kept():
    picture = np.full((64, 64, 3), 40, np.uint8)
    picture[16:48, 16:48] = 160
    levels = levelled(picture)
    assert levels.min() == 0 and levels.max() == 255 and levels.shape == picture.shape
    kept = Maps()
    for i in range(LIMIT + 3):
        kept.keep(i, a_map())
    assert kept.get(2) is None and kept.get(LIMIT + 2) is not None
    assert kept.bytes == LIMIT * (128 * 128 * 3 + 4 * 16 * 16 * 4)


def test_a_map_prompt_may_hold_the_picture_s():
    assert DepthGuide().prompt_of("a cube") == "a cube"
    assert DepthGuide(map_prompt="a cone").prompt_of("a cube") == "a cone"
    assert DepthGuide(map_prompt="depth map of {prompt}, {x}").prompt_of("a cube") == "depth map of a cube, {x}"


def as_base64(picture, mode=None):
    stream = io.BytesIO()
    Image.fromarray(picture, mode).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_maps_of_all_kinds_of_pictures_are_read_alike():
    """8 and 16 bits, grey, colour and transparency: near is white, what is transparent is far."""
    grey = np.zeros((6, 9), np.uint8)
    grey[1:3, 2:5], grey[4, 4:8] = 255, 100
    wanted = np.repeat(grey[..., None], 3, -1)
    alpha = np.dstack([np.full((6, 9, 3), 255, np.uint8), np.where(grey == 255, 255, 0).astype(np.uint8)])
    for picture in (grey, wanted, grey.astype(np.uint16) * 257):
        assert np.array_equal(read_map(as_base64(picture)).picture, wanted)
    assert np.array_equal(read_map("data:image/png;base64," + as_base64(alpha)).picture[..., 0] == 255, grey == 255)
    assert read_map(as_base64(grey)).hash == read_map(as_base64(wanted)).hash
    with pytest.raises(ValueError, match="no picture"):
        read_map("AAAA")
    for size in ((1, LARGEST + 1), (LARGEST + 1, 1)):
        with pytest.raises(ValueError, match=f"more than {LARGEST} pixels on a side"):
            read_map(as_base64(np.zeros(size, np.uint8)))


def test_absurd_pictures_are_told_by_their_size(monkeypatch):
    """Pillow refuses what is larger still, and a text that is cut off could not be read."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="pixels on a side"):
        read_map(as_base64(np.zeros((20, 20), np.uint8)))
    monkeypatch.setattr(maps, "MAX_PICTURE", 4 << 20)
    with pytest.raises(ValueError, match="more than 3 MiB"):
        read_map("A" * (4 << 20))


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "P", "I;16", "JPEG"])
def test_a_large_map_is_made_smaller_before_anything_else(monkeypatch, kind):
    """A fourth of each side; a map that is no larger than enough is left as it is."""
    grey = np.zeros((96, 160), np.uint8)
    grey[:, 80:] = 200
    stream = io.BytesIO()
    if kind == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(stream, "PNG")
    elif kind == "JPEG":
        Image.fromarray(grey).save(stream, "JPEG", quality=95)
    else:
        Image.fromarray(grey).convert(kind).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    monkeypatch.setattr(maps, "ENOUGH", 40)
    small = read_map(text).picture
    assert small.shape == (24, 40, 3) and small[:, :18].max() <= 4 and abs(small[:, 22:].astype(int) - 200).max() <= 4
    monkeypatch.setattr(maps, "ENOUGH", 160)
    assert read_map(text).picture.shape == (96, 160, 3)


def test_a_map_of_other_proportions_gives_its_middle():
    """64 x 128 for squares: columns 32 to 95. A side that is longer by a fiftieth is squeezed, not cut."""
    assert middle((64, 128), (16, 16)) == (slice(0, 64), slice(32, 96))
    assert middle((128, 64), (24, 24)) == (slice(32, 96), slice(0, 64))
    assert middle((64, 96), (33, 50)) == (slice(0, 64), slice(0, 96))
    assert left_out((64, 128), (16, 16)) == (0, 25) and left_out((100, 64), (64, 64)) == (18, 0)
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:64], wide[:, 64:96], wide[:, 96:] = 51, 102, 255
    latent = torch.arange(16.0).expand(4, 8, 16)
    drawn = Map(wide, latent)
    assert torch.allclose(drawn.wanted((8, 8))[0], torch.tensor([0.2] * 4 + [0.4] * 4))
    assert torch.equal(drawn.latents(torch.zeros(1, 4, 8, 8))[0, 0, 0], torch.arange(4.0, 12.0))
    assert drawn.at(32, 32).shape == (32, 32, 3) and drawn.at(32, 32)[0, 0, 0] == 51
    assert np.array_equal(drawn.at(128, 64), wide), "of its own size it is what it is"


def test_normals_of_a_depth_map_are_those_of_its_relief():
    """A ball: its left looks left (red), its top up (green), its middle and the ground at the viewer (blue)."""
    y, x = np.mgrid[:128, :128]
    inside = 1 - ((x - 64) ** 2 + (y - 64) ** 2) / 40**2
    depth = np.where(inside > 0, 0.25 + 0.75 * np.sqrt(inside.clip(0)), 0)
    picture = np.repeat(np.rint(depth * 255).astype(np.uint8)[..., None], 3, -1)
    shown = normal_map(picture).astype(int)
    assert tuple(shown[64, 64]) == pytest.approx((128, 128, 255), abs=4) and tuple(shown[2, 2]) == (128, 128, 255)
    assert shown[64, 36, 0] > 170 > 128 > 90 > shown[64, 92, 0] and shown[36, 64, 1] > 170 > 90 > shown[92, 64, 1]
    normals = normals_of_depth(picture)
    assert np.allclose(np.linalg.norm(normals, axis=-1), 1)
    disc = np.where(inside > 0, 150, 0).astype(np.uint8)[..., None].repeat(3, -1)
    assert normals_of_depth(disc)[..., 2].min() > 0.99, "the drop to the ground bends no normal"
    assert Map(picture, kind="normal").normals is picture


def test_of_normals_a_picture_follows_what_turns_away_from_the_viewer():
    """The ground, blue, is far; what turns away by 30 degrees or more in any direction stands there."""
    picture = np.full((8, 8, 3), (128, 128, 255), np.uint8)
    picture[:, 4:6], picture[:, 6:] = (255, 128, 128), (128, 96, 251)
    shares = Map(picture, kind="normal").wanted((8, 8))[0]
    assert torch.allclose(shares, torch.tensor([0.0] * 4 + [1.0] * 2 + [0.49] * 2), atol=0.02)


@pytest.mark.parametrize("text", [damaged.jpeg(), base64.b64encode(b"DDS " + bytes(200)).decode()])
def test_a_damaged_picture_is_no_map(text):
    with pytest.raises(ValueError, match="no picture that can be read"):
        read_map(text)


@pytest.mark.parametrize("shape", [(10**7, 4, 0, 0), (600, 4, 0, 0), (32, 10**6, 0, 0)])
def test_a_network_of_any_width_takes_no_memory(shape):
    """Its layers would be made before it is seen that their weights are not there."""
    with pytest.raises(ValueError, match="not complete"):
        read_head({f"{PREFIX}fine.weight": torch.zeros(shape)})


def test_a_host_that_casts_weights_for_a_layer_s_call_does_not_break_the_gradient(monkeypatch):
    """As the webui does on devices without autocast."""
    own, latents, wanted = head(), torch.randn(1, 4, 16, 16), torch.rand(1, 16, 16).round()
    before = towards(latents, wanted, own, 1.0)

    def cast(layer, x):
        layer.half()
        try:
            return layer._conv_forward(x.half(), layer.weight, layer.bias)
        finally:
            layer.float()

    monkeypatch.setattr(torch.nn.Conv2d, "forward", cast)
    assert torch.equal(towards(latents, wanted, own, 1.0), before)
