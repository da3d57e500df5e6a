"""The loop that every recipe shares: steps, checkpoints, exact resume, one or several processes (accelerate beneath).

What a step draws depends on the seed and the step's number alone, and a checkpoint holds parameters, the optimiser's state, the
running average and the losses in one file that is replaced in one rename. So a run that was killed anywhere ends with the same bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.finetune.adapter import tensor_chunks
from harness.finetune.settings import Training
from harness.images import atomic_write, sha256, sweep

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

CHECKPOINT = "checkpoint.safetensors"
PATIENCE = timedelta(hours=6)
"""that processes wait for the first of them, which alone draws, judges and writes"""


@dataclass
class Group:
    """Parameters with one learning rate."""

    parameters: dict[str, torch.nn.Parameter]
    """By name; no name stands in two groups."""
    learning_rate: float
    """The highest."""


@dataclass
class Attached:
    """What a recipe made of the pipeline for the time of a training."""

    groups: list[Group]
    """What is trained, in float32 whatever the model's own precision is."""
    modules: list[torch.nn.Module]
    """Where memory and time go: to be compiled, or to have their gradients checkpointed, when that is asked for."""
    after_step: Callable[[], None] | None = None
    """Called behind every step; textual inversion puts the words back that are not to be learned."""

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All groups' parameters."""
        return {name: parameter for group in self.groups for name, parameter in group.parameters.items()}


def rate(how: Training, step: int) -> float:
    """Share of the highest learning rate at step 0, 1, ..."""
    rise, done = min(1.0, (step + 1) / (how.warmup + 1)), step / how.steps
    return rise * {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[how.schedule]


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


def team(device: str) -> Accelerator:
    """The processes that train together: one, or those that `accelerate launch` started. Precision stays with the trainer.

    Raises HarnessError where accelerate was already set up for another kind of device, which it does once a process.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    try:
        found = Accelerator(cpu=device == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    except ValueError as error:
        raise HarnessError(f"accelerate cannot be set up for {device} in this process any more ({error}); begin a new one.") from error
    if found.device.type != device:
        raise HarnessError(f"accelerate was set up for {found.device.type} in this process, and the model lies on {device}; begin a new one.")
    return found


@contextmanager
def exact(device: str) -> Iterator[None]:
    """Deterministic algorithms for the time of a training, where torch has them: on CPUs it is so anyway, on CUDA it was not run."""
    import torch

    if device != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


class Loop:
    """A training under way: the optimiser, the running average, the history of losses."""

    def __init__(self, how: Training, attached: Attached, mixed: str, processes: Accelerator) -> None:
        from diffusers.training_utils import EMAModel

        from harness.finetune import optimisers

        self.how, self.attached, self.mixed, self.processes = how, attached, mixed, processes
        self.parameters = attached.parameters
        self.optimiser = optimisers.make(how.optimiser, [(list(group.parameters.values()), group.learning_rate) for group in attached.groups], how.weight_decay)
        self.average = EMAModel(self.parameters.values(), decay=how.ema) if how.ema else None
        self.history: list[tuple[int, float, float]] = []

    def step(self, parts: Sequence[Callable[[], torch.Tensor]]) -> None:
        """One optimiser step on the sum of the parts' losses. Raises HarnessError, and changes nothing, on a loss or gradient that is no number."""
        import torch

        step, share = len(self.history), rate(self.how, len(self.history))
        for group, settings in zip(self.optimiser.param_groups, self.attached.groups, strict=True):
            group["lr"] = settings.learning_rate * share
        self.optimiser.zero_grad(set_to_none=True)
        value = sum((self._backward(part) for part in parts), torch.zeros(()))
        value = float(self._together(value))
        for parameter in self.parameters.values():  # one that had no part in the loss is treated alike however many processes there are
            parameter.grad = self._together(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.how.max_grad_norm))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise HarnessError(f"the {'gradient' if math.isfinite(value) else 'loss'} is no number at step {step + 1}; the last checkpoint is kept. Lower the learning rate "
                               f"({self.how.learning_rate:g}) or raise warmup ({self.how.warmup}), and start in another folder.")
        self.optimiser.step()
        if self.attached.after_step:
            self.attached.after_step()
        if self.average:
            self.average.step(self.parameters.values())
        self.history.append((step + 1, value, self.how.learning_rate * share))

    def rehearse(self, parts: Sequence[Callable[[], torch.Tensor]]) -> None:
        """The gradients of a step, computed and thrown away."""
        for part in parts:
            self._backward(part)
        self.optimiser.zero_grad(set_to_none=True)

    def _backward(self, part: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Gradients of one part of the batch are added; its loss is given back."""
        import torch

        with torch.autocast(self.processes.device.type, dtype=torch.bfloat16, enabled=self.mixed == "bf16"):
            value = part()
        value.backward()  # not accelerate's, which divides by what its environment says
        return value.detach().cpu()

    def _together(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        alone = self.processes.num_processes == 1
        return tensor if alone else self.processes.reduce(tensor.to(self.processes.device), "sum")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with the running average in place of its weights, where there is one."""
        if self.average is None:
            yield
            return
        self.average.store(self.parameters.values())
        self.average.copy_to(self.parameters.values())
        try:
            yield
        finally:
            self.average.restore(self.parameters.values())

    def save(self, path: Path, fingerprint: str) -> None:
        """One file with all that a resume needs."""
        import torch

        tensors: dict[str, torch.Tensor] = {"history": torch.tensor(self.history, dtype=torch.float64)}
        plain: dict[str, object] = {}
        for i, (name, parameter) in enumerate(self.parameters.items()):
            tensors[f"parameter:{name}"] = parameter
            if self.average:
                tensors[f"average:{name}"] = self.average.shadow_params[i]
            for key, value in self.optimiser.state[parameter].items():
                (tensors if isinstance(value, torch.Tensor) else plain)[f"{key}:{name}"] = value
        atomic_write(path, tensor_chunks(tensors, {"fingerprint": fingerprint, "optimiser": json.dumps(plain, sort_keys=True)}))

    def resume(self, path: Path, fingerprint: str) -> bool:
        """Put a checkpoint's state in place; False where there is none. Raises HarnessError for another training's, or a damaged one."""
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != fingerprint:
                    raise HarnessError(f"{path}: belongs to a training with other settings, pictures or model; choose another "
                                       "folder, or delete this one.")
                self._put_back({key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata["optimiser"]))
        except (SafetensorError, OSError) as error:
            raise HarnessError(f"{path}: is damaged ({error}); delete it to start again.") from error
        return True

    def _put_back(self, tensors: dict[str, torch.Tensor], plain: dict[str, object]) -> None:
        """History, parameters, average and the optimiser's state from a checkpoint's tensors and numbers."""
        import torch

        self.history = [(int(step), value, rate) for step, value, rate in tensors.pop("history").tolist()]
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors.pop(f"parameter:{name}"))
        if self.average:
            self.average.shadow_params = [tensors.pop(f"average:{name}").to(p.device).clone() for name, p in self.parameters.items()]
            self.average.optimization_step = len(self.history)
        for label, value in {**tensors, **plain}.items():
            key, name = label.split(":", 1)
            parameter = self.parameters[name]
            # torch keeps the step count beside the CPU whatever the parameter's device is
            self.optimiser.state[parameter][key] = value.to(parameter.device if value.ndim else "cpu").clone() if isinstance(value, torch.Tensor) else value


def train(loop: Loop, parts: Callable[[int], Sequence[Callable[[], torch.Tensor]]], out: Path, fingerprint: str,
          progress: Callable[[dict], None], at_checkpoint: Callable[[int], Any] | None = None) -> list[tuple[int, float, float]]:
    """Train until the last step, or until `at_checkpoint(step)` says True; returns (step from 1, loss, learning rate) of every step.

    `parts(step)` gives the losses whose sum is the step's. Goes on from `out/checkpoint.safetensors` if it has the same
    fingerprint, and first calls `at_checkpoint` again, which may have been interrupted and knows what is done. Raises HarnessError on a loss that is no number (the last checkpoint stays) or on another run's checkpoint.
    """
    how, main = loop.how, loop.processes.is_main_process
    loop.processes.wait_for_everyone()  # nobody is writing a cache's file any more
    for folder in (out, *out.glob("**/")) if main else ():
        sweep(folder)
    loop.processes.wait_for_everyone()
    enough = False
    if loop.resume(out / CHECKPOINT, fingerprint):
        progress({"stage": "train", "note": f"goes on after step {len(loop.history)} from {out / CHECKPOINT}"})
        enough = _show(loop, at_checkpoint)
    try:
        for step in range(len(loop.history), how.steps):
            if enough:
                break
            loop.step(parts(step))
            _, loss, rate = loop.history[-1]
            progress({"stage": "train", "step": step + 1, "of": how.steps, "loss": loss, "learning_rate": rate})
            if (step + 1) % how.checkpoint_every == 0 or step + 1 == how.steps:
                if main:
                    loop.save(out / CHECKPOINT, fingerprint)
                enough = _show(loop, at_checkpoint)
    except KeyboardInterrupt:
        progress({"stage": "train", "note": f"stopped at step {len(loop.history)}; the same call goes on from the last checkpoint"})
        raise
    return loop.history


def _show(loop: Loop, at_checkpoint: Callable[[int], Any] | None) -> bool:
    """Let the caller see the model as it is at a checkpoint, while the other processes wait; is it enough, for all of them?"""
    import torch

    enough = False
    if at_checkpoint and loop.processes.is_main_process:
        with loop.averaged():
            enough = at_checkpoint(len(loop.history)) is True
    loop.processes.wait_for_everyone()
    return bool(loop._together(torch.tensor(float(enough))))
