"""The device of a run as a forecast sees it: which runs were made on the same one, how fast it may be, how much it holds."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError

MEMORY = "HARNESS_MEMORY_GIB"
GIB = 1 << 30
# Dense half-precision tensor throughput by the makers' data sheets, in FLOP/s. A run reaches a small part of it.
PEAKS = {"T4": 65e12, "P100": 21e12, "V100": 125e12, "L4": 121e12, "A10": 125e12, "A100": 312e12, "H100": 989e12, "H200": 989e12, "3090": 71e12, "4090": 165e12}
UNKNOWN_PEAK, MPS_PEAK = 60e12, 10e12
# The share of that which training and drawing in small batches reaches: lowest, middle, highest. Public marks for a T4 and an A100 give 0.06 and 0.014.
GPU_SHARE = (0.01, 0.06, 0.36)
CPU_SHARE = (0.1, 0.35, 0.7)  # of a float32 matrix product timed in place
SIDE = 768


@dataclass(frozen=True)
class Rate:
    """How many operations a second a device may reach."""

    low: float
    """the slowest to be expected"""
    middle: float
    """the best guess"""
    high: float
    """the fastest to be expected"""
    method: str
    """where the guess comes from, in words"""


@dataclass(frozen=True)
class Room:
    """Memory where the models lie."""

    total: int
    """bytes in all"""
    free: int
    """bytes free now"""
    what: str
    """"GPU memory" or "memory" """
    says: str = "this machine has"
    """who says how much"""


def kind() -> str:
    """"cuda", "mps" or "cpu", without importing torch."""
    found = provenance.device_class()
    return found if found in ("cpu", "mps") else "cuda"


def key(hardware: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two manifests' ``hardware`` share when their times can be compared: GPUs, kind of processor, number of cores."""
    gpus = tuple(gpu.get("name") for gpu in hardware.get("gpus") or ())
    return gpus, hardware.get("machine"), hardware.get("cores"), hardware.get("processor")


def rate() -> Rate:
    """A guess at this device's rate, for when nothing was ever run on it; on a CPU a matrix product is timed (0.1 s)."""
    found = kind()
    if found == "cpu":
        peak = _product_rate()
        return Rate(*(share * peak for share in CPU_SHARE), method=f"{peak / 1e9:.0f} GFLOP/s in a matrix product timed just now")
    if found == "mps":
        return Rate(*(share * MPS_PEAK for share in GPU_SHARE), method="an Apple GPU of unknown speed")
    name = provenance.usable_gpus()[0]["name"]
    known = next((PEAKS[word] for word in re.split(r"[\s-]+", name) if word in PEAKS), None)
    said = f"{known / 1e12:g} TFLOP/s in {name}'s data sheet" if known else f"{name}, whose speed is not known here"
    return Rate(*(share * (known or UNKNOWN_PEAK) for share in GPU_SHARE), method=said)


@cache
def _product_rate() -> float:
    import numpy as np

    square = np.ones((SIDE, SIDE), np.float32)
    best = math.inf
    for _ in range(4):  # the first call starts threads
        began = time.perf_counter()
        square @ square
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def room() -> Room:
    """How much memory a run may use here; ``$HARNESS_MEMORY_GIB`` overrides what the machine says."""
    found = kind() == "cuda" and _gpu_room() or _host_room()
    word = os.environ.get(MEMORY, "").strip()
    if not word:
        return found
    try:
        given = float(word) * GIB
    except ValueError:
        given = math.nan
    if not (math.isfinite(given) and given > 0):
        raise HarnessError(f"${MEMORY} must be a number of GiB above 0, not {word!r}")
    return Room(round(given), round(given), found.what, f"${MEMORY} allows")


def _host_room() -> Room:
    import psutil

    found, limit = psutil.virtual_memory(), _container_limit()
    return Room(min(found.total, limit), min(found.available, limit), "memory")


def _gpu_room() -> Room | None:
    """The first GPU's memory by its driver; None where the driver does not say, as for a GPU that shares the host's."""
    total = _mebibytes(provenance.usable_gpus()[0]["memory"])
    if not total:
        return None
    command = [shutil.which("nvidia-smi") or "nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        free = _mebibytes(done.stdout.splitlines()[0])
    except (OSError, IndexError, subprocess.TimeoutExpired):
        free = total
    return Room(total, free, "GPU memory")


def _mebibytes(text: str) -> int:
    """``"15360 MiB"`` in bytes; 0 where the driver answers in words."""
    found = re.match(r"\d+", text.strip())
    return int(found[0]) << 20 if found else 0


def _container_limit() -> float:
    """The memory limit of this process's control group in bytes, infinite where there is none."""
    if not sys.platform.startswith("linux"):
        return math.inf
    limits = [math.inf]
    for path in _limit_files():
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)


def _limit_files(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        lines = []
    own = {controllers: path.lstrip("/") for _, controllers, path in lines}
    found = [mount / "memory.max", mount / "memory" / "memory.limit_in_bytes"]
    found += [mount / own[""] / "memory.max"] if "" in own else []
    return found + [mount / "memory" / path / "memory.limit_in_bytes" for names, path in own.items() if "memory" in names.split(",")]
