"""The processes of a sweep's runs on this machine: started, logged, stopped, and given a GPU each."""

from __future__ import annotations

import collections
import contextlib
import ctypes  # noqa: F401 - needed between fork and exec, where nothing may be imported
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from harness import provenance
from harness.runs import child

GRACE = 10.0  # seconds between asking a run to stop and killing it
LINGER = 2.0  # seconds to read on after a run has ended: a program that it left in the background may hold the pipe open
TAIL = 200  # lines of the log that are given back
KEY_BEGIN, KEY_END = (re.compile(rf"-----{word} [A-Z ]*PRIVATE KEY-----") for word in ("BEGIN", "END"))
KEY_LINES = 200  # the longest keys in use have less
_guard = threading.Lock()
_children: dict[str, set[subprocess.Popen[bytes]]] = collections.defaultdict(set)
_stopped: set[str] = set()
_slots: set[int] = set()


def run(sweep: str, command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path) -> tuple[int, str]:
    """Run a command of a sweep to its end; returns its exit code and the last lines that it printed.

    It dies with this thread. What it prints is appended to ``log`` as it comes, without secrets.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: collections.deque[str] = collections.deque(maxlen=TAIL)
    with open(log, "a", encoding="utf-8") as file:
        started = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through `stop`, once
            preexec_fn=child.die_with_parent if os.name == "posix" else None,
        )
        reader = threading.Thread(target=_copy, args=(started, file, tail), daemon=True)
        reader.start()
        try:
            _register(sweep, started)
            code = started.wait()
        finally:
            _end(sweep, started)
            reader.join(LINGER)
    return code, "\n".join(tail)


def _copy(started: subprocess.Popen[bytes], file: TextIO, tail: collections.deque[str]) -> None:
    for text in masked(line.decode("utf-8", "replace").rstrip() for line in started.stdout or ()):
        tail.append(text)
        with contextlib.suppress(ValueError):  # the log is closed: only a straggler still prints
            print(text, file=file, flush=True)


def masked(lines: Iterable[str]) -> Iterator[str]:
    """Lines as they come, without secrets; of a private key that goes over several lines only the place is left.

    A key that does not end within ``KEY_LINES`` lines is taken for one that was cut off.
    """
    left = 0
    for line in lines:
        end = KEY_END.search(line) if left else None
        left = 0 if end else max(0, left - 1)
        if left:
            continue
        text = line[end.end():] if end else line
        begun = [found.start() for found in KEY_BEGIN.finditer(text) if not KEY_END.search(text, found.end())]
        left = KEY_LINES if begun else 0
        if text or not end:
            yield provenance.mask(text)


def _register(sweep: str, started: subprocess.Popen[bytes]) -> None:
    with _guard:
        _children[sweep].add(started)
        if sweep in _stopped:
            started.send_signal(signal.SIGINT)


def _end(sweep: str, started: subprocess.Popen[bytes]) -> None:
    """Let go of a process, which has ended unless the wait for it was cut short."""
    try:
        if started.poll() is None:
            started.send_signal(signal.SIGINT)
            started.wait(GRACE)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    finally:
        with _guard:
            _children[sweep].discard(started)


def stop(sweep: str, number: int) -> int:
    """Send a signal to the processes of a sweep that were started here, and start no more of them; 0 only counts.

    Returns how many of them are at work.
    """
    with _guard:
        if number:
            _stopped.add(sweep)
        alive = [each for each in _children[sweep] if each.poll() is None]
        for each in alive if number else []:
            each.send_signal(number)
    return len(alive)


def is_stopped(sweep: str) -> bool:
    """Whether a sweep was stopped here."""
    return sweep in _stopped


@contextlib.contextmanager
def gpu() -> Iterator[dict[str, str]]:
    """A GPU for one run, as ``CUDA_VISIBLE_DEVICES``: the first free one that this process may see; they are shared when all are taken."""
    with _guard:
        slot = next(slot for slot in range(len(_slots) + 1) if slot not in _slots)
        _slots.add(slot)
    try:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [word for word in given.split(",") if word] if given is not None else [str(place) for place in range(len(provenance.gpus()))]
        yield {"CUDA_VISIBLE_DEVICES": visible[slot % len(visible)]} if visible else {}
    finally:
        with _guard:
            _slots.discard(slot)
