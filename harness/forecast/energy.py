"""Energy of a run: read from counters where the machine has them, otherwise assumed, and always said which.

A GPU's counter is NVML's total energy (Volta and later); a processor's is RAPL's (Linux, readable by root on most
machines). Both count everything that ran meanwhile, not this run alone. What neither counts (memory, disks, fans, the
losses of the power supply) is in no figure but an assumed one.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError

WATTS = "HARNESS_WATTS"
ASSUMED_WATTS = 65.0  # a desktop processor at work
POWERCAP = Path("/sys/class/powercap")
HIGHEST_WATTS = 1000.0  # of one processor package: a longer run could have turned the counter round unseen
JOULES_PER_WH = 3600.0


def read() -> dict[str, Any]:
    """The counters now: the time, joules of the GPU (None without one), microjoules of each processor package."""
    packages = {path.name: found for path in _packages() if (found := _number(path / "energy_uj")) is not None}
    return {"at": time.time(), "gpu": gpu_joules(), "packages": packages}


def spent(before: Mapping[str, Any] | None, seconds: float | None) -> dict[str, Any]:
    """Joules since ``before`` (from ``read``) with the method in words, by parts.

    Without a counter the processor's share is ``seconds`` times an assumed wattage, and the GPU's its power limit.
    """
    now = read()
    parts = [_processor(before, now, seconds), *_gpu(before, now, seconds)]
    known = [part["joules"] for part in parts if part["joules"] is not None]
    whole = sum(known) if len(known) == len(parts) else None
    return {"joules": None if whole is None else round(whole, 1), "parts": parts, "method": "; ".join(f"{part['what']}: {part['method']}" for part in parts)}


def line(found: Mapping[str, Any]) -> str:
    """Energy in one line, never without its method; a sum over several attempts (``attempts``, ``at_least``) is called one."""
    if found["joules"] is None:
        return f"energy: not known ({found['method']})"
    least = "at least " if found.get("at_least") else ""
    over = f" over {found['attempts']} attempts" if found.get("attempts", 1) > 1 else ""
    return f"energy: {least}{found['joules'] / JOULES_PER_WH:.3g} Wh{over} ({found['method']})"


def assumed_watts() -> tuple[float, str]:
    """The wattage to reckon with where nothing can be read, and in words where it comes from."""
    word = os.environ.get(WATTS, "").strip()
    if not word:
        return ASSUMED_WATTS, f"no counter can be read, {ASSUMED_WATTS:g} W assumed; set {WATTS} to what this machine draws"
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise HarnessError(f"${WATTS} must be a number of watts above 0, not {word!r}")
    return found, f"no counter can be read, {found:g} W assumed as {WATTS} says"


def _processor(before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
    counted = _rapl(before, now) if before else None
    if counted is not None:
        return {"what": "processor", "joules": counted, "method": f"RAPL counters of {len(now['packages'])} package(s), all processes of the machine included"}
    watts, why = assumed_watts()
    return {"what": "processor", "joules": None if seconds is None else round(seconds * watts, 1), "method": why}


def _rapl(before: Mapping[str, Any], now: Mapping[str, Any]) -> float | None:
    """Joules of all packages between two readings; None where they cannot be trusted."""
    if not now["packages"] or set(now["packages"]) != set(before["packages"]):
        return None
    total = 0.0
    for name, count in now["packages"].items():
        span = _number(POWERCAP / name / "max_energy_range_uj") or 0
        if (now["at"] - before["at"]) * HIGHEST_WATTS * 1e6 > span:
            return None
        total += (count - before["packages"][name]) % span / 1e6
    return total


def _gpu(before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float | None) -> list[dict[str, Any]]:
    """The GPU's part, in a list that is empty where there is none."""
    if not provenance.usable_gpus():
        return []
    if before and before["gpu"] is not None and now["gpu"] is not None and now["gpu"] >= before["gpu"]:
        return [{"what": "GPU", "joules": now["gpu"] - before["gpu"], "method": "NVML's energy counter of one GPU, all processes on it included"}]
    limit = _nvml("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint)
    if limit is None or seconds is None:
        return [{"what": "GPU", "joules": None, "method": "neither an energy counter nor a power limit can be read"}]
    why = f"no energy counter, its power limit of {limit / 1000:g} W assumed throughout, so an upper bound"
    return [{"what": "GPU", "joules": round(seconds * limit / 1000, 1), "method": why}]


def gpu_joules() -> float | None:
    """NVML's total energy of the GPU that a run uses, in joules since the driver was loaded; None where it cannot be read."""
    found = _nvml("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong) if provenance.usable_gpus() else None
    return None if found is None else found / 1000


def _nvml(question: str, kind: type) -> int | None:
    """One number that NVML knows about the first GPU that this process may use; None where it does not answer."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name != "nt" else "nvml.dll")
        handle, answer = ctypes.c_void_p(), kind()
        wanted = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0].strip()
        if nvml.nvmlInit_v2() != 0:
            return None
        try:
            if wanted.isdigit():
                failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(wanted)), ctypes.byref(handle))
            else:
                failed = nvml.nvmlDeviceGetHandleByUUID(wanted.encode(), ctypes.byref(handle))
            failed = failed or getattr(nvml, question)(handle, ctypes.byref(answer))
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):  # no driver, or one too old for this question
        return None
    return None if failed else int(answer.value)


def _packages() -> list[Path]:
    """RAPL's processor packages; cores and memory within them are part of their figure."""
    return sorted(path for path in POWERCAP.glob("*-rapl:*") if path.name.count(":") == 1) if POWERCAP.is_dir() else []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not readable but by root, or not there
        return None
