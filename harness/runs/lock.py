"""One process at a time in a run's folder: a lock that the operating system takes back when its holder dies.

The lock is an advisory flock(2) on a hidden file beside the folder. It belongs to the open file and not to the process,
so a kernel that inherits the descriptor keeps the folder locked even after its launcher was killed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError, Refused

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
NOT_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)  # some mounted drives have no locks
FAR = 1 << 30  # Windows locks bytes: one far behind the text, which others still want to read
PAUSE = 0.1


@contextmanager
def hold(folder: Path, wait: float = 0.0) -> Iterator[int]:
    """Hold the lock of a run's folder (which need not exist yet); gives the file descriptor, for a child to inherit.

    Raises Refused, naming the holder, when the lock does not come free within ``wait`` seconds, and HarnessError where no
    lock file can be made. On a drive without locks the file lies in the folder for temporary files of this machine.
    """
    path = file(folder)
    try:
        descriptor = _take(path, folder, wait)
    except OSError as error:
        if error.errno not in NOT_HERE:
            raise HarnessError(f"cannot lock {folder}: {error.strerror}; choose another folder for the results ($HARNESS_RESULTS)") from error
        path.unlink(missing_ok=True)
        path = Path(tempfile.gettempdir()) / f"harness-{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.lock"
        descriptor = _take(path, folder, wait)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        _clear(path)


def file(folder: Path) -> Path:
    """The lock file of a run's folder."""
    folder = Path(folder).absolute()
    return folder.parent / f".{folder.name}.lock"


def _take(path: Path, folder: Path, wait: float) -> int:
    until = time.monotonic() + wait
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = _try(descriptor)
            if locked and _is_still(path, descriptor):
                os.truncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if locked:
            continue
        if time.monotonic() >= until:
            raise Refused(f"{folder}: this very run is at work in process {_holder(path)}; wait for it, or end it first")
        time.sleep(PAUSE)


def _try(descriptor: int) -> bool:
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return True
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file that is locked now still has the name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"{found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _clear(path: Path) -> None:
    """Remove the file, unless a child that inherited the lock, or somebody else, holds it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            if _try(descriptor) and _is_still(path, descriptor):
                path.unlink()
        finally:
            os.close(descriptor)
