"""The bootstrap makes what is missing, once, and says clearly what it cannot do. pip itself is stood in for."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def bootstrap(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a small project of its own and every process recorded instead of run."""
    spec = importlib.util.spec_from_file_location("bootstrap", root / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in module.DECIDES:
        (tmp_path / name).write_text(name)
    module.calls, module.codes = [], {}

    def run(command: list[str], **how: object) -> subprocess.CompletedProcess[bytes]:
        module.calls.append(command[1:])
        if command[1:3] == ["-m", "venv"] and not module.codes.get("venv"):
            module.python_in(Path(command[3])).parent.mkdir(parents=True, exist_ok=True)
            module.python_in(Path(command[3])).touch()
        return subprocess.CompletedProcess(command, module.codes.get(command[2], 0))

    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module.subprocess, "run", run)
    return module


def words(module: ModuleType, verb: str) -> list[list[str]]:
    return [call for call in module.calls if verb in call]


def test_the_first_time_makes_installs_and_goes(bootstrap: ModuleType) -> None:
    assert bootstrap.main(["run", "-p", "seed=1"]) == 0
    assert len(words(bootstrap, "venv")) == 1
    assert words(bootstrap, "install")[0][-4:] == ["-e", ".[test]", "-c", "constraints.txt"]
    assert bootstrap.calls[-1] == ["-m", "harness", "run", "notebooks/00_start_here.ipynb", "-p", "seed=1"]


def test_the_second_time_only_goes(bootstrap: ModuleType) -> None:
    bootstrap.main(["test"])
    bootstrap.calls.clear()
    assert bootstrap.main(["test", "tests/test_cli.py"]) == 0
    assert not words(bootstrap, "venv") and not words(bootstrap, "install")
    assert bootstrap.calls[-1] == [*bootstrap.COMMANDS["test"], "tests/test_cli.py"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_list_installs_again(bootstrap: ModuleType, name: str) -> None:
    bootstrap.main(["prove"])
    bootstrap.calls.clear()
    (bootstrap.ROOT / name).write_text("changed")
    assert bootstrap.main(["prove"]) == 0
    assert len(words(bootstrap, "install")) == 1 and not words(bootstrap, "venv")


def test_a_failed_install_is_tried_again(bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    run = bootstrap.subprocess.run
    bootstrap.subprocess.run = lambda command, **how: subprocess.CompletedProcess(command, 1) if "install" in command else run(command, **how)
    assert bootstrap.main(["test"]) == 2
    assert "pip could not install" in capsys.readouterr().err
    bootstrap.subprocess.run = run
    assert bootstrap.main(["test"]) == 0 and len(words(bootstrap, "install")) == 1


def test_an_environment_cut_short_is_made_whole(bootstrap: ModuleType) -> None:
    (bootstrap.ROOT / ".venv").mkdir()
    assert bootstrap.main(["test"]) == 0
    assert len(words(bootstrap, "venv")) == 1


def test_without_venv_it_says_what_to_install(bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap.codes["venv"] = 1
    assert bootstrap.main(["run"]) == 2
    assert "python3-venv" in capsys.readouterr().err


def test_without_git_it_says_so_and_goes_on(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert bootstrap.main(["test"]) == 0
    assert "git was not found" in capsys.readouterr().out


def test_an_old_python_is_refused(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 10, 4))
    assert bootstrap.main(["run"]) == 2
    assert "this is Python 3.10, and 3.11 or 3.12 is needed" in capsys.readouterr().err
    assert bootstrap.calls == []


def test_the_exit_code_is_that_of_what_was_run(bootstrap: ModuleType) -> None:
    bootstrap.codes["pytest"] = 5
    assert bootstrap.main(["test"]) == 5


def test_windows_keeps_its_python_elsewhere(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(".venv")  # made before os.name changes: pathlib looks at it too
    for name, expected in (("posix", ".venv/bin/python"), ("nt", ".venv/Scripts/python.exe")):
        with monkeypatch.context() as patch:
            patch.setattr(bootstrap.os, "name", name)
            found = bootstrap.python_in(folder)
        assert found.as_posix() == expected


def test_it_needs_the_standard_library_alone_and_an_old_python_can_read_it(root: Path) -> None:
    tree = ast.parse((root / "bootstrap.py").read_text(), feature_version=(3, 7))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names and {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_a_wrong_word_is_answered_with_the_commands(root: Path) -> None:
    done = subprocess.run([sys.executable, str(root / "bootstrap.py"), "tset"], capture_output=True, text=True)
    assert done.returncode == 2 and "run|test|prove" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_is_a_thin_face(root: Path) -> None:
    # `make test` runs this too, and a make within a make says which folder it enters
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "PYTHON")}
    for verb in ("run", "test", "prove"):
        done = subprocess.run(["make", "-n", verb], cwd=root, capture_output=True, text=True, env=alone)
        assert done.stdout.split() == ["python3", "bootstrap.py", verb]
