"""A child that does not outlive its parent: a kernel whose launcher was killed must not go on writing."""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
_forks: list[int] = [0]  # who forked last: a fresh child cannot ask for the parent that may be gone already


def _remember() -> None:
    _forks[0] = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_remember)


def die_with_parent() -> None:
    """Have the kernel kill this process (SIGKILL) when its parent ends; at once where it has ended already.

    For ``subprocess.Popen(…, preexec_fn=die_with_parent)`` or inside the child itself. Does nothing but on Linux, where
    the parent is, to be exact, the thread that started the child (prctl(2), PR_SET_PDEATHSIG): that thread must live on.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    parent = _forks[0] if _forks[0] not in (0, os.getpid()) else os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
