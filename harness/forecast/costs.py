"""What a run took: time, memory, disk, operations, energy and money, each with how it was found out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError
from harness.forecast import energy, units
from harness.runs import manifest

PRICE = "HARNESS_PRICE_PER_HOUR"
METHOD = ("seconds: wall clock from the start of the run to its end; peak_memory: the most that the notebook's process held, by the operating "
          "system, and on a GPU the most that torch allocated; disk_bytes: all files of the run's folder; cost: seconds times the price per hour")
AGAIN = "; all of the last attempt alone: the run went on from an earlier one"


def price(given: float | None = None) -> float | None:
    """What an hour of this machine costs, in any currency: as given, else ``$HARNESS_PRICE_PER_HOUR``, else unknown.

    Raises HarnessError for what is not a number of at least 0.
    """
    word = os.environ.get(PRICE, "").strip() if given is None else given
    if word == "":
        return None
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise HarnessError(f"the price per hour must be a number of at least 0, not {word!r}; set --price or ${PRICE}, for example 0.35")
    return found


def after(folder: Path, found: Mapping[str, Any], per_hour: float | None = None) -> dict[str, Any]:
    """What the run in ``folder`` with the manifest ``found`` took; prints it beside what was forecast.

    Call it when the run has ended. Every estimate carries its method; what is not known is None, with the reason.
    """
    forecast, spent = found.get("predicted") or {}, found["timings"].get("seconds")
    money = price(per_hour)
    actual = {
        "seconds": spent, "peak_memory": found.get("peak_memory"), "disk_bytes": disk(folder), "flops": _flops(found, forecast),
        "energy": energy.spent(forecast.get("meters"), spent), "cost": None if spent is None or money is None else spent / 3600 * money,
        "price_per_hour": money, "method": METHOD + (AGAIN if found["timings"].get("attempts", 1) > 1 else ""),
    }
    print("\n".join(_lines(actual, forecast)), flush=True)
    return actual


def disk(folder: Path) -> int:
    """Bytes of all files in a run's folder."""
    return sum(path.stat().st_size for path in provenance.files(folder))


def _flops(found: Mapping[str, Any], forecast: Mapping[str, Any]) -> dict[str, Any]:
    if found["status"] != manifest.COMPLETE:
        return {"value": None, "method": "not counted: the run did not end"}
    if forecast.get("flops") is None:
        return {"value": None, "method": "not counted: the notebook declares no work, or its model could not be read before the start"}
    return {"value": forecast["flops"], "method": "counted from the work that the notebook declares, not measured; a multiply-add counts as two"}


def _lines(actual: Mapping[str, Any], forecast: Mapping[str, Any]) -> list[str]:
    before = f" (forecast {units.seconds(forecast['seconds'])})" if forecast.get("seconds") is not None else ""
    lines = [f"took {units.seconds(actual['seconds'])}{before}"] if actual["seconds"] is not None else []
    memory = actual["peak_memory"] or {}
    lines += [f"peak memory: {', '.join(f'{units.size(value)} {name}' for name, value in _memories(memory))}"] if memory else []
    lines += [f"disk: {units.size(actual['disk_bytes'])}"]
    lines += [f"operations: {units.operations(actual['flops']['value'])} ({actual['flops']['method']})"] if actual["flops"]["value"] else []
    lines += [energy.line(actual["energy"])]
    lines += [f"cost: {units.money(actual['cost'])} at {actual['price_per_hour']:g} an hour"] if actual["cost"] is not None else []
    return lines


def _memories(memory: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(words, memory[name]) for name, words in (("host_bytes", "on the host"), ("gpu_bytes", "on the GPU")) if memory.get(name)]
