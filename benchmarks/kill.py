"""Fifty runs killed at random moments: is finished work lost, and are the final bytes those of an undisturbed run?

Notebook 00 is run once in peace. Then it is begun again in an empty folder, and at a moment drawn uniformly from the time that the
undisturbed run took, SIGKILL goes to `harness run`, to the notebook's kernel, or to both (drawn too). The same command is given
again, and what lies there at its end is held against the undisturbed run, file by file.

- *Lost*: pictures, latents, embeddings and adapters that stood under their final name at the kill and were written again after it.
- *Equal*: every output has the bytes that the undisturbed run gave it, but those that say when it was made (`times.json`).

    python benchmarks/kill.py --times 50 [--processes 2] [--seed 0] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from harness import stats
from harness.images import atomic_write, sha256, write_csv
from harness.runs import manifest

SETTINGS = ("--preset", "smoke", "-p", "steps=60", "-p", "prompts=3", "-p", "sampling_steps=4")
WORK = (".png", ".safetensors", ".npz")
"""endings of files that cost time to make"""
PASSING = ("checkpoint.safetensors",)
"""files that a later one replaces, by design"""
TIMES = ("times.json",)
"""outputs that say when they were made"""
VICTIMS = ("launcher", "kernel", "both")
STAGES = (("train", "training"), ("sample", "sampling"), ("embed", "auditing"))
"""first word of a line of progress, and what is going on from then"""
AFTER = "after the end"
EARLIER = (1.0, 0.9, 0.75, 0.6)
"""where a run was over before its moment came, it is begun anew and killed at this share of that moment"""
WRITTEN = ("report.json", "report.html", "rows.csv", "findings.csv")


@dataclass(frozen=True)
class Trial:
    """One kill: when, as a share of the undisturbed time, and whom."""

    number: int
    """counted from 0"""
    moment: float
    """between 0 and 1"""
    victim: str
    """launcher, kernel, or both"""


def main() -> None:
    """Run in peace, kill, go on, compare; writes results/published/kill.md and kill.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50, help="how many kills (default: 50)")
    parser.add_argument("--processes", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default: 0)")
    parser.add_argument("--work", type=Path, help="folder for the runs (default: a temporary one, removed at the end)")
    parser.add_argument("--out", type=Path, default=Path("results/published"), help="folder for the table")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="kill-"))
    with ThreadPoolExecutor(args.processes) as pool:  # the undisturbed runs are as crowded as the killed ones, so their time is comparable
        first, *_ = pool.map(lambda i: undisturbed(work / f"peace-{i}"), range(args.processes))
        rows = list(pool.map(partial(killed, work=work, seconds=first[0], wanted=first[1]), trials(args.times, args.seed)))
    table = pd.DataFrame(rows)
    write_csv(args.out / "kill.csv", table)
    atomic_write(args.out / "kill.md", markdown(table, first[0]))
    print(markdown(table, first[0]))
    if not args.work:
        shutil.rmtree(work)
    sys.exit(int((table.equal == "no").any() or table.lost.sum() > 0))


def trials(times: int, seed: int) -> list[Trial]:
    """Moments spread evenly with jitter, so that every part of a run is hit; victims in turn."""
    chance = random.Random(seed)
    found = [Trial(i, (i + chance.random()) / times, VICTIMS[i % len(VICTIMS)]) for i in range(times)]
    chance.shuffle(found)
    return found


def command(results: Path) -> tuple[list[str], dict[str, str]]:
    """What a person types, and its environment."""
    words = [sys.executable, "-m", "harness", "run", "notebooks/00_start_here.ipynb", *SETTINGS]
    return words, {**os.environ, "HARNESS_RESULTS": str(results), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def undisturbed(results: Path) -> tuple[float, dict[str, str]]:
    """Seconds and output hashes of a run in peace."""
    words, around = command(results)
    begun = time.monotonic()
    subprocess.run(words, env=around, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begun, outputs(results)


def outputs(results: Path) -> dict[str, str]:
    """Hash of every output of the one run in a folder, as it lies on disk now; its manifest must say complete and name the same."""
    (folder,) = (path.parent for path in results.glob(f"*/{manifest.NAME}"))
    found = manifest.read(folder)
    assert found["status"] == manifest.COMPLETE, found["error"]
    on_disk = {name: sha256(folder / name) for name in found["outputs"]}
    assert on_disk == found["outputs"], "the manifest's hashes are not those of the files"
    return {name: digest for name, digest in on_disk.items() if Path(name).name not in TIMES}


def killed(trial: Trial, work: Path, seconds: float, wanted: dict[str, str]) -> dict[str, Any]:
    """One trial: begin, kill, go on, compare; a row of the table."""
    results = work / f"trial-{trial.number:03d}"
    for earlier in EARLIER:
        stage = begin_and_kill(trial, results, earlier * trial.moment * seconds)
        if stage != AFTER:
            break
        shutil.rmtree(results)  # it was over before the moment came: that was no kill
    before = finished_work(results)
    words, around = command(results)
    again = subprocess.run(words, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if again.returncode != 0:
        raise SystemExit(f"{trial}: the second call ended with {again.returncode}:\n{again.stdout[-4000:]}")
    after, found = finished_work(results), outputs(results)
    differ = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    lost = sorted(name for name, stamp in before.items() if after.get(name) != stamp)
    shutil.rmtree(results)
    print(f"{trial.number:3d} {trial.victim} at {trial.moment:.2f} ({stage}): {len(before)} finished, {len(lost)} lost, {len(differ)} differ", flush=True)
    return {"trial": trial.number, "moment": round(trial.moment, 3), "victim": trial.victim, "stage": stage, "finished": len(before),
            "lost": len(lost), "outputs": len(found), "equal": "no" if differ else "yes", "which": " ".join(lost + differ)}


def begin_and_kill(trial: Trial, results: Path, after: float) -> str:
    """Begin a run and kill it; returns the stage that it had reached by what it had printed."""
    words, around = command(results)
    results.mkdir(parents=True)
    with open(results / "out.txt", "wb") as told:
        process = subprocess.Popen(words, env=around, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(after)
        for victim in victims(process.pid, trial.victim):
            with suppress(ProcessLookupError):  # it had ended
                os.kill(victim, signal.SIGKILL)
        process.wait()
    # Nothing is waited for here: an orphaned kernel that still writes is the very thing that the second call must bear.
    return stage(results)


def victims(launcher: int, name: str) -> list[int]:
    """Process numbers to kill; before there is a kernel the launcher stands in for it."""
    try:
        kernels = [child.pid for child in psutil.Process(launcher).children(recursive=True) if "ipykernel_launcher" in " ".join(child.cmdline())]
    except psutil.Error:
        kernels = []
    return {"launcher": [launcher], "kernel": kernels or [launcher], "both": [*kernels, launcher]}[name]


def stage(results: Path) -> str:
    """How far a run had come, by what lies in its folder and the last stage that it announced."""
    folders = [path.parent for path in results.glob(f"*/{manifest.NAME}")]
    if folders and manifest.status(folders[0]) == manifest.COMPLETE:
        return AFTER
    if folders and any((folders[0] / name).exists() for name in WRITTEN):
        return "writing"
    text = (results / "out.txt").read_text(errors="replace")
    place, name = max((text.rfind(f"\n{word}"), name) for word, name in STAGES)
    return name if place >= 0 else "starting"


def finished_work(results: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file under a final name that cost time to make: a file written again has others."""
    paths = [path for path in results.rglob("*") if path.suffix in WORK and path.name not in PASSING and not path.name.startswith(".")]
    return {path.relative_to(results).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def markdown(table: pd.DataFrame, seconds: float) -> str:
    """The table by stage, with the totals on top."""
    n, equal, lost = len(table), int((table.equal == "yes").sum()), int(table.lost.sum())
    bound = stats.rate_interval(n - equal, n).high
    lines = [f"{n} runs of notebook 00 killed with SIGKILL at random moments and begun again ({' '.join(SETTINGS)}; {seconds:.0f} s undisturbed).", "",
             f"- final bytes equal to the undisturbed run: {equal} of {n} (a true rate of failure above {bound:.1%} is excluded at 95 %)",
             f"- finished files lost: {lost} of {int(table.finished.sum())}", "",
             "| killed while | kills | launcher / kernel / both | finished files at the kill | lost | equal |", "|---|---|---|---|---|---|"]
    for name, part in table.groupby("stage", sort=False):
        who = " / ".join(str(int((part.victim == victim).sum())) for victim in VICTIMS)
        lines.append(f"| {name} | {len(part)} | {who} | {part.finished.min()}–{part.finished.max()} | {part.lost.sum()} | {(part.equal == 'yes').sum()} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
