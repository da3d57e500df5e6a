"""Runs are found by looking: what is broken is named and skipped, and a thousand folders take no time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness.runs import manifest, scan


def facts(notebook: str = "nb", started: str = "2026-01-01T00:00:00+00:00", **more: Any) -> dict[str, Any]:
    """The least that a manifest holds."""
    return {"schema": manifest.SCHEMA, "status": "complete", "id": "0" * 12, "notebook": notebook, "parameters": {"resolved": {}},
            "timings": {"started": started, "seconds": 1.0, "attempts": 1}, **more}


def put(folder: Path, found: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / manifest.NAME).write_text(found if isinstance(found, str) else json.dumps(found))
    return folder


def test_runs_come_oldest_first_and_by_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late, early = put(tmp_path / "nb-a", facts(started="2026-02-01T00:00:00+00:00")), put(tmp_path / "nb-b", facts())
    other = put(tmp_path / "other-a", facts("other", started="2026-03-01T00:00:00+00:00"))
    assert [folder for folder, _ in scan.runs(tmp_path)] == [early, late, other]
    assert [folder for folder, _ in scan.runs(tmp_path, "nb")] == [early, late]
    assert capsys.readouterr().out == "" and scan.runs(tmp_path / "nowhere") == []


BROKEN = {
    "truncated": json.dumps(facts())[:40], "empty": "", "list": "[]", "binary": "\x00\x01", "other schema": facts(schema=99),
    "no status": {key: value for key, value in facts().items() if key != "status"}, "odd status": facts(status="done"),
    "no parameters": facts(parameters=None), "no resolved": facts(parameters={}), "no times": facts(timings=[]), "no start": facts(timings={"started": 3}),
    "no notebook": facts(notebook=None), "no id": facts(id=7),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_folder_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    good, bad = put(tmp_path / "nb-good", facts()), put(tmp_path / "nb-bad", BROKEN[case])
    assert [folder for folder, _ in scan.runs(tmp_path)] == [good]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("left out: ") and str(bad) in said[0]


def test_folders_without_a_manifest_are_named_and_hidden_ones_are_nobodys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nb-empty").mkdir()
    (tmp_path / ".locks").mkdir()
    (tmp_path / "notes.txt").write_text("a file")
    assert scan.runs(tmp_path) == []
    assert [line.split(":")[1].strip() for line in capsys.readouterr().out.splitlines()] == [str(tmp_path / "nb-empty")]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (put(tmp_path / "nb-a", facts()) / manifest.NAME).unlink()
    (tmp_path / "nb-a" / manifest.NAME).mkdir()  # stands for any error of the system, even where tests run as root
    assert scan.runs(tmp_path) == [] and "left out: " in capsys.readouterr().out


def test_a_thousand_runs_take_no_time(tmp_path: Path) -> None:
    real = json.dumps(facts(packages={f"package-{i}": "1.2.3" for i in range(300)}, outputs={f"tuned/{i:05d}.png": "0" * 64 for i in range(200)}))
    for i in range(1000):
        put(tmp_path / f"nb-{i:012x}", real)
    began = time.process_time()
    assert len(scan.runs(tmp_path)) == 1000
    assert time.process_time() - began < 2
