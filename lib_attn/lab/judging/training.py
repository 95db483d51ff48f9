"""The judge's training, on renders of `lib_attn.learn.scenes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from lib_attn.lab.judging.judge import EDGE, HEADS, SHAPES, SLOTS, Judge, JudgeNet, labels, shrink
from lib_attn.lab.judging.metrics import silhouette_overlap
from lib_attn.lab.shared.errors import LabError
from lib_attn.learn.scenes import layout
from lib_attn.learn.scenes.render import RenderError
from lib_attn.learn.scenes.renderers import open_renderer


@dataclass(frozen=True)
class TrainingSpec:
    """A judge to train. out: its file. scenes: renders to learn from; an eighth as many are held out."""

    out: Path
    scenes: int = 10000
    epochs: int = 7


def train(spec: TrainingSpec) -> Judge:
    """Render, train, measure and write a judge.

    Raises:
        LabError: when nothing can be rendered here.
    """
    try:
        with open_renderer(128) as renderer:
            data = render_set(11, spec.scenes, renderer.render)
            held_out = render_set(12, max(64, spec.scenes // 8), renderer.render)
    except RenderError as error:
        raise LabError(str(error)) from None
    judge = train_judge(data, held_out, spec.epochs)
    judge.save(spec.out)
    return judge


def render_set(seed: int, count: int, render: Callable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    """Cross-entropy of the answers (B, sum of HEADS) with `want` (B, heads), and of the mask logits with `truth`."""
    parts = answers.split(HEADS, dim=1)
    loss = sum(functional.cross_entropy(part, want[:, i]) for i, part in enumerate(parts))
    return loss + functional.binary_cross_entropy_with_logits(mask, truth.float())


def train_judge(
    data, held_out, epochs: int = 12, batch: int = 64, lr: float = 2e-3, seed: int = 0, width: int = 24
) -> Judge:
    """Train on `data`, state the accuracy on `held_out`; both as from render_set."""
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
            x = _roughen(shrink(pictures[rows.numpy()]), rng)
            # bfloat16 halves the time on a CPU; the loss itself stays in float32.
            with torch.autocast("cpu", torch.bfloat16):
                answers, mask = net(x)
            loss = judge_loss(answers.float(), mask.float(), want[rows], masks[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    judge = Judge(net)
    judge.accuracy = accuracy(judge, held_out, rng)
    return judge


@torch.no_grad()
def accuracy(judge: Judge, held_out, rng: torch.Generator) -> dict[str, float]:
    """The judge's own figures on renders it has not seen, roughened like its training pictures: shares of
    right answers over all slots, of pictures with every object right, and the masks' overlap."""
    pictures, want, masks = held_out
    answers, seen = [], []
    for first in range(0, len(pictures), 128):
        a, m = judge.net(_roughen(shrink(pictures[first : first + 128]), rng))
        answers.append(a)
        seen.append(m > 0)
    picks = torch.stack([part.argmax(1) for part in torch.cat(answers).split(HEADS, dim=1)], 1).numpy()
    right, there = picks == want, want[:, 0 : 2 * SLOTS : 2] < len(SHAPES)
    return {
        "renders": len(pictures),
        "shape": float(right[:, 0 : 2 * SLOTS : 2][there].mean()),
        "colour": float(right[:, 1 : 2 * SLOTS : 2][there].mean()),
        "count": float(((picks[:, 0 : 2 * SLOTS : 2] < len(SHAPES)).sum(1) == there.sum(1)).mean()),
        "background": float(right[:, -1].mean()),
        "everything": float(right[:, :-1].all(1).mean()),
        "mask_iou": silhouette_overlap(torch.cat(seen).numpy(), masks),
    }
