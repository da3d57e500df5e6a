"""A run is reused when nothing changed, says why it is new when something did, and never passes for complete when it is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from launched import FINISH, START, folders, made, no_kernel, only, results, run, story, write_notebook

from harness import cli, provenance, runs
from harness.errors import HarnessError, Refused
from harness.runs import identity, launch, lock, manifest, notebooks, watch

__all__ = ["made", "no_kernel", "results"]


# --- with a real kernel -----------------------------------------------------------------------------------------------


def test_a_run_is_a_whole_record(tmp_path: Path, results: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_API_TOKEN", "planted-and-very-secret")
    leak = 'import os; print("leak", os.environ["PLANTED_API_TOKEN"])\nrun.note("purpose", "audit"); run.note("t", os.environ["PLANTED_API_TOKEN"])'
    path = story(tmp_path, "nb", leak)
    assert run(path, "-p", "rate=1e-3", "-p", "flag=false") == 0
    found = only(results)
    assert found["status"] == "complete" and found["error"] is None and found["notes"] == {"purpose": "audit", "t": "***"}
    assert found["parameters"]["given"] == {"rate": "1e-3", "flag": "false"} and found["seeds"] == {"seed": 7}
    assert found["parameters"]["resolved"] == {"steps": 2, "rate": 1e-3, "flag": False, "seed": 7, "data": ""}
    folder = folders(results)[0]
    assert found["outputs"] == {"report.html": provenance.sha256(folder / "report.html")}
    assert found["packages"]["papermill"] and found["hardware"]["cores"] and "commit" in found["git"]
    assert found["peak_memory"]["host_bytes"] > 1 << 20 and found["timings"]["seconds"] > 0 and found["id"] in folder.name
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "notebook.ipynb", "report.html"]
    assert "planted-and-very-secret" not in "".join(path.read_text() for path in folder.iterdir())
    shown = capfd.readouterr().out
    assert "leak" in shown and f"report: {folder / 'report.html'}" in shown


def test_output_comes_as_it_is_made_and_a_killed_run_is_taken_up(tmp_path: Path, results: Path) -> None:
    slow = "import time\nif not (run.folder / 'half').exists():\n    (run.folder / 'half').write_text('1'); print('half way', flush=True); time.sleep(60)"
    command = [sys.executable, "-m", "harness", "run", str(story(tmp_path, "nb", slow))]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    begun = time.monotonic()
    while "half way" not in first.stdout.readline():
        assert first.poll() is None
    assert time.monotonic() - begun < 50  # seen long before the cell ends
    assert "at work in process" in subprocess.run(command, capture_output=True, text=True).stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert only(results)["status"] == "running"
    second = subprocess.run(command, capture_output=True, text=True)
    if "new:" in second.stdout:
        pytest.skip("the harness was edited while this test ran")
    assert second.returncode == 0 and "goes on where it was killed" in second.stdout, second.stderr
    assert only(results)["status"] == "complete" and only(results)["timings"]["attempts"] == 2


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_ctrl_c_is_130_and_says_how_to_go_on(tmp_path: Path, results: Path) -> None:
    path = story(tmp_path, "nb", "import time\nprint('now asleep', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-m", "harness", "run", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "asleep" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "the same command goes on" in process.communicate(timeout=120)[1]
    assert process.returncode == 130 and only(results)["error"]["reason"].startswith("KeyboardInterrupt")


# --- without a kernel -------------------------------------------------------------------------------------------------


def test_a_finished_run_is_reused(made: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launch, "_papermill", None)
    assert run(made) == 0 and run(made, "-p", "steps=2") == 0
    shown = capsys.readouterr().out
    assert "finished already" in shown and f"report: {folders(results)[0] / 'report.html'}" in shown
    assert len(folders(results)) == 1


def test_words_for_readers_do_not_make_a_run_new_and_code_does(made: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.write_text(made.read_text().replace("A title", "Another title"))
    run(made)
    assert len(folders(results)) == 1
    made.write_text(made.read_text().replace("<p>report", "<p>other"))
    run(made)
    assert "new: the notebook's code changed" in capsys.readouterr().out


def test_a_new_run_says_why_against_the_nearest(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(made, "-p", "steps=30", "-p", "rate=0.5")
    capsys.readouterr()
    run(made, "-p", "steps=40", "-p", "rate=0.5")
    assert "new: `steps` 30 → 40\n" in capsys.readouterr().out
    monkeypatch.setattr(identity, "code", lambda notebook: {"harness/a.py": "2"})
    before = provenance.device()
    monkeypatch.setattr(provenance, "device_class", lambda: "Some GPU")
    run(made, "-p", "steps=40", "-p", "rate=0.5")
    assert f"new: device {before} → Some GPU; harness/a.py changed\n" in capsys.readouterr().out


def test_a_changed_input_makes_a_new_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "a.png").write_bytes(b"1")
    for content, says in ((b"1", "`data`"), (b"2", "input data=art changed")):
        (tmp_path / "art" / "a.png").write_bytes(content)
        run(made, "-p", f"data={tmp_path / 'art'}")
        assert says in capsys.readouterr().out
    run(made, "-p", f"data={tmp_path / 'art'}")
    assert "finished already" in capsys.readouterr().out


def test_force_makes_a_fresh_one_beside_it(made: Path, results: Path) -> None:
    run(made, "--force")
    run(made, "--force")
    names = [folder.name for folder in folders(results)]
    assert len(names) == 3 and names[1] == f"{names[0]}-2" and names[2] == f"{names[0]}-3"


def test_a_lost_output_is_made_again_and_a_changed_one_is_named(made: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folders(results)[0] / "report.html"
    report.write_text("tampered")
    assert run(made) == 2 and "report.html: is not what the finished run wrote" in capsys.readouterr().err
    report.unlink()
    assert run(made) == 0 and report.read_text() == "<p>report</p>"


def test_a_dry_run_starts_nothing(made: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made, "--dry-run", "-p", "steps=3") == 0
    assert "steps = 3" in capsys.readouterr().out and len(folders(results)) == 1


def test_the_default_preset_is_tiny_and_the_command_line_wins(made: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets = made.parent / "presets"
    presets.mkdir()
    (presets / "nb.tiny.yaml").write_text("steps: 3\nrate: 1e-2\n")
    (presets / "nb.t4.yaml").write_text("steps: 4\n")
    run(made, "--dry-run", "-p", "steps=9")
    shown = capsys.readouterr().out
    assert "preset tiny (no GPU" in shown and "steps = 9" in shown and "rate = 0.01" in shown
    run(made, "--dry-run", "--preset", "t4")
    assert "steps = 4" in capsys.readouterr().out
    assert run(made, "--preset", "huge") == 2 and "there are t4, tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("step=3", "did you mean `steps`"), ("steps=many", "`steps` must be int"), ("steps", "is not `name=value`"), ("flag=perhaps", "must be bool"),
        ("data=hf_" + "a1B2c3D4e5" * 3, "looks like a secret"), ("rate=nan", "must be float"),
    ],
)
def test_bad_parameters_start_nothing(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str], word: str, says: str) -> None:
    assert run(story(tmp_path, "nb"), "-p", word) == 2
    assert says in capsys.readouterr().err and not results.exists()


def test_bad_notebooks_start_nothing(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.ipynb").write_text("{")
    (tmp_path / "list.ipynb").write_text("[]")
    write_notebook(tmp_path, "lost", tags=())
    write_notebook(tmp_path, "derived", parameters="a: int = 1  # one\nb: int = a + 1  # two")
    for name, says in (("broken", "not a notebook"), ("list", "not a notebook"), ("lost", "no code cells are tagged"), ("derived", "not a literal"), ("gone", "no such notebook")):
        assert run(tmp_path / f"{name}.ipynb") == 2
        assert says in capsys.readouterr().err
    assert not results.exists()


def create(folder: Path, notebook: Path, **resolved: object) -> runs.Run:
    found = notebooks.read(notebook)
    return runs.create(folder, found.name, identity.facts(found, resolved), resolved, [], notebook.parent, given={})


def test_a_run_at_work_is_left_alone_and_a_dead_one_is_taken_up(tmp_path: Path, results: Path, no_kernel: None, monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    path = story(tmp_path, "nb")
    monkeypatch.chdir(tmp_path)
    folder = launch.plan(path, None, {}).folder
    create(folder, path, **launch.plan(path, None, {}).resolved)
    with lock.hold(folder):
        assert run(path) == 2 and f"at work in process {os.getpid()}" in capsys.readouterr().err
        for _ in range(2):  # being refused once is not holding it
            with pytest.raises(Refused, match="at work"):
                runs.start("nb", launch.plan(path, None, {}).resolved)
    assert run(path) == 0 and only(results)["timings"]["attempts"] == 2


def test_a_notebook_that_says_something_else_than_its_run_is_stopped(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create(results / "nb-1", story(tmp_path, "nb"), steps=1, rate=1e-4)
    monkeypatch.setenv(runs.FOLDER, str(made.folder))
    assert runs.start("nb", {"steps": 1, "rate": 1e-4}).folder == made.folder
    assert runs.start("nb", {"__builtins__": None, "steps": 1, "rate": 1e-4, "other": print}).folder == made.folder
    for values in ({"steps": 2, "rate": 1e-4}, {"steps": 1}, {"steps": 1, "rate": 1e-4, "more": 1}):
        with pytest.raises(HarnessError, match="in the notebook but"):
            runs.start("nb", values)


def test_finish_wants_outputs_that_are_there_and_inside(tmp_path: Path, results: Path) -> None:
    made = create(results / "nb-1", story(tmp_path, "nb"))
    for outputs in (["gone.html"], [tmp_path / "nb.ipynb"], None, []):
        with pytest.raises(HarnessError, match="output"):
            made.finish(outputs)
    assert made.manifest["status"] == "running"
    (made.folder / "images").mkdir()
    (made.folder / "images" / "a.png").write_bytes(b"1")
    (made.folder / "report.html").write_text("r")
    assert made.finish() == made.folder / "report.html"
    assert sorted(made.manifest["outputs"]) == ["images/a.png", "report.html"]


def afterwards(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Let ``act`` happen to the run's folder once its notebook has finished, before the launcher has the word again."""
    real = launch._papermill
    monkeypatch.setattr(launch, "_papermill", lambda notebook, saved, *rest: (real(notebook, saved, *rest), act(saved.parent)))


def test_only_the_launcher_says_complete(tmp_path: Path, results: Path, no_kernel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between ``finish`` and the last cell, a run is not complete."""
    seen = []
    afterwards(monkeypatch, lambda folder: seen.append(manifest.read(folder)))
    assert run(story(tmp_path, "nb")) == 0
    assert seen[0]["status"] == "running" and list(seen[0]["outputs"]) == ["report.html"] and only(results)["status"] == "complete"


@pytest.mark.parametrize(("act", "says"), [
    (lambda folder: (folder / "report.html").write_text("later"), r"report.html: is changed since `run.finish"), (lambda folder: (folder / "report.html").unlink(), "is gone since"),
    (lambda folder: (folder / "more.tsv").write_text("hf_" + "a1B2c3D4e5" * 3), "more.tsv holds what looks like a secret"),
])
def test_what_a_cell_does_after_finish_is_looked_at(tmp_path: Path, results: Path, no_kernel: None, monkeypatch: pytest.MonkeyPatch, act: Callable, says: str) -> None:
    afterwards(monkeypatch, act)
    assert run(story(tmp_path, "nb")) == 1
    assert only(results)["status"] == "failed" and re.search(says, only(results)["error"]["reason"])


@pytest.mark.parametrize(("which", "says"), [("nb.ipynb", "the notebook's code changed"), ("art/a.txt", "input data=art changed"), ("code", "harness/a.py changed")])
def test_code_and_inputs_that_change_while_it_runs(tmp_path: Path, results: Path, no_kernel: None, monkeypatch: pytest.MonkeyPatch, which: str, says: str) -> None:
    path = story(tmp_path, "nb")
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "a.txt").write_text("<p>report</p>")

    def edit(folder: Path) -> None:
        if which == "code":
            monkeypatch.setattr(identity, "code", lambda notebook: {"harness/a.py": "2"})
        else:
            (tmp_path / which).write_text((tmp_path / which).read_text().replace("<p>report", "<p>other"))

    afterwards(monkeypatch, edit)
    assert run(path, "-p", f"data={tmp_path / 'art'}") == 1
    assert only(results)["error"]["reason"] == f"code or inputs changed while it ran: {says}; run it again"


def test_what_runs_is_what_was_hashed(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the file is changed between the plan and the start."""
    from harness.runs import kernel

    path, ran = story(tmp_path, "nb"), []
    planned = launch.plan(path, None, {})
    path.write_text(path.read_text().replace("<p>report", "<p>other"))
    monkeypatch.setattr(kernel, "execute", lambda held, *rest: ran.append(held))
    with lock.hold(planned.folder) as descriptor:
        assert launch.execute(planned, descriptor) == 1
    assert "<p>report" in str(ran) and "<p>other" not in str(ran)


def test_a_failed_shell_line_before_the_start_fails(tmp_path: Path, results: Path) -> None:
    path = write_notebook(tmp_path, "nb", "!false", START.format(name="nb"), FINISH)
    assert run(path) == 1
    assert "returned non-zero exit status 1" in only(results)["error"]["reason"] and only(results)["error"]["source"] == "!false"


@pytest.fixture
def session(made: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that a kernel without the launcher has run so far, as IPython keeps them."""
    cells: list[str] = ["", "steps: int = 2  # how many steps", "# Parameters\nsteps = 2"]
    shell = SimpleNamespace(history_manager=SimpleNamespace(input_hist_raw=cells), events=SimpleNamespace(register=lambda *_: None), system_raise_on_error=False)
    monkeypatch.setattr(watch, "_shell", lambda: shell)
    monkeypatch.chdir(made.parent)
    return cells


def test_a_session_that_ran_the_cells_of_the_file_takes_up_its_run(made: Path, results: Path, session: list[str]) -> None:
    session.append(START.format(name="nb") + "\n")
    begun = runs.start("nb", launch.plan(made, None, {}).resolved)
    assert begun.manifest["status"] == "complete" and len(folders(results)) == 1
    session.append("run.folder  # a look")
    session.append(FINISH)
    assert begun.finish().name == "report.html"


@pytest.mark.parametrize("before", [["secretly = 1"], []])
def test_a_copy_does_not_take_the_run_of_the_notebook_whose_name_it_says(made: Path, results: Path, session: list[str], before: list[str],
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    session += [*before, START.format(name="nb") + ("" if before else "\nx = 1")]
    names = set()
    for _ in range(2):
        begun = runs.start("nb", launch.plan(made, None, {}).resolved)
        assert begun.manifest["identity"]["notebook"] is None and begun.folder not in names and "is no cell of" in capsys.readouterr().out
        names.add(begun.folder)
        (begun.folder / "report.html").write_text("<p>report</p>")
        begun.finish()
    assert len(folders(results)) == 3


def test_a_cell_changed_after_the_start_cannot_end_under_the_name(made: Path, results: Path, session: list[str]) -> None:
    session.append(START.format(name="nb"))
    begun = runs.start("nb", launch.plan(made, None, {"steps": 5}).resolved)
    (begun.folder / "report.html").write_text("<p>report</p>")
    session.append(FINISH + "  # changed")
    with pytest.raises(HarnessError, match="not all of its cells ran as they stand there"):
        begun.finish()
    assert begun.manifest["status"] == "running"
    session.append(FINISH)
    begun.finish()


def test_a_notebook_under_the_name_of_another_is_stopped(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runs.FOLDER, str(create(results / "nb-1", story(tmp_path, "nb"), steps=1).folder))
    with pytest.raises(HarnessError, match=r"the run of nb .*`runs.start\('other'"):
        runs.start("other", {"steps": 1})


def test_a_reused_run_is_not_told_as_if_it_had_just_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(made) == 0
    assert "complete after" not in capsys.readouterr().out


def test_help_names_the_environment_and_a_failure_its_notebook(tmp_path: Path, results: Path, no_kernel: None, monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("HARNESS_RESULTS", "HARNESS_MEMORY_GIB", "HARNESS_WATTS", "HARNESS_PRICE_PER_HOUR"))
    afterwards(monkeypatch, lambda folder: (folder / "report.html").unlink())
    run(story(tmp_path, "nb"))
    assert "are in notebook.ipynb" in capsys.readouterr().err


def test_ls_names_everything_and_the_notebook_that_cannot_be_read(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made.parent / "presets").mkdir()
    (made.parent / "presets" / "nb.tiny.yaml").write_text("steps: 3\n")
    assert cli.main(["ls", str(made.parent)]) == 0
    shown = capsys.readouterr().out
    for text in ("A title", "Does it run?", "tiny", "steps: int = 2", "how many steps"):
        assert text in shown
    (made.parent / "zz.ipynb").write_text("{")
    assert cli.main(["ls", str(made.parent)]) == 1
    captured = capsys.readouterr()
    assert "zz.ipynb: not a notebook" in captured.err and "steps: int = 2" in captured.out
    assert cli.main(["ls", str(made.parent / "presets")]) == 2
