"""What a run took: time, memory, disk, operations, energy and money, each with how it was found out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError
from harness.forecast import energy, units
from harness.runs import manifest

PRICE = "HARNESS_PRICE_PER_HOUR"
METHOD = ("seconds: wall clock from the start of the run to its end; peak_memory: the most that the notebook's process held, by the operating "
          "system, and on a GPU the most that torch allocated; disk_bytes: all files of the run's folder; cost: seconds times the price per hour")
AGAIN = "; seconds, energy and cost summed over {} attempts, peak_memory of the last one alone"
UNKNOWN = "; what {} of them took is not known (killed, or started without `harness run`), so these sums are lower bounds"
SUMMED = ("seconds", "joules", "cost")


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


def earlier(folder: Path) -> list[dict[str, float | None]]:
    """What each attempt at the run in ``folder`` took before the one that begins now: seconds, joules, cost; None is unknown.

    An attempt that was killed could write nothing down, and its figures are unknown; [] for a first attempt.
    """
    if not manifest.status(folder):
        return []
    found = manifest.read(folder)
    told = (found.get("actual") or {}).get("attempts")
    if told is None:
        ended = {**dict.fromkeys(SUMMED), "seconds": (found.get("timings") or {}).get("seconds")}
        told = [*((found.get("predicted") or {}).get("earlier") or ()), ended]
    return [dict.fromkeys(SUMMED)] * ((found.get("timings") or {}).get("attempts", 1) - len(told)) + list(told)


def after(folder: Path, found: Mapping[str, Any], per_hour: float | None = None) -> dict[str, Any]:
    """What the run in ``folder`` with the manifest ``found`` took, over all its attempts; prints it beside what was forecast.

    Call it when the run has ended. Every estimate carries its method; what is not known is None, with the reason.
    ``attempts`` has the figures of each; ``at_least`` names the sums that lack those of an earlier attempt.
    """
    forecast, spent = found.get("predicted") or {}, found["timings"].get("seconds")
    money, used = price(per_hour), energy.spent(forecast.get("meters"), spent)
    last = {"seconds": spent, "joules": used["joules"], "cost": None if spent is None or money is None else spent / 3600 * money}
    before = list(forecast.get("earlier") or ())
    before = [dict.fromkeys(SUMMED)] * (found["timings"].get("attempts", 1) - 1 - len(before)) + before
    sums = {name: _sum([each[name] for each in before], last[name]) for name in SUMMED}
    least = [name for name in SUMMED if sums[name] is not None and any(each[name] is None for each in before)]
    whole = {**used, "joules": sums["joules"], "attempts": len(before) + 1, "at_least": "joules" in least}
    actual = {
        "seconds": sums["seconds"], "peak_memory": found.get("peak_memory"), "disk_bytes": disk(folder), "flops": _flops(found, forecast), "energy": whole,
        "cost": sums["cost"], "price_per_hour": money, "attempts": [*before, last], "at_least": least, "method": METHOD + _again(before),
    }
    print("\n".join(_lines(actual, forecast)), flush=True)
    return actual


def _sum(before: Sequence[float | None], last: float | None) -> float | None:
    """All attempts together: a lower bound where an earlier one is unknown, and unknown where the last one is."""
    return None if last is None else round(last + sum(each or 0.0 for each in before), 6)


def _again(before: Sequence[Mapping[str, float | None]]) -> str:
    lost = sum(each["seconds"] is None for each in before)
    return (AGAIN.format(len(before) + 1) if before else "") + (UNKNOWN.format(lost) if lost else "")


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
    least = {name: "at least " if name in actual["at_least"] else "" for name in SUMMED}
    over = f" over {len(actual['attempts'])} attempts" if len(actual["attempts"]) > 1 else ""
    before = f" (forecast {units.seconds(forecast['seconds'])})" if forecast.get("seconds") is not None else ""
    lines = [f"took {least['seconds']}{units.seconds(actual['seconds'])}{over}{before}"] if actual["seconds"] is not None else []
    memory = actual["peak_memory"] or {}
    lines += [f"peak memory: {', '.join(f'{units.size(value)} {name}' for name, value in _memories(memory))}"] if memory else []
    lines += [f"disk: {units.size(actual['disk_bytes'])}"]
    lines += [f"operations: {units.operations(actual['flops']['value'])} ({actual['flops']['method']})"] if actual["flops"]["value"] else []
    lines += [energy.line(actual["energy"])]
    lines += [f"cost: {least['cost']}{units.money(actual['cost'])}{over} at {actual['price_per_hour']:g} an hour"] if actual["cost"] is not None else []
    return lines


def _memories(memory: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(words, memory[name]) for name, words in (("host_bytes", "on the host"), ("gpu_bytes", "on the GPU")) if memory.get(name)]
