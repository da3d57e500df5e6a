"""Before a run: how long it will take, how much memory and disk it needs and what it costs on this device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import params
from harness.errors import HarnessError, Refused
from harness.forecast import costs, device, energy, estimates, units, work
from harness.runs import manifest, refuse, scan
from harness.runs.notebooks import Notebook

History = Sequence[tuple[Path, dict[str, Any]]]
SHOWN = 3  # ways to make a run fit that are named


class Asked(Protocol):
    """What is to be forecast: a notebook with every parameter resolved."""

    notebook: Notebook
    resolved: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """The same, for settings that nobody has planned yet."""

    notebook: Notebook
    """the notebook"""
    resolved: Mapping[str, Any]
    """every parameter"""


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
    """floating-point operations of training, encoding and drawing, a multiply-add counted as two"""
    cost: float | None
    """money, in the currency of the price per hour"""
    method: str
    """what each part rests on, in words"""
    seconds_low: float | None = None
    """the shortest time to be expected"""
    seconds_high: float | None = None
    """the longest"""
    memory_least: int | None = None
    """bytes of memory below which it cannot run"""
    disk_least: int | None = None
    """bytes that the folder is known to take"""


def before(plan: Any, per_hour: float | None = None) -> dict[str, Any]:
    """Forecast a planned run (``launch.Plan``) and print it; the dict goes into the manifest as ``predicted``.

    ``per_hour`` is the price of this machine (default: ``$HARNESS_PRICE_PER_HOUR``). The dict also holds the energy
    counters as they stand now, and what earlier attempts took, for ``costs.after``. Raises Refused when the memory or the disk cannot hold the run.
    """
    price, _ = costs.price(per_hour), energy.assumed_watts()  # both are settings: a wrong one is said before the start
    history = scan.runs(plan.folder.parent, plan.notebook.name)
    found = predict(plan, history, price)
    print("\n".join(lines(found, price)), flush=True)
    _fit_memory(plan, found, history)
    _fit_disk(plan.folder, found)
    return {**asdict(found), "price_per_hour": price, "meters": energy.read(), "earlier": costs.earlier(plan.folder)}


def predict(plan: Asked, history: History, per_hour: float | None = None, start: bool = True) -> Prediction:
    """What a run will take on this device: from earlier runs in ``history``, else from its operations.

    With ``start`` False nothing is counted that was not counted before. Raises HarnessError where the notebook's
    declaration of its work is wrong.
    """
    sizes = estimates.Sizer(plan.notebook, start)
    size = sizes(plan.resolved)
    uncounted, runs = sizes.why, estimates.earlier(history, sizes)
    same = [run for run in runs if run.settings == manifest.plain(plan.resolved)]
    time = estimates.seconds(size, same, runs)
    peak, least, remembered = estimates.memory(size, same, runs)
    room, taken, written = estimates.disk(size, same, runs)
    counted = "counted for training, encoding and drawing, not for audits, a multiply-add as two" if size else f"not counted: {uncounted}"
    method = f"time: {time.method if time else 'nothing to go on'}; memory: {remembered}; disk: {written}; operations: {counted}"
    cost = None if per_hour is None or time is None else time.middle / 3600 * per_hour
    middle, low, high = (time.middle, time.low, time.high) if time else (None, None, None)
    return Prediction(middle, peak, room, size.flops if size else None, cost, method, low, high, least, taken)


def lines(found: Prediction, per_hour: float | None = None) -> list[str]:
    """A forecast as it is printed: the figures in one line, then what each of them rests on."""
    return [f"forecast: {short(found, per_hour) or 'none'}", *(f"  {part}" for part in found.method.split("; "))]


def short(found: Prediction, per_hour: float | None = None) -> str:
    """The figures of a forecast in one line; '' where nothing is known."""
    parts = []
    if found.seconds is not None:
        parts += [f"{units.seconds(found.seconds)} ({units.seconds(found.seconds_low)} to {units.seconds(found.seconds_high)})"]
    parts += [f"{units.size(found.memory_bytes)} of memory"] if found.memory_bytes else []
    parts += [f"{units.size(found.disk_bytes)} of disk"] if found.disk_bytes else []
    parts += [units.operations(found.flops)] if found.flops else []
    parts += [f"cost {units.money(found.cost)} at {per_hour:g} an hour"] if found.cost is not None and per_hour is not None else []
    return ", ".join(parts)


# --- what cannot fit ----------------------------------------------------------------------------------------------------


def _fit_memory(plan: Asked, found: Prediction, history: History) -> None:
    """Raise Refused when not even the least that a run needs is there at all; say so when it is merely not free."""
    if found.memory_least is None:
        return
    room = device.room()
    if found.memory_least > room.total:
        ways = list(smaller(plan, history, room.total))[:SHOWN]
        what = f"it would fit with {' or '.join(ways)}" if ways else "no setting of this notebook makes it fit, it needs a larger machine"
        raise Refused(f"{plan.notebook.name} needs at least {units.size(found.memory_least)} of {room.what} with these settings, and {room.says} "
                      f"{units.size(room.total)}; {what} (${device.MEMORY} sets how much a run may use)")
    if (found.memory_bytes or 0) > room.free:
        there = room.free if found.memory_bytes <= room.total else room.total
        advice = "are free now; close other programs" if found.memory_bytes <= room.total else "is all there is; it may be killed on its way"
        print(f"note: {units.size(found.memory_bytes)} are forecast and {units.size(there)} of {room.what} {advice}", flush=True)


def _fit_disk(folder: Path, found: Prediction) -> None:
    """Raise Refused when the disk has less room than the run's folder takes."""
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(parent).free
    if found.disk_least and found.disk_least > free:
        raise Refused(f"the run will write {units.size(found.disk_least)} into {folder.parent}, and {units.size(free)} are free there; "
                      "free some space, or set HARNESS_RESULTS to a folder on a larger disk")
    if (found.disk_bytes or 0) > free:
        print(f"note: the run may write up to {units.size(found.disk_bytes)}, and {units.size(free)} are free in {parent}", flush=True)


def smaller(plan: Asked, history: History, room: int) -> Iterator[str]:
    """Settings of the same notebook that would fit into ``room`` bytes, as they are typed, each with what it would need.

    Tried are, by the same forecast: each number that the declared work depends on, halved again and again; every preset;
    every such parameter set back to its default; and, where none of these is enough, the numbers together.
    """
    seen: set[str] = set()
    for words, resolved in _candidates(plan):
        needs, name = _needs(plan.notebook, resolved, history), words.split("=")[0]
        if needs is not None and needs <= room and name not in seen:
            seen.add(name)
            yield f"`{words}` ({units.size(needs)})"
    if not seen:
        yield from _together(plan, history, room)


def _candidates(plan: Asked) -> Iterator[tuple[str, dict[str, Any]]]:
    given = {name: plan.resolved[name] for name in getattr(plan, "given", ())}
    for name in _numbers(plan):
        yield from ((_typed(plan, resolved), resolved) for resolved in _halved(plan, [name]))
    for preset, path in plan.notebook.presets().items():
        yield f"--preset {preset}", {**plan.resolved, **params.read_preset(path, plan.notebook.parameters), **given}
    for name in _asked(plan):
        resolved = {**plan.resolved, name: plan.notebook.defaults.get(name)}
        if resolved != plan.resolved:
            yield _typed(plan, resolved), resolved


def _together(plan: Asked, history: History, room: int) -> Iterator[str]:
    """All numbers halved until it fits, then each that need not be lowered left as it was."""
    def fits(resolved: Mapping[str, Any]) -> bool:
        return (_needs(plan.notebook, resolved, history) or room + 1) <= room

    low = next(filter(fits, _halved(plan, _numbers(plan))), None)
    for name in _numbers(plan) if low else ():
        back = {**low, name: plan.resolved[name]}
        low = back if fits(back) else low
    if low:
        yield f"`{_typed(plan, low)}` ({units.size(_needs(plan.notebook, low, history))})"


def _asked(plan: Asked) -> list[str]:
    """The parameters that the declared work depends on."""
    return [name for name in sorted(work.names(work.table(plan.notebook)[0] or {})) if name in plan.resolved]


def _numbers(plan: Asked) -> list[str]:
    return [name for name in _asked(plan) if type(plan.resolved[name]) is int and plan.resolved[name] > 1]


def _halved(plan: Asked, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The settings with these numbers halved, together, for as long as one of them is above 1."""
    values = {name: plan.resolved[name] for name in names}
    while max(values.values(), default=1) > 1:
        values = {name: max(1, value // 2) for name, value in values.items()}
        yield {**plan.resolved, **values}


def _typed(plan: Asked, resolved: Mapping[str, Any]) -> str:
    return " ".join(f"-p {name}={value}" for name, value in resolved.items() if value != plan.resolved[name])


def _needs(notebook: Notebook, resolved: Mapping[str, Any], history: History) -> int | None:
    try:
        refuse.contradictions(notebook.harness.get("refuse", []), resolved, str(notebook.path))
        return predict(Question(notebook, resolved), history).memory_bytes
    except HarnessError:  # half of a setting may be one that the notebook refuses
        return None
