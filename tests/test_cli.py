"""The command line answers fast, answers mistakes with one sentence, and tells success from failure by exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness import cli
from harness.errors import HarnessError, Refused
from harness.progress import line, printer


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, timeout=60)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def main(args: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_module", lambda name: SimpleNamespace(add_arguments=lambda parser: None, main=main))
    return cli.main(["doctor"])


def test_help_names_every_command_and_is_quick() -> None:
    before = os.times()
    done = harness("--help")
    after = os.times()  # processor time of finished children: a busy machine does not count against us
    assert done.returncode == 0 and all(name in done.stdout for name in cli.COMMANDS)
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_nothing_heavy_is_imported_to_start() -> None:
    code = "import sys, harness.cli, harness.runs.launch, harness.runs.listing, harness.doctor, harness.prove, harness.runs\n" \
           "print([name for name in ('torch', 'numpy', 'pandas', 'diffusers', 'PIL', 'papermill', 'matplotlib', 'yaml') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_command_has_its_two_functions_and_help() -> None:
    for name in cli.COMMANDS:
        module = cli._module(name)
        assert callable(module.add_arguments) and callable(module.main)
        with pytest.raises(SystemExit) as left:
            cli.main([name, "--help"])
        assert left.value.code == 0


def test_a_misspelt_command_gets_a_suggestion() -> None:
    done = harness("rnu", "x.ipynb")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: there is no command `rnu`: did you mean `run`?\n"


@pytest.mark.parametrize("kind", [HarnessError, Refused])
def test_a_mistake_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type) -> None:
    assert raising(monkeypatch, kind("x.png: broken; replace it")) == 2
    assert capsys.readouterr().err == "error: x.png: broken; replace it\n"


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "a.png")) == 2
    assert capsys.readouterr().err.startswith("error: No space left on device: a.png; make room")


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert raising(monkeypatch, KeyboardInterrupt()) == 130


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "x")])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(type(error)):
        raising(monkeypatch, error)


def test_version() -> None:
    from harness import __version__

    assert harness("--version").stdout == f"harness {__version__}\n"


def test_progress_reads_well() -> None:
    assert line({"stage": "train", "step": 3, "of": 100, "loss": 0.123456}) == "train 3/100  loss 0.1235"
    assert line({"stage": "embed"}) == "embed"


def test_progress_is_rare_but_never_drops_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    show = printer(every=3600)
    for step in range(1, 101):
        show({"stage": "train", "step": step, "of": 100})
    show({"stage": "sample", "step": 1, "of": 2})
    assert capsys.readouterr().out.splitlines() == ["train 1/100", "train 100/100", "sample 1/2"]
