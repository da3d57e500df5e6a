"""Time, memory and disk of a run from earlier ones on the same device, or from its operations where nothing has run yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, mean, median
from typing import Any

from harness import provenance
from harness.errors import HarnessError
from harness.forecast import costs, device, flops, work
from harness.runs import manifest
from harness.runs.notebooks import Notebook

GIB = 1 << 30
# What Python, torch and the libraries hold before any model: the miniature's first notebook peaks 1.0 GiB above its counted bytes.
HOST_BASE, GPU_BASE, SLACK = 1.0 * GIB, 0.6 * GIB, 1.2
SURE = 0.8  # the share of that without which none was seen to run: the leanest of the miniature's runs held 0.86 GiB above its counted bytes
FIXED = (5.0, 25.0, 90.0)  # seconds of a run that do not grow with its operations: imports, rendering, audits, the report
NARROW, WIDE = 1.25, 3.0  # factors either way
PICTURE_BASE = 20 << 20


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    flops: float
    """operations"""
    least: int
    """bytes below which it cannot run"""
    disk: float
    """bytes of pictures and adapters, uncompressed"""


@dataclass(frozen=True)
class Earlier:
    """A finished run on this device."""

    folder: Path
    """where it lies"""
    settings: Mapping[str, Any]
    """its resolved parameters"""
    seconds: float
    """how long it took"""
    memory: int
    """its peak where the models lie, 0 when it is not known"""
    disk: int | None
    """bytes, where the manifest says so"""
    size: Size | None
    """its size, where it can be counted"""


@dataclass(frozen=True)
class Span:
    """A guess and how wide it is."""

    low: float
    """the least to be expected"""
    middle: float
    """the best guess"""
    high: float
    """the most to be expected"""
    method: str
    """in words"""


class Sizer:
    """Sizes of runs of one notebook, each model counted once."""

    def __init__(self, notebook: Notebook, start: bool) -> None:
        self.table, self.where = work.table(notebook)
        self.start, self.why = start, "" if self.table else "the notebook declares no work"
        self._counts: dict[tuple[Any, ...], flops.Counts | None] = {}

    def __call__(self, resolved: Mapping[str, Any]) -> Size | None:
        """The size of a run with these parameters; None where it cannot be counted, with the reason in ``why``.

        Raises HarnessError for a declaration that does not fit the parameters.
        """
        if not self.table:
            return None
        told = work.read(self.table, resolved, self.where)
        one = self._count(told.model, round(told.pixels), told.trains)
        if one is None:
            return None
        pictures = (told.draws + told.encodes) * 3 * one.pixels**2
        return Size(told.operations(one), told.least_bytes(one, half=device.kind() == "cuda"), pictures + 4 * one.trained_bytes * bool(told.train_steps))

    def _count(self, *asked: Any) -> flops.Counts | None:
        if asked not in self._counts:
            try:
                self._counts[asked] = flops.counts(*asked, start=self.start)
                self.why = self.why if self._counts[asked] else "its operations were not counted yet"
            except HarnessError as problem:
                self._counts[asked], self.why = None, str(problem)
        return self._counts[asked]


def earlier(history: Sequence[tuple[Path, dict[str, Any]]], sizes: Sizer) -> list[Earlier]:
    """The runs that can be learnt from: complete, in one go, on a device like this one."""
    here, gpu = device.key(provenance.hardware()), device.kind() == "cuda"
    return [_read(folder, found, sizes, gpu) for folder, found in history if _tells(found) and device.key(found.get("hardware") or {}) == here]


def _tells(found: Mapping[str, Any]) -> bool:
    times = found["timings"]
    return found["status"] == manifest.COMPLETE and times.get("attempts", 1) == 1 and isinstance(times.get("seconds"), (int, float))


def _read(folder: Path, found: Mapping[str, Any], sizes: Sizer, gpu: bool) -> Earlier:
    try:
        size = sizes(found["parameters"]["resolved"])
    except HarnessError:  # it had other parameters than the notebook has today
        size = None
    peak = found.get("peak_memory") or {}
    return Earlier(folder, found["parameters"]["resolved"], found["timings"]["seconds"], peak.get("gpu_bytes" if gpu else "host_bytes") or 0,
                   (found.get("actual") or {}).get("disk_bytes"), size)


# --- time -------------------------------------------------------------------------------------------------------------


def seconds(size: Size | None, same: Sequence[Earlier], runs: Sequence[Earlier]) -> Span | None:
    """Wall-clock time; None where there is nothing to go on."""
    if same:
        known = [run.seconds for run in same]
        return Span(min(known) / NARROW, median(known), max(known) * NARROW, f"the median of {_earlier(same)} of these settings on this device")
    counted = [run for run in runs if run.size]
    if size and len({run.size.flops for run in counted}) > 1:
        return _fitted(size.flops, counted)
    if size and counted:
        return _scaled(size.flops, counted)
    if runs:
        middle = median(run.seconds for run in runs)
        return Span(middle / WIDE, middle, middle * WIDE, f"{_earlier(runs)} here with other settings, not scaled, so wrong by up to a factor of {WIDE:g}")
    return _guessed(size.flops) if size else None


def _fitted(asked: float, runs: Sequence[Earlier]) -> Span:
    """A line through times and operations: what does not grow, and a rate."""
    x, y = [run.size.flops for run in runs], [run.seconds for run in runs]
    slope, fixed = linear_regression(x, y)
    if fixed < 0:
        slope, fixed = linear_regression(x, y, proportional=True)
    if slope < 0:
        slope, fixed = 0.0, mean(y)
    line = [max(fixed + slope * each, 0.1) for each in x]
    width = max([NARROW, *(max(a / b, b / a) for a, b in zip(line, [max(each, 0.1) for each in y]))])
    beyond = not min(x) <= asked <= max(x)
    width = width**2 if beyond else width
    middle = max(fixed + slope * asked, 0.1)
    how = f"a line through {_earlier(runs)} on this device by their operations{', beyond what has run' if beyond else ''}"
    return Span(middle / width, middle, middle * width, how)


def _scaled(asked: float, runs: Sequence[Earlier]) -> Span:
    """From runs of one size: what would be guessed without them, times how far that guess is from them."""
    wrong = median(run.seconds / _guessed(run.size.flops).middle for run in runs)
    middle, ratio = wrong * _guessed(asked).middle, runs[0].size.flops / max(asked, 1.0)
    return Span(middle / WIDE, middle, middle * WIDE, f"{_earlier(runs)} on this device with {ratio:.2g} times the operations, "
                f"scaled by them and a share of time that does not grow, so wrong by up to a factor of {WIDE:g}")


def _guessed(asked: float) -> Span:
    """Nothing has run on this device: operations over a rate that is known to an order of magnitude."""
    rate = device.rate()
    low, middle, high = FIXED[0] + asked / rate.high, FIXED[1] + asked / rate.middle, FIXED[2] + asked / rate.low
    return Span(low, middle, high, f"nothing has finished on this device yet: a guess from the operations and {rate.method}, "
                f"which may be {high / middle:.0f} times too short or {middle / low:.0f} times too long")


# --- memory and disk ----------------------------------------------------------------------------------------------------


def memory(size: Size | None, same: Sequence[Earlier], runs: Sequence[Earlier]) -> tuple[int | None, int | None, str]:
    """Peak bytes where the models lie, the bytes below which it cannot run, and the method."""
    seen = [run.memory for run in same if run.memory]
    if seen:
        return max(seen), round(0.9 * min(seen)), f"the most of {_earlier(same)} of these settings"
    measured = [run for run in runs if run.memory]
    counted = [run for run in measured if run.size]
    base = GPU_BASE if device.kind() == "cuda" else HOST_BASE
    if size and counted:
        peaks = [run.memory + (size.least - run.size.least) * (SLACK if size.least > run.size.least else 1) for run in counted]
        held = min(base, *(max(0, run.memory - run.size.least) for run in counted))  # what the libraries held at the least, once seen
        return round(max(peaks)), round(0.9 * held + size.least), "earlier runs here, plus the counted difference of weights and activations"
    if size:
        how = f"weights and activations counted ({size.least / GIB:.1f} GiB), a fifth more, and {base / GIB:g} GiB for the libraries"
        return round(base + SLACK * size.least), round(base * SURE + size.least), how
    if measured:
        return max(run.memory for run in measured), None, "the most of earlier runs here with other settings"
    return None, None, "nothing to go on"


def disk(size: Size | None, same: Sequence[Earlier], runs: Sequence[Earlier]) -> tuple[int | None, int | None, str]:
    """Bytes of the run's folder, the bytes that it is known to take, and the method."""
    if same:
        sizes = [_disk(run) for run in same]
        return max(sizes), min(sizes), "the largest of those runs"
    if size:
        return round(PICTURE_BASE + size.disk), None, "pictures and adapters uncompressed, and 20 MiB: an upper bound"
    return (max(_disk(run) for run in runs[-3:]), None, "the largest of the last runs") if runs else (None, None, "nothing to go on")


def _disk(run: Earlier) -> int:
    return run.disk if run.disk is not None else costs.disk(run.folder)


def _earlier(runs: Sequence[Earlier]) -> str:
    return f"{len(runs)} earlier run{'s' * (len(runs) > 1)}"
