"""One row of a sweep, as it travels to the machine that runs it, and what comes back.

Each run is ``python -m harness run …``, a process of its own that dies with the worker which started it. The lock of the
run's folder decides who may write there, so that a run which is started again waits for what is left of the first.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes  # noqa: F401 - needed between fork and exec, where nothing may be imported
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import provenance, runs
from harness.errors import HarnessError, Refused
from harness.runs import child, identity, launch, lock, manifest, parcel

if TYPE_CHECKING:
    from harness.runs.launch import Plan

COMPLETE, REUSED, FAILED, STOPPED = "complete", "reused", "failed", "stopped"
PATIENCE = 600.0  # seconds that a run waits for another one in its folder to end; a worker that lost its scheduler ends within one minute
USER = 2  # the exit code of a command that was refused
TRIES = 5  # starts of a run that another one overtakes
GRACE = 10.0  # seconds between asking a run to stop and killing it
TAIL = 200  # lines of the log that come back
_guard = threading.Lock()
_children: dict[str, set[subprocess.Popen[bytes]]] = collections.defaultdict(set)
_stopped: set[str] = set()
_slots: set[int] = set()


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
    threads: int = 0
    """threads for the run's arithmetic; 0: as the machine is set"""


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
        outcome = Outcome(job.number, STOPPED if job.sweep in _stopped else FAILED, reason=str(error), host=socket.gethostname())
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
        code, log = _start(job, site)
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
        if job.sweep in _stopped:
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
    if code == 0 and manifest.status(folder) == manifest.COMPLETE:
        return {"status": COMPLETE}
    if code == 0:
        return {"status": FAILED, "reason": f"it ended well, but not as {folder.name}: its code or inputs changed meanwhile; start the sweep again"}
    said = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
    killed = f"was killed by signal {-code}" + (", most often because memory ran out" if code == -9 else "")
    reason = said[-1] if said else killed if code < 0 else f"ended with exit code {code} and no word of why"
    return {"status": STOPPED if job.sweep in _stopped else FAILED, "reason": reason}


# --- the process of a run ---------------------------------------------------------------------------------------------


def command(job: Job, notebook: Path) -> list[str]:
    """The command that runs a row."""
    preset = ["--preset", job.preset] if job.preset else []
    return [sys.executable, "-m", "harness", "run", str(notebook), *preset, *(word for each in job.words for word in ("-p", each))]


def _start(job: Job, site: Site) -> tuple[int, str]:
    """Run the row's process to its end; returns its exit code and the last lines that it printed."""
    site.logs.mkdir(parents=True, exist_ok=True)
    tail: collections.deque[str] = collections.deque(maxlen=TAIL)
    with _environment(job, site) as environment, open(site.logs / f"{job.number}.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command(job, site.notebook), cwd=site.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,  # Ctrl-C reaches it through `stop`, once
            preexec_fn=child.die_with_parent if os.name == "posix" else None,
        )
        reader = threading.Thread(target=_copy, args=(process, log, tail), daemon=True)
        reader.start()
        try:
            _register(job.sweep, process)
            code = process.wait()
        finally:
            _end(job.sweep, process)
            reader.join(2.0)  # a program that a cell left in the background may hold the pipe open
        return code, "\n".join(tail)


def _copy(process: subprocess.Popen[bytes], log: Any, tail: collections.deque[str]) -> None:
    """Write what the run prints into its log as it comes, without secrets."""
    for line in process.stdout:
        text = provenance.mask(line.decode("utf-8", "replace").rstrip())
        tail.append(text)
        with contextlib.suppress(ValueError):  # the log was closed: only a straggler still prints
            print(text, file=log, flush=True)


def _register(sweep: str, process: subprocess.Popen[bytes]) -> None:
    with _guard:
        _children[sweep].add(process)
        if sweep in _stopped:
            process.send_signal(signal.SIGINT)


def _end(sweep: str, process: subprocess.Popen[bytes]) -> None:
    """Let go of a run's process, which has ended unless the wait for it was cut short."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        with _guard:
            _children[sweep].discard(process)


def stop(sweep: str, number: int) -> int:
    """Send a signal to the runs of a sweep that this process has started and start no more of them; 0 only counts.

    Returns how many of them are at work.
    """
    with _guard:
        if number:
            _stopped.add(sweep)
        alive = [process for process in _children[sweep] if process.poll() is None]
        for process in alive if number else []:
            process.send_signal(number)
    return len(alive)


@contextlib.contextmanager
def _environment(job: Job, site: Site) -> Iterator[dict[str, str]]:
    """The variables of a run's process: where its results go, its threads, its GPU."""
    found = {name: value for name, value in os.environ.items() if name != runs.FOLDER} | {runs.RESULTS: str(site.results)}
    if job.threads:
        found.setdefault("OMP_NUM_THREADS", str(job.threads))
    if not job.gpu:
        yield found
        return
    with _guard:
        slot = next(slot for slot in range(len(_slots) + 1) if slot not in _slots)
        _slots.add(slot)
    try:
        yield found | _gpu(slot)
    finally:
        _slots.discard(slot)


def _gpu(slot: int) -> dict[str, str]:
    """The GPU of a slot, among those that this process may see; more slots than GPUs share them."""
    set_here = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = [word for word in set_here.split(",") if word] if set_here is not None else [str(i) for i in range(len(provenance.gpus()))]
    return {"CUDA_VISIBLE_DEVICES": visible[slot % len(visible)]} if visible else {}


# --- without a shared disk --------------------------------------------------------------------------------------------


def _unpack(job: Job) -> Site:
    """A folder of this sweep on this machine, with the notebook and its presets; only its owner can look into it."""
    folder = Path(tempfile.gettempdir()) / f"harness-{getattr(os, 'getuid', int)()}-{job.sweep}"
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
