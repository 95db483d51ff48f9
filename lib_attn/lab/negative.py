"""``bench negative``: what Negative skip, Contrast and Key mix do on the lab's model, and what they cost.

Parts, each of which writes a result file of its own:

- *cost*: time and arithmetic of a full-size SD 1.5 U-Net with random weights, against guidance with two rows.
- *estimate*: how far the final latents move from full guidance when the negative is left out of most steps.
- *effect*: prompts that leave the colour open. What colour a picture has without a negative is what its negative then
  names: how many pictures keep it, on how much of the object, and how many still show what the prompt asks for?
- *contrast*: the same under weak guidance, for contrast alone.
- *mix*: batches of pictures that take keys, values or features from their first one: do silhouettes and colours come
  closer to that one's, and not to those of another batch (`lib_attn.lab.mixing`)?
- *pictures*: a labelled grid.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib_attn.lab import cost, scenebench
from lib_attn.lab.cost import ONE_ROW, Case
from lib_attn.lab.deviation import file_hash, relative_l2
from lib_attn.lab.errors import LabError
from lib_attn.lab.judged import How, colour_shares, draw, draw_batch, mean_and_error, object_pixels, seen_colour, shows
from lib_attn.lab.mixing import GROUP, KINDS, draw_group, measure_mix, mix_cases, mix_presets, mix_prompts
from lib_attn.lab.sampling import SAMPLERS, sample
from lib_attn.lab.scenebench import BACKGROUNDS, COLOURS, SHAPES, Judge
from lib_attn.lab.variants import FULL, Variant, parse_setting, preset, setting
from lib_attn.learn.scenes.vocabulary import article

PARTS = ("cost", "estimate", "effect", "contrast", "mix", "pictures")
Progress = Callable[[str], None]


# ------------------------------------------------------------------------------------------- what is compared

SKIP = "negative_skip."
#: The preset of each penalty and what is changed in it: NASA has none of its own.
PENALTIES: dict[str, tuple[str, dict]] = {
    "NAG": ("Negative prompt at CFG 1 (NAG)", {}),
    "VSF": ("Negative prompt at CFG 1 (VSF)", {}),
    "NASA": ("Negative prompt at CFG 1 (VSF)", {"penalty": "NASA", "strength": 0.5}),
}


#: Strengths above those of the presets.
STRONGER = {"NAG": 4.0, "VSF": 3.0}


def penalty(short: str, **changes) -> Variant:
    """Negative skip with a penalty as its preset has it. changes: by name without the technique."""
    name, own = PENALTIES[short]
    return preset(name, **{SKIP + key: value for key, value in (own | changes).items()})

CONTRASTS = {"feature": "feature=0.3", "keys": "feature=0; keys=0.3", "orthogonal": "feature=0; orthogonal=0.3",
             "map": "feature=0; map_strength=1"}  # fmt: skip


def contrast(operator: str) -> Variant:
    return setting("", CONTRASTS[operator])


def every(n: int, text: str = "") -> str:
    return f"{SKIP}penalty=off; {SKIP}key_every={n}; {text}"


def cost_cases() -> list[Case]:
    """Guidance with two rows first: everything is compared with it."""
    cases = [Case("CFG 5"), Case(ONE_ROW, cfg=1.0)]
    cases += [Case(f"CFG 1, {short}", penalty(short), 1.0) for short in PENALTIES]
    cases += [Case("full step every 3rd", setting("", every(3, "early=0")), steps=3)]
    cases += [Case(f"contrast: {operator}", contrast(operator)) for operator in CONTRASTS]
    return cases


def estimate_cases() -> list[Case]:
    """Ways to fill in for the negative, with full steps spread evenly and most of them early."""
    fills = {"copy, even": "fill=copy; early=0", "last guidance, even": "trend=0; early=0",
             "estimate, even": "early=0", "copy": "fill=copy", "estimate": ""}  # fmt: skip
    cases = [Case(f"every 3: {name}", setting("", every(3, text))) for name, text in fills.items()]
    for n in (2, 5):
        cases += [Case(f"every {n}: {name}", setting("", every(n, fills[name])))
                  for name in ("copy, even", "copy", "estimate")]  # fmt: skip
    return [
        *cases,
        Case("every 3: estimate, straight line", setting("", every(3, "trend=1"))),
        Case("every 3: estimate, last guidance", setting("", every(3, "trend=0"))),
        Case("every 3: zeros", setting("", every(3, "fill=zeros"))),
        Case("every 3: estimate, 2 In blocks kept", setting("", every(3, "through=2"))),
        Case("adaptive 0.99, at most 5: estimate", setting("", every(5, "adaptive=0.99; early=0"))),
    ]


@dataclass(frozen=True)
class Effect:
    """A way to make a negative act. base: guidance scale of the pictures without one that it is compared with."""

    name: str
    variant: Variant = FULL
    cfg: float = 5.0
    base: float = 5.0


def effect_cases() -> list[Effect]:
    """The first of each base is without any technique."""
    one = {"cfg": 1.0, "base": 1.0}
    cases = [Effect("CFG 5"), Effect("CFG 3", cfg=3.0), Effect("CFG 8", cfg=8.0)]
    cases += [Effect("CFG 5, every 3: copy", setting("", every(3, "fill=copy")))]
    cases += [Effect("CFG 5, every 3: estimate", setting("", every(3)))]
    for short in PENALTIES:
        variant = penalty(short, penalty_when="skipped steps")
        cases.append(Effect(f"CFG 5, every 3: estimate, {short} between", variant))
    cases += [Effect(f"CFG 5, contrast: {operator}", contrast(operator)) for operator in CONTRASTS]
    cases += [Effect(f"CFG 1, {short}", penalty(short), **one) for short in PENALTIES]
    cases += [Effect(f"CFG 1, {short} {s:g}", penalty(short, strength=s), **one) for short, s in STRONGER.items()]
    return cases


def contrast_cases() -> list[Effect]:
    """Weak guidance, which leaves contrast something to add; what a little more guidance does stands beside it."""
    weak = {"cfg": 2.0, "base": 2.0}
    cases = [Effect("CFG 2", **weak), Effect("CFG 2.5", cfg=2.5, base=2.0)]
    cases += [Effect(f"CFG 2, contrast: {operator}", contrast(operator), **weak) for operator in CONTRASTS]
    return [*cases, Effect("CFG 2, contrast: keys at 1", setting("", "feature=0; keys=1"), **weak)]


# ------------------------------------------------------------------------------------------- measurements


def measure_estimate(model, cases: Sequence[Case], how: How, images: int, progress: Progress) -> list[dict]:
    """Relative L2 of the final latents to those of guidance in every step, and the share of rows computed.

    Returns:
        one dictionary per case: l2 (mean over the images), l2_all, rows (share that passed the middle of the model).
    """
    from lib_attn.lab.deviation import PROMPTS

    batches = []
    for first in range(0, images, how.batch):
        count = min(how.batch, images - first)
        prompts = [PROMPTS[(first + i) % len(PROMPTS)] for i in range(count)]
        batches.append(how.request(prompts, [how.seed + first + i for i in range(count)], "", 5.0))
    progress("full guidance")
    passed = [0]
    hook = model.unet.middle_block.register_forward_pre_hook(lambda m, a: passed.__setitem__(0, passed[0] + len(a[0])))
    try:
        references = [sample(model, request) for request in batches]
        full, out = passed[0], []
        for case in cases:
            progress(case.name)
            passed[0], found = 0, []
            for request, reference in zip(batches, references, strict=True):
                latents = sample(model, request, case.variant)
                found += [relative_l2(own, other) for own, other in zip(latents, reference, strict=True)]
            out.append({"name": case.name, "l2": statistics.fmean(found), "l2_all": found, "rows": passed[0] / full,
                        "settings": settings_of(case.variant)})  # fmt: skip
        return out
    finally:
        hook.remove()


def settings_of(variant: Variant) -> dict:
    from lib_attn.lab.speed import changed

    return {} if variant.settings is None else changed(variant.settings)


def open_prompts(count: int) -> list[tuple[str, str, str]]:
    """(prompt, shape, background) with the object's colour left open, all shapes and backgrounds in turn."""
    pairs = [(SHAPES[i % len(SHAPES)], BACKGROUNDS[i // len(SHAPES) % len(BACKGROUNDS)]) for i in range(count)]
    return [(f"{article(shape)}, {background} background", shape, background) for shape, background in pairs]


def measure_effect(model, judge: Judge, cases, how: How, images: int, progress: Progress) -> list[dict]:
    """How much of what the negative names is seen, and how often what the prompt asks for.

    Returns:
        one dictionary per case, and one per base without a negative: pictures, named (share in which the named colour
        is seen), control (the same colour, the negative naming another one), area and area_control (mean share of the
        object's pixels that have that colour, see `judged.colour_shares`), areas (picture by picture), shape (one
        object of the right shape), background, prompt (both), seen (what the judge says), plain (no technique).
    """
    asked = open_prompts(images)
    prompts, seeds = [a[0] for a in asked], [how.seed + 5000 + i for i in range(images)]
    out = []

    def look(words, cfg, variant=FULL):
        pictures = draw(model, how, prompts, words, seeds, cfg, variant)
        return (*judge.look(pictures), pictures)

    for base in dict.fromkeys(case.base for case in cases):
        progress(f"CFG {base:g}, no negative")
        plain = look([""] * images, base)
        common = Counter(o[0] for v in plain[0] for o in v.objects).most_common(1)
        names = [seen_colour(v, common[0][0] if common else COLOURS[0]) for v in plain[0]]
        row = _effect_row(plain, names, asked)
        row |= {"control": row["named"], "area_control": row["area"], "plain": True, "settings": {}}
        out.append({"name": f"CFG {base:g}, no negative", "base": base, "cfg": base} | row)
        others = [COLOURS[(COLOURS.index(name) + 3) % len(COLOURS)] for name in names]
        for case in (c for c in cases if c.base == base):
            progress(case.name)
            named, control = (look(words, case.cfg, case.variant) for words in (names, others))
            row = _effect_row(named, names, asked)
            other = _effect_row(control, names, asked)
            row |= {"control": other["named"], "area_control": other["area"], "plain": case.variant is FULL}
            row["settings"] = settings_of(case.variant)
            out.append({"name": case.name, "base": base, "cfg": case.cfg} | row)
    return out


def _effect_row(looks, names, asked) -> dict:
    verdicts, masks, pictures = looks
    area = [float(colour_shares(object_pixels(picture, mask))[COLOURS.index(name)])
            for picture, mask, name in zip(pictures, masks, names, strict=True)]  # fmt: skip
    shape = [shows(v, a[1]) for v, a in zip(verdicts, asked, strict=True)]
    ground = [v.background == a[2] for v, a in zip(verdicts, asked, strict=True)]
    named = [word in [o[0] for o in v.objects] for v, word in zip(verdicts, names, strict=True)]
    mean = {"named": named, "shape": shape, "background": ground, "prompt": np.logical_and(shape, ground)}
    seen = [" + ".join(" ".join(o) for o in v.objects) + f", {v.background}" for v in verdicts]
    return {"pictures": len(verdicts), "seen": seen, "areas": area, "area": mean_and_error(area)[0],
            **{key: float(np.mean(values)) for key, values in mean.items()}}  # fmt: skip


# ------------------------------------------------------------------------------------------- the command


def add_commands(inner) -> None:
    """Add ``negative`` to the subcommands of ``bench``."""
    from lib_attn.lab.generate import add_model_options

    options = inner.add_parser("negative", help="negative skip, contrast and key mix: effect, deviation, cost")
    options.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all of them)")
    options.add_argument("--results", type=Path, default=Path("out/negative"), metavar="FOLDER",
                         help="where result files are written (default out/negative)")  # fmt: skip
    options.add_argument("--docs", type=Path, default=None, metavar="FOLDER",
                         help="write the page from all result files that are there")  # fmt: skip
    for name, value in (("images", 24), ("size", 256), ("steps", 20), ("seed", 1), ("batch", 8)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    options.add_argument("--sampler", default="DDIM", help=f"{', '.join(SAMPLERS)} (default DDIM)")
    options.add_argument("--setting", action="append", default=[], metavar="'NAME: strength=1; penalty=NASA'",
                         help="all but cost: measure these instead of the built-in ones")  # fmt: skip
    options.add_argument("--cfg", type=float, default=5.0,
                         help="guidance scale of --setting in effect and contrast (default 5)")  # fmt: skip
    options.add_argument("--judge", type=Path, default=scenebench.JUDGE, help="the judge's file")
    options.add_argument("--cost-sizes", default="512", help="cost: 512,1024 (default 512)")
    options.add_argument("--repeats", type=int, default=3, help="cost: interleaved repeats (default 3)")
    options.add_argument("--words", type=int, default=16, help="cost: words of the negative prompt (default 16)")
    options.add_argument("--only", default="", help="cost: only these cases, separated by semicolons")
    options.add_argument("--no-count", action="store_true", help="cost: time only")
    options.add_argument("--model", choices=("sd15", "toy"), default="sd15", help="cost: toy is for trying it out")
    add_model_options(options)
    options.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the parts, write a result file each, print tables, write the page."""
    from lib_attn.lab import negative_page
    from lib_attn.lab.bench import write_json

    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        raise LabError(f"There is no part {unknown[0]!r}: there are {', '.join(PARTS)}.")
    if args.images < 1 or args.repeats < 1 or args.batch < 1 or not 1 <= args.words <= 75:
        raise LabError("--images, --repeats, --batch and --words are 1 at least, --words 75 at most.")
    # With only --docs nothing is measured again.
    parts = args.parts or ([] if args.docs and any(args.results.glob("*.json")) else PARTS)
    loaded: dict = {}
    for part in parts:
        result = globals()[f"run_{part}"](args, loaded)
        if result is not None:
            write_json(args.results / f"{part}.json", result)
            print(negative_page.table(result))
            print(f"Written: {args.results / part}.json")
    if args.docs:
        print(f"Written: {negative_page.write(args.results, args.docs)}")
    return 0


def _frame(args, part: str) -> dict:
    from lib_attn.lab.bench import command_line, machine, pick_device

    return {"kind": f"negative {part}", "command": command_line(), "machine": machine(pick_device(args.device))}


def _drawing(args, part: str, loaded: dict):
    """The model and judge (loaded once), how to draw, and the head of the result."""
    from lib_attn.lab.bench import check_size
    from lib_attn.lab.deviation import load_model
    from lib_attn.lab.embedded import default_checkpoint
    from lib_attn.lab.scenebench import JudgeError

    check_size(args.size, args.size)
    if "model" not in loaded:
        loaded["model"] = load_model(args)
        loaded["print"] = file_hash(args.checkpoint or default_checkpoint())
        try:
            loaded["judge"] = Judge.load(args.judge)
        except JudgeError as error:
            raise LabError(str(error)) from None
    cache = args.results / "pictures"
    how = How(args.size, args.steps, args.sampler, args.seed, args.batch, loaded["print"], cache)
    head = _frame(args, part) | {"checkpoint": loaded["model"].name, "sha256": loaded["print"], "images": args.images}
    head |= {name: getattr(args, name) for name in ("size", "steps", "sampler", "seed", "precision")}
    return loaded["model"], loaded["judge"], how, head


def _bar(total: int):
    """A progress bar and the function that moves it on: its text is what is about to be done."""
    from tqdm import tqdm

    bar, begun = tqdm(total=total, file=sys.stderr), [False]

    def progress(text: str) -> None:
        bar.update(begun[0])
        begun[0] = True
        bar.set_description(text)

    return bar, progress


def run_cost(args, loaded: dict) -> dict:
    from lib_attn.lab.bench import make_bench, parse_sizes

    cases, sizes = cost_cases(), parse_sizes(args.cost_sizes)
    if args.only:
        wanted = [name.strip() for name in args.only.split(";")]
        cases = [case for case in cases if case.name in (cases[0].name, *wanted)]
    args.rows = 2
    bench, results = make_bench(args), []
    with cost.one_thread():
        # The machine is described as it is while measuring.
        result = _frame(args, "cost") | {"model": args.model, "precision": args.precision, "repeats": args.repeats}
        bar, progress = _bar(len(sizes) * len(cases) * (args.repeats + (not args.no_count)))
        with bar:
            for height, width in sizes:
                results += cost.measure(bench, cases, height, width, repeats=args.repeats, words=args.words,
                                        count=not args.no_count, progress=progress)  # fmt: skip
    return result | {"results": results}


def _own(args) -> list[Variant]:
    return [parse_setting(text) for text in args.setting]


def run_estimate(args, loaded: dict) -> dict:
    model, _, how, head = _drawing(args, "estimate", loaded)
    cases = [Case(v.label, v) for v in _own(args)] or estimate_cases()
    bar, progress = _bar(len(cases) + 1)
    with bar:
        return head | {"results": measure_estimate(model, cases, how, args.images, progress)}


def run_effect(args, loaded: dict) -> dict:
    return _effect(args, loaded, "effect", effect_cases())


def run_contrast(args, loaded: dict) -> dict:
    return _effect(args, loaded, "contrast", contrast_cases())


def _effect(args, loaded: dict, part: str, cases: list[Effect]) -> dict:
    model, judge, how, head = _drawing(args, part, loaded)
    cases = [Effect(v.label, v, args.cfg, args.cfg) for v in _own(args)] or cases
    bar, progress = _bar(len(cases) + len({case.base for case in cases}))
    with bar:
        return head | {"results": measure_effect(model, judge, cases, how, args.images, progress)}


def run_mix(args, loaded: dict) -> dict:
    model, judge, how, head = _drawing(args, "mix", loaded)
    cases = [Case("off"), *(Case(v.label, v) for v in _own(args))] if args.setting else mix_cases()
    bar, progress = _bar(len(KINDS) * len(cases))
    with bar:
        # Two groups at least, and always an even number: each is the other's control.
        groups = max(2, args.images // (2 * (GROUP - 1)) * 2)
        results = measure_mix(model, judge, cases, how, groups, progress)
    for row, case in zip(results, cases, strict=True):
        row["settings"] = settings_of(case.variant)
    return head | {"results": results}


def run_pictures(args, loaded: dict) -> None:
    """Write the labelled grid: a row for each technique."""
    from lib_attn.lab import pictures

    model, judge, how, _ = _drawing(args, "pictures", loaded)
    bar, progress = _bar(len(PARTS_OF_GRID))
    with bar:
        rows, left, captions = picture_rows(model, judge, how, progress)
    sheet = pictures.grid(rows, [""] * len(rows[0]), left, captions)
    path = pictures.save(sheet, (args.docs or args.results) / "negative.png")
    print(f"Written: {path}")


#: Rows of the grid.
PARTS_OF_GRID = ("Negative skip", "Contrast", "Key mix, colours named", "Key mix, colours open")
GRID_GROUP = 7  # of `mix_prompts`: one whose first two pictures stand apart
CELL = 176  # pixels of a picture in the grid


def picture_rows(model, judge: Judge, how: How, progress: Progress) -> tuple[list[list], list[str], list[list[str]]]:
    """Pictures, a heading and captions of each row of the grid. The negatives name the colour that is seen without."""
    prompt, seed = f"{article(SHAPES[1])}, {BACKGROUNDS[0]} background", how.seed + 5001

    def one(negative: str, cfg: float, variant: Variant = FULL) -> np.ndarray:
        return draw_batch(model, how, how.request([prompt], [seed], negative, cfg), variant)[0]

    progress(PARTS_OF_GRID[0])
    plain, weak = one("", 5.0), one("", 1.0)
    word, weak_word = (seen_colour(judge.look(p[None])[0][0], COLOURS[0]) for p in (plain, weak))
    skip = [("CFG 5, no negative", plain), (f"CFG 5, negative: {word}", one(word, 5.0)),
            ("the same, negative every 3rd step", one(word, 5.0, setting("", every(3)))), ("CFG 1, no negative", weak),
            (f"CFG 1, NAG, negative: {weak_word}", one(weak_word, 1.0, penalty("NAG")))]  # fmt: skip
    progress(PARTS_OF_GRID[1])
    compared = [skip[1], *((f"contrast: {name}", one(word, 5.0, contrast(name))) for name in CONTRASTS)]
    rows, mixed_left = [skip, compared], []
    for title, kind in zip(PARTS_OF_GRID[2:], ("coloured", "open"), strict=True):
        progress(title)
        prompts = mix_prompts(GRID_GROUP + 1)[1][kind][GRID_GROUP][:2]
        mixed = {case.name: draw_group(model, how, prompts, GRID_GROUP, case.variant) for case in mix_presets()}
        rows.append([("source", mixed["off"][0]), *((name, group[1]) for name, group in mixed.items())])
        mixed_left.append(f"{title}: {prompts[1]}; source: {prompts[0]}")
    left = [f"{PARTS_OF_GRID[0]}: {prompt}", f"{PARTS_OF_GRID[1]}: {prompt}, negative: {word}",
            *mixed_left]  # fmt: skip
    return [[_cell(p) for _, p in row] for row in rows], left, [[name for name, _ in row] for row in rows]


def _cell(picture: np.ndarray):
    from PIL import Image

    return Image.fromarray(picture).resize((CELL, CELL), Image.LANCZOS)

