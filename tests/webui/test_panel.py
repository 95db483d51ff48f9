"""The panel in plain gradio: every parameter once, real bounds, stable and unique labels, translated, presets."""

import ast
import html
import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from lib_attn.learned.header import Refused
from lib_attn.presets import Presets
from lib_attn.settings import TECHNIQUES, Settings, all_params, positional_params
from lib_attn.techniques import ORDER
from tests.conftest import ROOT

gr = pytest.importorskip("gradio", reason="the panel needs gradio (pip install gradio==3.41.2)")

JAPANESE = ROOT / "localizations" / "ja_JP.json"

# ui-config.json of every user goes by these: a label may be added, never changed.
LABELS = (
    """
Attention Lab|Also in inner passes|Near-sighted|Tile size|Tile count|Halo|Shift|Global pooling|Global keys
Global strength|Exact step every|Residual memory|Local pooling|Local pooling shape|Local pooling mode|Local K blend
Local V blend|Peak tile size|Peak global pooling|Peak time|Time decay|Depth scaling|Near-sighted: Blocks
Near-sighted: Start|Near-sighted: End|Near-sighted: Hires pass
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.fixture(scope="module")
def built(fake_host, tmp_path_factory):
    from lib_attn.webui import panel

    with gr.Blocks() as page:
        controls = panel.build(
            elem_id=lambda name: f"lab_{name}",
            presets=Presets(tmp_path_factory.mktemp("presets")),
            docs=lambda name: f"file=docs/{name}",
            compare=True,
        )
    return page, controls


def blocks_of(page):
    return list(page.blocks.values())


def visible_texts(page):
    """Everything on the page that a user reads and the host's localization can reach."""
    texts = set()
    for block in blocks_of(page):
        for text in (getattr(block, "label", None), getattr(block, "info", None), getattr(block, "placeholder", None)):
            texts.add(text)
        if isinstance(block, (gr.Button, gr.HTML)):
            texts |= {html.unescape(part).strip() for part in re.split(r"<[^>]*>", block.value or "")}
        for choice in getattr(block, "choices", None) or []:
            texts.add(choice[0] if isinstance(choice, (tuple, list)) else choice)
    return texts - {None, ""}


def test_a_control_for_every_parameter(built):
    _, panel = built
    assert set(panel.controls) == {p.key for p in positional_params()}
    assert [panel.controls[p.key] for p in positional_params()] == panel.inputs()
    for param in all_params():
        control = panel.controls[param.key]
        assert control.value == param.default and type(control.value) is type(param.default)
        if param.kind in ("int", "float"):
            assert (control.minimum, control.maximum, control.step) == (param.low, param.high, param.step)
        if param.kind == "choice":
            assert [c[0] if isinstance(c, tuple) else c for c in control.choices] == list(param.choices)
        if param.name != "enabled":
            assert param.help in control.info


def test_few_controls_at_first_sight(built):
    """A switch, one strength or size, at most three more; the rest is folded away."""
    page, panel = built
    for technique in TECHNIQUES:
        basic = [p for p in technique.params() if not p.advanced and p.name != "enabled"]
        assert 1 <= len(basic) <= 4 and any(p.kind in ("int", "float") for p in basic), technique.name
        folded = next(b for b in blocks_of(page) if b.elem_id == f"lab_{technique.name}_advanced")
        assert isinstance(folded, gr.Accordion) and folded.open is False
        for param in technique.params():
            parents, block = [], panel.controls[param.key]
            while block.parent is not None:
                block = block.parent
                parents.append(block)
            assert (folded in parents) == param.advanced, param.key
        assert not re.search(r"logit|AdaIN|sigma", " ".join(f"{p.label} {p.help}" for p in basic)), technique.name


def test_folding_a_technique_is_not_its_switch(built):
    page, panel = built
    for technique in TECHNIQUES:
        switch = panel.controls[f"{technique.name}.enabled"]
        body = next(b for b in blocks_of(page) if b.elem_id == f"lab_{technique.name}")
        assert type(switch) is gr.Checkbox and switch.visible and isinstance(body, gr.Accordion) and not body.open
        block = switch
        while block.parent is not None:
            block = block.parent
            assert block is not body


def test_docs_pages_of_all_techniques_exist(built):
    addresses = {
        a for b in blocks_of(built[0]) if isinstance(b, gr.HTML) for a in re.findall(r'href="([^"]*)"', b.value)
    }
    assert len(addresses) == len(TECHNIQUES)
    for address in addresses:
        assert (ROOT / address.removeprefix("file=")).is_file(), address


def test_labels_are_unique_and_frozen(built):
    _, panel = built
    assert [c.label for c in panel.inputs()][: len(LABELS)] == LABELS
    assert len({c.label for c in panel.inputs()}) == len(panel.inputs())


def test_ids_are_unique(built):
    ids = Counter(b.elem_id for b in blocks_of(built[0]) if b.elem_id)
    assert not [name for name, count in ids.items() if count > 1]
    assert all(c.elem_id.startswith("lab_") for c in built[1].inputs())


def test_passing_controls_are_not_stored_by_the_host(built):
    ours = set(built[1].inputs())
    for block in blocks_of(built[0]):
        if isinstance(block, (gr.Dropdown, gr.Textbox, gr.Button)) and block not in ours:
            assert block.do_not_save_to_config


def test_building_twice_is_the_same_and_has_no_side_effects(built, tmp_path):
    from lib_attn.webui import panel

    with gr.Blocks():
        again = panel.build(elem_id=lambda name: f"lab_{name}", presets=Presets(tmp_path / "presets"), compare=True)
    assert [c.get_config() | {"name": 0} for c in again.inputs()] == [
        c.get_config() | {"name": 0} for c in built[1].inputs()
    ]
    assert not (tmp_path / "presets").exists()


def script_texts():
    source = (ROOT / "javascript" / "attention_lab.js").read_text()
    table = re.search(r"var texts = \{(.*?)\};", source, re.S).group(1)
    return set(re.findall(r': "(.*)",', table))


def sentences_in(path):
    """Texts of a source file that a user reads: begins with a capital or a value, ends with a stop, has a space; the
    values of a message by the last part of their names."""
    tree = ast.parse((ROOT / "lib_attn" / path).read_text())
    inside = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        raised = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ValueError"
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "textinfo":
            yield text_of(node.value)  # stands in the bar that shows how far a job is
        for part in node.args if raised else [node]:
            text = text_of(part)
            if text is None or id(part) in inside or id(part) in docs:
                continue
            text = text.strip()
            if re.match(r"[A-Z{]", text) and re.search(r" |:$", text) and (raised or text.endswith((".", ":"))):
                yield text if text.endswith((".", ":")) else f"{text}."


def text_of(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = []
    for part in node.values:
        name = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else None
        parts.append(part.value if name is None else "{" + NAMES.get(name, name) + "}")
    return "".join(parts)


NAMES = {
    "file.stem": "name", "error.strerror": "reason", "chosen.text": "blocks", "name[:80]": "name",
    "next(iter(left))[:80]": "name", "list(whole.shape)": "shape", "list(own.shape)": "other",
    "WORKS_INSIDE": "why", "found": "where", "list(found.shape)": "shape", "list(value.shape)": "other",
}  # fmt: skip

#: What stands in a sentence as it is: numbers, and names of files, presets, blocks, samplers and fields.
AS_THEY_ARE = {
    "LARGEST", "MAX_FILES", "MAX_NAME", "MAX_SELECTOR_LENGTH", "MAX_TEXT", "above", "beside", "blocks", "cells",
    "channels", "computed", "count", "expected", "factor", "field", "fields", "full", "height", "high", "kept",
    "key", "kind", "kinds", "least", "level", "low", "mib", "most", "name", "names", "needed", "number", "off", "on",
    "other", "path", "percent", "place", "points", "prompt", "rank", "ratio", "seconds", "shape", "share", "shown",
    "size", "steps", "tiles", "used", "wanted", "where", "width",
}  # fmt: skip
#: Names for words that stand in other sentences; where they come from is read by `parts`.
#: choices, default, label: as the controls have them.
WORDS = {"choices", "default", "error", "fixed", "label", "read", "reason", "source", "technique", "why"}
#: Errors whose text ends another sentence.
ERRORS = ("UnsupportedModel", "Unfitting", "Refused", "Damaged")
ENDS = ("techniques/depth_guide", "unet/standalone.py", "unet/layers.py")


def parts():
    """Words that stand in other sentences: what functions for reasons give, and what is kept under a name for them."""
    for path in (ROOT / "lib_attn").rglob("*.py"):
        inside, tree = path.relative_to(ROOT / "lib_attn").as_posix(), ast.parse(path.read_text())
        if inside.startswith(("lab/", "learn/")):
            continue
        constants = {getattr(n.targets[0], "id", ""): n.value for n in tree.body if isinstance(n, ast.Assign)}
        for node in ast.walk(tree):
            values = []
            if isinstance(node, ast.FunctionDef) and "why" in node.name:
                values = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
            elif isinstance(node, ast.Assign) and _last_name(node.targets[0]).strip("_") in WORDS:
                values = [node.value]
            elif isinstance(node, ast.Call) and (
                _last_name(node.func) in ERRORS or (_last_name(node.func) == "ValueError" and inside.startswith(ENDS))
            ):
                values = node.args[-1:]
            for value in values:
                for part in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
                    part = part.value if isinstance(part, ast.Subscript) else part
                    named = [getattr(getattr(piece, "value", None), "id", "") for piece in getattr(part, "values", ())]
                    yield from filter(None, (text_of(constants.get(name)) for name in named))
                    yield from filter(None, [text_of(constants.get(getattr(part, "id", ""), part))])


def _last_name(node):
    return getattr(node, "attr", getattr(node, "id", ""))


def places_in(text):
    """Names of what is put into a sentence."""
    return re.findall(r"\{([^}]*)\}", text)


def said_in(path):
    """What is handed to a function that tells the user a sentence, itself or as a constant of the file."""
    tree = ast.parse(path.read_text())
    named = [n for n in tree.body if isinstance(n, ast.Assign) and hasattr(n.targets[0], "id")]
    constants = {n.targets[0].id: n.value for n in named}
    for node in ast.walk(tree):
        called = getattr(node, "func", None)
        name = getattr(called, "attr", getattr(called, "id", ""))
        for part in node.args if name in ("say", "_say", "comment") else ():
            found = text_of(constants.get(getattr(part, "id", ""), part))
            if found is not None:
                yield found


# Put together from parts: see `lib_attn.webui.xyz.tell_grid` and `lib_attn.preview.told_after`.
TOGETHER = {
    "{technique} changed nothing. {reason}",
    "{technique} did less than it could. {reason}",
    "X/Y/Z: {technique} is off, so its axis changes nothing. Cells: {cells}.",
    "X/Y/Z: {technique}: {reason} Cells: {cells}.",
}


def refusals():
    """Whole sentences and ends of sentences on learned files."""
    yield Refused.TEXT
    for path in (ROOT / "lib_attn").rglob("*.py"):
        tree = ast.parse(path.read_text())
        named = [n for n in tree.body if isinstance(n, ast.Assign) and hasattr(n.targets[0], "id")]
        constants = {n.targets[0].id: n.value for n in named}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Refused", "Damaged"):
                why = node.args[-1]
                parts = [why.body, why.orelse] if isinstance(why, ast.IfExp) else [why]
                yield from filter(None, (text_of(constants.get(getattr(part, "id", ""), part)) for part in parts))


def learning_params():
    """Of the page "Learn"."""
    from lib_attn.learn.learners import learners
    from lib_attn.learn.run import Pictures

    return [p for group in (Pictures, *(learner.options for learner in learners().values())) for p in group.params()]


def learning_texts():
    """Of the page "Learn"."""
    from lib_attn.learn.learners import learners
    from lib_attn.webui import learn_tab

    known, params = learners().values(), learning_params()
    texts = {*learn_tab.TEXTS.values(), *(text for learner in known for text in (learner.label, learner.about))}
    return texts | {text for p in params for text in (p.label, p.help, *p.choices)}


#: What raises a ValueError while a file is learned, whose text the user reads.
LEARNING = (
    *("webui/learning.py", "webui/showing.py", "learn/run.py", "learn/capture.py", "learn/shown.py"),
    *(f"learn/{name}/{path.name}" for name in ORDER for path in (ROOT / "lib_attn" / "learn" / name).glob("*.py")),
)


def told_texts():
    """What is said beyond the page's own labels."""
    from lib_attn.presets import NEEDS, OWN, shipped
    from lib_attn.webui import options, panel

    texts = {*TOGETHER, *script_texts(), *NEEDS.values(), OWN, *options.LABELS.values(), *options.INFOS.values()}
    texts |= {*refusals(), *parts(), panel.TEXTS["look"], panel.TEXTS["none"]}
    texts |= {text for name in shipped() for text in Presets().about(name)}
    texts |= {p.reads[1] for p in all_params() if p.reads}
    previews = [f"techniques/{name}/preview.py" for name in ORDER]
    more = ("techniques/facts.py", "presets.py", "webui/live.py", "webui/preset_actions.py", "webui/compare.py",
            "webui/controlnet.py")  # fmt: skip
    texts |= learning_texts()
    texts |= {text for text in sentences_in("settings.py") if "{shown}" in text or "{technique}" in text}
    runtimes = [
        f"techniques/{path.parent.name}/{path.name}"
        for name in ORDER
        for path in (ROOT / "lib_attn" / "techniques" / name).glob("*.py")
        if path.name not in ("settings.py", "preview.py")
    ]
    for path in ("preview.py", "schema.py", *LEARNING, *previews, *runtimes, *more):
        texts |= set(sentences_in(path))
    apart = [ROOT / "lib_attn" / room for room in ("lab", "learn")]
    for path in (ROOT / "lib_attn").rglob("*.py"):
        if not set(apart) & set(path.parents):
            texts |= set(said_in(path))
    return texts


def test_japanese_covers_the_page_and_what_is_told(built):
    japanese = json.loads(JAPANESE.read_text(encoding="utf-8"))
    texts = visible_texts(built[0]) | told_texts()
    same = {"SDXL", "NAG", "NASA", "AdaIN"}  # names that stay as they are
    assert set(japanese) - texts == set(), "keys that are nowhere"
    assert texts - set(japanese) - same == set(), "texts without a translation"
    assert all(value.strip() for value in japanese.values())


def test_every_place_in_a_sentence_holds_words_that_are_translated_or_none(built):
    """A new place has to be told apart: its words are translated too, if it holds words."""
    texts = told_texts()
    assert {name for text in texts for name in places_in(text)} - AS_THEY_ARE - WORDS == set()
    assert len(set(parts())) > 40 and "Needs batch size 2 or more." in texts


def test_japanese_helps_name_choices_as_the_panel_shows_them():
    japanese = json.loads(JAPANESE.read_text(encoding="utf-8"))
    for p in (*all_params(), *learning_params()):
        for choice in p.choices:
            if choice not in japanese.get(choice, choice):
                named = rf"(?i)(?<![a-z_]){re.escape(choice)}(?![a-z_])"
                assert not re.search(named, japanese[p.help]), (p.key, choice)


def test_japanese_keeps_the_placeholders():
    japanese = json.loads(JAPANESE.read_text(encoding="utf-8"))
    for key, value in japanese.items():
        assert sorted(re.findall(r"\{\w+\}", key)) == sorted(re.findall(r"\{\w+\}", value)), key


@pytest.fixture
def actions(fake_host, tmp_path):
    from lib_attn.webui.panel import PresetActions

    return PresetActions(Presets(tmp_path))


def panel_values(**fields):
    from lib_attn.webui.panel import values

    return values(Settings.read(fields)[0])


def plain(text):
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()


def test_a_preset_is_applied_to_its_techniques_alone(actions):
    before = panel_values(contrast={"enabled": True, "keys": 0.5})
    todo = actions.apply("ToDo (subsampled K, V)", *before)
    settings, _ = Settings.read(dict(zip((p.key for p in positional_params()), todo, strict=False)))
    assert [g.name for g in settings.active()] == ["near_sighted", "contrast"] and settings["contrast"].keys == 0.5
    assert settings["near_sighted"].global_keys == "subsample" and len(todo) == len(positional_params()) + 2
    assert plain(todo[-2]).endswith("Needs SD 1.x or 2.x and at least 768 px.")
    assert plain(todo[-1]) == "Contrast stays on."
    off = actions.all_off(*todo[:-2])
    settings, _ = Settings.read(dict(zip((p.key for p in positional_params()), off, strict=False)))
    assert list(settings.active()) == [] and settings["near_sighted"].global_keys == "subsample"


def test_saving_asks_before_it_replaces(actions):
    first, second = (panel_values(near_sighted={"enabled": True, "tile": tile}) for tile in (24, 32))
    chosen, about, said, pending = actions.save("my_snake v1.2", "", *first)
    assert chosen["value"] == "my_snake v1.2" in chosen["choices"] and pending == ""
    assert plain(said) == "Saved: my_snake v1.2" and plain(about) == "A preset of your own."
    _, _, said, pending = actions.save("my_snake v1.2", "", *second)
    assert "Press Save preset again" in said and pending == "my_snake v1.2"
    assert actions.apply("my_snake v1.2", *panel_values())[:-2] == first
    assert "Saved" in actions.save("my_snake v1.2", pending, *second)[2]
    assert actions.apply("my_snake v1.2", *panel_values())[:-2] == second


def test_deleting_takes_the_chosen_one(actions):
    actions.save("one", "", *panel_values(near_sighted={"enabled": True}))
    actions.save("two", "", *panel_values(near_sighted={"enabled": True}))
    chosen, _, said = actions.delete("one")
    assert plain(said) == "Deleted: one" and "two" in chosen["choices"] and "one" not in chosen["choices"]
    assert plain(actions.delete("Layout only")[2]) == "Layout only comes with the extension and stays as it is."
    assert plain(actions.delete("Default")[2]) == "Default comes with the extension and stays as it is."
    assert "Choose the preset" in actions.delete(None)[2]


def test_messages_are_no_markup(actions):
    on = panel_values(near_sighted={"enabled": True})
    for said in (actions.save("../<img src=x>", "", *on)[2], actions.apply("<b>x</b>", *on)[-1]):
        assert plain(said).endswith(".") and not re.search(r"<(?!/?span)", said)
    assert "No technique is on" in actions.save("mine", "", *panel_values())[2]


def test_a_page_begins_with_the_preset_of_the_settings_page(fake_host, tmp_path):
    from lib_attn.webui.panel import PresetActions

    presets = Presets(tmp_path)
    chosen, about, *fresh = PresetActions(presets, lambda: "Negative every 3rd step").start(None, *panel_values())
    named = dict(zip((p.key for p in positional_params()), fresh, strict=True))
    assert chosen["value"] == "Negative every 3rd step" and "third less work" in about
    assert named["negative_skip.enabled"] is True and named["negative_skip.penalty"] == "off"
    assert named["general.enabled"] == gr.update()  # nobody gets other pictures by opening a page
    for wanted in ("", "gone"):
        chosen, about, *fresh = PresetActions(presets, lambda wanted=wanted: wanted).start(None, *panel_values())
        assert chosen["choices"] == presets.names() and all(value == gr.update() for value in fresh)


def test_the_maths_needs_neither_webui_nor_gradio():
    code = (
        "import sys; sys.modules['modules'] = sys.modules['gradio'] = None\n"
        "import lib_attn.attach, lib_attn.presets, lib_attn.preview, lib_attn.settings"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
