"""Every notebook on its smoke preset, by the command that the README names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def harness(results: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "harness", *words], cwd=ROOT, capture_output=True, text=True, timeout=600,
                          env={**os.environ, "HARNESS_RESULTS": str(results)})


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_smoke_preset_ends_with_a_report_and_is_reused(path: Path, tmp_path: Path) -> None:
    done = harness(tmp_path, "run", str(path), "--preset", "smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = tmp_path.glob(f"{path.stem}-*/manifest.json")
    manifest = json.loads(folder.read_text(encoding="utf-8"))
    assert manifest["status"] == "complete"
    assert (folder.parent / manifest["report"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    again = harness(tmp_path, "run", str(path), "--preset", "smoke")
    assert again.returncode == 0 and "finished already" in again.stdout


def test_the_first_notebook_answers_four_questions_and_carries_the_word_audit(tmp_path: Path) -> None:
    """Smoke draws four pictures: nothing may be called found, and the copy question is a bound and not a zero."""
    done = harness(tmp_path, "run", str(ROOT / "notebooks" / "00_start_here.ipynb"), "--preset", "smoke", "-p", "seed=1")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = [p.parent for p in tmp_path.glob("*/manifest.json")]
    findings = pd.read_csv(folder / "findings.csv")
    assert list(findings["question"].unique()) == ["style", "copies", "representation", "exposure"]
    assert set(findings["verdict"]) <= {"cannot tell", "not calibrated"}
    assert json.loads((folder / "manifest.json").read_text())["notes"]["purpose"] == "audit"
    told = json.loads((folder / "report.json").read_text())
    assert told["purpose"] == "audit" and len(told["findings"]) == len(findings) and told["credits"]
    assert "refused:" in done.stdout and "train 4/4" in done.stdout and "sample 4/4" in done.stdout
    copies = findings.set_index("question").loc["copies"]
    assert copies["estimate"] > 0 or copies["high"] > 0.3


def test_a_misspelt_parameter_and_an_unknown_artist_are_refused(tmp_path: Path) -> None:
    first = str(ROOT / "notebooks" / "00_start_here.ipynb")
    done = harness(tmp_path, "run", first, "-p", "stepz=3")
    assert done.returncode == 2 and "steps" in done.stderr and not list(tmp_path.rglob("manifest.json"))
    done = harness(tmp_path, "run", first, "--preset", "smoke", "-p", "artist=artist-99")
    assert done.returncode != 0 and "no artist named" in done.stdout + done.stderr
    (manifest,) = [json.loads(p.read_text()) for p in tmp_path.glob("*/manifest.json")]
    assert manifest["status"] == "failed" and "artist-99" in manifest["error"]["reason"]
