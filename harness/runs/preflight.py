"""Before a run: how long it will take, how much memory and disk it needs and what it costs on this device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from harness.runs import costs, manifest, scan, units
from harness.runs.notebooks import Notebook

History = Sequence[tuple[Path, dict[str, Any]]]


class Asked(Protocol):
    """What is to be forecast: a notebook with every parameter resolved."""

    notebook: Notebook
    resolved: dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """A forecast; None is what nothing is known about."""

    seconds: float | None
    """wall-clock time of the whole run"""
    memory_bytes: int | None
    """peak memory where the models lie: on the GPU, or on the host where there is none"""
    disk_bytes: int | None
    """size of the run's folder"""
    flops: float | None
    """floating-point operations of training and drawing, a multiply-add counted as two"""
    cost: float | None
    """money, in the currency of the price per hour"""
    method: str
    """what the forecast rests on, in words"""


def before(plan: Any, per_hour: float | None = None) -> dict[str, Any]:
    """Forecast a planned run (``launch.Plan``) and print it; the dict goes into the manifest as ``predicted``.

    Raises Refused when the memory or the disk of this machine cannot hold it.
    """
    found = predict(plan, scan.runs(plan.folder.parent, plan.notebook.name), costs.price(per_hour))
    print(line(found))
    return asdict(found)


def predict(plan: Asked, history: History, per_hour: float | None = None) -> Prediction:
    """What a run will take on this device, from earlier runs of the same settings."""
    same = [run for run in history if run[1]["status"] == manifest.COMPLETE and run[1]["parameters"]["resolved"] == manifest.plain(plan.resolved)]
    if not same:
        return Prediction(None, None, None, None, None, "nothing to go on: no finished run of these settings")
    spent = median(found["timings"]["seconds"] for _, found in same)
    memory = max(max((found.get("peak_memory") or {"": 0}).values()) for _, found in same)
    cost = None if per_hour is None else spent / 3600 * per_hour
    return Prediction(spent, memory or None, max(costs.disk(folder) for folder, _ in same), None, cost, f"{len(same)} finished runs of these settings")


def line(found: Prediction) -> str:
    """A forecast in one line."""
    parts = [units.seconds(found.seconds)] if found.seconds is not None else []
    parts += [f"{units.size(found.memory_bytes)} of memory"] if found.memory_bytes else []
    parts += [f"{units.size(found.disk_bytes)} of disk"] if found.disk_bytes else []
    parts += [f"cost {found.cost:.4f}"] if found.cost is not None else []
    return f"forecast: {', '.join(parts) or 'none'} ({found.method})"
