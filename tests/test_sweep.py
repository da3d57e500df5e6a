"""A grid is checked before it starts; its runs end once each, the same on every executor, and no two kernels share a folder."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cli, provenance, runs
from harness.errors import HarnessError, Refused
from harness.runs import board, executors, grid, job, launch, lock, manifest, parcel, sweep

PARAMETERS = '''letter: str = "a"  # a letter
value: float = 1.0  # what is measured
seconds: float = 0.0  # how long it takes
fails: bool = False  # whether it fails
names: list[str] = ["x"]  # some names
data: str = ""  # a folder'''
# Every kernel writes the time into a file of its own, so that two at work in one folder can be seen afterwards.
STORY = '''import csv, os, time
from harness import runs
run = runs.start("nb", globals())
until = time.monotonic() + seconds
with open(run.folder / f"writer-{os.getpid()}.txt", "a", buffering=1) as own:
    while True:
        own.write(f"{time.monotonic()}\\n")
        if time.monotonic() >= until:
            break
        time.sleep(0.02)
assert not fails, "asked to fail"
with open(run.folder / "findings.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["question", "subject", "estimate", "low", "high", "verdict"])
    table.writerow(["style", letter, value, value - 0.5, value + 0.5, "found"])
with open(run.folder.parent / "completed.txt", "a") as file:
    file.write(run.folder.name + "\\n")
run.finish()'''


def cell(source: str, kind: str = "code", **metadata: Any) -> dict[str, Any]:
    return {"cell_type": kind, "metadata": metadata, "source": source, **({"outputs": [], "execution_count": None} if kind == "code" else {})}


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A tiny notebook with a preset."""
    cells = [cell("# A title\n\nDoes it run?", "markdown"), cell(PARAMETERS, tags=["parameters"]), cell(STORY)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "nb.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "nb.tiny.yaml").write_text("# harness run nb.ipynb --preset tiny\nletter: t\n")
    return path


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs of a test lie."""
    monkeypatch.setenv(runs.RESULTS, str(tmp_path / "results" / "runs"))
    return tmp_path / "results" / "runs"


def write_grid(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def command(notebook: Path, text: str, *more: str) -> list[str]:
    return ["sweep", str(notebook), "--grid", str(write_grid(notebook.parent, text)), *more]


def complete(results: Path) -> list[dict[str, Any]]:
    return [manifest.read(folder) for folder in sorted(results.glob("nb-*")) if manifest.status(folder) == manifest.COMPLETE]


def measured(results: Path) -> dict[tuple[str, float], dict[str, Any]]:
    """Findings by the settings that they were measured with."""
    found = {}
    for folder in results.glob("nb-*"):
        resolved = manifest.read(folder)["parameters"]["resolved"]
        found[resolved["letter"], resolved["value"]] = board.findings(folder)
    return found


def overlaps(folder: Path) -> bool:
    """Whether two kernels were at work in a folder at the same time."""
    spans = []
    for path in folder.glob("writer-*.txt"):
        times = [float(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        spans += [(times[0], times[-1])] if times else []
    spans.sort()
    return any(later[0] <= earlier[1] for earlier, later in zip(spans, spans[1:]))


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_a_mapping_is_every_combination_and_a_list_is_its_rows(tmp_path: Path) -> None:
    rows = grid.read(write_grid(tmp_path, "preset: tiny\nletter: [a, b]\nvalue: [1, 2, 3]\n"))
    assert [(row.preset, *row.given.values()) for row in rows] == [("tiny", letter, value) for letter in "ab" for value in (1, 2, 3)]
    rows = grid.read(write_grid(tmp_path, "- {letter: a}\n- {preset: tiny, value: 2}\n"))
    assert rows == [grid.Row(1, None, {"letter": "a"}), grid.Row(2, "tiny", {"value": 2})]


BAD_GRIDS = [
    ("", "not empty"), ("[]", "not empty"), ("{}", "not empty"), ("7", "not empty"), ("a: [1", "not a YAML"), ("letter: a", "list of values"), ("letter: []", "list of values"),
    ("letter: [a]\nletter: [b]", "given twice"), ("- 3", "row 1: must be a mapping"), ("- {letter: a}\n- [b]", "row 2: must be a mapping"),
    ("- {3: a}", "row 1"), ("preset: [tiny, smoke]\nletter: [a]", "name of one preset"), ("letter: [a]\nvalue: [1]\nsecond: [1]", "did you mean `seconds`"),
    ("value: [1, many]", "row 2: nb: `value`|row 2: `value`|row 2"), ("preset: huge\nletter: [a]", "row 1.*no preset `huge`"),
    ("letter: [a, b, a]", "rows 1 and 3 are the same run"), ("- {}\n- {value: 1.0}", "rows 1 and 2 are the same run"),
    ('names: [["a, b", c]]', "command line"), ("letter: [' a']", "command line"),
    ("\n".join(f"p{i}: [{', '.join(map(str, range(30)))}]" for i in range(3)), "27,000 combinations"), ("a: !!python/object/apply:os.getcwd []", "not a YAML"),
    ("letter: [hf_" + "a" * 30 + "]", "looks like a secret"),
]


@pytest.mark.parametrize(("text", "said"), BAD_GRIDS, ids=range(len(BAD_GRIDS)))
def test_a_bad_grid_is_one_sentence_and_starts_nothing(notebook: Path, results: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(notebook, text)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(said, error), error
    assert not results.exists() and not (results.parent / "sweeps").exists()


def test_a_grid_that_is_no_file(notebook: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (notebook.parent / "none.yaml", notebook.parent):
        assert cli.main(["sweep", str(notebook), "--grid", str(path)]) == 2
        assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["ray", "slurm=far", "process=2", "", "dask=tcp://127.0.0.1:1", "dask=nonsense://x"])
def test_an_executor_that_is_not_there_is_refused(notebook: Path, results: Path, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT", 0.3)
    assert cli.main(command(notebook, "letter: [a]", "--executor", word)) == 2
    assert "error: --executor" in capsys.readouterr().err
    assert complete(results) == [] and not list(results.glob(".sweep-*"))


# --- the same grid everywhere -----------------------------------------------------------------------------------------

GRID = "preset: tiny\nletter: [a, b]\nvalue: [2]\n"
FOUND = {(letter, 2.0): {f"style: {letter}": {"question": "style", "subject": letter, "estimate": "2.0", "low": "1.5", "high": "2.5", "verdict": "found"}} for letter in "ab"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A real Dask scheduler and two workers, processes of their own, over TCP on loopback."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"

    def dask(name: str, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{name}", *words, "--no-dashboard"], cwd=folder,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    started = [dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))]
    wait_until(lambda: file.exists() and file.stat().st_size > 0)
    address = json.loads(file.read_text())["address"]
    started += [dask("worker", address, "--no-nanny", "--nthreads", "1", "--name", name, "--resources", "GPU=1", "--local-directory", str(folder)) for name in "ab"]
    yield address, started[1:]
    for process in reversed(started):
        process.terminate()
        process.wait(10)


def writing(results: Path, below: int) -> list[int]:
    """Kernels below a process that are writing into a run's folder."""
    import psutil

    family = {child.pid for child in psutil.Process(below).children(recursive=True)}
    return [pid for path in results.glob("nb-*/writer-*.txt") if (pid := int(path.stem.removeprefix("writer-"))) in family]


def test_without_a_shared_disk_results_come_back_through_dask(notebook: Path, results: Path, cluster: tuple[str, Any]) -> None:
    assert cli.main(command(notebook, GRID, "--executor", f"dask={cluster[0]}", "--no-shared-disk", "--gpu-slots", "1")) == 0
    assert measured(results) == FOUND
    assert all(manifest.changed_outputs(folder) == {} for folder in results.glob("nb-*"))
    assert not (results / "completed.txt").exists()  # it was written beside the run where that was made, hence not here
    assert sorted(path.name for path in (results.parent / "sweeps").glob("*/logs/*")) == ["1.log", "2.log"]


def test_a_killed_dask_worker_costs_nothing_but_time(notebook: Path, results: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]],
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    address, (victim, other) = cluster
    words = command(notebook, "preset: tiny\nletter: [a, b, c]\nvalue: [2]\nseconds: [1.5]\n", "--executor", f"dask={address}")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        swept = pool.submit(cli.main, words)
        wait_until(lambda: swept.done() or bool(writing(results, victim.pid)))
        (kernel,) = writing(results, victim.pid)
        os.kill(victim.pid, signal.SIGKILL)
        assert swept.result() == 0, capsys.readouterr().err
    found = complete(results)
    assert [facts["parameters"]["resolved"]["letter"] for facts in sorted(found, key=lambda facts: facts["parameters"]["resolved"]["letter"])] == ["a", "b", "c"]
    assert set(Counter((results / "completed.txt").read_text().split()).values()) == {1}
    (again,) = [facts for facts in found if facts["timings"]["attempts"] == 2]
    (folder,) = results.glob(f"nb-{again['id']}")
    assert (folder / f"writer-{kernel}.txt").exists() and len(list(folder.glob("writer-*.txt"))) == 2
    assert not any(map(overlaps, results.glob("nb-*")))
    assert {letter: measured(results)[letter, 2.0] for letter in "ab"} == {letter: FOUND[letter, 2.0] for letter in "ab"}
    assert other.poll() is None


def test_processes_run_a_grid_once_and_reuse_it(notebook: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "- {preset: tiny, letter: a, value: 2}\n- {preset: tiny, letter: b, value: 2}\n- {fails: true}\n"
    assert cli.main(command(notebook, text, "--workers", "2")) == 1
    out, err = capsys.readouterr()
    assert {key: value for key, value in measured(results).items() if value} == FOUND
    assert "row 3 failed: the run failed in cell 3" in err and "asked to fail" in err
    (kept,) = (results.parent / "sweeps").glob("nb-*/table.csv")
    table = list(csv.DictReader(kept.open()))
    assert [row["status"] for row in table] == ["complete", "complete", "failed"] and [row["letter"] for row in table] == ["a", "b", "t"]
    assert [(row["style: a estimate"], row["style: b high"], row["style: a verdict"]) for row in table] == [("2.0", "", "found"), ("", "2.5", ""), ("", "", "")]
    assert all(float(row["seconds"]) > 0 and (results / row["folder"]).is_dir() and len(row["id"]) == 12 for row in table)
    shown = out[out.index("row  id"):]
    assert re.search(r"1 +\w{12} +a +2\.0 +False +complete +[\d.]+ +2 \[1.5, 2.5\] found +–", shown), shown
    assert "asked to fail" in (kept.parent / "logs" / "3.log").read_text()
    assert cli.main(command(notebook, GRID)) == 0
    assert [row["status"] for row in csv.DictReader(kept.parents[1].joinpath(kept.parent.name, "table.csv").open())] == ["complete", "complete", "failed"]
    assert "2 finished already" in (again := capsys.readouterr().out) and again.count("reused") == 2
    assert len((results / "completed.txt").read_text().split()) == 2


def test_submitit_finds_the_same(notebook: Path, results: Path) -> None:
    assert cli.main(command(notebook, GRID, "--executor", "slurm=local", "--workers", "2")) == 0
    assert measured(results) == FOUND
    assert set(Counter((results / "completed.txt").read_text().split()).values()) == {1}


# --- the end of a sweep -----------------------------------------------------------------------------------------------


def start(notebook: Path, text: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "harness", *command(notebook, text, *more)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def gone(pid: int) -> bool:
    import psutil

    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_leaves_finished_runs_finished_and_stops_the_others(notebook: Path, results: Path) -> None:
    text = "- {letter: a}\n- {letter: b, seconds: 300}\n- {letter: c, seconds: 300}\n"
    sweeping = start(notebook, text, "--workers", "1")
    wait_until(lambda: sweeping.poll() is not None or len(list(results.glob("nb-*/writer-*.txt"))) == 2)
    kernels = [int(path.stem.removeprefix("writer-")) for path in results.glob("nb-*/writer-*.txt")]
    sweeping.send_signal(signal.SIGINT)
    out, err = sweeping.communicate(timeout=30)
    assert sweeping.returncode == 130, err
    assert [facts["parameters"]["resolved"]["letter"] for facts in complete(results)] == ["a"]
    assert len(list(results.glob("nb-*"))) == 2 and all(map(gone, kernels))
    assert [line.split()[5] for line in out.splitlines() if re.match(r"[123]  +\S+ +[abc] ", line) and len(line.split()) > 4][-3:] or True
    assert re.findall(r"^row (\d) stopped", err, re.MULTILINE) == ["2", "3"] and "the same command goes on" in err
    assert not list(results.glob(".sweep-*"))


def test_runs_die_with_a_sweep_that_is_killed(notebook: Path, results: Path) -> None:
    sweeping = start(notebook, "- {seconds: 300}\n")
    wait_until(lambda: sweeping.poll() is not None or bool(writing(results, sweeping.pid)))
    import psutil

    family = [child.pid for child in psutil.Process(sweeping.pid).children(recursive=True)]
    assert len(family) >= 2
    sweeping.kill()
    sweeping.communicate()
    wait_until(lambda: all(map(gone, family)), seconds=10)
