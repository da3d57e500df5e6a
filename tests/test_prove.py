"""A stamp is made only by a proof that ran and wrote, and is stale as soon as code or results change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness import prove
from harness.errors import HarnessError

WRITE = "python -c \"import pathlib; p = pathlib.Path('results/published'); p.mkdir(parents=True, exist_ok=True); (p / 'demo.json').write_text('1')\""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1")
    monkeypatch.setattr(prove, "PROOFS", {"demo": prove.Proof(WRITE, ("code",))})
    return tmp_path


def test_a_proof_is_stamped_and_fresh(project: Path) -> None:
    stamp = prove.prove("demo", prove.PROOFS["demo"], project)
    found = json.loads(stamp.read_text())
    assert stamp.name == "demo.stamp.json" and found["command"] == WRITE and list(found["results"]) == ["demo.json"]
    assert prove.stale(project) == []


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("code/a.py", "x = 2", "its code or command was changed"), ("code/b.py", "", "its code or command was changed"),
        ("results/published/demo.json", "2", "demo.json: is not what"),
    ],
)
def test_a_change_makes_it_stale(project: Path, name: str, text: str, says: str) -> None:
    prove.prove("demo", prove.PROOFS["demo"], project)
    (project / name).write_text(text)
    assert len(prove.stale(project)) == 1 and says in prove.stale(project)[0]


def test_a_lost_result_and_a_lost_proof_are_stale(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove.prove("demo", prove.PROOFS["demo"], project)
    (project / "results/published/demo.json").unlink()
    assert "demo.json" in prove.stale(project)[0]
    monkeypatch.setattr(prove, "PROOFS", {})
    assert "no proof of this name" in prove.stale(project)[0]


@pytest.mark.parametrize(("command", "says"), [("python -c 'raise SystemExit(3)'", "ended with 3"), ("python -c 1", "wrote no")])
def test_a_proof_that_fails_or_writes_nothing_is_not_stamped(project: Path, command: str, says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        prove.prove("demo", prove.Proof(command, ("code",)), project)
    assert not list(project.rglob("*.stamp.json"))


def test_an_old_result_does_not_count(project: Path) -> None:
    import os

    prove.prove("demo", prove.PROOFS["demo"], project)
    os.utime(project / "results/published/demo.json", (1, 1))
    with pytest.raises(HarnessError, match="wrote no"):
        prove.prove("demo", prove.Proof("python -c 1", ("code",)), project)


def test_code_that_changes_meanwhile_is_not_stamped(project: Path) -> None:
    command = WRITE[:-1] + "; pathlib.Path('code/a.py').write_text('x = 3')\""
    with pytest.raises(HarnessError, match="changed while it ran"):
        prove.prove("demo", prove.Proof(command, ("code",)), project)


def test_commands_run_with_this_python() -> None:
    assert prove._command("harness world score") == [sys.executable, "-m", "harness", "world", "score"]
    assert prove._command("python a.py 'b c'") == [sys.executable, "a.py", "b c"]
