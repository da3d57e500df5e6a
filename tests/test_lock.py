"""One process at a time in a run's folder, whoever dies and however; and no child outlives its parent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import HarnessError, Refused
from harness.runs import lock

HOLD = """
import subprocess, sys, time
from pathlib import Path
from harness.runs import child, lock
with lock.hold(Path(sys.argv[1])) as descriptor:
    heir = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,)) if sys.argv[2] == "heir" else None
    bound = subprocess.Popen(["sleep", "60"], preexec_fn=child.die_with_parent)
    print(heir.pid if heir else 0, bound.pid, flush=True)
    time.sleep(60)
"""
ADD = """
import sys
from pathlib import Path
from harness.runs import lock
folder, count = Path(sys.argv[1]), Path(sys.argv[1] + ".count")
for _ in range(80):
    with lock.hold(folder, wait=30):
        count.write_text(str(int(count.read_text()) + 1))
"""
posix = pytest.mark.skipif(os.name == "nt", reason="signals and inherited descriptors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results" / "nb-0123456789ab"


@pytest.fixture
def holder(folder: Path) -> Iterator[list[subprocess.Popen]]:
    """Processes that a test started, ended after it."""
    found: list[subprocess.Popen] = []
    yield found
    for process in found:
        process.kill()
        process.wait()


def held(folder: Path, holder: list[subprocess.Popen], how: str) -> tuple[subprocess.Popen, int, int]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True)
    holder.append(process)
    heir, bound = map(int, process.stdout.readline().split())
    return process, heir, bound


def test_a_second_holder_is_refused_by_name_and_nothing_stays_behind(folder: Path) -> None:
    with lock.hold(folder):
        with pytest.raises(Refused, match=rf"{folder.name}.*at work in process {os.getpid()} on"), lock.hold(folder):
            pass
        assert lock.file(folder).exists()
        with lock.hold(folder.with_name("another")):
            pass
    assert list(folder.parent.iterdir()) == []
    with lock.hold(folder):
        pass


def test_waiting_ends_when_the_holder_lets_go(folder: Path) -> None:
    free, begun = threading.Event(), threading.Event()

    def other() -> None:
        with lock.hold(folder):
            begun.set()
            free.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(10)
    threading.Timer(0.3, free.set).start()
    started = time.monotonic()
    with lock.hold(folder, wait=10):
        assert 0.2 < time.monotonic() - started < 5
    thread.join()


@posix
def test_a_killed_holder_holds_nothing_and_its_child_dies_with_it(folder: Path, holder: list[subprocess.Popen]) -> None:
    process, _, bound = held(folder, holder, "alone")
    with pytest.raises(Refused, match=f"process {process.pid} "), lock.hold(folder):
        pass
    process.kill()
    process.wait()
    with lock.hold(folder, wait=5):
        assert is_gone(bound)


@posix
def test_a_child_that_inherited_the_lock_keeps_it_when_its_parent_is_killed(folder: Path, holder: list[subprocess.Popen]) -> None:
    process, heir, _ = held(folder, holder, "heir")
    process.kill()
    process.wait()
    with pytest.raises(Refused), lock.hold(folder, wait=0.3):
        pass
    os.kill(heir, 9)
    with lock.hold(folder, wait=5):
        pass


def is_gone(pid: int) -> bool:
    import psutil

    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can promise it")
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from harness.runs import child; child._forks[0] = 4194304; child.die_with_parent(); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9 and not done.stdout


def test_a_process_with_a_parent_lives_on() -> None:
    code = "import subprocess; from harness.runs import child; subprocess.run(['true']); child.die_with_parent(); print('alive')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "alive\n"


def test_three_processes_never_hold_it_together(folder: Path) -> None:
    count = Path(f"{folder}.count")
    count.parent.mkdir()
    count.write_text("0")
    adders = [subprocess.Popen([sys.executable, "-c", ADD, str(folder)]) for _ in range(3)]
    assert [adder.wait() for adder in adders] == [0, 0, 0]
    assert count.read_text() == "240" and list(folder.parent.iterdir()) == [count]


def test_a_file_that_was_removed_meanwhile_is_not_the_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder before us removed the file between our opening and our locking it."""
    path, real, removed = lock.file(folder), lock._try, []

    def slow(descriptor: int) -> bool:
        if not removed:
            removed.append(path.unlink())
        return real(descriptor)

    monkeypatch.setattr(lock, "_try", slow)
    with lock.hold(folder) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())


@posix
def test_a_drive_without_locks_is_locked_in_the_temporary_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if lock.file(folder).exists() and os.path.samestat(os.fstat(descriptor), lock.file(folder).stat()):
            raise OSError(errno.ENOLCK, "No locks available")
        real(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.hold(folder), pytest.raises(Refused, match="at work"), lock.hold(folder):
        pass
    assert list(folder.parent.iterdir()) == []


def test_a_place_where_no_lock_can_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot lock .*choose another folder"), lock.hold(tmp_path / "file" / "run"):
        pass
