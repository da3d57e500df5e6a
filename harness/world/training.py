"""One small training loop for the miniature models: bf16 autocast, cosine schedule, EMA, checkpoints and exact resume.

All randomness comes from one CPU generator whose state is part of the checkpoint, so a run that is killed and resumed on the
same machine ends with the same bytes as one that was not. Checkpoints are safetensors, like every other weight file here.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from harness.errors import HarnessError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a miniature model learns."""

    steps: int
    """optimizer steps"""
    batch: int
    """pictures per step"""
    learning_rate: float
    """peak learning rate of AdamW"""
    warmup: int = 200
    """steps of linear warm-up; a cosine to 2 % of the peak follows"""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay"""
    ema: float = 0.999
    """decay of the moving average of the weights, which is what is shipped; 0 ships the last weights"""
    checkpoint_every: int = 250
    """steps between checkpoints"""
    seed: int = 0
    """seed of weights, batches and noise"""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.checkpoint_every) < 1 or not 0 <= self.ema < 1:
            raise HarnessError("a schedule needs steps, batch and checkpoint_every of at least 1 and an EMA decay in [0, 1)")

    def rate(self, step: int) -> float:
        """Learning rate at a step (0-based): linear warm-up, then cosine."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def device() -> str:
    """Where training runs: "cuda" when there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def fit(model: "torch.nn.Module", loss: Callable[["torch.Generator", int], "torch.Tensor"], how: Schedule, folder: Path,
        progress: Callable[[dict], None], stage: str) -> list[dict[str, float]]:
    """Train `model` in place and return the loss curve (step, loss, seconds); it ends with the averaged weights.

    `loss(generator, step)` draws its batch from the generator and returns a scalar. Resumes from `folder/checkpoint.safetensors`
    when there is one of the same schedule. Raises HarnessError when the loss is not finite; the last checkpoint stays.
    """
    import torch

    state = _State(model, how, folder)
    curve = state.resume()
    began, spent = time.monotonic(), curve[-1]["seconds"] if curve else 0.0
    for step in range(state.step, how.steps):
        value = _step(model, state, loss, how, step)
        if not math.isfinite(value):
            raise HarnessError(f"the loss became {value} at step {step} of {stage}; the checkpoint of step {state.saved} stands: lower learning_rate and run again")
        curve.append({"step": step + 1, "loss": value, "seconds": spent + time.monotonic() - began})
        progress({"stage": stage, "step": step + 1, "of": how.steps, "loss": sum(c["loss"] for c in curve[-50:]) / len(curve[-50:]),
                  "seconds": round(curve[-1]["seconds"])})
        if (step + 1) % how.checkpoint_every == 0 or step + 1 == how.steps:
            state.save(step + 1, curve)
    with torch.no_grad():
        state.ship(model)
    return curve


def _step(model: Any, state: "_State", loss: Callable, how: Schedule, step: int) -> float:
    import torch
    for group in state.optimizer.param_groups:
        group["lr"] = how.rate(step)
    with _attention():
        with torch.autocast(device(), dtype=torch.bfloat16):
            value = loss(state.generator, step)
        state.optimizer.zero_grad(set_to_none=True)
        value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    state.optimizer.step()
    state.average(model)
    return float(value.detach())


def _attention() -> Any:
    """Plain attention on CPUs: there the fused kernel's backward pass takes longer than everything else at these lengths."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH) if device() == "cpu" else nullcontext()


class _State:
    """Weights, moments, moving average, generator and step: everything that a resume needs."""

    def __init__(self, model: Any, how: Schedule, folder: Path) -> None:
        import torch

        self.model, self.how, self.folder, self.step, self.saved = model, how, folder, 0, 0
        self.parameters = dict(model.named_parameters())
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(how.seed)
        self.mean = {k: v.detach().clone() for k, v in self.parameters.items()} if how.ema else {}

    def average(self, model: Any) -> None:
        """One step of the moving average."""
        import torch

        if self.mean:
            self.step += 1
            decay = min(self.how.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.mean.values()), list(self.parameters.values()), 1 - decay)

    def ship(self, model: Any) -> None:
        """Put the averaged weights into the model."""
        for name, value in self.mean.items():
            self.parameters[name].copy_(value)

    def save(self, step: int, curve: list[dict[str, float]]) -> None:
        """Write the checkpoint under a temporary name, then rename it."""
        import torch
        from safetensors.torch import save_file

        tensors = {f"weight.{k}": v.detach().cpu() for k, v in self.parameters.items()}
        tensors |= {f"mean.{k}": v.cpu() for k, v in self.mean.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"moment.{name}.{k}": v.cpu() for k, v in self.optimizer.state[parameter].items()}
        tensors["generator"] = self.generator.get_state()
        tensors["curve"] = torch.tensor([[c["step"], c["loss"], c["seconds"]] for c in curve], dtype=torch.float64)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "checkpoint.part"
        save_file(tensors, part, metadata={"schedule": repr(asdict(self.how)), "step": str(step)})
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, self.folder / "checkpoint.safetensors")
        self.saved = step

    def resume(self) -> list[dict[str, float]]:
        """Load the checkpoint, if any; returns its loss curve. Raises HarnessError when it belongs to another schedule."""
        from safetensors import safe_open

        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return []
        with safe_open(path, "pt") as file:
            if file.metadata()["schedule"] != repr(asdict(self.how)):
                raise HarnessError(f"{path} was made with another schedule ({file.metadata()['schedule']}); delete it, or name another folder")
            tensors = {k: file.get_tensor(k) for k in file.keys()}
            self.step = self.saved = int(file.metadata()["step"])
        self._restore(tensors)
        return [{"step": int(s), "loss": loss, "seconds": t} for s, loss, t in tensors["curve"].tolist()]

    def _restore(self, tensors: dict[str, Any]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.optimizer.state[parameter] = {k: tensors[f"moment.{name}.{k}"].to("cpu" if k == "step" else parameter.device)
                                                   for k in ("step", "exp_avg", "exp_avg_sq")}
            for name, value in self.mean.items():
                value.copy_(tensors[f"mean.{name}"])
        self.generator.set_state(tensors["generator"])
