"""Judge pictures by their prompts: colour, shape, count, relation, negatives, silhouettes, distances.

The judge is a small network trained on renders of `lib_attn.learn.scenes`. It names the objects of a picture
from left to right and marks their pixels; everything else follows from that by counting. Train one with
`python -m lib_attn.lab scenebench train judge.safetensors`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from lib_attn.learn.scenes import layout, vocabulary
from lib_attn.learn.scenes.layout import Scene
from lib_attn.learn.scenes.vocabulary import Thing

EDGE = 64
SLOTS = 3
SHAPES = vocabulary.SHAPES
COLOURS = tuple(vocabulary.COLOURS)
BACKGROUNDS = tuple(vocabulary.BACKGROUNDS)
#: Per slot: which shape or none, which colour or none; then the background.
HEADS = [len(SHAPES) + 1, len(COLOURS) + 1] * SLOTS + [len(BACKGROUNDS)]


#: The judge that comes with the project.
JUDGE = Path(__file__).parent / "model" / "judge.safetensors"


class JudgeError(ValueError):
    """The judge's file is missing or damaged; the message is one sentence."""


class JudgeNet(nn.Module):
    """Pictures (B, 3, 64, 64) in 0..1 -> (answers (B, sum of HEADS), mask logits (B, 32, 32))."""

    def __init__(self, width: int = 24):
        super().__init__()

        def block(a: int, b: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

        w = width
        self.high = nn.Sequential(block(3, w, 2), block(w, w))
        self.middle = nn.Sequential(block(w, 2 * w, 2), block(2 * w, 2 * w))
        self.low = nn.Sequential(block(2 * w, 4 * w, 2), block(4 * w, 4 * w))
        self.answers = nn.Sequential(nn.Conv2d(4 * w, w, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.2),
                                     nn.Linear(w * 64, 192), nn.ReLU(inplace=True), nn.Linear(192, sum(HEADS)))
        self.mask = nn.Conv2d(7 * w, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        high = self.high(x * 2 - 1)
        middle = self.middle(high)
        low = self.low(middle)
        stack = [high, functional.interpolate(middle, scale_factor=2.0), functional.interpolate(low, scale_factor=4.0)]
        return self.answers(low), self.mask(torch.cat(stack, 1))[:, 0]


@dataclass(frozen=True)
class Verdict:
    """What the judge sees: objects from left to right as (colour, shape), and the background's name."""

    objects: tuple[tuple[str, str], ...]
    background: str


def _shrink(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) of any size -> float (B, 3, 64, 64) in 0..1, averaged over areas."""
    x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 255
    return x if x.shape[-2:] == (EDGE, EDGE) else functional.interpolate(x, (EDGE, EDGE), mode="area")


class Judge:
    """A trained judge. `accuracy` holds its own figures on held-out renders, by kind of answer."""

    def __init__(self, net: JudgeNet, accuracy: dict[str, float] | None = None):
        self.net, self.accuracy = net.eval(), accuracy or {}

    @staticmethod
    def load(path: Path) -> Judge:
        """Raises JudgeError when the file is missing, damaged, or not a judge."""
        try:
            with safe_open(str(path), "pt") as file:
                weights = {key: file.get_tensor(key) for key in file.keys()}
                accuracy = json.loads((file.metadata() or {}).get("accuracy", "{}"))
            net = JudgeNet(weights["high.0.0.weight"].shape[0])
            net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        except Exception as error:  # safetensors and torch raise types of their own
            raise JudgeError(f"{Path(path).name} cannot be used as a judge ({error}).") from None
        return Judge(net, accuracy)

    def save(self, path: Path) -> None:
        weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in self.net.state_dict().items()}
        save_file(weights, str(path), {"accuracy": json.dumps(self.accuracy), "license": "CC0-1.0"})

    @torch.no_grad()
    def look(self, pictures: np.ndarray) -> tuple[list[Verdict], np.ndarray]:
        """Pictures uint8 (B, H, W, 3) -> one verdict each, and masks bool (B, 32, 32) of the objects."""
        verdicts, masks = [], []
        for first in range(0, len(pictures), 64):
            answers, mask = self.net(_shrink(pictures[first:first + 64]))
            verdicts += _read(answers)
            masks.append((mask > 0).numpy())
        return verdicts, np.concatenate(masks)


def _read(answers: torch.Tensor) -> list[Verdict]:
    picks = [part.argmax(1).tolist() for part in answers.split(HEADS, dim=1)]
    verdicts = []
    for row in zip(*picks, strict=False):
        objects = [(COLOURS[c], SHAPES[s]) for s, c in zip(row[0:2 * SLOTS:2], row[1:2 * SLOTS:2], strict=False)
                   if s < len(SHAPES) and c < len(COLOURS)]
        verdicts.append(Verdict(tuple(objects), BACKGROUNDS[row[-1]]))
    return verdicts


def expected(scene: Scene) -> Verdict:
    """What a right picture of the scene's caption shows, from left to right."""
    things = list(scene.things) if len(scene.things) == 2 else list(scene.things) * scene.count
    if scene.relation == "right of":
        things.reverse()
    return Verdict(tuple((t.colour, t.name) for t in things), scene.background)


def labels(scene: Scene) -> list[int]:
    """Class numbers in the order of HEADS."""
    verdict, out = expected(scene), []
    for slot in range(SLOTS):
        if slot < len(verdict.objects):
            colour, shape = verdict.objects[slot]
            out += [SHAPES.index(shape), COLOURS.index(colour)]
        else:
            out += [len(SHAPES), len(COLOURS)]
    return out + [BACKGROUNDS.index(verdict.background)]


# ------------------------------------------------------------------------------------------- the prompts


def single_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Single objects in combinations held out of training, all of them before any comes again."""
    pairs = [(c, s) for s in SHAPES for c in COLOURS if vocabulary.pair_is_held_out(c, s)]
    return [layout.scene_of([Thing(pairs[i % len(pairs)][1], pairs[i % len(pairs)][0])],
                            background=BACKGROUNDS[(i // len(pairs)) % len(BACKGROUNDS)], seed=seed, index=i)
            for i in range(count)]


def pair_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Two objects with a relation, in combinations held out of training."""
    mix = layout.Mix(kinds=(0, 1, 0), sized=0.0, split="held-out", free_styles=False)
    scenes, index = [], 0
    while len(scenes) < count:
        scene = layout.sample_scene(seed + 7919, index, mix)
        index += 1
        if len(scene.things) == 2:
            scenes.append(scene)
    return scenes


def count_prompts(count: int, seed: int = 0) -> list[Scene]:
    """Two or three of one kind, in combinations held out of training."""
    mix = layout.Mix(kinds=(0, 0, 1), sized=0.0, split="held-out", free_styles=False)
    return [layout.sample_scene(seed + 104729, i, mix) for i in range(count)]


# ------------------------------------------------------------------------------------------- the figures


@dataclass(frozen=True)
class Score:
    """Shares of pictures, 0..1. colour and shape: every asked-for object has it, in any order; both: every
    object has its colour and its shape; count: as many as asked for; relation: both, and in the right order;
    background: as asked for."""

    pictures: int
    colour: float
    shape: float
    both: float
    count: float
    relation: float
    background: float


def score(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> Score:
    """Compare verdicts with the prompts they were drawn for. Raises ValueError when there are none."""
    if not verdicts or len(verdicts) != len(scenes):
        raise ValueError(f"{len(verdicts)} pictures cannot be judged by {len(scenes)} prompts.")
    rows = []
    for seen, scene in zip(verdicts, scenes, strict=False):
        want = expected(scene)

        def same(part, seen=seen, want=want):
            return sorted(map(part, seen.objects)) == sorted(map(part, want.objects))

        rows.append((same(lambda o: o[0]), same(lambda o: o[1]), same(lambda o: o),
                     len(seen.objects) == len(want.objects), seen.objects == want.objects,
                     seen.background == want.background))
    return Score(len(rows), *(float(v) for v in np.mean(np.array(rows, float), axis=0)))


def appearance(verdicts: Sequence[Verdict], word: str) -> float:
    """Share of pictures in which the named colour, shape or background is seen."""
    return float(np.mean([word == v.background or any(word in o for o in v.objects) for v in verdicts]))


def silhouette_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean intersection over union of boolean masks (B, h, w); two empty masks agree."""
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return float(np.mean(np.where(either == 0, 1.0, both / np.maximum(either, 1))))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of uint8 pictures of the same shape; infinite for equal ones."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of uint8 pictures (B, H, W, 3) with the 11-pixel Gaussian window of 1.5 pixels
    (Wang et al. 2004, "Image quality assessment", IEEE TIP 13(4)), mean over pixels and channels."""
    x, y = (torch.from_numpy(np.ascontiguousarray(p.transpose(0, 3, 1, 2))).double() for p in (a, b))
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2)).double()
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)

    def blur(t):
        return functional.conv2d(t, window, groups=3)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def latent_distance(a: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative L2 distance |a - reference| / |reference| over all values."""
    return float((a.double() - reference.double()).norm() / reference.double().norm())


def compare(judge: Judge, pictures: np.ndarray, reference: np.ndarray, latents: torch.Tensor | None = None,
            reference_latents: torch.Tensor | None = None) -> dict[str, float]:
    """Distances of pictures to those of the same prompts and seeds without a technique."""
    _, masks = judge.look(pictures)
    _, reference_masks = judge.look(reference)
    out = {"psnr": psnr(pictures, reference), "ssim": ssim(pictures, reference),
           "silhouette": silhouette_overlap(masks, reference_masks)}
    if latents is not None and reference_latents is not None:
        out["latent_l2"] = latent_distance(latents, reference_latents)
    return out


#: generate(prompts, negative prompts, seeds) -> uint8 pictures (N, H, W, 3) and final latents (N, 4, H/8, W/8)
Generate = Callable[[list[str], list[str], list[int]], tuple[np.ndarray, torch.Tensor]]


def run(generate: Generate, judge: Judge, singles: int = 48, pairs: int = 48, counts: int = 24, negatives: int = 24,
        seed: int = 0, reference: Generate | None = None) -> dict[str, dict[str, float]]:
    """The whole benchmark of one model and setting; seeds are the same for every setting.

    The part "negative" asks for shapes without a colour, with and without the negative prompt "red", and
    says how often red is seen. reference: the same model without a technique; the part "distance" then says how
    far the pictures of the first three parts are from its pictures of the same prompts and seeds.
    """
    out = {"judge": dict(judge.accuracy)}
    sets = {"single": single_prompts(singles, seed), "pair": pair_prompts(pairs, seed),
            "several": count_prompts(counts, seed)}
    drawn, full = [], []
    for name, scenes in sets.items():
        if scenes:
            asked = ([s.caption for s in scenes], [""] * len(scenes), [seed + 1000 + i for i in range(len(scenes))])
            drawn.append(generate(*asked))
            out[name] = asdict(score(judge.look(drawn[-1][0])[0], scenes))
            if reference:
                full.append(reference(*asked))
    if full:
        pictures, of_full = (np.concatenate([p for p, _ in part]) for part in (drawn, full))
        latents, of_full_latents = (torch.cat([x for _, x in part]) for part in (drawn, full))
        out["distance"] = compare(judge, pictures, of_full, latents, of_full_latents)
    if negatives:
        prompts = [f"a {SHAPES[i % len(SHAPES)]}, {BACKGROUNDS[i % len(BACKGROUNDS)]} background"
                   for i in range(negatives)]
        seeds = [seed + 5000 + i for i in range(negatives)]
        out["negative"] = {
            "pictures": negatives,
            "red_without": appearance(judge.look(generate(prompts, [""] * negatives, seeds)[0])[0], "red"),
            "red_with": appearance(judge.look(generate(prompts, ["red"] * negatives, seeds)[0])[0], "red"),
        }
    return out


# ------------------------------------------------------------------------------------------- the judge's training


def render_set(seed: int, count: int, render) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Renders for the judge -> pictures uint8 (N, 64, 64, 3), labels int64 (N, heads), masks bool (N, 32, 32)."""
    mix = layout.Mix(kinds=(0.4, 0.4, 0.2), split="all")
    pictures, answers, masks = [], [], []
    for index in range(count):
        scene = layout.sample_scene(seed, index, mix)
        maps = render(scene)
        side = maps.rgb.shape[0]
        k, half = side // EDGE, side // 32
        pictures.append(maps.rgb.reshape(EDGE, k, EDGE, k, 3).mean((1, 3)).round().astype(np.uint8))
        masks.append((maps.mask > 0).reshape(32, half, 32, half).mean((1, 3)) > 0.5)
        answers.append(labels(scene))
    return np.stack(pictures), np.array(answers), np.stack(masks)


def _roughen(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Blur, noise and a change of colour per picture: a generated picture is never as clean as a render."""
    b = len(x)
    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.lerp(x, soft, torch.rand(b, 1, 1, 1, generator=rng))
    gain = 1 + 0.08 * torch.randn(b, 3, 1, 1, generator=rng)
    noise = 0.06 * torch.rand(b, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
    return (x * gain + 0.04 * torch.randn(b, 1, 1, 1, generator=rng) + noise).clamp(0, 1)


def judge_loss(answers: torch.Tensor, mask: torch.Tensor, want: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    parts = answers.split(HEADS, dim=1)
    loss = sum(functional.cross_entropy(part, want[:, i]) for i, part in enumerate(parts))
    return loss + functional.binary_cross_entropy_with_logits(mask, truth.float())


def train_judge(data, held_out, epochs: int = 12, batch: int = 64, lr: float = 2e-3, seed: int = 0,
                width: int = 24) -> Judge:
    """Train on `data`, state the accuracy on `held_out`; both as from render_set."""
    from tqdm import tqdm

    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = JudgeNet(width).train()
        pictures, want, masks = data
        steps = max(1, len(pictures) // batch) * epochs
        optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        want, masks = torch.from_numpy(want), torch.from_numpy(masks)
        for _ in tqdm(range(steps), desc="judge", unit="step", mininterval=5.0):
            rows = torch.randint(0, len(pictures), (batch,), generator=rng)
            x = _roughen(_shrink(pictures[rows.numpy()]), rng)
            # bfloat16 halves the time on a CPU; the loss itself stays in float32.
            with torch.autocast("cpu", torch.bfloat16):
                answers, mask = net(x)
            loss = judge_loss(answers.float(), mask.float(), want[rows], masks[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    judge = Judge(net)
    judge.accuracy = measure(judge, held_out, rng)
    return judge


@torch.no_grad()
def measure(judge: Judge, held_out, rng: torch.Generator) -> dict[str, float]:
    """The judge's own figures on renders it has not seen, roughened like its training pictures: shares of
    right answers over all slots, of pictures with every object right, and the masks' overlap."""
    pictures, want, masks = held_out
    answers, seen = [], []
    for first in range(0, len(pictures), 128):
        a, m = judge.net(_roughen(_shrink(pictures[first:first + 128]), rng))
        answers.append(a)
        seen.append(m > 0)
    picks = torch.stack([part.argmax(1) for part in torch.cat(answers).split(HEADS, dim=1)], 1).numpy()
    right, there = picks == want, want[:, 0:2 * SLOTS:2] < len(SHAPES)
    return {
        "renders": len(pictures),
        "shape": float(right[:, 0:2 * SLOTS:2][there].mean()),
        "colour": float(right[:, 1:2 * SLOTS:2][there].mean()),
        "count": float(((picks[:, 0:2 * SLOTS:2] < len(SHAPES)).sum(1) == there.sum(1)).mean()),
        "background": float(right[:, -1].mean()),
        "everything": float(right[:, :-1].all(1).mean()),
        "mask_iou": silhouette_overlap(torch.cat(seen).numpy(), masks),
    }


def lab_generate(model, args, settings=None) -> Generate:
    """A `Generate` from the lab's own sampler. args: the lab's picture options; settings: ours, or None for
    full attention."""
    from lib_attn.lab.sampling import Request, decode, sample
    from lib_attn.lab.variants import FULL, ours

    variant = FULL if settings is None else ours("", "", settings)

    def generate(prompts: list[str], negatives: list[str], seeds: list[int]) -> tuple[np.ndarray, torch.Tensor]:
        from tqdm import tqdm

        pictures, latents = [], []
        for first in tqdm(range(0, len(prompts), args.batch), desc="pictures", unit="batch", mininterval=2.0):
            part = slice(first, first + args.batch)
            # Within one call all negatives are the same, which is what the lab's request can hold.
            request = Request(tuple(prompts[part]), tuple(seeds[part]), negatives[first], args.height, args.width,
                              args.steps, args.sampler, args.cfg)
            latents.append(sample(model, request, variant))
            pictures += [np.asarray(p) for p in decode(model, latents[-1])]
        return np.stack(pictures), torch.cat(latents)

    return generate


def _run_command(args: argparse.Namespace) -> int:
    from lib_attn.lab.bench import check_size
    from lib_attn.lab.deviation import load_model
    from lib_attn.lab.errors import LabError
    from lib_attn.lab.options import settings_of

    check_size(args.height, args.width)
    if not 1 <= args.batch <= 64:
        raise LabError(f"--batch is 1 … 64, not {args.batch}.")
    if min(args.singles, args.pairs, args.counts, args.negatives) < 0:
        raise LabError("A number of prompts is 0 or more.")
    if args.seed < 0:
        raise LabError(f"--seed is 0 or more, not {args.seed}.")
    judge, settings = Judge.load(args.judge), settings_of(args)
    on = bool(list(settings.active()))
    model = load_model(args)
    result = run(lab_generate(model, args, settings if on else None), judge, args.singles, args.pairs, args.counts,
                 args.negatives, args.seed, lab_generate(model, args) if on else None)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1))
    return 0


def _train_command(args: argparse.Namespace) -> int:
    from lib_attn.learn.scenes.render import open_renderer

    with open_renderer(128) as renderer:
        data = render_set(11, args.scenes, renderer.render)
        held_out = render_set(12, max(64, args.scenes // 8), renderer.render)
    judge = train_judge(data, held_out, args.epochs)
    judge.save(args.out)
    print(json.dumps(judge.accuracy, indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib_attn.lab scenebench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="render scenes and train a judge")
    train.add_argument("out", type=Path)
    train.add_argument("--scenes", type=int, default=10000)
    train.add_argument("--epochs", type=int, default=7)
    train.set_defaults(run=_train_command)

    from lib_attn.lab.generate import add_model_options
    from lib_attn.lab.options import add_settings_options

    bench = commands.add_parser("run", help="draw the benchmark's prompts and judge them")
    bench.add_argument("--judge", type=Path, default=JUDGE, help="the judge's file")
    bench.add_argument("--out", type=Path, help="write the figures as JSON")
    for name, count in (("singles", 48), ("pairs", 48), ("counts", 24), ("negatives", 24)):
        bench.add_argument(f"--{name}", type=int, default=count, help=f"how many prompts (default {count})")
    for name, value in (("width", 256), ("height", 256), ("steps", 30), ("batch", 8), ("seed", 0)):
        bench.add_argument(f"--{name}", type=int, default=value, help=f"(default {value})")
    bench.add_argument("--sampler", default="DDIM", help="(default DDIM)")
    bench.add_argument("--cfg", type=float, default=5.0, help="(default 5)")
    add_model_options(bench)
    add_settings_options(bench)
    bench.set_defaults(run=_run_command)
    return parser


def main(argv: list[str] | None = None) -> int:
    from lib_attn.lab.errors import LabError
    from lib_attn.learn.scenes.render import RenderError

    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (JudgeError, LabError, RenderError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
