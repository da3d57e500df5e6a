"""`harness train`: a fine-tune in processes of its own, one or several, on CPUs or GPUs.

What is to be done stands in one file, which every process reads. A single process is started as it is, several by
`accelerate launch`'s own launcher (torch's elastic one). They are never forked from the caller, and do not outlive it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import progress as showing
from harness.errors import HarnessError, Refused
from harness.finetune.jobs import RECIPES, Job, work
from harness.images import atomic_write
from harness.runs.child import die_with_parent

if TYPE_CHECKING:
    from harness.finetune.adapter import Adapter
    from harness.finetune.settings import Training

FILE, TAIL = "launch.json", 40
SHOWN = "\x1eharness "
"""what a line with an event begins with, in front of its JSON"""


def launch(recipe: str, how: Training, model: str | Path, images: Path, ledger: Path, out: Path, processes: int = 1,
           progress: Callable[[dict], None] | None = None, **more: Any) -> Adapter:
    """Train in processes of their own and open the result; `more` are fields of `Job`.

    Pictures, consent and settings are read by every process from the file `launch.json` in `out`; the first one writes and tells.
    The same call goes on where it stopped. Raises what the recipe raises, and HarnessError for processes that died.
    """
    from harness.finetune.adapter import Adapter

    if type(how).__name__ != RECIPES.get(recipe, ("", ""))[1]:
        raise HarnessError(f"recipe {recipe!r} does not go with settings of {type(how).__name__}; there are {', '.join(RECIPES)}.")
    job = Job(recipe, asdict(how), str(model), str(Path(images).resolve()), str(Path(ledger).resolve()), str(Path(out).resolve()), **more)
    run(job, processes, progress or showing.printer())
    return Adapter.open(Path(out))


def run(job: Job, processes: int, progress: Callable[[dict], None]) -> None:
    """Start the processes, relay their progress, and wait; raises as `launch` does. Ctrl-C and any error stop them all."""
    if processes < 1:
        raise HarnessError(f"processes must be at least 1, not {processes}.")
    job.how()
    path = atomic_write(Path(job.out) / FILE, json.dumps(asdict(job), indent=2, sort_keys=True) + "\n")
    words, environment = command(path, processes), surroundings(processes, job.on_cpu)
    child = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
                             stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent if os.name == "posix" else None)
    try:
        failed, tail = _relay(child, progress)
        code = child.wait()
    except BaseException:
        _stop(child)
        raise
    if failed:
        raise {"Refused": Refused}.get(failed["kind"], HarnessError)(failed["error"])
    if code:
        how_it_ended = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        raise HarnessError(f"the training in {job.out} {how_it_ended}; the same call goes on from its last checkpoint. Its last lines: " + " | ".join(tail))


def command(path: Path, processes: int) -> list[str]:
    """The command line: one process as it is, several by `accelerate launch`.

    Its launcher for GPUs is torch's own and needs none; the one that it has for CPUs would need MPI.
    """
    module = ["-m", "harness.finetune.launch", str(path)]
    if processes == 1:
        return [sys.executable, *module]
    options = ["--multi_gpu", "--num_machines=1", f"--num_processes={processes}", "--mixed_precision=no", "--dynamo_backend=no",
               f"--main_process_port={free_port()}"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *module]


def surroundings(processes: int, cpu: bool) -> dict[str, str]:
    """Environment of the processes: cores shared out among them, progress in lines at once, and no other launcher's settings."""
    inherited = {name: value for name, value in os.environ.items()
                 if not name.startswith(("ACCELERATE_", "TORCHELASTIC_")) and name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // processes))
    cpus = {"ACCELERATE_USE_CPU": "true"} if cpu else {}
    return {**inherited, **cpus, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", "HARNESS_LAUNCHED": str(processes)}


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _relay(child: subprocess.Popen[str], progress: Callable[[dict], None]) -> tuple[dict[str, str] | None, list[str]]:
    """Progress events to the callback; the error that a process told of, and the last other lines."""
    failed, tail = None, deque[str](maxlen=TAIL)
    for line in child.stdout or ():
        if not line.startswith(SHOWN):
            tail += [line.strip()] if line.strip() else []
            continue
        event = json.loads(line[len(SHOWN):])
        if "error" in event:
            failed = failed or event
        else:
            progress(event)
    return failed, list(tail)[-5:]


def _stop(child: subprocess.Popen[str]) -> None:
    """Ask the whole group to stop, and insist after a while."""
    for number, patience in ((signal.SIGINT, 15), (signal.SIGKILL if os.name == "posix" else signal.SIGTERM, 15)):
        try:
            os.killpg(child.pid, number) if os.name == "posix" else child.terminate()
            child.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


# --- in the processes ---------------------------------------------------------------------------------------------------


def _tell(event: Mapping[str, Any]) -> None:
    sys.stdout.write(f"{SHOWN}{json.dumps(dict(event), default=str)}\n")  # at once, so that lines of several processes do not mix


def _child(path: Path) -> int:
    """The life of one process: read the job, do it, and say what went wrong in a form that the launcher reads."""
    die_with_parent()
    first = os.environ.get("RANK", "0") == "0"
    try:
        work(Job(**json.loads(path.read_text(encoding="utf-8"))), _tell if first else showing.silent)
    except HarnessError as error:
        _tell({"error": str(error), "kind": type(error).__name__})
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        _leave()
    return 0


def _leave() -> None:
    """Take leave of the other processes."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(_child(Path(sys.argv[1])))
