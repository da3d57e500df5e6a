"""A module of a few weights that learns in a second: in this process, or as a program of its own that can be killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.world.training import Schedule, fit

HOW = Schedule(steps=60, batch=4, learning_rate=0.05, warmup=5, ema=0.9, checkpoint_every=7)


def learn(folder: Path, how: Schedule = HOW, wrong_at: int = -1, tell: Callable[[Mapping[str, Any]], None] = lambda event: None,
          pause: float = 0.0) -> tuple[bytes, list[dict[str, float]]]:
    """Fit a tiny module to numbers drawn from the generator; returns the bytes of the shipped weights and the curve."""
    from safetensors.torch import save

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))

    def loss(generator: torch.Generator, step: int) -> torch.Tensor:
        time.sleep(pause)
        x = torch.randn(how.batch, 3, generator=generator)
        value = (model(x).float() - x.sum(1, keepdim=True)).square().mean()
        return value * float("nan") if step == wrong_at else value

    curve = fit(model, loss, how, folder, tell, "tiny")
    return save({k: v.contiguous() for k, v in model.state_dict().items()}), curve


if __name__ == "__main__":
    print("ready", flush=True)
    learn(Path(sys.argv[1]), replace(HOW, ema=float(sys.argv[2])), pause=0.02)
