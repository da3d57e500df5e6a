"""The loop that every recipe shares: steps, checkpoints, exact resume.

What a step draws depends on the seed and the step's number alone, and a checkpoint holds parameters, Adam's moments
and losses in one file that is replaced in one rename. So a run that was killed anywhere ends with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.finetune.adapter import tensor_file
from harness.images import atomic_write, sha256, sweep

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
PRECISIONS = ("auto", "no", "bf16")


@dataclass(frozen=True)
class Loop:
    """How to step."""

    steps: int
    """Optimiser steps."""
    learning_rate: float
    """The highest."""
    warmup: int
    """Steps of linear rise to it."""
    schedule: str
    """constant, or cosine (down to zero at the end)."""
    weight_decay: float
    """AdamW's."""
    max_grad_norm: float
    """Gradients are scaled down to this length."""
    checkpoint_every: int
    """Steps between checkpoints."""
    seed: int
    """Of everything random."""
    mixed_precision: str
    """no or bf16 (resolved)."""

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = 1.0 if self.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * rise * fall


def precision(wanted: str, device: str) -> str:
    """no or bf16: "auto" takes bf16 on CUDA hardware that multiplies in it.

    Not on CPUs, even where they have avx512_bf16: at the miniature's shapes (16 M parameters, batch 8) a LoRA step
    took 17 % more CPU time in bf16 than in float32, and the same machine-independent choice is one worry less.
    """
    import torch

    if wanted != "auto":
        return wanted
    return "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def generator(seed: int, step: int) -> torch.Generator:
    """The generator of one step: a function of seed and step, so that there is no state to lose."""
    import torch

    return torch.Generator("cpu").manual_seed(int(sha256(f"{seed} {step}".encode())[:15], 16))


def batch(seed: int, step: int, size: int, n: int) -> torch.Tensor:
    """Which of n items a step takes: every epoch is a fresh order, and batches run on across epochs."""
    import torch

    wanted = range(step * size, (step + 1) * size)
    orders = {epoch: torch.randperm(n, generator=generator(seed, -1 - epoch)) for epoch in {i // n for i in wanted}}
    return torch.stack([orders[i // n][i % n] for i in wanted])


def train(loop: Loop, parameters: dict[str, torch.nn.Parameter], loss: Callable[[int, torch.Generator], torch.Tensor],
          out: Path, fingerprint: str, progress: Callable[[dict], None],
          at_checkpoint: Callable[[int], None] | None = None) -> list[tuple[int, float, float]]:
    """Train named parameters in place; returns (step from 1, loss, learning rate) of every step.

    `loss(step, generator)` gives a scalar. Goes on from `out/checkpoint.safetensors` if it has the same fingerprint.
    Raises HarnessError on a loss that is no number (the last checkpoint stays) or on another run's checkpoint.
    """
    import torch

    optimiser = torch.optim.AdamW(parameters.values(), lr=loop.learning_rate, weight_decay=loop.weight_decay)
    history = _resume(out / CHECKPOINT, fingerprint, parameters, optimiser, progress)
    try:
        for step in range(len(history), loop.steps):
            history.append(_step(loop, step, parameters, optimiser, loss))
            progress({"stage": "train", "step": step + 1, "of": loop.steps, "loss": history[-1][1], "learning_rate": history[-1][2]})
            if (step + 1) % loop.checkpoint_every == 0 or step + 1 == loop.steps:
                _save(out / CHECKPOINT, fingerprint, parameters, optimiser, history)
                if at_checkpoint:
                    at_checkpoint(step + 1)
    except KeyboardInterrupt:
        progress({"stage": "train", "note": f"stopped at step {len(history)}; the same call goes on from the last checkpoint"})
        raise
    return history


def _step(loop: Loop, step: int, parameters: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer,
          loss: Callable[[int, torch.Generator], torch.Tensor]) -> tuple[int, float, float]:
    """One optimiser step."""
    import torch

    rate = loop.rate(step)
    for group in optimiser.param_groups:
        group["lr"] = rate
    device = next(iter(parameters.values())).device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=loop.mixed_precision == "bf16"):
        value = loss(step, generator(loop.seed, step))
    if not torch.isfinite(value):
        raise HarnessError(f"the loss is no number at step {step + 1}; the last checkpoint is kept. Lower the learning rate "
                           f"({loop.learning_rate:g}) or raise warmup ({loop.warmup}), and start in another folder.")
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    torch.nn.utils.clip_grad_norm_(parameters.values(), loop.max_grad_norm)
    optimiser.step()
    return step + 1, float(value.detach()), rate


def _save(path: Path, fingerprint: str, parameters: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer,
          history: list[tuple[int, float, float]]) -> None:
    """One file with all that a resume needs."""
    import torch

    tensors = {"history": torch.tensor(history, dtype=torch.float64)}
    for name, parameter in parameters.items():
        tensors[f"parameter.{name}"] = parameter
        tensors |= {f"{moment}.{name}": optimiser.state[parameter][moment] for moment in MOMENTS}
    atomic_write(path, tensor_file(tensors, {"fingerprint": fingerprint}))


def _resume(path: Path, fingerprint: str, parameters: dict[str, torch.nn.Parameter],
            optimiser: torch.optim.Optimizer, progress: Callable[[dict], None]) -> list[tuple[int, float, float]]:
    """Put a checkpoint's state in place; returns its history, empty without one."""
    import torch
    from safetensors import SafetensorError, safe_open

    sweep(path.parent)
    if not path.is_file():
        return []
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                raise HarnessError(f"{path}: belongs to a training with other settings, pictures or model; choose another "
                                   "folder, or delete this one.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise HarnessError(f"{path}: is damaged ({error}); delete it to start again.") from error
    history = [(int(step), value, rate) for step, value, rate in tensors["history"].tolist()]
    progress({"stage": "train", "note": f"goes on after step {len(history)} from {path}"})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"parameter.{name}"])
            moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(len(history)))} | moments
    return history
