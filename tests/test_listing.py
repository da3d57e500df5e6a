"""``harness ls`` on a folder of notebooks and a folder of earlier runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_scan import facts, put

from harness import cli, provenance

PARAMETERS = "steps: int = 100  # training steps\nmodel: str = \"miniature\"  # which model"
SLOW = ("torch", "diffusers", "transformers", "pandas", "papermill", "numpy")


def notebook(path: Path, metadata: dict[str, Any] | None = None, parameters: str = PARAMETERS) -> Path:
    """A notebook with one heading, one question and one parameters cell."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "# A title\n\n**Question:** does it work?"},
             {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters, "outputs": [], "execution_count": None}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"harness": metadata or {}}, "cells": cells}))
    return path


def preset(path: Path, name: str, text: str, command: str = "") -> None:
    where = path.parent / "presets" / f"{path.stem}.{name}.yaml"
    where.parent.mkdir(exist_ok=True)
    where.write_text(f"# harness run notebooks/{path.name} --preset {name}{command}\n{text}\n")


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_PRICE_PER_HOUR", raising=False)
    path = notebook(tmp_path / "notebooks" / "nb.ipynb", {"work": {"train_steps": "steps"}})
    preset(path, "tiny", "steps: 10")
    preset(path, "smoke", "steps: 2")
    preset(path, "t4", "steps: 500", " -p model=FOLDER")
    return path


def row(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.strip().startswith(f"preset {name}"))


def test_it_says_what_a_notebook_asks_takes_and_took_here(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past = facts(parameters={"resolved": {"steps": 10, "model": "miniature"}}, hardware=provenance.hardware(), peak_memory={"host_bytes": 3 << 30})
    for i, seconds in enumerate((100, 120, 150)):
        put(tmp_path / "results" / f"nb-{i}", {**past, "timings": {**past["timings"], "seconds": seconds}})
    assert cli.main(["ls", str(story.parent), "--price", "2"]) == 0
    out = capsys.readouterr().out
    assert "does it work?" in out and "steps: int = 100" in out and "training steps" in out
    assert "2 min 00 s (1 min 20 s to 3 min 08 s), 3.0 GiB of memory" in row(out, "tiny") and "cost 0.067 at 2 an hour" in row(out, "tiny")
    assert "3 earlier runs of these settings" in row(out, "tiny")
    assert "other settings" in row(out, "smoke") and "never run here" not in row(out, "smoke")
    assert "wants -p model=…" in row(out, "t4")


def test_what_never_ran_here_is_said_and_nothing_is_counted(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = facts(parameters={"resolved": {"steps": 10, "model": "miniature"}}, hardware={**provenance.hardware(), "cores": 999})
    put(tmp_path / "results" / "nb-1", elsewhere)
    assert cli.main(["ls", str(story.parent)]) == 0
    assert "never run here" in row(capsys.readouterr().out, "tiny")
    assert not (tmp_path / "cache").exists()


def test_a_broken_notebook_is_named_and_the_others_are_listed(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (story.parent / "a.ipynb").write_text("{")
    notebook(story.parent / "b.ipynb", {"work": {"train_steps": "stepps"}})
    preset(story.parent / "b.ipynb", "tiny", "steps: 3")
    assert cli.main(["ls", str(story.parent)]) == 1
    out, err = capsys.readouterr()
    assert "A title" in out and len(err.strip().split("\n\n")) == 2 and "there is no parameter `stepps`" in err
    assert cli.main(["ls", str(story.parent / "presets")]) == 2
    assert "there are no notebooks here" in capsys.readouterr().err


def test_it_answers_at_once_and_imports_nothing_heavy(story: Path, tmp_path: Path) -> None:
    for i in range(50):
        put(tmp_path / "results" / f"nb-{i}", facts(hardware=provenance.hardware()))
    code = f"import sys; from harness import cli; code = cli.main(['ls', {str(story.parent)!r}]); assert not set({SLOW!r}) & set(sys.modules); sys.exit(code)"
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=provenance.PACKAGE.parent).returncode == 0
        took.append(time.perf_counter() - began)
    assert min(took) < 1
