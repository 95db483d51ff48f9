"""Negative skip, Contrast and Key mix in the real webui: every mode, every layout of batches, every sampler."""

import pytest

from lib_attn.settings import GROUPS, Settings
from lib_attn.webui import xyz
from tests.host.negatives import (
    ALL,
    FIELDS,
    NEUTRAL,
    arrays,
    contrast,
    differences,
    made,
    mix,
    penalty,
    rows,
    skip,
    spread,
    work,
)
from tests.host.server import Refused
from tests.host.test_pictures import HIRES, absent, grid, init, kinds  # noqa: F401

CFG1 = {"cfg_scale": 1}
BATCH = {"batch_size": 2}
SKIPPED = [4, 2, 4, 2]  # rows of two images, every second step in full
FULL = [4] * 4
NEEDS = "only in its whole batch"
MODES = {
    "estimate": (skip(), SKIPPED),
    "estimate, weighted": (skip(trend=0.0, sigma_power=-1.0, low_weight=0.5, high_weight=1.5), SKIPPED),
    "copy": (skip(fill="copy"), SKIPPED),
    "zeros": (skip(fill="zeros"), SKIPPED),
    "no limit": (skip(fill="copy", key_every=0), [2] * 4),
    "first steps in full": (skip(fill="copy", key_every=0, keep_first=0.5), [4, 4, 2, 2]),
    "adaptive": (skip(adaptive=0.5, key_every=0), [4, 2, 2, 2]),
    "outer blocks": (skip(through=4), FULL),
    "outer blocks, copy": (skip(through=4, fill="copy"), FULL),
    "outer blocks, zeros": (skip(through=4, fill="zeros"), FULL),
    "NAG": (penalty("NAG"), SKIPPED),
    "value sign flip": (penalty("value sign flip"), SKIPPED),
    "NASA": (penalty("NASA", strength=0.5), SKIPPED),
    "NAG in all steps": (skip(penalty="NAG", penalty_when="all steps", key_every=1), FULL),
    "feature": (contrast(feature=0.5), FULL),
    "orthogonal": (contrast(orthogonal=0.5), FULL),
    "keys": (contrast(keys=0.5), FULL),
    "map": (contrast(map_strength=1.0), FULL),
    "negative": (mix("negative"), FULL),
    "previous step": (mix("previous step"), FULL),
    "shifted": (mix("shifted"), FULL),
    "first image": (mix("first image"), FULL),
    "batch mean": (mix("batch mean"), FULL),
    "positive rows": (mix("blurred", side="positive"), FULL),
    "negative rows": (mix("blurred", side="negative"), FULL),
    "queries": (mix("shifted", query_amount=1.0), FULL),
    "matched queries": (mix("shifted", match_queries=True), FULL),
    "features": (mix("shifted", amount=0.0, features="follow", feature_amount=0.8), FULL),
    "features, AdaIN": (mix("negative", amount=0.0, features="AdaIN", feature_blocks="out"), FULL),
    "features of the step before": (mix("previous step", amount=0.0, features="follow"), FULL),
    "features of the first image": (mix("first image", amount=0.0, features="follow"), FULL),
    **{
        f"{operator}, {values}": (mix("blurred", operator=operator, values=values, bias=-0.5), FULL)
        for operator in ("blend", "contrast", "concatenate")
        for values in ("own", "follow", "AdaIN")
    },
}


@pytest.fixture(scope="module")
def plain(webui):
    """``plain(**fields)``: the answer without the extension, made once."""
    found = {}

    def get(**fields):
        key = repr(sorted(fields.items()))
        if key not in found:
            found[key] = webui.picture(**FIELDS | fields)
        return found[key]

    return get


@pytest.mark.parametrize("name", MODES)
def test_every_mode_acts_and_its_text_brings_it_back(webui, plain, name):
    settings, expected = MODES[name]
    needs_batch = any(name.endswith(source) for source in ("first image", "batch mean"))
    on, state = made(webui, settings, **BATCH, comments=[NEEDS] if needs_batch else [])
    assert rows(state) == expected
    changed = differences(on, plain(**BATCH))[-2:]
    # The first image is its own source: it changes by rounding only.
    assert changed[1] > 0.01 and (changed[0] > 0.01) == (not name.endswith("first image"))
    again = webui.picture(infotext=on.texts[0], **FIELDS | BATCH)
    assert again.pixels == on.pixels and again.texts == on.texts
    parsed = webui.call("/sdapi/v1/png-info", {"image": on.encoded[-1]})["parameters"]
    assert Settings.from_infotext(parsed)[0] == Settings.read(settings)[0]
    assert ("its batch" in on.texts[-1]) == needs_batch


@pytest.mark.parametrize("kind", kinds(""))
def test_neutral_is_identical_and_on_differs_in_every_kind_of_job(webui, absent, init, kind):  # noqa: F811
    fields, expected = kinds(init)[kind], absent[kind]
    assert webui.picture(NEUTRAL, **fields).pixels == expected.pixels
    assert rows(webui.probe("state")) == rows_of(webui, fields)
    for technique, settings in ALL.items():
        on = webui.picture({technique: settings}, **fields)
        state = webui.probe("state")
        assert on.sizes == expected.sizes and min(state["patched"]) > 0
        apart = technique == "contrast" and kind == "long prompt"
        assert ["computed apart" in comment for comment in state["comments"]] == [True] * apart
        assert min(spread(picture) for picture in arrays(on)) > 5
        assert all(a != b for a, b in zip(on.pixels, expected.pixels, strict=True)), technique


def rows_of(webui, fields):
    webui.picture(**fields)
    return rows(webui.probe("state"))


@pytest.mark.parametrize(
    "neutral",
    [
        {"key_mix": {"enabled": True, "amount": 0.0, "blocks": "all", "record": True}},
        mix("negative", amount=0.0, values="follow", value_amount=0.0),
        mix("shifted", amount=0.0, match_queries=True),
        mix("shifted", amount=0.0, features="follow", feature_amount=0.0),
        mix("shifted", amount=0.0, features="AdaIN", feature_blocks="in99"),
        mix("first image"),
        mix("shifted", start=0.4, end=0.4),
        contrast(feature=0.5, orthogonal=0.5, blend=0.0),
        contrast(feature=0.5, keys=0.5, map_strength=0.5, start=0.3, end=0.3),
        contrast(feature=0.5, feature_end=0.0),
        skip(penalty="NAG", penalty_when="all steps", key_every=1, strength=0.0),
        skip(penalty="value sign flip", penalty_when="all steps", key_every=1, blend=0.0),
        skip(keep_first=1.0),
        skip(start=0.2, end=0.2),
    ],
    ids=lambda settings: next(" ".join(f"{k}={v}" for k, v in s.items() if k != "enabled") for s in settings.values()),
)
def test_more_neutral_values(webui, plain, neutral):
    assert webui.picture(neutral, **FIELDS).pixels == plain().pixels


SAVINGS = {
    "txt2img": ({}, [1] * 4),
    "batch 2x2": ({"batch_size": 2, "n_iter": 2}, [2] * 8),
    "weights that sum to 1": ({"prompt": "a cat :0.6 AND a dog :0.4"}, [2] * 4),
    "weights that do not": ({"prompt": "a cat AND a dog"}, [3] * 4),
    # The negatives' own call has no row left, and then the model does not run.
    "unequal prompts": ({"prompt": "cat " * 90}, [1] * 4),
    "hires": ({**HIRES, "hr_second_pass_steps": 2}, [1] * 6),
    "UniPC": ({"sampler_name": "UniPC"}, [1] * 4),
    "Heun": ({"sampler_name": "Heun"}, [1] * 7),
    "SDXL-like guidance": ({"cfg_scale": 1.5}, [2] * 4),
    # This sampler divides the scale by 12.5 and reads the negative's prediction itself.
    "DDIM CFG++": ({"sampler_name": "DDIM CFG++", "cfg_scale": 12.5}, [2] * 3),
}


@pytest.mark.parametrize("name", SAVINGS)
def test_no_negative_at_cfg_1(webui, plain, name):
    """The same picture from half of the rows, unless the negative is needed; nothing in the text."""
    fields, expected = SAVINGS[name]
    fields = CFG1 | fields
    saved = webui.picture({"enabled": True}, **FIELDS | fields)
    state = webui.probe("state")
    assert rows(state) == expected and state["comments"] == []
    assert saved.texts == plain(**fields).texts
    # Rounding depends on the number of rows.
    assert max(differences(saved, plain(**fields))) < 0.1
    assert webui.picture({"enabled": True, "skip_cfg1": False}, **FIELDS | fields).pixels == plain(**fields).pixels


@pytest.mark.parametrize("kind", ["NAG", "value sign flip", "NASA"])
def test_negative_prompt_at_cfg_1(webui, plain, kind):
    """A penalty acts without a negative row; without words it is off; more strength is more of it."""
    on = skip(penalty=kind)
    pushed, state = made(webui, on, **CFG1)
    assert rows(state) == [1] * 4
    before = plain(**CFG1)
    assert differences(pushed, before)[0] > 0.1
    other, _ = made(webui, on, **CFG1, negative_prompt="quite another thing")
    assert differences(other, pushed)[0] > 0
    empty = webui.picture(on, **FIELDS | CFG1, negative_prompt="")
    assert differences(empty, plain(**CFG1, negative_prompt=""))[0] < 0.1
    moved = [differences(made(webui, skip(penalty=kind, strength=s), **CFG1)[0], before)[0] for s in (0.01, 0.1, 1)]
    assert moved[0] < moved[1] < moved[2] and moved[0] < moved[2] / 5


def test_long_and_edited_negatives_at_cfg_1(webui):
    """As many words as there are, and prompt editing followed."""
    fields = {**CFG1, **BATCH, "steps": 4}
    edited, state = made(webui, skip(penalty="NAG"), **fields, negative_prompt="[rain:snow:0.5]")
    assert rows(state) == [2] * 4
    rain, _ = made(webui, skip(penalty="NAG"), **fields, negative_prompt="rain")
    snow, _ = made(webui, skip(penalty="NAG"), **fields, negative_prompt="snow")
    assert min(differences(edited, rain)) > 0 and min(differences(edited, snow)) > 0
    long, _ = made(webui, skip(penalty="NAG"), **fields, negative_prompt="rain " * 90)
    assert min(differences(long, rain)) > 0


# "a cat" and "a cat AND a dog" in one batch.
MATRIX = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "space", 0]}
LAYOUTS = {
    "batch_cond_uncond off": ({"batch_cond_uncond": False}, {}),
    "longer prompt": ({}, {"prompt": "cat " * 90}),
    "longer negative": ({}, {"negative_prompt": "bad " * 90}),
    "padded": ({"pad_cond_uncond": True}, {"prompt": "cat " * 90}),
    "padded as of old": ({"pad_cond_uncond_v0": True}, {"prompt": "cat " * 90}),
    "unequal AND": ({}, {"prompt": "a cat|AND a dog", "batch_size": 2, **MATRIX}),
    "NGMS": ({"s_min_uncond": 4.0, "s_min_uncond_all": True}, {}),
    "NGMS every second step": ({"s_min_uncond": 20.0}, {}),
    "early steps without negative": ({"skip_early_cond": 0.25}, {}),
}
LATE = ("NGMS", "NGMS every second step")  # the host leaves out what we would have
APART = ("batch_cond_uncond off", "longer prompt", "longer negative")


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_the_hosts_batches(webui, name):
    """Each technique acts or says why not; what is neutral stays identical."""
    options, fields = LAYOUTS[name]
    with webui.options(**options):
        before = webui.picture(**FIELDS | fields)
        computed = work(webui.probe("state"))
        assert webui.picture(NEUTRAL, **FIELDS | fields).pixels == before.pixels
        _, state = made(webui, {"negative_skip": ALL["negative_skip"]}, **fields)
        assert work(state) < computed or name in LATE
        for technique in ("contrast", "key_mix"):
            comments = ["computed apart"] if technique == "contrast" and name in APART else []
            on, state = made(webui, {technique: ALL[technique]}, **fields, comments=comments)
            assert work(state) == computed and min(differences(on, before)) > 0


@pytest.mark.parametrize("name", [*LATE, "early steps without negative"])
def test_penalty_where_the_host_leaves_the_negative_out(webui, name):
    """Negative skip itself skips nothing here; the penalty acts in the host's own steps without a negative."""
    options, fields = LAYOUTS[name]
    settings = penalty("NAG", key_every=1)
    with webui.options(**options):
        before = webui.picture(**FIELDS | fields)
        on, state = made(webui, settings, **fields)
        assert 1 in rows(state) and 2 in rows(state) and differences(on, before)[0] > 0
    made(webui, settings, comments=["Every step computes the negative"])


def samplers(webui):
    return [found["name"] for found in webui.call("/sdapi/v1/samplers")]


def test_every_sampler(webui, plain):
    """Rows are left out, pictures are real and differ, and the exact saving halves the rows (see above)."""
    names = samplers(webui)
    assert {"DPM++ 2M", "DPM adaptive", "Restart", "DDIM CFG++", "PLMS", "UniPC", "LCM"} <= set(names)
    failed = []
    for name in names:
        fields = {"sampler_name": name, **CFG1} if name == "LCM" else {"sampler_name": name}
        try:
            comments = ["Contrast changed nothing. Negative skip"] if name == "LCM" else []
            comments += ["the sampler uses the negative's prediction"] * ("CFG++" in name)
            on, state = made(webui, ALL, **fields, comments=comments)
            calls = rows(state)
            assert 1 in calls and (2 in calls or name == "LCM")
            assert differences(on, plain(**fields))[0] > 0
        except AssertionError as error:
            failed.append(f"{name}: {error}")
    assert failed == []


@pytest.mark.parametrize("choice, passes", [("same", (1, 1)), ("off", (1, 0)), ("only", (0, 1))])
@pytest.mark.parametrize("technique", ALL)
def test_hires_choices(webui, technique, choice, passes):
    webui.picture({technique: {**ALL[technique], "hires": choice}}, **FIELDS | HIRES)
    state = webui.probe("state")
    made_in = [int(bool(count)) for count in state["patched"]]
    assert (made_in[0], made_in[-1]) == passes and state["comments"] == []
    if technique == "negative_skip":
        calls = rows(state)
        assert [int(1 in part) for part in (calls[:4], calls[4:])] == list(passes)


def test_negative_of_the_hires_pass(webui):
    """The penalty goes by the hires pass's own negative prompt."""
    on = skip(penalty="NAG", key_every=1, penalty_when="all steps", hires="only")
    fields = FIELDS | HIRES
    one, other = (webui.picture(on, **fields, hr_negative_prompt=text) for text in ("rain", "snow " * 90))
    assert differences(one, other)[0] > 0 and webui.probe("state")["comments"] == []


def record(**values):
    return {"key_mix": {"enabled": True, "amount": 0.0, "record": True, "blocks": "all", **values}}


def test_recorded_run(webui, plain):
    """One picture recorded, others made after it: each alone, twice the same, at other sizes and in img2img."""
    on = mix("recorded run", amount=0.8, values="follow")
    assert webui.picture(record(), **FIELDS, seed=99).pixels == plain(seed=99).pixels
    first, _ = made(webui, on)
    assert differences(first, plain())[0] > 1 and "the recorded run" in first.texts[0]
    assert made(webui, on)[0].pixels == first.pixels
    again = webui.picture(infotext=first.texts[0], **FIELDS)
    assert again.pixels == first.pixels
    alone, _ = made(webui, on, seed=8)
    batch, _ = made(webui, on, **BATCH)
    assert differences(batch, batch)[0] == 0 and abs(arrays(batch)[-1] - arrays(alone)[-1]).mean() < 1
    made(webui, on, width=192, height=64)
    image = plain().encoded[0]
    made(webui, on, path="img2img", init_images=[image], denoising_strength=0.6)
    made(webui, {"key_mix": {**on["key_mix"], "operator": "concatenate"}}, width=192, height=64)
    features, _ = made(webui, mix("recorded run", amount=0.0, features="follow"))
    assert differences(features, plain())[0] > 1 and features.pixels != first.pixels
    made(webui, mix("recorded run", amount=0.0, features="AdaIN"), width=192, height=64)
    webui.picture(record(), **FIELDS, seed=98)
    assert made(webui, on)[0].pixels != first.pixels


def test_recording_of_another_model_or_without_room(webui, plain):
    on = mix("recorded run", amount=0.8)
    webui.picture(record(memory=0), **FIELDS)
    assert "Mix memory is too small" in " ".join(webui.probe("state")["comments"])
    webui.picture(record(), **FIELDS)
    with webui.options(sd_model_checkpoint="xl", live_previews_enable=False):
        before = webui.picture(**FIELDS)
        assert webui.picture(on, **FIELDS).pixels == before.pixels
        state = webui.probe("state")
        assert len(state["comments"]) == 1 and "another kind of model" in state["comments"][0]


def test_previous_step_without_room(webui, plain):
    assert webui.picture(mix("previous step", memory=0), **FIELDS).pixels == plain().pixels
    assert "Mix memory" in webui.probe("state")["comments"][0]


def test_difference_map_in_the_gallery(webui, plain):
    """Shown, it changes no picture; one map for each image, with a text that the host can look up."""
    shown = webui.picture(contrast(show_map=True), **FIELDS | BATCH)
    before = plain(**BATCH)
    assert shown.pixels[:-2] == before.pixels and len(shown.pixels) == len(shown.texts)
    assert all(spread(found) > 5 for found in arrays(shown)) and shown.sizes[-2:] == [(128, 128)] * 2


@pytest.mark.parametrize("how", ["interrupt", "skip", "error"])
def test_ended_in_mid_sampling(webui, plain, how):
    scripts = {"Probe": {"args": [how, 1]}}
    if how == "error":
        with pytest.raises(Refused):
            webui.picture(ALL, **FIELDS, scripts=scripts)
    else:
        webui.picture(ALL, **FIELDS, scripts=scripts)
    state = webui.probe("state")
    assert state["patched"] and len(state["patched"]) < 4 and state["leftovers"] == []
    assert webui.picture(**FIELDS).pixels == plain().pixels


def test_other_models(webui):
    """A switch in between, a refiner (which begins with a full step), and another model for the hires pass."""
    first, _ = made(webui, ALL)
    other, _ = made(webui, ALL, override_settings={"sd_model_checkpoint": "b"})
    assert other.pixels != first.pixels and made(webui, ALL)[0].pixels == first.pixels
    _, state = made(webui, ALL, steps=6, refiner_checkpoint="b", refiner_switch_at=0.5)
    assert rows(state) == [2, 1, 2, 2, 1, 2]
    made(webui, ALL, **HIRES, hr_checkpoint_name="b")
    assert made(webui, ALL)[0].pixels == first.pixels


@pytest.fixture
def inpainting(webui):
    with webui.options(sd_model_checkpoint="inpaint"):
        yield


def test_inpainting_model(webui, inpainting, init):  # noqa: F811
    """Nine channels: latents, mask and masked picture are left out and put back together."""
    inside = {"path": "img2img", "init_images": [init], "mask": init, "denoising_strength": 0.8}
    for fields in ({}, {**inside, **BATCH}, {**inside, **CFG1}, {**inside, "prompt": "a cat AND a dog"}):
        # The host draws the noise of the encoded picture from where the job before has left the global generator.
        before = [webui.picture(**FIELDS | fields) for _ in range(2)][1]
        full = rows(webui.probe("state"))
        if "cfg_scale" in fields:  # the exact saving computes a smaller batch, which may round otherwise
            saved = webui.picture({"general": {"enabled": True}}, **FIELDS | fields)
            assert max(differences(saved, before)) < 0.1
        else:
            assert webui.picture(NEUTRAL, **FIELDS | fields).pixels == before.pixels
        for technique, settings in ALL.items():
            on, state = made(webui, {technique: settings}, **fields)
            assert {shape[1] for shape in state["calls"]} == {9}
            assert min(differences(on, before)) > 0
            assert (sum(rows(state)) < sum(full)) == (
                technique == "negative_skip" or ("cfg_scale" in fields and technique != "contrast")
            )


AXIS_KEYS = {xyz.label(group, param): param.key for group in GROUPS for param in group.params()}
AXES = [
    ("Negative skip", "False,True", "Contrast", "False,True", {}),
    ("Negative skip: Fill", "estimate,copy,zeros", "Negative skip: Full step every", "2,3", skip(through=4)),
    ("Negative skip: Penalty", "NAG,value sign flip,NASA", "Negative skip: Penalty strength", "1,3", penalty("NAG")),
    ("Contrast: Feature push", "0.2,0.8", "Contrast: Blocks", "mid,out", contrast()),
    ("Key mix: Source", "blurred,shifted", "Key mix: Direction", "blend,concatenate", mix("blurred")),
    ("Key mix: Values", "own,AdaIN", "Key mix: Amount", "0.3,0.9", mix("blurred")),
    ("Key mix: Features", "follow,AdaIN", "Key mix: Feature blocks", "auto,out", mix("negative")),
]


@pytest.mark.parametrize("x, xs, y, ys, settings", AXES, ids=[f"{axis[0]} and {axis[2]}" for axis in AXES])
def test_sweeps(webui, x, xs, y, ys, settings):
    """Every cell is the picture that is made alone with its values."""
    x, y = f"[Attn] {x}", f"[Attn] {y}"
    swept = grid(webui, settings, x=(x, xs), y=(y, ys))
    columns, lines = xs.split(","), ys.split(",")
    cells = swept.pixels[1 : 1 + len(columns) * len(lines)]
    assert len(set(cells)) == len(cells)
    for number, (column, line) in enumerate([(c, r) for r in lines for c in columns]):
        flat = Settings.read(settings)[0].flat() | {AXIS_KEYS[x]: column, AXIS_KEYS[y]: line}
        if column == "True" or line == "True":
            flat["general.enabled"] = True
        assert webui.picture(flat).pixels[0] == cells[number], (column, line)
