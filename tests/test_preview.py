"""What is said before drawing: right values from hand counts and from ``bench speed``."""

import dataclasses

import pytest

from lib_attn.learned.files import Loader, save
from lib_attn.learned.folders import SHIPPED, Folders
from lib_attn.preview import passes_of, preview, warnings_of
from lib_attn.settings import NearSighted, NegativeSkip, Settings
from lib_attn.techniques.facts import Facts, Pass
from lib_attn.techniques.near_sighted.estimate import estimate
from lib_attn.techniques.negative_skip.preview import negative_steps
from lib_attn.unet.profile import FAMILIES, family_profile, profile_of

SD1, SDXL = family_profile("SD 1, 2"), family_profile("SDXL")


def said(values, *passes, profile=SD1, **facts):
    """Lines and warnings of the techniques that are on, with the general ones, as a user reads them."""
    settings, messages = Settings.read(values)
    assert not messages
    found = preview(settings, Facts(passes or (Pass(1024, 1024, 20, 7.0),), profile=profile, **facts))
    parts = [found.general, *(found.techniques[g.name] for g in settings.groups[1:] if g.enabled)]
    return (
        [str(s) for p in parts for s in p.lines],
        [str(s) for p in parts for s in p.warnings],
        any(p.idle for p in parts),
    )


# Speeds of bench speed: SD 1.5, a CPU with fast bf16 units.
MEASURED = [
    (512, {}, 1.28), (512, {"tile": 8, "pool": 8}, 1.38), (512, {"tile": 0, "pool": 2, "blocks": "d0"}, 1.24),
    (1024, {}, 2.32), (1024, {"tile": 8, "pool": 8}, 2.63), (1024, {"tile": 0, "pool": 3, "blocks": "d0"}, 1.92),
    (1024, {"tile": 16, "pool": 3}, 2.13),
]  # fmt: skip


@pytest.mark.parametrize("size, values, measured", MEASURED)
def test_the_estimate_meets_what_was_measured(size, values, measured):
    assert estimate(size, size, NearSighted(enabled=True, **values), SD1).speed == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("side, blocks, idle", [(256, "auto", True), (512, "auto", False), (256, "all", False)])
def test_thin_qk_says_before_that_a_picture_is_small(side, blocks, idle):
    lines, warnings, found = said({"thin_qk": {"enabled": True, "blocks": blocks}}, Pass(side, side, 20, 7.0))
    assert found is idle and any("nothing is left to gain" in text for text in warnings) is idle


@pytest.mark.parametrize(
    "values, told",
    [({"until": 0.1}, False), ({"until": 0.2}, True), ({"until": 0.8}, True), ({"guide": "predicted picture"}, False)],
)
def test_first_steps_for_long_leave_greys(values, told):
    _, warnings, _ = said({"depth_guide": {"enabled": True, "file": "mine", "guide": "first steps", **values}})
    assert any("keeps the map's colours" in text for text in warnings) is told


def test_a_map_of_ones_own_is_known_before_drawing():
    """In the page its settings have a word for it, and the page gives its size: 96 x 64 for 1024 x 1024 loses a sixth
    on each side."""
    own = {"depth_guide": {"enabled": True, "file": "mine", "own_map": "on the page"}}
    lines, warnings, idle = said(own, pictures={"depth_guide.own_map": (96, 64)})
    assert lines == [
        "Your own map is used, none is drawn.",
        "The map is wider than the picture: 17 % of it are cut off on the left, and as much on the right.",
    ]
    assert not idle and not any("map blocks" in text for text in warnings)
    assert said(own)[0] == ["Your own map is used, none is drawn."]
    assert said({"depth_guide": {**own["depth_guide"], "map_hash": "0123456789"}})[0] == said(own)[0]
    free = {"depth_guide": {**own["depth_guide"], "file": "", "guide": "first steps", "until": 0.1}}
    assert said(free) == (["No file with map blocks is needed.", "Your own map is used, none is drawn."], [], False)


@pytest.mark.parametrize(
    "name, values, lacks",
    [
        ("depth_guide", {}, True),
        ("depth_guide", {"guide": "first steps", "own_map": "on the page"}, False),
        ("dictionary", {"mode": "full", "strength": 1.0}, True),
        ("dictionary", {"mode": "static"}, True),
        ("dictionary", {"mode": "full"}, False),
        ("dictionary", {"mode": "live", "strength": 1.0}, False),  # clusters of a picture that was drawn without a file
        ("thin_qk", {}, False),  # without a file it acts by the model's weights
    ],
)
def test_the_only_file_that_fits_is_known_before_drawing(name, values, lacks):
    asked, told = {name: {"enabled": True, **values}}, "You have chosen no file: mine is used"
    wanted = {"depth_guide": "depth"}.get(name, name)
    for fitting in (["mine"], ["mine", "more"], []):
        taken = lacks and fitting == ["mine"]

        def found(kind, fitting=fitting):
            return fitting if kind == wanted else []

        lines, warnings, _ = said(asked, fitting=found)
        assert any(told in line for line in lines) is taken
        several = lacks and len(fitting) == 2
        assert ("Several files fit this model, and you have chosen none: mine, more." in lines) is several
        settings, messages = Settings.read(asked)[0].completed(found)
        assert settings[name].file == ("mine" if taken else "") and len(messages) == taken + several
        assert any("Needs a file" in text or "Choose a file" in text for text in warnings) is (
            not taken and (lacks or values == {"mode": "live", "strength": 1.0})
        )
    assert Settings.read({name: {**asked[name], "file": "own"}})[0].completed(found)[0][name].file == "own"


@pytest.mark.parametrize(
    "atoms, values, rough",
    [
        (64, {}, True), (50, {}, True), (8, {}, False), (128, {}, False),
        (64, {"codes": "ridge"}, False), (64, {"codes": "sparse"}, False), (64, {"mode": "live"}, False),
    ],
)  # fmt: skip
def test_as_many_atoms_as_channels_make_static_pictures_rough(tmp_path, atoms, values, rough):
    """By the embedded model: 48 atoms at 64 channels are rougher than none, 64 roughest, 80 are not; ridge cures it."""
    torch = pytest.importorskip("torch")
    tensors = {"atoms.IN01.0": torch.ones(atoms, 64), "counts.IN01.0": torch.ones(atoms)}
    told = {"family": "other", "layers": {"IN01.0": 64}, "checkpoint": ["none", ""], "learned": {}}
    save(tmp_path / "mine.safetensors", "dictionary", tensors, told)
    asked = {"dictionary": {"enabled": True, "mode": "static", "file": "mine", **values}}
    _, warnings, _ = said(asked, files=Loader(lambda: Folders([tmp_path])))
    assert any("as many atoms as channels" in text for text in warnings) is rough


@pytest.mark.parametrize("mode, told", [("full", False), ("static", True)])
def test_how_well_atoms_fit_is_said_where_they_act(mode, told):
    asked = {"dictionary": {"enabled": True, "mode": mode, "file": "embedded-warm", "strength": 1.0}}
    lines, _, _ = said(asked, files=Loader(lambda: Folders([SHIPPED])))
    assert any("The file's atoms lose" in text for text in lines) is told


@pytest.mark.parametrize("strength, end, blotches", [(2.0, 1.0, True), (2.0, 0.6, False), (1.0, 1.0, False)])
def test_a_strong_style_to_the_end_leaves_blotches(strength, end, blotches):
    asked = {"dictionary": {"enabled": True, "mode": "full", "file": "mine", "strength": strength, "end": end}}
    assert any("blotches" in text for text in said(asked)[1]) is blotches


@pytest.mark.parametrize("name", ["near_sighted", "dictionary", "thin_qk"])
def test_blocks_of_sdxl_without_attention_are_known_before_drawing(name):
    asked = {name: {"enabled": True, "blocks": "d0"}}
    _, warnings, idle = said(asked, Pass(1024, 1024, 20, 7.0), profile=SDXL)
    assert idle and "This model has no attention in the blocks d0." in warnings


@pytest.mark.parametrize("there", [True, False])
def test_a_map_that_is_not_here_is_known_before_drawing(there):
    asked = {"depth_guide": {"enabled": True, "file": "mine", "map_hash": "deadbeef00"}}
    lines, warnings, idle = said(asked, keeps=lambda name, wanted: there)
    told = ["The map deadbeef00 is not here: give it under Your own map, or draw another."]
    assert (lines == ["The map deadbeef00 is used, none is drawn."]) is there
    assert warnings[1:] == ([] if there else told) and idle is not there  # the first: there is no file of this name


def test_a_map_of_ones_own_needs_the_network_for_the_predicted_picture(tmp_path):
    empty = Loader(lambda: Folders([tmp_path]))
    own = {"depth_guide": {"enabled": True, "own_map": "on the page"}}
    _, (warning,), idle = said(own, files=empty)
    assert idle and "read by the network of a file with map blocks" in warning


def test_controlnet_that_takes_no_map_is_told_before_drawing():
    asked = {"depth_guide": {"enabled": True, "file": "mine", "guide": "ControlNet"}}
    lines, (_, warning), idle = said(asked)
    assert idle and not lines and warning.endswith("none is drawn: ControlNet is an extension of the webui.")
    lines, _, idle = said(asked, controlnet=lambda settings: None)
    assert not idle and any("is drawn first" in text for text in lines)


def test_an_estimate_of_nothing_is_one():
    for values in ({"tile": 256}, {"pool": 1}, {"start": 0.5, "end": 0.5}, {"blocks": "!all"}):
        found = estimate(512, 512, NearSighted(enabled=True, **values), SD1)
        assert found.speed == 1.0 and found.left == 1.0
    halved = estimate(1024, 1024, NearSighted(enabled=True, end=0.5), SD1)
    assert 1.0 < halved.speed < estimate(1024, 1024, NearSighted(enabled=True), SD1).speed


def test_the_profile_of_a_real_unet():
    """SD 1.5's: the table for when no model is loaded is what its U-Net gives."""
    unets = pytest.importorskip("lib_attn.lab.drawing.unet")
    pytest.importorskip("ldm", reason="the U-Nets are ldm's")
    real = profile_of(unets.build_unet(unets.SD15, meta=True))
    place = lambda x: (x.section, x.number, x.depth)  # noqa: E731
    assert sorted(map(place, real.layers)) == sorted(map(place, SD1.layers)) and real.widths == SD1.widths
    assert sorted(map(place, real.blocks)) == sorted(map(place, SD1.blocks))
    assert real.rest == pytest.approx(SD1.rest, rel=0.01)
    # Six tenths of what a forward pass multiplies at 512 px is not the size of the picture's square.
    assert 200e9 < real.rest * 64 * 64 < 400e9


def test_profiles_have_the_layers_of_their_family():
    assert [len(p.layers) for p in (SD1, SDXL)] == [16, 70] and set(FAMILIES) == {"SD 1, 2", "SDXL"}


def test_near_sighted_tells_speed_and_size():
    lines, warnings, idle = said({"near_sighted.enabled": True})
    assert lines == ["1024 × 1024: about 2.3x faster steps, 64 tiles."] and not warnings and not idle
    lines, warnings, idle = said({"near_sighted.enabled": True}, Pass(256, 256, 20, 7.0))
    assert (
        lines == ["256 × 256: full attention, nothing to gain."] and "nothing is left to gain" in warnings[0] and idle
    )
    lines, warnings, _ = said({"near_sighted.enabled": True}, profile=None)
    assert lines == warnings == []


def test_the_hires_pass_is_told_by_its_own_choice():
    both = Pass(512, 512, 20, 7.0), Pass(1024, 1024, 20, 7.0, hires=True)
    sizes = {}
    for choice in ("same", "off", "only"):
        lines, _, _ = said({"near_sighted": {"enabled": True, "hires": choice}}, *both)
        sizes[choice] = [line.partition(":")[0] for line in lines]
    assert sizes == {"same": ["512 × 512", "1024 × 1024"], "off": ["512 × 512"], "only": ["1024 × 1024"]}
    _, warnings, idle = said({"near_sighted": {"enabled": True, "hires": "only"}}, both[0])
    assert warnings == ["Acts in the hires pass only, and this picture has none."] and idle


def test_the_least_tile_is_told():
    for tile in (1, 7):
        _, warnings, idle = said({"near_sighted": {"enabled": True, "tile": tile}})
        assert warnings == ["The least tile is 8: smaller ones are the same."] and not idle
    assert said({"near_sighted": {"enabled": True, "tile": 8}})[1] == []


def test_negative_steps_are_those_of_the_runtime():
    assert negative_steps(NegativeSkip(enabled=True, key_every=3, early=0.0), 20) == [0, 3, 6, 9, 12, 15, 18]
    assert negative_steps(NegativeSkip(enabled=True, key_every=1), 5) == [0, 1, 2, 3, 4]
    assert negative_steps(NegativeSkip(enabled=True, key_every=0), 5) == [0]
    # With few steps nearly all are full: at 2 steps every one.
    assert negative_steps(NegativeSkip(enabled=True), 2) == [0, 1]
    assert negative_steps(NegativeSkip(enabled=True, key_every=0, fill="copy"), 5) == []
    assert negative_steps(NegativeSkip(enabled=True, key_every=2, early=0.0, start=0.5), 8) == [0, 1, 2, 3, 4, 6]


def test_a_stopped_negative_needs_what_stands_for_it():
    def steps(**changes):
        return negative_steps(NegativeSkip(enabled=True, key_every=1, until=0.5, **changes), 8)

    assert steps() == steps(stopped="plain") == [0, 1, 2, 3] and steps(stopped="T-GATE") == [0, 1, 2, 3, 4]
    assert negative_steps(NegativeSkip(enabled=True, key_every=1, until=0.0), 8) == [0]


def test_step_skip_tells_its_steps():
    assert said({"step_skip": {"enabled": True, "early": 0.0}}) == (["11 of 20 steps are computed."], [], False)
    late = {"enabled": True, "early": 0.0, "keep_last": 0.25}
    assert said({"step_skip": late})[0] == ["13 of 20 steps are computed."]
    assert said({"step_skip": {"enabled": True, "key_every": 1}})[1:] == (
        ["Every step is computed: nothing is saved."],
        True,
    )


def test_negative_skip_tells_steps_and_work():
    lines, warnings, _ = said({"negative_skip": {"enabled": True, "early": 0.0, "penalty": "off"}})
    assert lines == ["Negative computed in 7 of 20 steps: about 32 % less work."] and warnings == []
    skip = {"negative_skip": {"enabled": True, "penalty": "off"}}
    lines, warnings, idle = said(skip, Pass(512, 512, 20, 1.0))
    assert lines == ["At CFG 1 the negative is never computed: half the work."]
    needless = "At CFG 1 no step needs the negative, so there is nothing to skip: it works above CFG 1."
    assert idle and warnings == [needless]
    assert not said(skip, Pass(512, 512, 20, 1.0), Pass(1024, 1024, 20, 7.0))[2]


def test_one_step_is_said_to_be_in_full():
    _, warnings, idle = said({"negative_skip": {"enabled": True, "penalty": "off"}}, Pass(512, 512, 1, 7.0))
    assert warnings == ["One step is always computed in full: more steps are needed."] and idle


def test_the_penalty_at_an_ordinary_scale():
    """The NAG preset at CFG 7: the penalty cannot act, the saving can, and both is said."""
    nag = {"negative_skip": {"enabled": True, "penalty": "NAG"}}
    lines, warnings, idle = said(nag, Pass(512, 512, 20, 7.0), negative=True)
    assert len(lines) == 1 and "less work" in lines[0] and not idle
    assert warnings == ["The penalty works at CFG 1 only; here only the negative's steps are saved."]
    nothing = {"negative_skip": nag["negative_skip"] | {"key_every": 1}}
    assert said(nothing, Pass(512, 512, 20, 7.0))[2]
    assert said(nag, Pass(512, 512, 20, 1.0), negative=True)[1] == []
    assert said(nag, Pass(512, 512, 20, 1.0), negative=False)[1] == ["The penalty needs a negative prompt."]


def test_contrast_counts_blocks_and_names_what_is_missing():
    assert said({"contrast.enabled": True}) == (["Acts in 5 blocks."], [], False)
    assert said({"contrast": {"enabled": True, "blocks": "mid"}})[0] == ["Acts in 1 block."]
    assert said({"contrast": {"enabled": True, "feature": 0.0}})[1:] == (
        ["All strengths are 0: nothing is changed."],
        True,
    )
    _, warnings, idle = said({"contrast.enabled": True}, Pass(512, 512, 20, 1.0))
    assert "doubles the work" in warnings[0] and not idle
    _, warnings, idle = said({"contrast.enabled": True, "negative_skip.enabled": True}, Pass(512, 512, 20, 1.0))
    assert "nothing to compare with" in warnings[-1] and idle
    _, warnings, idle = said(
        {"contrast": {"enabled": True, "feature": 0.0, "map_strength": 1.0}}, Pass(512, 512, 9, 1.0)
    )
    assert warnings == ["The difference map works above CFG 1 only."] and idle


def test_key_mix_says_what_it_needs():
    first = {"key_mix": {"enabled": True}}
    assert said(first, batch=1)[1:] == (["Needs batch size 2 or more."], True)
    assert said(first, batch=2) == (["Acts in 9 blocks."], [], False)
    assert said({"key_mix": {"enabled": True, "source": "blurred", "amount": 0.0}})[2]
    recorded = {"key_mix": {"enabled": True, "source": "recorded run"}}
    assert "no recorded run" in said(recorded)[1][0] and said(recorded, recorded=True)[1] == []
    record = {"key_mix": {"enabled": True, "record": True, "amount": 0.0}}
    assert said(record) == (["This run is recorded for later pictures."], [], False)


def test_switches_and_blocks():
    assert said({"enabled": True})[1] == ["No technique is on."]
    assert said({"enabled": True}, Pass(512, 512, 20, 1.0))[0] == ["At CFG 1 the negative is left out: half the work."]
    off = said({"enabled": False, "near_sighted.enabled": True})[1]
    assert off == ["Attention Lab is switched off: nothing is changed."] and said({})[1] == []
    for technique in ("near_sighted", "contrast", "key_mix", "negative_skip"):
        values = {"enabled": True, "blocks": "in99"}
        _, warnings, idle = said({technique: values}, batch=2)
        assert warnings[0] == "This model has no attention in the blocks in99."
        # Steps are left out of the whole model.
        assert idle is (technique != "negative_skip") and (not idle or len(warnings) == 1)
        values = {"enabled": True, "start": 0.5, "end": 0.5}
        assert said({technique: values}, batch=2)[1] == ["No step lies between Start and End."]


def test_warnings_carry_the_technique():
    settings, _ = Settings.read({"key_mix.enabled": True})
    assert [(label, str(w)) for label, w in warnings_of(settings, Facts())] == [
        ("Key mix", "Needs batch size 2 or more.")
    ]


@pytest.mark.parametrize(
    "facts", [{}, {"width": "x", "steps": None}, {"width": float("nan"), "cfg": []}, {"steps": -3}]
)
def test_strange_numbers_lead_to_ordinary_ones(facts):
    (first,) = passes_of(facts)
    assert first.width == 512 and first.steps in (20, 1) and first.cfg == 7.0


def test_the_hires_pass_from_plain_numbers():
    facts = {"width": 512, "height": 768, "steps": 20, "cfg": 5, "hires_width": 1024, "hires_height": 1536}
    first, second = passes_of(facts)
    assert (second.width, second.height, second.steps, second.hires) == (1024, 1536, 20, True)
    assert dataclasses.replace(second, width=512, height=768, hires=False) == first
