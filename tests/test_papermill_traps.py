"""What bare papermill lets through with exit code 0, or saves wrongly, each stopped here. The traps are shown first, so that they stay real."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import papermill
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.provisioning import LocalProvisioner
from launched import FINISH, cell, folders, only, results, run, story, write_notebook

from harness import runs
from harness.runs import identity, kernel, launch, lock, manifest, notebooks

__all__ = ["results"]


def bare(path: Path, **parameters: object) -> str:
    """The code that papermill would run, without running it."""
    prepared = papermill.execute_notebook(str(path), None, parameters=parameters, prepare_only=True, kernel_name="python3", progress_bar=False)
    return "\n".join(each.source for each in prepared.cells if each.cell_type == "code")


# --- before the start -------------------------------------------------------------------------------------------------


def test_a_misspelt_parameter(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = story(tmp_path, "nb")
    assert "stepz = 3" in bare(path, stepz=3)
    assert run(path, "-p", "stepz=3") == 2
    assert "no parameter `stepz`; did you mean `steps`" in capsys.readouterr().err and not results.exists()


def test_a_lost_tag(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_notebook(tmp_path, "nb", "print(steps)", tags=())
    assert bare(path, steps=9).startswith("# Parameters\nsteps = 9")  # and then the cell that lost its tag sets 2 again
    assert run(path, "-p", "steps=9") == 2
    assert "no code cells are tagged" in capsys.readouterr().err and not results.exists()


@pytest.mark.parametrize("word", ["false", "False", "no", "0"])
def test_a_flag_given_as_false(tmp_path: Path, results: Path, word: str) -> None:
    path = story(tmp_path, "nb")
    assert 'flag = "false"' in bare(path, flag="false")  # a text that is true
    assert launch.plan(path, None, {"flag": word}).resolved["flag"] is False


@pytest.mark.parametrize("word", ["1e-4", "1E-4", "0.0001", ".1e-3"])
def test_a_small_number_from_yaml_and_from_the_command_line(tmp_path: Path, results: Path, word: str) -> None:
    import yaml

    assert yaml.safe_load("rate: 1e-4") == {"rate": "1e-4"}
    path = story(tmp_path, "nb")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "nb.tiny.yaml").write_text(f"rate: {word}\n")
    for given in ({}, {"rate": word}):
        found = launch.plan(path, "tiny", given).resolved["rate"]
        assert found == 1e-4 and type(found) is float


def test_a_default_that_is_computed_from_another(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_notebook(tmp_path, "nb", "print(total)", parameters="steps: int = 2  # how many\ntotal: int = steps * 10  # all of them")
    assert re.search(r"total: int = steps \* 10.*\n+# Parameters\nsteps = 9", bare(path, steps=9))  # total is 20, not 90
    assert run(path, "-p", "steps=9") == 2
    assert "the default of `total` is not a literal" in capsys.readouterr().err and not results.exists()


def test_names_with_braces_in_a_path(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(papermill.exceptions.PapermillMissingParameterException):
        papermill.execute_notebook(str(tmp_path / "{x}.ipynb"), None, parameters={"a": 1})
    asked = {}
    monkeypatch.setattr(papermill, "execute_notebook", lambda source, saved, **options: asked.update(saved=saved, source=source))
    path = write_notebook(tmp_path, "a{x}", "x = 1")
    kernel.execute(notebooks.read(path).held, tmp_path / "a{x}.part.ipynb", {}, {}, 0)
    assert not isinstance(asked["source"], str)
    assert papermill.parameterize.parameterize_path(asked["saved"], {"x": 1}) == f"likeness:{tmp_path}/a{{x}}.part.ipynb"


# --- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("cell", "x = 1\n1 / 0", "ZeroDivisionError: division by zero"), ("early", "import sys\nsys.exit(0)", "SystemExit: 0; the notebook was left"),
        ("shell", "!false", "returned non-zero exit status 1"), ("kernel", "import os\nos.kill(os.getpid(), 9)", "the kernel was killed"),
    ],
)
def test_what_papermill_lets_through_fails(tmp_path: Path, results: Path, capfd: pytest.CaptureFixture[str], name: str, source: str, says: str) -> None:
    assert run(story(tmp_path, name, source)) == 1
    found = only(results)
    assert found["status"] == "failed" and says in found["error"]["reason"]
    assert found["error"]["cell"] == 4 and found["error"]["source"] == source.splitlines()[0]  # papermill adds a cell of its own
    assert "error: the run failed in cell 4" in capfd.readouterr().err
    assert found["peak_memory"]["host_bytes"] > 1 << 20 and found["actual"]["seconds"] > 0
    assert (folders(results)[0] / manifest.SAVED).exists() and not (folders(results)[0] / manifest.PARTIAL).exists()


def test_a_notebook_without_an_end_fails_and_an_idle_kernel_is_not_interrupted(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """jupyter_client interrupts every kernel before it ends it; one that is just answering then prints "KeyboardInterrupt caught in kernel".

    The kernel is this very Python, whatever kernel the user has installed under the usual name.
    """
    sent, real = [], LocalProvisioner.send_signal
    (tmp_path / "kernels" / "python3").mkdir(parents=True)
    (tmp_path / "kernels" / "python3" / "kernel.json").write_text('{"argv": ["/nowhere/python", "{connection_file}"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == "/nowhere/python"  # what papermill would start

    async def note(self: LocalProvisioner, number: int) -> None:
        sent.append(number)
        await real(self, number)

    monkeypatch.setattr(LocalProvisioner, "send_signal", note)
    assert run(write_notebook(tmp_path, "nb", "x = 1")) == 1
    assert "ended without `run.finish" in only(results)["error"]["reason"] and signal.SIGINT not in sent


def test_two_notebooks_in_threads_of_one_process_keep_apart(tmp_path: Path, results: Path) -> None:
    """papermill's ``cwd=`` changes the folder of the whole process; here nothing of the process is changed, and each kernel has its own run."""
    (tmp_path / "other").mkdir()
    tell = '(run.folder / "where.txt").write_text(f"{__import__(\'os\').getcwd()} {steps}")'
    plans = [launch.plan(story(folder, "nb", tell), None, {"steps": steps}) for folder, steps in ((tmp_path, 3), (tmp_path / "other", 4))]

    def start(plan: launch.Plan) -> None:
        with lock.hold(plan.folder) as descriptor:
            launch.execute(plan, descriptor)

    threads = [threading.Thread(target=start, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(plan.folder / "where.txt").read_text() for plan in plans] == [f"{os.getcwd()} 3", f"{os.getcwd()} 4"]
    assert runs.FOLDER not in os.environ


# --- what is saved ----------------------------------------------------------------------------------------------------


def test_a_saved_notebook_is_whole_and_without_widgets_and_places(tmp_path: Path) -> None:
    found = {"cells": [cell("x")], "nbformat": 4, "nbformat_minor": 4,
             "metadata": {"widgets": {"state": {}}, "papermill": {"output_path": f"likeness:{tmp_path}/a.ipynb", "input_path": None}}}
    kernel.Notebooks.write(json.dumps(found), f"likeness:{tmp_path}/a.ipynb")
    saved = json.loads((tmp_path / "a.ipynb").read_text())
    assert saved["metadata"] == {"papermill": {"output_path": "a.ipynb", "input_path": None}}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


def test_plain_papermill_makes_the_same_record(tmp_path: Path, results: Path) -> None:
    """The same id and the same fields; only what was checked and forecast before the start is missing."""
    import subprocess
    import sys

    path = write_notebook(tmp_path, "nb", "from harness import runs\nrun = runs.start('nb', globals())", FINISH)
    command = ["papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "steps", "5", "--no-progress-bar"]
    subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, check=True, capture_output=True)
    alone = only(results)
    assert alone["status"] == "complete" and alone["parameters"]["resolved"]["steps"] == 5 and alone["process"]["by"] == "notebook"
    facts = identity.facts(notebooks.read(path), alone["parameters"]["resolved"])
    assert identity.run_id({**facts, "code": alone["identity"]["code"]}) == alone["id"]
    assert run(path, "-p", "steps=6") == 0
    launched = next(found for found in map(manifest.read, folders(results)) if found["process"]["by"] == "harness run")
    assert list(launched) == list(alone)
    for name in ("timings", "hardware", "git", "packages", "identity", "parameters"):
        assert set(launched[name]) == set(alone[name])
    assert alone["predicted"] == alone["actual"] == {} and launched["predicted"] and launched["actual"]
