"""The training loop shared by the VAE and the U-Net: accelerate as the engine, EMA, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from . import state as states


@dataclass(frozen=True)
class LoopConfig:
    """steps: length of the run; batch: samples per step over all processes; lr: peak, reached after
    `warmup` steps and lowered linearly to 0 over the last share `decay` of the steps; ema: decay of the
    averaged weights, ramped in as (1 + n) / (10 + n)."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: float = 0.25
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "bf16"
    save_seconds: float = 180.0
    log_every: int = 20
    seed: int = 0


def learning_rate(config: LoopConfig, step: int) -> float:
    """Warm-up, stable, decay: the stable part does not depend on the length, so a run can be prolonged."""
    rate = config.lr * min(1.0, (step + 1) / max(config.warmup, 1))
    start = config.steps * (1 - config.decay)
    if step >= start:
        rate *= max(0.0, (config.steps - step) / max(config.steps - start, 1))
    return rate


def draw(seed: int, purpose: str, step: int) -> torch.Generator:
    """A CPU generator that depends on nothing but its arguments."""
    mixed = (seed * 1_000_003 + step) * 1_000_003 + sum(ord(c) * 31**i for i, c in enumerate(purpose))
    return torch.Generator().manual_seed(mixed % (2**63))


class Ema:
    """Exponential moving average of a state dict, in float32."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay = decay
        self.shadow = {k: v.detach().float().clone() for k, v in module.state_dict().items() if v.is_floating_point()}
        # What is not trained is its own average.
        self.moving = [k for k, p in module.named_parameters() if p.requires_grad]
        self.moving += [k for k, _ in module.named_buffers() if k in self.shadow]

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        live = module.state_dict()
        keys = self.moving
        torch._foreach_lerp_([self.shadow[k] for k in keys], [live[k].detach().float() for k in keys], 1 - decay)


class Loop:
    """Runs `loss_of(model, step, rows)` for rows of the global batch until `config.steps`.

    `rows` is the slice of the global batch this process computes. loss_of returns the mean loss over its
    rows (a scalar tensor); because all processes hold equally many rows, the averaged gradient is that of
    the whole batch, and two processes give what one gives with the doubled batch. after_step(module, steps done) may
    change the weights, by a rule that depends on the step alone.
    """

    def __init__(
        self,
        folder: Path,
        module: torch.nn.Module,
        config: LoopConfig,
        on_save: Callable[[int, dict[str, torch.Tensor]], None] | None = None,
        after_step: Callable[[torch.nn.Module, int], None] | None = None,
    ):
        from accelerate import Accelerator

        self.folder, self.config, self.on_save, self.after_step = folder, config, on_save, after_step
        # accelerate decides for NCCL by itself unless it is told that there is no GPU.
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=not torch.cuda.is_available())
        size = self.accelerator.num_processes
        if config.batch % size:
            raise ValueError(f"A batch of {config.batch} cannot be shared by {size} processes evenly.")
        share = config.batch // size
        self.rows = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        self.module = module.to(self.accelerator.device)
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
        )
        self.step = 0
        self.ema = Ema(self.module, config.ema)
        found = states.load_state(folder)
        if found:
            self._restore(*found, optimizer)
        self.model, self.optimizer = self.accelerator.prepare(module, optimizer)

    def _restore(self, path: Path, info: dict, optimizer: torch.optim.Optimizer) -> None:
        self.module.load_state_dict(states.load_tensors(path / "model.safetensors"))
        self.ema.shadow = {
            k: v.to(self.accelerator.device) for k, v in states.load_tensors(path / "ema.safetensors").items()
        }
        states.restore_optimizer(optimizer, states.load_tensors(path / "optimizer.safetensors"), info["numbers"])
        self.step = info["step"]

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        states.save_state(
            self.folder,
            self.step,
            {"model": self.module.state_dict(), "ema": self.ema.shadow},
            self.optimizer.optimizer,
            {"config": vars(self.config)},
        )
        if self.on_save:
            self.on_save(self.step, self.ema.shadow)

    def _one(self, loss_of) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        with self.accelerator.autocast():
            loss = loss_of(self.model, self.step, self.rows)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.after_step:
            self.after_step(self.module, self.step)
        self.ema.update(self.module, self.step)
        return loss.detach()

    def run(self, loss_of: Callable, title: str = "training") -> float:
        """Train to the end; returns the mean loss of the last stretch. Saves on the way, at the end, and
        when stopped with Ctrl-C or SIGTERM."""
        from tqdm import tqdm

        writer = self._writer()
        saved, mean, losses = time.monotonic(), math.nan, []
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=title,
            unit="step",
            mininterval=5.0,
            disable=not self.accelerator.is_main_process,
        )
        try:
            while self.step < self.config.steps:
                losses.append(self._one(loss_of))
                bar.update(1)
                if self.step % self.config.log_every == 0:
                    mean, losses = float(torch.stack(losses).mean()), []
                    if not math.isfinite(mean):
                        raise FloatingPointError(
                            f"The loss is no longer finite at step {self.step}; the last saved state is kept."
                        )
                    bar.set_postfix(loss=f"{mean:.4f}")
                    if writer:
                        writer.add_scalar(f"{title}/loss", mean, self.step)
                        writer.add_scalar(f"{title}/lr", learning_rate(self.config, self.step), self.step)
                if time.monotonic() - saved > self.config.save_seconds:
                    self.save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            bar.close()
            if writer:
                writer.close()
        self.save()
        return float(torch.stack(losses).mean()) if losses else mean

    def _writer(self):
        if not self.accelerator.is_main_process:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(str(self.folder / "log"))
