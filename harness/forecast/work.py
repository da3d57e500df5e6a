"""The work that a notebook declares in its metadata, and what it comes to in operations and bytes.

``"harness": {"work": {"train_steps": "steps", "train_batch": "8", "draws": "2 * prompts * seeds", …}}`` in a notebook's
metadata: each value is a number or arithmetic on the notebook's parameters, read as a syntax tree and never executed.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import params
from harness.errors import HarnessError
from harness.forecast.flops import RANK, Counts
from harness.runs import expressions
from harness.runs.notebooks import Notebook


@dataclass(frozen=True)
class Work:
    """What a run of a notebook does, counted in samples."""

    train_steps: float = 0
    """optimiser steps"""
    train_batch: float = 1
    """pictures a step"""
    rank: float = 8
    """rank of the LoRA"""
    encodes: float = 0
    """pictures that the autoencoder encodes"""
    draws: float = 0
    """pictures that are drawn"""
    draw_batch: float = 16
    """pictures drawn at once"""
    sampling_steps: float = 20
    """denoising steps"""
    guidance: float = 2
    """classifier-free guidance; above 1 the U-Net is evaluated twice a step"""
    pixels: float = 0
    """side of the pictures; 0 is the model's own"""
    trains: str = "lora"
    """lora or full"""
    model: str = "miniature"
    """which model: the value of the parameter that is named here; the parameter `model` when none is"""

    def __post_init__(self) -> None:
        """Raise HarnessError for work that nobody can do."""
        numbers = {name: value for name, value in vars(self).items() if name not in ("trains", "model")}
        wrong = [name for name, value in numbers.items() if not math.isfinite(value) or value < 0]
        wrong += [name for name in ("train_batch", "draw_batch", "rank") if numbers[name] < 1]
        if wrong or self.trains not in ("lora", "full"):
            allowed = "numbers of at least 0, batches and rank at least 1" if wrong else "lora or full"
            raise HarnessError(f"declared work: {', '.join(wrong) or 'trains'} must be {allowed}")

    @property
    def evaluations(self) -> int:
        """U-Net evaluations in a denoising step."""
        return 2 if self.guidance > 1 else 1

    def operations(self, one: Counts) -> float:
        """Floating-point operations of training, encoding and drawing."""
        drawn = self.sampling_steps * self.evaluations * one.forward + self.evaluations * one.text + one.decode
        return self.train_steps * self.train_batch * one.step + self.encodes * one.encode + self.draws * drawn

    def least_bytes(self, one: Counts, half: bool) -> int:
        """Bytes below which it cannot run where the models lie: weights, Adam's two moments, and the largest moment's activations.

        ``half``: weights and activations in 16 bits, as on CUDA; the trained weights' moments stay in float32.
        """
        train = one.step_peak(self.train_batch) if self.train_steps else 0
        at_once = min(self.draw_batch, self.draws)
        live = max(train, at_once * max(self.evaluations * one.forward_bytes, one.decode_bytes), one.encode_bytes if self.encodes else 0)
        return round((one.weight_bytes + live) * (0.5 if half else 1) + (self._trained_bytes(one) if self.train_steps else 0))

    def _trained_bytes(self, one: Counts) -> float:
        """Adam's moments in float32, and what a LoRA of another rank than the counted one holds besides."""
        share = self.rank / RANK if self.trains == "lora" else 1
        return one.trained_bytes * (2 * share + max(0, 2 * (share - 1)))


def declared(notebook: Notebook, resolved: Mapping[str, Any]) -> Work | None:
    """The work of a notebook with these parameters; None where it declares none. Raises HarnessError as ``read`` does."""
    entries, where = table(notebook)
    return read(entries, resolved, where) if entries else None


def table(notebook: Notebook) -> tuple[dict[str, Any] | None, str]:
    """The entries that a notebook declares (None: none), and where they stand; raises HarnessError for an unknown entry."""
    entries, where = notebook.harness.get("work"), f"{notebook.path}, metadata harness.work"
    if entries is not None and not isinstance(entries, dict):
        raise HarnessError(f"{where}: must be a table of names and arithmetic, not {entries!r:.60}")
    params.check([params.Parameter(each.name, Any, each.default, each.help) for each in params.fields(Work)], entries or {}, where)
    return entries, where


def read(entries: Mapping[str, Any], resolved: Mapping[str, Any], where: str) -> Work:
    """Declared entries worked out with these parameters; raises HarnessError for a name that is no parameter, or anything but arithmetic."""
    words = {"trains": entries["trains"]} if "trains" in entries else {}
    words["model"] = _model(entries.get("model", "model"), resolved, required="model" in entries, where=where)
    numbers = {name: evaluate(written, resolved, f"{where}.{name}") for name, written in entries.items() if name not in ("trains", "model")}
    return Work(**numbers, **words)


def names(entries: Mapping[str, Any]) -> set[str]:
    """The parameters that declared work depends on."""
    found = {node.id for written in entries.values() for node in ast.walk(expressions.read(str(written))) if isinstance(node, ast.Name)}
    return found - set(expressions.CALLS) | ({"model"} if "model" not in entries else set())


def _model(name: str, resolved: Mapping[str, Any], required: bool, where: str) -> str:
    if required and not isinstance(resolved.get(name), str):
        raise HarnessError(f"{where}.model: `{name}` is not a parameter of this notebook that names a model")
    return str(resolved.get(name, "miniature"))


def evaluate(written: Any, values: Mapping[str, Any], where: str = "expression") -> float:
    """The value of a number or of arithmetic over ``values``; raises HarnessError for anything else, and for a division by 0."""
    try:
        found = expressions.evaluate(str(written), values)
        if isinstance(found, (bool, str)):
            raise ValueError("a number is wanted")
        return float(found)
    except expressions.UNREADABLE as error:
        raise HarnessError(f"{where}: {str(written)[:80]!r} cannot be worked out ({error}); it may hold {expressions.SHOWN}") from error
