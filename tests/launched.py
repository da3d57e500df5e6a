"""Notebooks that tests write and run, and where their runs lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import cli, runs
from harness.runs import identity, launch, manifest, notebooks

PARAMETERS = 'steps: int = 2  # how many steps\nrate: float = 1e-4  # learning rate\nflag: bool = True  # a switch\nseed: int = 7  # the seed\ndata: str = ""  # a folder'
START = "from harness import runs\nrun = runs.start({name!r}, dict(steps=steps, rate=rate, flag=flag, seed=seed, data=data))"
FINISH = '(run.folder / "report.html").write_text("<p>report</p>")\nrun.finish({"report": run.folder / "report.html"})'


def cell(source: str, kind: str = "code", **metadata: Any) -> dict[str, Any]:
    """One cell as it stands in a file."""
    extra = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "metadata": metadata, "source": source, **extra}


def write_notebook(folder: Path, name: str, *sources: str, parameters: str = PARAMETERS, tags: tuple[str, ...] = ("parameters",), **harness: Any) -> Path:
    """A notebook of these cells; ``harness`` are its metadata of that name."""
    cells = [cell("# A title\n\n**Question.** Does it *run*?", "markdown"), cell(parameters, tags=list(tags)), *map(cell, sources)]
    path = folder / f"{name}.ipynb"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "harness": harness}
    path.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}))
    return path


def story(folder: Path, name: str, *middle: str, finish: str = FINISH, **harness: Any) -> Path:
    """A notebook that starts a run, does something, and finishes."""
    return write_notebook(folder, name, START.format(name=name), *middle, finish, **harness)


def run(path: Path, *words: str) -> int:
    """``harness run`` in this process."""
    return cli.main(["run", str(path), *words])


def only(results: Path) -> dict[str, Any]:
    """The manifest of the only run."""
    (found,) = results.glob(f"*/{manifest.NAME}")
    return manifest.read(found.parent)


def folders(results: Path) -> list[Path]:
    """The folders of all runs, by name."""
    return sorted(found.parent for found in results.glob(f"*/{manifest.NAME}"))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs of a test lie; the code's hash stands still, so that editing while testing does not make runs new."""
    monkeypatch.setenv(runs.RESULTS, str(tmp_path / "results"))
    monkeypatch.setattr(identity, "code", lambda notebook: {"harness/a.py": "1"})
    return tmp_path / "results"


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a kernel: a run that starts, writes a report and finishes at once."""
    def pretend(source: notebooks.Notebook, saved: Path, parameters: dict[str, Any], environment: dict[str, str], lock: int) -> None:
        os.environ.update(environment)
        started = runs.start(source.name, parameters)
        del os.environ[runs.FOLDER]
        (started.folder / "report.html").write_text("<p>report</p>")
        started.finish([started.folder / "report.html"])
        saved.write_text(source.path.read_text())

    monkeypatch.setattr(launch, "_papermill", pretend)


@pytest.fixture
def made(tmp_path: Path, results: Path, no_kernel: None) -> Path:
    """A notebook with one finished run that no kernel was started for."""
    path = story(tmp_path, "nb")
    assert run(path) == 0
    return path
