"""What every test stands on: one core, no network, its own caches, no settings of the person who runs it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

TMP = Path(tempfile.mkdtemp(prefix="likeness-tests-"))
# Set before torch or the hub are first imported, hence not in a fixture; kernels and commands under test inherit it.
os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HOME=str(TMP / "hub"), XDG_CACHE_HOME=str(TMP / "cache"), MPLBACKEND="Agg", MPLCONFIGDIR=str(TMP / "matplotlib"), IPYTHONDIR=str(TMP / "ipython"),
    HARNESS_KEY=str(TMP / "key.pem"), HARNESS_KEPT=str(TMP / "kept.json"),
)
os.environ["COLUMNS"] = "200"  # tables are as wide as the terminal, and a test has none
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C, and their children would too
for name in ("HARNESS_RUN", "HARNESS_RESULTS"):
    os.environ.pop(name, None)

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionfinish() -> None:
    """Leave nothing behind."""
    shutil.rmtree(TMP, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where torch sees no CUDA device; torch is asked only when there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def session_tmp() -> Iterator[Path]:
    """A folder that lives as long as the session."""
    yield TMP
