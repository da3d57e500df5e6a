"""Optimisers by name: torch's, bitsandbytes' where it is there, and one sentence where it is not."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from harness.errors import HarnessError
from harness.finetune import optimisers


def groups() -> list[tuple[list[torch.nn.Parameter], float]]:
    return [([torch.nn.Parameter(torch.ones(2))], 0.1), ([torch.nn.Parameter(torch.ones(3))], 0.01)]


def test_each_group_has_its_own_learning_rate_and_all_the_same_decay() -> None:
    made = optimisers.make("adamw", groups(), 0.5)
    assert type(made) is torch.optim.AdamW
    assert [(group["lr"], group["weight_decay"], group["params"][0].numel()) for group in made.param_groups] == [(0.1, 0.5, 2), (0.01, 0.5, 3)]


def test_eight_bits_come_from_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class AdamW8bit(torch.optim.SGD):
        pass

    package, part = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    package.optim, part.AdamW8bit = part, AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", part)
    made = optimisers.make("adamw8bit", groups(), 0.5)
    assert type(made) is AdamW8bit
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.1, 0.5), (0.01, 0.5)]


def test_without_bitsandbytes_it_says_how_to_get_it_and_what_else_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(HarnessError, match=r"not installed here; install it with `pip install bitsandbytes`, or choose optimiser adamw"):
        optimisers.make("adamw8bit", groups(), 0.0)


def test_a_bitsandbytes_that_does_not_start_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("raise RuntimeError('CUDA Setup failed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    with pytest.raises(HarnessError, match="does not start on this machine .RuntimeError: CUDA Setup failed"):
        optimisers.make("adamw8bit", groups(), 0.0)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(HarnessError, match="'lion' is none of adamw, adamw8bit"):
        optimisers.make("lion", groups(), 0.0)
