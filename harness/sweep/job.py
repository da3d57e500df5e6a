"""One row of a sweep, as it travels to the machine that runs it, and what comes back.

Each run is ``python -m harness run …``, a process of its own that dies with the worker which started it. The lock of the
run's folder decides who may write there, so that a run which is started again waits for what is left of the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import runs
from harness.errors import HarnessError, Refused
from harness.runs import folders, identity, launch, lock
from harness.sweep import parcel, process

if TYPE_CHECKING:
    from harness.runs.launch import Plan

COMPLETE, REUSED, FAILED, STOPPED = "complete", "reused", "failed", "stopped"
PATIENCE = 600.0  # seconds that a run waits for another one in its folder to end; a worker that lost its scheduler ends within one minute
USER = 2  # the exit code of a command that was refused
TRIES = 5  # starts of a run that another one overtakes


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a sweep's files lie, as seen by the machine that started it."""

    notebook: Path
    """the .ipynb file"""
    results: Path
    """the folder of runs"""
    logs: Path
    """the folder of this sweep's logs"""
    cwd: Path
    """where relative paths among the parameters begin"""
    mark: str
    """name of a file in ``results`` by which a machine knows that it sees the same disk; "": none does"""

    def is_here(self) -> bool:
        """Whether this machine sees these folders."""
        return bool(self.mark) and (self.results / self.mark).is_file()


@dataclasses.dataclass(frozen=True)
class Job:
    """One row of a sweep: everything that another machine needs in order to run it."""

    name: str
    """the sweep's name, the same each time it is started"""
    sweep: str
    """a name that only this start of the sweep has"""
    number: int
    """the row, from 1"""
    site: Site
    """where it would be run if the disk is shared"""
    files: Mapping[str, bytes]
    """the notebook and its presets, for where the disk is not shared"""
    preset: str | None
    """the preset that was chosen where the sweep was started"""
    given: Mapping[str, Any]
    """the row's settings, checked"""
    words: tuple[str, ...]
    """the same settings as ``-p`` takes them"""
    facts: Mapping[str, Any]
    """what decides the result, as seen where the sweep was started"""
    finished: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """runs that the starting machine has already: their folders by id"""
    gpu: bool = False
    """whether the run takes a GPU of its own"""
    price: float | None = None
    """what an hour of the machine costs; None: as the machine is set"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one row ended: ``complete``, ``reused``, ``failed`` or ``stopped``."""

    number: int
    status: str
    folder: str = ""
    """name of the run's folder"""
    reason: str = ""
    """why it failed, in one sentence"""
    host: str = ""
    """the machine that ran it"""
    log: str = ""
    """the last lines that it printed"""
    data: bytes | None = None
    """the run's folder as a zip file, where there is no shared disk"""


def run(job: Job) -> Outcome:
    """Run one row on this machine, or find that it is finished; a failure comes back as an outcome and is not raised."""
    site = job.site if job.site.is_here() else None
    try:
        site = site or _unpack(job)
        outcome = _run(job, site)
    except HarnessError as error:
        outcome = Outcome(job.number, STOPPED if process.is_stopped(job.sweep) else FAILED, reason=str(error), host=socket.gethostname())
    return outcome if site is None or site is job.site else _bring(outcome, site)


def _run(job: Job, site: Site) -> Outcome:
    for _ in range(TRIES):
        plan = _plan(job, site)
        outcome = Outcome(job.number, REUSED, plan.folder.name, host=socket.gethostname())
        if known := job.finished.get(identity.run_id(plan.facts)):
            return dataclasses.replace(outcome, folder=known)
        _wait_for(job, plan.folder)
        if runs.is_finished(plan.folder):
            return outcome
        with _environment(job, site) as environment:
            code, log = process.run(job.sweep, command(job, site.notebook), site.cwd, environment, site.logs / f"{job.number}.log")
        if code != USER or not _is_held(plan.folder):
            break  # else it was refused: another process was faster by a moment, and its run is the one to wait for
    return dataclasses.replace(outcome, log=log, **_ending(job, plan.folder, code, log))


def _plan(job: Job, site: Site) -> Plan:
    """What this machine would run; raises Refused where its code or inputs are not those that the sweep was started with."""
    plan = launch.plan(site.notebook, job.preset, job.given, results=site.results)
    for kind in ("notebook", "code", "inputs"):
        here, there = plan.facts[kind], job.facts[kind]
        if here != there:
            names = sorted(name for name in {*here, *there} if here.get(name) != there.get(name)) if isinstance(here, dict) else []
            which = f"{kind} ({', '.join(names[:3])})" if names else kind
            advice = f"relative paths begin at {Path.cwd()} there" if kind == "inputs" else "bring both to the same state"
            raise Refused(f"{which} on {socket.gethostname()} not what it was where and when the sweep was started; {advice}, and start it again")
    return plan


def _wait_for(job: Job, folder: Path) -> None:
    """Wait until nobody is at work in a run's folder; raises Refused, naming who is, when that takes too long."""
    for left in range(int(PATIENCE), 0, -1):
        if process.is_stopped(job.sweep):
            raise Refused("stopped before it was started")
        try:
            with lock.hold(folder, wait=1.0):
                return
        except Refused:
            if left == 1:
                raise


def _is_held(folder: Path) -> bool:
    try:
        with lock.hold(folder):
            return False
    except Refused:
        return True


def _ending(job: Job, folder: Path, code: int, log: str) -> dict[str, str]:
    """Status and reason of a run that ended with this exit code."""
    if code == 0 and folders.is_complete(folder):
        return {"status": COMPLETE}
    if code == 0:
        return {"status": FAILED, "reason": f"it ended well, but not as {folder.name}: its code or inputs changed meanwhile; start the sweep again"}
    said = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
    killed = f"was killed by signal {-code}" + (", most often because memory ran out" if code == -9 else "")
    reason = said[-1] if said else killed if code < 0 else f"ended with exit code {code} and no word of why"
    return {"status": STOPPED if process.is_stopped(job.sweep) else FAILED, "reason": reason}


def command(job: Job, notebook: Path) -> list[str]:
    """The command that runs a row."""
    options = ["--preset", job.preset] if job.preset else []
    options += ["--price", str(job.price)] if job.price is not None else []
    return [sys.executable, "-m", "harness", "run", str(notebook), *options, *(word for each in job.words for word in ("-p", each))]


@contextlib.contextmanager
def _environment(job: Job, site: Site) -> Iterator[dict[str, str]]:
    """The variables of a run's process: where its results go, and its GPU."""
    found = {name: value for name, value in os.environ.items() if name != runs.FOLDER} | {runs.RESULTS: str(site.results)}
    with process.gpu() if job.gpu else contextlib.nullcontext({}) as gpu:
        yield found | gpu


# --- without a shared disk --------------------------------------------------------------------------------------------


def _unpack(job: Job) -> Site:
    """A folder of this sweep on this machine, with the notebook and its presets; only its owner can look into it."""
    folder = Path(tempfile.gettempdir()) / f"harness-{getattr(os, 'getuid', int)()}-{job.name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077):
        raise Refused(f"{folder}: belongs to somebody else on {socket.gethostname()}; remove it, or set TMPDIR for the worker")
    for name, data in job.files.items():
        parcel.write(folder / name, data)
    return Site(folder / job.site.notebook.name, folder / "runs", folder / "logs", folder, mark="")


def _bring(outcome: Outcome, site: Site) -> Outcome:
    """The outcome with the run's folder in it, which is removed here: what was made for somebody else does not stay."""
    folder = site.results / outcome.folder
    if not outcome.folder or not folder.is_dir():
        return outcome
    data = parcel.pack(folder)
    shutil.rmtree(folder)
    return dataclasses.replace(outcome, data=data)
