"""A run is reused when nothing changed, says why it is new when something did, and never passes for complete when it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import FINISH, folders, made, no_kernel, only, results, run, story, write_notebook

from harness import cli, provenance, runs
from harness.errors import HarnessError, Refused
from harness.runs import identity, launch, lock, manifest, notebooks

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
    monkeypatch.setattr(provenance, "device_class", lambda: "Some GPU")
    run(made, "-p", "steps=40", "-p", "rate=0.5")
    assert "new: device cpu → Some GPU; harness/a.py changed\n" in capsys.readouterr().out or provenance.gpus()


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
