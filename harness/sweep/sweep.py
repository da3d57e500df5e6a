"""``harness sweep``: one notebook over a grid of settings, on any ``concurrent.futures`` executor."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import params, progress, runs
from harness.errors import HarnessError
from harness.forecast import costs
from harness.runs import folders, notebooks, scan
from harness.sweep import board, executors, grid, job, parcel, process
from harness.sweep.job import COMPLETE, FAILED, REUSED, STOPPED, Job, Outcome, Site

if TYPE_CHECKING:
    from harness.runs.launch import Plan

AGAIN = 3  # times that a run is sent again after Dask has given it up: Dask counts the deaths of a worker against all that was queued there
KEPT = ".sweeps"  # in the folder of runs, hidden, so that nobody takes it for a run
QUIET = 30.0  # seconds without a line before one says how many are at work
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
Done = Callable[[Outcome], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness sweep``."""
    parser.add_argument("notebook", type=Path, help="the .ipynb file")
    parser.add_argument("--grid", type=Path, required=True, help="YAML: `parameter: [values]`, or a list of rows; `preset:` in either")
    parser.add_argument("--executor", default="process", help=f"where the runs are worked off: {executors.KINDS} (default: process)")
    parser.add_argument("--workers", type=int, default=0, help="runs at once (default: one for each GPU, or for each two cores; slurm: 64 jobs)")
    parser.add_argument("--gpu-slots", type=int, default=0, help="runs that use the GPUs of one machine at once, each given one of them")
    parser.add_argument("--option", action="append", default=[], metavar="name=value",
                        help="slurm: a parameter of submitit, e.g. slurm_partition=gpu or timeout_min=240; may be repeated")
    parser.add_argument("--no-shared-disk", action="store_true", help="bring results back through the executor even where the disk seems shared")
    parser.add_argument("--price", type=float, metavar="PER_HOUR", help="what an hour of a machine costs (default: $HARNESS_PRICE_PER_HOUR there); "
                        "rows that run at the same time each count the whole machine")
    parser.add_argument("--dry-run", action="store_true", help="check every row, say what would run, start nothing")
    parser.epilog = (f"Runs lie in $HARNESS_RESULTS, else in results/runs of the notebook's project; the table, the grid and the logs in {KEPT}/ inside "
                     "that folder. Rows whose run is finished there are reused.")


def main(args: argparse.Namespace) -> int:
    """Run every row of a grid and print one table; 0 only when all are complete, 130 after Ctrl-C."""
    choice = executors.read(args.executor, args.workers, args.gpu_slots, _options(args.option))
    if choice.kind == "process":  # before the rows are planned: threads belong to a run's identity
        os.environ.setdefault("OMP_NUM_THREADS", str(choice.threads))
    notebooks.read(args.notebook)  # what is wrong with it is no row's fault
    rows = grid.read(args.grid)
    plans = grid.plans(args.grid, args.notebook, rows)
    sweep = Sweep(plans, rows, runs.results(args.notebook), args.grid, costs.price(args.price) if args.price is not None else None)
    _check_place(sweep.folder)
    sweep.say_what()
    if args.dry_run:
        return 0
    try:
        sweep.run(choice, shared=not args.no_shared_disk)
    except KeyboardInterrupt:
        sweep.finish()
        print("stopped; finished runs stay finished, and the same command goes on with the others", file=sys.stderr)
        return 130
    return sweep.finish()


def _options(words: Sequence[str]) -> dict[str, Any]:
    import yaml

    try:
        return {name: yaml.safe_load(value) for name, value in params.assignments(words).items()}
    except yaml.YAMLError as error:
        raise HarnessError(f"--option {' '.join(words)}: not values that can be read: {' '.join(str(error).split())}") from error


def _check_place(folder: Path) -> None:
    """Raise HarnessError where a folder cannot be made, before any row fails of it; makes nothing."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written to" if there.is_dir() else "is not a folder"
        raise HarnessError(f"{there}: {what}, so a sweep cannot keep its runs and logs in {folder}; set {runs.RESULTS} to a folder of yours")


class Sweep:
    """A grid's runs: what is planned, what came out, and the folder that keeps the table and the logs."""

    def __init__(self, plans: Sequence[Plan], rows: Sequence[grid.Row], results: Path, source: Path, price: float | None = None) -> None:
        self.plans = {row.number: plan for row, plan in zip(rows, plans)}
        self.results, self.notebook, self.source, self.grid = results, plans[0].notebook, source, source.read_bytes()
        self.varying, self.price = grid.varying(plans), price
        named = json.dumps([[plan.preset, plan.resolved] for plan in plans], sort_keys=True)
        self.folder = results / KEPT / f"{self.notebook.name}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
        self.outcomes = {number: Outcome(number, REUSED, plan.folder.name) for number, plan in self.plans.items() if runs.is_finished(plan.folder)}
        self._words = {number: words(plan) for number, plan in self.plans.items()}
        self._show = progress.printer(every=0.0)

    def say_what(self) -> None:
        """Print what the sweep is made of: rows, presets, what is finished already."""
        print(f"{self.source}: {len(self.plans)} runs of {self.notebook.path}, {len(self.outcomes)} finished already")
        for preset, why in dict.fromkeys((plan.preset or "none", plan.preset_why) for plan in self.plans.values()):
            print(f"  preset {preset}: {why}")
        for number, plan in self.plans.items():
            print(f"  {number}  {self._settings(number)}  {plan.folder.name}" + ("  finished already" if number in self.outcomes else ""))

    def run(self, choice: executors.Choice, shared: bool = True) -> None:
        """Run what is not finished, each outcome kept as it comes. ``shared``: workers may see this disk."""
        left = [number for number in self.plans if number not in self.outcomes]
        if not left:
            return
        name = secrets.token_hex(8)
        with executors.start(choice, self.folder) as executor, _marked(self.results, name if shared else "") as mark:
            known = self._known() if choice.kind == "dask" else {}
            jobs = [self._job(number, name, mark, known, choice.gpu_slots > 0) for number in left]
            work_off(jobs, executor, self._keep, lambda at_work: self._event({"at work": at_work}))

    def finish(self) -> int:
        """Write and print the table; 0 when every run is complete."""
        outcomes = [self.outcomes.get(number) or self._settled(number) for number in self.plans]
        found = board.Board(self.results, self.varying, {number: plan.resolved for number, plan in self.plans.items()}, outcomes)
        kept = found.write(self.folder / "table.csv")
        parcel.write(self.folder / "grid.yaml", self.grid)
        print(f"\n{found.text()}\n\ntable: {kept}")
        for each in outcomes:
            if each.status in (FAILED, STOPPED):
                log = self.folder / "logs" / f"{each.number}.log"
                print(f"row {each.number} {each.status}: {each.reason}" + (f" (log: {log})" if log.is_file() else ""), file=sys.stderr)
        return int(any(each.status not in (COMPLETE, REUSED) for each in outcomes))

    def _job(self, number: int, name: str, mark: str, known: Mapping[str, str], gpu: bool) -> Job:
        plan, path = self.plans[number], self.notebook.path.resolve()
        files = {path.name: path.read_bytes()} | {f"presets/{each.name}": each.read_bytes() for each in self.notebook.presets().values()}
        site = Site(path, self.results, self.folder / "logs", Path.cwd(), mark)
        return Job(self.folder.name, name, number, site, files, plan.preset, plan.given, self._words[number], plan.facts, known, gpu, price=self.price)

    def _known(self) -> dict[str, str]:
        """Finished runs of this notebook by id: a worker of another kind knows better than we what its runs are called."""
        found = scan.runs(self.results, self.notebook.name)
        return {facts["id"]: folder.name for folder, facts in found if folders.is_complete(folder)}

    def _keep(self, outcome: Outcome) -> None:
        """Keep one outcome; a run that came in the mail is laid into the results first."""
        if outcome.data is not None:
            outcome = self._unpacked(outcome)
        log = self.folder / "logs" / f"{outcome.number}.log"
        if outcome.log and not log.exists():
            parcel.write(log, outcome.log.encode())
        self.outcomes[outcome.number] = outcome
        why = {"because": outcome.reason} if outcome.reason else {}
        self._event({f"row {outcome.number}": outcome.status, "with": self._settings(outcome.number), **why})

    def _unpacked(self, outcome: Outcome) -> Outcome:
        try:
            folder = parcel.unpack(outcome.data or b"", outcome.folder, self.results)
            return dataclasses.replace(outcome, folder=folder.name, data=None)
        except HarnessError as error:
            return dataclasses.replace(outcome, status=FAILED, reason=str(error), folder="", data=None)

    def _settled(self, number: int) -> Outcome:
        """A row of which nothing was heard again: complete after all if its manifest says so."""
        folder = self.plans[number].folder
        with contextlib.suppress(HarnessError):  # a broken manifest is no word of success
            if folders.is_complete(folder):
                return Outcome(number, COMPLETE, folder.name)
        return Outcome(number, STOPPED, folder.name if folder.is_dir() else "", "not finished when the sweep was stopped")

    def _event(self, facts: Mapping[str, Any]) -> None:
        self._show({"stage": "sweep", "step": len(self.outcomes), "of": len(self.plans), **facts})

    def _settings(self, number: int) -> str:
        return " ".join(f"{name}={self.plans[number].resolved[name]}" for name in self.varying) or "the notebook as it is"


def words(plan: Plan) -> tuple[str, ...]:
    """A row's settings as ``-p`` takes them; raises HarnessError for a value that would not arrive as it is."""
    found = tuple(f"{name}={_text(plan.resolved[name])}" for name in plan.given)
    settings = params.read_preset(plan.notebook.presets()[plan.preset], plan.notebook.parameters) if plan.preset else {}
    arrived = runs.resolve(plan.notebook, settings, params.assignments(found))
    for name in plan.given:
        if arrived[name] != plan.resolved[name]:
            raise HarnessError(f"`{name}`: {plan.resolved[name]!r} would arrive as {arrived[name]!r} on a command line; "
                               "put this value into a preset and sweep over presets")
    return found


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@contextlib.contextmanager
def _marked(results: Path, name: str) -> Iterator[str]:
    """A file in the results by which a worker knows that it sees this disk; its name, or "" without one."""
    mark = results / f".sweep-{name}"
    if name:
        parcel.write(mark, b"")
    try:
        yield mark.name if name else ""
    finally:
        mark.unlink(missing_ok=True)


# --- any executor -----------------------------------------------------------------------------------------------------


def work_off(jobs: Iterable[Job], executor: concurrent.futures.Executor, done: Done, quiet: Callable[[int], None] = lambda at_work: None) -> None:
    """Run jobs on an executor; ``done`` is called with each outcome as it comes, ``quiet`` with how many are at work now and then.

    On Ctrl-C those at work are stopped, and KeyboardInterrupt is raised when they have ended.
    """
    sent: Counter[int] = Counter()
    waiting = {executor.submit(job.run, each): each for each in jobs}
    names = {each.sweep for each in waiting.values()}
    heard = time.monotonic()
    try:
        while waiting:
            ready, _ = concurrent.futures.wait(waiting, timeout=1.0, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in ready:
                each = waiting.pop(future)
                sent[each.number] += 1
                if _is_lost(future) and sent[each.number] <= AGAIN:
                    waiting[executor.submit(job.run, each)] = each
                else:
                    done(_outcome(future, each))
            heard = time.monotonic() if ready else heard
            if time.monotonic() - heard > QUIET:
                quiet(sum(_stop(executor, name, 0) for name in names))
                heard = time.monotonic()
    except KeyboardInterrupt:
        _end(executor, names, waiting, done)
        raise


def _is_lost(future: concurrent.futures.Future[Outcome]) -> bool:
    """Whether Dask gave a run up because the workers that it was queued on have died."""
    return not future.cancelled() and type(future.exception()).__name__ == "KilledWorker"


def _outcome(future: concurrent.futures.Future[Outcome], each: Job) -> Outcome:
    if future.cancelled():
        return Outcome(each.number, STOPPED, reason="given up by the executor; the same command goes on from what was finished")
    error = future.exception()
    if error is None:
        return future.result()
    told = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    return Outcome(each.number, FAILED, reason=f"{type(error).__name__}: {told[-1].strip()[:500]}")


def _stop(executor: concurrent.futures.Executor, name: str, number: int) -> int:
    stop = getattr(executor, "stop", None)
    return stop(name, number) if stop else 0


def _end(executor: concurrent.futures.Executor, names: Iterable[str], waiting: Mapping[Any, Job], done: Done) -> None:
    """Cancel what has not begun, interrupt what is at work, kill what does not end (at once on a second Ctrl-C)."""
    for future in waiting:
        future.cancel()
    with contextlib.suppress(KeyboardInterrupt):
        until = time.monotonic() + process.GRACE
        at_work = sum(_stop(executor, name, signal.SIGINT) for name in names)
        while at_work and time.monotonic() < until:
            time.sleep(0.2)
            at_work = sum(_stop(executor, name, 0) for name in names)
    for name in names:
        _stop(executor, name, KILL)
    ready, _ = concurrent.futures.wait([future for future in waiting if not future.cancelled()], timeout=5.0)
    for future in ready:
        done(_outcome(future, waiting[future]))
