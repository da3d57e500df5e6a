"""Finished runs that a dossier is made from: those named, else the newest one of the first notebook, else one that is made now.

A run is taken only as it was when it ended: its outputs have the hashes of its manifest, and its seal holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.images import read_table, sha256, write_csv
from harness.runs import FOLDER, RESULTS, child, launch, manifest, notebooks, rows, scan

if TYPE_CHECKING:
    import pandas as pd

FIRST, PRESET = "00_start_here", "smoke"
"""the notebook, and its preset, that is run where there is no run yet"""
NAME = "sources.csv"
NEEDED = ("report.html", "report.json", rows.FINDINGS, rows.SAMPLES)


@dataclass(frozen=True)
class Source:
    """One finished run."""

    folder: Path
    """Where it lies."""
    manifest: Mapping[str, Any]
    """What it says of itself."""
    told: Mapping[str, Any]
    """Its report.json."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def words(self) -> str:
        """Notebook and id, for people."""
        return f"{self.manifest['notebook']}, run {self.manifest['id']}"

    @property
    def sealed(self) -> bool:
        """Whether its report has a seal."""
        return (self.folder / "seal.json").is_file()

    @property
    def consent(self) -> Mapping[str, Any] | None:
        """What the gate answered it, if it was asked."""
        return self.manifest["notes"].get("consent")


def gather(named: Sequence[str], run: Path) -> list[Source]:
    """The runs in the folders `named`; without any, one of the first notebook from beside the folder `run`, or made there.

    Writes their hashes into `run/sources.csv`; a run that was killed and goes on takes the same ones. Raises HarnessError
    for a run that is not complete, or not as it was when it ended.
    """
    found = [accept(Path(each).expanduser()) for each in named] or [_kept(run) or newest(run.parent) or make(run.parent)]
    names = [each.name for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HarnessError(f"`runs` names {twice[0]} twice; name each run once, and rename a folder of the same name")
    write_csv(run / NAME, table(found))
    return found


def accept(folder: Path) -> Source:
    """A finished run, after everything in it was held against its hashes and its seal; raises HarnessError saying what is not right."""
    from harness.validate import checkrun

    status = manifest.read(folder)["status"]
    if status != manifest.COMPLETE:
        raise HarnessError(f"{folder}: this run is {status}; a dossier is made of complete runs, finish it with `harness run`")
    faults = checkrun.run(folder) or [f"it lacks {name}, which a report stands on" for name in NEEDED if not (folder / name).is_file()]
    if faults:
        raise HarnessError(f"{folder}: not taken: {faults[0]}; restore it, or run its notebook again")
    return Source(folder, manifest.read(folder), json.loads((folder / "report.json").read_text(encoding="utf-8")))


def newest(results: Path) -> Source | None:
    """The newest complete run of the first notebook that is as it was when it ended; each that is not is named and left out."""
    for folder, found in reversed(scan.runs(results, FIRST)):
        try:
            if found["status"] == manifest.COMPLETE:
                return accept(folder)
        except HarnessError as problem:
            print(f"left out: {problem}")
    return None


def _kept(run: Path) -> Source | None:
    """The run that was taken before this one was killed."""
    if not (run / NAME).is_file():
        return None
    found = accept(run.parent / str(read_table(run / NAME)["run"][0]))
    if table([found]).to_csv(index=False, lineterminator="\n") != (run / NAME).read_text(encoding="utf-8"):
        raise HarnessError(f"{found.name}: changed since {run.name} was begun with it; --force begins a fresh one")
    return found


def make(results: Path) -> Source:
    """Run the first notebook on its smallest preset into `results`, after saying what that will take; raises HarnessError where it fails."""
    from harness.forecast import preflight

    path = notebooks.find(FIRST)
    if path is None:
        raise HarnessError(f"{FIRST}.ipynb is not to be found from {Path.cwd()}; name a finished run in `runs`")
    plan = launch.plan(path, PRESET, {}, results=results)
    found = preflight.predict(plan, scan.runs(results, FIRST))
    print(f"no finished run of {FIRST} in {results.name}; running its preset {PRESET}: {preflight.short(found) or 'nothing known of what it takes'}", flush=True)
    _run(path, results)
    return accept(launch.plan(path, PRESET, {}, results=results).folder)


def _run(path: Path, results: Path) -> None:
    """`harness run` as a process of its own, which ends with this one."""
    environment = {name: value for name, value in os.environ.items() if name != FOLDER} | {RESULTS: str(results)}
    command = [sys.executable, "-m", "harness", "run", str(path), "--preset", PRESET]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          preexec_fn=child.die_with_parent if os.name == "posix" else None)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise HarnessError(f"{FIRST} did not end well ({said[-1] if said else f'exit code {done.returncode}'}); run it by itself and see")
    print(next((line for line in done.stdout.splitlines() if line.startswith("complete after")), "complete"), flush=True)


def table(sources: Sequence[Source]) -> pd.DataFrame:
    """What pins each run: folder, notebook, id, the hash of its manifest, and the root of its report's seal."""
    import pandas as pd

    return pd.DataFrame([{"run": each.name, "notebook": each.manifest["notebook"], "id": each.manifest["id"],
                          "manifest_sha256": sha256(each.folder / manifest.NAME), "root": _root(each)} for each in sources], dtype=object)


def _root(source: Source) -> str:
    from harness.report import seal

    return seal.read(source.folder).root if source.sealed else ""
