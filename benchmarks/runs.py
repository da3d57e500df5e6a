"""What the record costs: `harness run` beside bare papermill, `harness ls`, and a scan of 1,000 run folders.

Both commands run a notebook that does nothing, in turn, pair after pair; the overhead is the median of the paired
differences. papermill's has a single empty cell. The harness's begins and finishes a run, and so imports the harness in
its kernel; the time includes all of it: checks, lock, forecast, manifest, hashes.

    python benchmarks/runs.py [--pairs 9] [--folders 1000] [--out results/published]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from harness.images import atomic_write, write_csv
from harness.runs import manifest, scan

GOALS = {"overhead": 1.0, "ls": 1.0, "scan": 2.0}
OUTPUTS = 150
"""files that a run of notebook 00 leaves: so many hashes stand in each manifest that is scanned"""
CELLS = ("works: int = 1  # nothing depends on it", 'from harness import runs\nrun = runs.start("nothing", globals())',
         '(run.folder / "done.txt").write_text("done")\nrun.finish()')


def main() -> None:
    """Measure, write the table, print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="runs of each kind (default: 9)")
    parser.add_argument("--folders", type=int, default=1000, help="run folders to scan (default: 1000)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        table = measure(Path(work), args.pairs, args.folders)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "runs.csv", table)
    text = markdown(table, args.pairs, args.folders)
    atomic_write(args.out / "runs.md", text)
    print(text)


def measure(work: Path, pairs: int, folders: int) -> pd.DataFrame:
    """Seconds of everything: alone, and with many finished runs lying beside."""
    project, results = work / "project", work / "results"
    notebook(project / "notebooks" / "nothing.ipynb", CELLS, tag=True)
    notebook(work / "empty.ipynb", ("",), tag=False)
    os.environ["HARNESS_RESULTS"] = str(results)
    harness(project)  # compiles, and leaves the manifest that the others are copies of
    rows = overhead(work, project, pairs, "no earlier runs")
    copies(results, folders)
    rows += overhead(work, project, pairs, f"{folders:,} earlier runs")
    listed = [timed(lambda: command("harness", "ls", str(project / "notebooks"))) for _ in range(pairs)]
    rows.append(row(f"`harness ls`, {folders:,} earlier runs", listed, GOALS["ls"]))
    rows.append(row(f"scan of {folders:,} run folders", [timed(lambda: scanned(results, folders)) for _ in range(pairs)], GOALS["scan"]))
    return pd.DataFrame(rows)


def notebook(path: Path, cells: tuple[str, ...], tag: bool) -> None:
    """A notebook of these code cells; the first is the parameters cell where ``tag``."""
    code = [{"cell_type": "code", "id": f"c{i}", "metadata": {"tags": ["parameters"]} if tag and not i else {}, "source": source,
             "outputs": [], "execution_count": None} for i, source in enumerate(cells)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": code}))


def overhead(work: Path, project: Path, pairs: int, beside: str) -> list[dict[str, Any]]:
    """Bare papermill, `harness run`, and their paired difference."""
    bare, ours = [], []
    for _ in range(pairs):
        bare.append(timed(lambda: command("papermill", str(work / "empty.ipynb"), str(work / "out.ipynb"), "--no-progress-bar")))
        ours.append(timed(lambda: harness(project)))
    return [row("papermill, a notebook with one empty cell", bare), row(f"`harness run`, a run that does nothing, {beside}", ours),
            row(f"overhead, {beside}", [b - a for a, b in zip(bare, ours)], GOALS["overhead"])]


def harness(project: Path) -> None:
    """A fresh run of the notebook that does nothing."""
    command("harness", "run", str(project / "notebooks" / "nothing.ipynb"), "--force")


def copies(results: Path, count: int) -> None:
    """Finished runs until there are ``count``, each with a manifest of the size that notebook 00 leaves."""
    first, _ = scan.runs(results)[0]
    found = manifest.read(first)
    found["outputs"] = {f"tuned/{i:05d}.png": f"{i:064x}" for i in range(OUTPUTS)}
    for i in range(count - len(scan.runs(results))):
        folder = results / f"nothing-{i:012x}"
        folder.mkdir()
        (folder / manifest.NAME).write_text(json.dumps(found, indent=1))


def scanned(results: Path, least: int) -> None:
    """Scan; stops the benchmark when runs are missing."""
    if len(scan.runs(results)) < least:
        raise SystemExit("the scan left runs out")


def command(*words: str) -> None:
    """Run a Python module as a command; stops the benchmark when it fails."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")


def timed(task: Callable[[], None]) -> float:
    """Seconds of a task."""
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def row(what: str, times: list[float], goal: float | None = None) -> dict[str, Any]:
    """Median, fastest and slowest of some times, against a goal where there is one."""
    middle = statistics.median(times)
    reached = "" if goal is None else "yes" if middle <= goal else "no"
    spread = {"median_s": round(middle, 3), "fastest_s": round(min(times), 3), "slowest_s": round(max(times), 3)}
    return {"measured": what, **spread, "n": len(times), "goal_s": goal, "reached": reached}


def markdown(table: pd.DataFrame, pairs: int, folders: int) -> str:
    """The table with what was done to get it."""
    lines = [f"A notebook that does nothing, {pairs} pairs in turn on {os.cpu_count()} cores; a manifest that is scanned has {OUTPUTS} outputs "
             "and every package of this environment.", "",
             "| measured | median | fastest | slowest | goal | reached |", "|---|---|---|---|---|---|"]
    for each in table.itertuples():
        goal = "" if pd.isna(each.goal_s) else f"≤ {each.goal_s:g} s"
        lines.append(f"| {each.measured} | {each.median_s:.2f} s | {each.fastest_s:.2f} s | {each.slowest_s:.2f} s | {goal} | {each.reached} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
