"""Where the runs of a sweep are worked off: processes here, Dask, Slurm. Each is a ``concurrent.futures`` executor.

Beyond that interface each has ``stop(sweep, signal)``, because a future that is running cannot be cancelled.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError
from harness.sweep import process

KINDS = "process, dask, dask=ADDRESS, slurm, slurm=local"
POLL = 0.5  # seconds between two looks at a Slurm job's state
CONNECT = 20.0  # seconds to reach a Dask scheduler
MINUTES = 24 * 60  # how long a Slurm job may take, unless an option says otherwise


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which executor, as the command line names it."""

    kind: str
    """process, dask or slurm"""
    where: str
    """a Dask scheduler's address, or "local" for Slurm's stand-in on this machine"""
    workers: int
    """runs at once; 0: as fits"""
    gpu_slots: int
    """runs that share the GPUs of one machine, each given one; 0: GPUs are left as they are"""
    options: Mapping[str, Any]
    """submitit's parameters, for Slurm"""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.gpu_slots < 0:
            raise HarnessError(f"--workers {self.workers} --gpu-slots {self.gpu_slots}: neither can be less than 0")
        if self.kind not in ("process", "dask", "slurm") or self.kind == "slurm" and self.where not in ("", "local") \
                or self.kind == "process" and self.where:
            raise HarnessError(f"--executor {self.kind}{'=' + self.where if self.where else ''}: there is no such executor; there are {KINDS}")
        if self.kind == "dask" and self.where and self.workers:
            raise HarnessError(f"--workers {self.workers}: the workers of {self.where} decide how many run at once; leave it out")
        if self.kind != "slurm" and self.workers > self.gpu_slots > 0:
            raise HarnessError(f"--workers {self.workers} is more than --gpu-slots {self.gpu_slots}: a run without a slot could not start; leave one out")
        if self.options and self.kind != "slurm":
            raise HarnessError(f"--option {next(iter(self.options))}: only --executor slurm takes options")

    @property
    def at_once(self) -> int:
        """How many runs this machine works on at once, where it does the work itself."""
        return self.workers or self.gpu_slots or len(provenance.gpus()) or max(1, _cores() // 2)

    @property
    def threads(self) -> int:
        """How many threads each of these runs may use without being in the others' way."""
        return max(1, _cores() // self.at_once)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(word: str, workers: int = 0, gpu_slots: int = 0, options: Mapping[str, Any] | None = None) -> Choice:
    """The choice that ``--executor WORD`` makes; raises HarnessError for one that does not exist."""
    kind, _, where = word.partition("=")
    return Choice(kind, where, workers, gpu_slots, options or {})


@contextlib.contextmanager
def start(choice: Choice, folder: Path) -> Iterator[concurrent.futures.Executor]:
    """The executor, ready; ``folder`` is where Slurm jobs keep their files. What was started here ends with it."""
    opened = {"process": _processes, "dask": _dask, "slurm": _slurm}[choice.kind]
    with opened(choice, folder) as executor:
        yield executor


class Processes(concurrent.futures.ThreadPoolExecutor):
    """Runs on this machine. Each is a process of its own, and dies with this one; a thread does no more than wait for it."""

    def stop(self, sweep: str, number: int) -> int:
        """Send a signal to the runs of a sweep (0 only counts); returns how many are at work."""
        return process.stop(sweep, number)


@contextlib.contextmanager
def _processes(choice: Choice, folder: Path) -> Iterator[Processes]:
    with Processes(choice.at_once) as executor:
        yield executor


# --- Dask -------------------------------------------------------------------------------------------------------------


class Dask(concurrent.futures.Executor):
    """Runs on the workers of a Dask cluster; one that dies has its runs started again on another."""

    def __init__(self, client: Any, gpu: bool) -> None:
        self._client = client
        self._inner = client.get_executor(pure=False, **({"resources": {"GPU": 1}} if gpu else {}))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """As in ``concurrent.futures``."""
        return self._inner.submit(fn, *args, **kwargs)

    def stop(self, sweep: str, number: int) -> int:
        """Send a signal to the runs of a sweep on every worker (0 only counts); returns how many are at work."""
        found = self._client.run(process.stop, sweep, number, on_error="ignore")
        return sum(count for count in found.values() if isinstance(count, int))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in ``concurrent.futures``."""
        self._inner.shutdown(wait=wait and not cancel_futures)


@contextlib.contextmanager
def _dask(choice: Choice, folder: Path) -> Iterator[Dask]:
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(choice, stack))
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if choice.gpu_slots and workers and not any(worker["resources"].get("GPU") for worker in workers):
            raise HarnessError(f"{choice.where}: none of its {len(workers)} workers offers a GPU; start them with `--resources GPU=1`, "
                               "or leave --gpu-slots out")
        places = sum(int(worker["resources"].get("GPU", 0)) if choice.gpu_slots else worker["nthreads"] for worker in workers)
        print(f"Dask at {client.scheduler.address}: {len(workers)} workers, {places} runs at once" + ("" if workers else "; waiting for workers"))
        yield Dask(client, gpu=choice.gpu_slots > 0)


def _client(choice: Choice, stack: contextlib.ExitStack) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise HarnessError("--executor dask needs the package `distributed`: python -m pip install -e '.[cluster]' in the checkout") from error
    try:
        address = choice.where or stack.enter_context(_cluster(choice))
        return distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise HarnessError(f"--executor dask={choice.where}: no Dask scheduler answers there ({str(error).strip() or type(error).__name__}); "
                           "give its address as `dask scheduler` prints it, tcp://HOST:8786") from error


def _cluster(choice: Choice) -> Any:
    import distributed

    if choice.gpu_slots:  # one process, so that no two runs are given the same GPU
        shape = {"n_workers": 1, "threads_per_worker": choice.at_once, "resources": {"GPU": choice.gpu_slots}}
    else:
        shape = {"n_workers": choice.at_once, "threads_per_worker": 1}
    return distributed.LocalCluster(**shape, host="127.0.0.1", dashboard_address=None)


# --- Slurm ------------------------------------------------------------------------------------------------------------


class Again:
    """A call that submitit may make again when Slurm stops its job: a run goes on from what it has finished."""

    def __init__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs

    def __call__(self) -> Any:
        """Make the call."""
        return self.fn(*self.args, **self.kwargs)

    def checkpoint(self) -> Any:
        """What submitit submits again, after a time limit or a preemption."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm(concurrent.futures.ThreadPoolExecutor):
    """Runs as Slurm jobs through submitit; a thread submits each job and waits for it, so there are never more than asked for."""

    def __init__(self, executor: Any, workers: int) -> None:
        super().__init__(workers)
        self._executor, self._jobs, self._guard, self._stopped = executor, [], threading.Lock(), False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """As in ``concurrent.futures``."""
        return super().submit(self._through, Again(fn, *args, **kwargs))

    def _through(self, call: Again) -> Any:
        with self._guard:  # submitit's executors are not made for several threads
            if self._stopped:
                raise HarnessError("stopped before it was submitted")
            submitted = self._executor.submit(call)
            self._jobs.append(submitted)
        while not submitted.done():
            time.sleep(POLL)
        if self._stopped and not submitted.paths.result_pickle.exists():
            raise HarnessError("stopped; the same command goes on from what was finished")  # submitit would wait for a result
        return submitted.result()

    def stop(self, sweep: str, number: int) -> int:
        """Cancel the jobs (0 only counts); returns how many are at work."""
        with self._guard:
            alive = [each for each in self._jobs if not each.done()]
            self._stopped = self._stopped or number != 0
        for each in alive if number == signal.SIGINT else []:  # once: Slurm, and submitit here, kill what does not end
            each.cancel(check=False)
        return len(alive)


@contextlib.contextmanager
def _slurm(choice: Choice, folder: Path) -> Iterator[Slurm]:
    try:
        import submitit
    except ImportError as error:
        raise HarnessError("--executor slurm needs the package `submitit`: python -m pip install -e '.[cluster]' in the checkout") from error
    gpus = {"gpus_per_node": 1} if choice.gpu_slots else {}
    try:
        executor = submitit.AutoExecutor(folder / "slurm", cluster=choice.where or "slurm")
        executor.update_parameters(**{"timeout_min": MINUTES, "name": "harness", **gpus, **choice.options})
    except (RuntimeError, NameError, ValueError, AssertionError) as error:
        raise HarnessError(f"--executor slurm: {' '.join(str(error).split())[:300]}; run it where `sbatch` is, or try slurm=local") from error
    with Slurm(executor, choice.workers or (choice.at_once if choice.where else 64)) as pool:
        yield pool
