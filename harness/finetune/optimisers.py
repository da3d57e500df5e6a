"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    import torch

STATE_BYTES = {"adamw": 8.0, "adamw8bit": 2.03}
"""Bytes that two moments of a parameter take; in 8 bits, one float32 scale for 256 of them besides."""


def make(name: str, groups: Sequence[tuple[Sequence[torch.nn.Parameter], float]], weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser `name` over groups of parameters, each with its learning rate.

    adamw: Loshchilov & Hutter 2019. adamw8bit: the same with moments in blocks of 8 bits (Dettmers et al. 2022), from
    bitsandbytes, which leaves tensors below 4,096 elements in 32 bits. Raises HarnessError where that cannot be had.
    """
    import torch

    given = [{"params": list(parameters), "lr": rate} for parameters, rate in groups]
    if name == "adamw":
        return torch.optim.AdamW(given, weight_decay=weight_decay)
    if name != "adamw8bit":
        raise HarnessError(f"optimiser {name!r} is none of {', '.join(STATE_BYTES)}.")
    return _adamw8bit()(given, weight_decay=weight_decay)


def _adamw8bit() -> type[torch.optim.Optimizer]:
    """bitsandbytes' class; raises HarnessError where the package is missing or does not start on this machine."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise HarnessError("optimiser adamw8bit needs the package bitsandbytes, which is not installed here; install it with "
                           "`pip install bitsandbytes`, or choose optimiser adamw, which takes 6 bytes more for every trained weight.") from error
    except Exception as error:  # it looks for its CUDA library when it is imported, and fails in many ways
        raise HarnessError(f"optimiser adamw8bit: bitsandbytes does not start on this machine ({type(error).__name__}: {str(error)[:200]}); "
                           "mend it, or choose optimiser adamw.") from error
    return AdamW8bit
