"""A grid is checked before it starts; its runs end once each, the same on every executor, and no two kernels share a folder."""

from __future__ import annotations

import concurrent.futures
import contextlib
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

from harness import cli, provenance, runs, stats
from harness.errors import HarnessError
from harness.runs import launch, lock, manifest, scan
from harness.sweep import board, executors, grid, job, parcel, process, sweep

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
    table.writerow("question subject estimate low high level n clusters floor power p_value calibration domain verdict abstained why".split())
    table.writerow(["style", letter, value, value - 0.5, value + 0.5, 0.95, 4, 2, "", "", "", "planted", "none", "found", 0, "planted"])
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


def measured(results: Path) -> dict[tuple[str, float], dict[str, tuple[Any, ...]]]:
    """Findings by the settings that they were measured with."""
    found = {}
    for folder in results.glob("nb-*"):
        resolved = manifest.read(folder)["parameters"]["resolved"]
        found[resolved["letter"], resolved["value"]] = {
            name: (each.estimate, each.low, each.high, each.verdict) for name, each in board.findings(folder).items()}
    return found


def overlaps(folder: Path) -> bool:
    """Whether two kernels were at work in a folder at the same time."""
    spans = []
    for path in folder.glob("writer-*.txt"):
        times = [float(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        spans += [(times[0], times[-1])] if times else []
    spans.sort()
    return any(later[0] <= earlier[1] for earlier, later in zip(spans, spans[1:]))


def wait_until(holds: Callable[[], bool], seconds: float = 180.0) -> None:
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
    assert not results.exists() and not (results / ".sweeps").exists()


def test_a_grid_that_is_no_file(notebook: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (notebook.parent / "none.yaml", notebook.parent):
        assert cli.main(["sweep", str(notebook), "--grid", str(path)]) == 2
        assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["ray", "slurm=far", "process=2", "", "dask=tcp://127.0.0.1:1", "dask=nonsense://x"])
def test_an_executor_that_is_not_there_is_refused(notebook: Path, results: Path, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT", 0.3)
    assert cli.main(command(notebook, "letter: [a]", "--executor", word)) == 2
    assert "error: --executor" in capsys.readouterr().err
    assert not list(results.glob("*")) and not list((results / ".sweeps").glob("*/*.*"))


# --- the same grid everywhere -----------------------------------------------------------------------------------------

GRID = "preset: tiny\nletter: [a, b]\nvalue: [2]\n"
FOUND = {(letter, 2.0): {f"style: {letter}": (2.0, 1.5, 2.5, "found")} for letter in "ab"}


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
        process.wait(60)


def writing(results: Path, below: int) -> list[int]:
    """Kernels below a process that are writing into a run's folder."""
    import psutil

    family = {child.pid for child in psutil.Process(below).children(recursive=True)}
    return [pid for path in results.glob("nb-*/writer-*.txt") if (pid := int(path.stem.removeprefix("writer-"))) in family]


def test_without_a_shared_disk_results_come_back_through_dask(notebook: Path, results: Path, cluster: tuple[str, Any]) -> None:
    text = "preset: tiny\nletter: [a]\nvalue: [2]\n"
    assert cli.main(command(notebook, text, "--executor", f"dask={cluster[0]}", "--no-shared-disk", "--gpu-slots", "1")) == 0
    assert measured(results) == {("a", 2.0): FOUND["a", 2.0]}
    assert all(manifest.changed_outputs(folder) == {} for folder in results.glob("nb-*"))
    assert not (results / "completed.txt").exists()  # it was written beside the run where that was made, hence not here
    assert sorted(path.name for path in (results / ".sweeps").glob("*/logs/*")) == ["1.log"]


def test_a_killed_dask_worker_costs_nothing_but_time(notebook: Path, results: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]],
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    address, (victim, other) = cluster
    words = command(notebook, "preset: tiny\nletter: [a, b, c]\nvalue: [2]\nseconds: [1.0]\n", "--executor", f"dask={address}")
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
    (kept,) = (results / ".sweeps").glob("nb-*/table.csv")
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
    assert not (results.parent / "sweeps").exists() and len(scan.runs(results)) == 3 and "left out" not in capsys.readouterr().out


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
    out, err = sweeping.communicate(timeout=120)
    assert sweeping.returncode == 130, err
    assert [facts["parameters"]["resolved"]["letter"] for facts in complete(results)] == ["a"]
    assert len(list(results.glob("nb-*"))) == 2 and all(map(gone, kernels))
    assert re.findall(r"^([123]) .* (complete|stopped) ", out, re.MULTILINE) == [("1", "complete"), ("2", "stopped"), ("3", "stopped")]
    assert re.findall(r"^row (\d) stopped", err, re.MULTILINE) == ["2", "3"] and "the same command goes on" in err
    assert not list(results.glob(".sweep-*"))


def runs_below(pid: int) -> list[int]:
    """The ``harness run`` processes that a process has started."""
    import psutil

    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [child.pid] if child.cmdline()[1:4] == ["-m", "harness", "run"] else []
    return found


def test_ctrl_c_stops_the_runs_on_dask_workers(notebook: Path, results: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    sweeping = start(notebook, "- {letter: a, seconds: 300}\n", "--executor", f"dask={cluster[0]}")
    alive = [worker for worker in cluster[1] if worker.poll() is None]
    at_work: list[int] = []
    wait_until(lambda: sweeping.poll() is not None or bool(at_work.extend(pid for worker in alive for pid in runs_below(worker.pid)) or at_work))
    sweeping.send_signal(signal.SIGINT)
    _, err = sweeping.communicate(timeout=120)
    assert sweeping.returncode == 130 and "row 1 stopped" in err, err
    assert at_work and all(map(gone, at_work)) and all(worker.poll() is None for worker in alive)


def test_runs_die_with_a_sweep_that_is_killed(notebook: Path, results: Path) -> None:
    sweeping = start(notebook, "- {seconds: 300}\n")
    wait_until(lambda: sweeping.poll() is not None or bool(runs_below(sweeping.pid)))
    at_work = runs_below(sweeping.pid)
    sweeping.kill()
    sweeping.communicate()
    assert at_work
    wait_until(lambda: all(map(gone, at_work)), seconds=10)


# --- one row on one machine -------------------------------------------------------------------------------------------


@pytest.fixture
def one(notebook: Path, results: Path) -> job.Job:
    """A row as it would be sent to a worker on this machine."""
    swept = prepared(notebook, "- {letter: a}\n")
    parcel.write(results / ".sweep-here", b"")
    return swept._job(1, "test", ".sweep-here", {}, gpu=False)


def prepared(notebook: Path, text: str) -> sweep.Sweep:
    rows = grid.read(write_grid(notebook.parent, text))
    return sweep.Sweep(grid.plans(notebook.parent / "grid.yaml", notebook, rows), rows, runs.results(notebook), notebook.parent / "grid.yaml")


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let rows run this Python instead of a notebook."""
    monkeypatch.setattr(job, "command", lambda each, notebook: [sys.executable, "-c", code])


ORPHAN = """
import sys, time
from pathlib import Path
from harness.runs import lock
folder = Path(sys.argv[1])
with lock.hold(folder):
    folder.mkdir(parents=True)
    with open(folder / "writer-1.txt", "a", buffering=1) as own:
        for _ in range(75):
            own.write(f"{time.monotonic()}\\n")
            time.sleep(0.02)
"""
WRITER = "import os, time; open(os.environ['WRITE'], 'w').write(f'{time.monotonic()}\\n')"


def test_a_run_waits_for_what_an_orphan_still_writes(one: job.Job, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = results / launch.plan(one.site.notebook, one.preset, one.given).folder.name
    monkeypatch.setenv("WRITE", str(folder / "writer-2.txt"))
    pretend(monkeypatch, WRITER)
    orphan = subprocess.Popen([sys.executable, "-c", ORPHAN, str(folder)])
    wait_until(lambda: (folder / "writer-1.txt").exists())
    job.run(one)
    assert orphan.wait() == 0 and (folder / "writer-2.txt").exists() and not overlaps(folder)


def test_the_test_would_see_two_writers(tmp_path: Path) -> None:
    for name, times in (("1", "1.0\n2.0\n3.0"), ("2", "2.5\n4.0\n5.0\n")):
        (tmp_path / f"writer-{name}.txt").write_text(times)
    assert not overlaps(tmp_path)
    (tmp_path / "writer-1.txt").write_text("1.0\n2.0\n3.0\n")
    assert overlaps(tmp_path)


def test_a_run_that_never_gets_its_folder_says_who_has_it(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PATIENCE", 1.0)
    with lock.hold(launch.plan(one.site.notebook, one.preset, one.given).folder):
        outcome = job.run(one)
    assert outcome.status == "failed" and f"process {os.getpid()}" in outcome.reason


@pytest.mark.parametrize("kind", ["notebook", "code", "inputs"])
def test_a_worker_with_other_code_is_refused(one: job.Job, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "0" if kind == "notebook" else {**one.facts[kind], "planted": "0"}
    outcome = job.run(dataclasses.replace(one, facts={**one.facts, kind: other}))
    assert outcome.status == "failed" and outcome.reason.startswith(kind) and ("planted" in outcome.reason) == (kind != "notebook")


def test_secrets_do_not_reach_the_log(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_API_TOKEN", "planted-and-very-secret")
    pretend(monkeypatch, "import os, sys; print('it is', os.environ['PLANTED_API_TOKEN']); sys.exit('error: it was ' + os.environ['PLANTED_API_TOKEN'])")
    outcome = job.run(one)
    assert outcome.status == "failed" and outcome.reason == "it was ***" and "it is ***" in outcome.log
    assert "planted-and" not in (one.site.logs / "1.log").read_text()


KEY = ["-----BEGIN OPENSSH PRIVATE KEY-----", *["b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"] * 30, "-----END OPENSSH PRIVATE KEY-----"]


def test_a_private_key_over_several_lines_does_not_reach_the_log(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, f"print('before'); print('key: ' + {chr(10).join(KEY)!r} + ' after'); raise SystemExit('error: asked to fail')")
    outcome = job.run(one)
    log = (one.site.logs / "1.log").read_text()
    assert log == outcome.log + "\n" == "before\nkey: ***\n after\nerror: asked to fail\n" and outcome.reason == "asked to fail"


@pytest.mark.parametrize(("lines", "left"), [
    (["a", *KEY, "b", *KEY, "c"], ["a", "***", "b", "***", "c"]), ([" ".join(KEY), "b"], ["***", "b"]), ([*KEY[:-1], KEY[-1] + KEY[0], *KEY[1:], "b"], ["***", "***", "b"]),
    ([*KEY[:3], *["b3Bl"] * 300, "x"], ["***", *["b3Bl"] * 103, "x"]), (["", KEY[-1], "x"], ["", KEY[-1], "x"]),
])
def test_only_keys_are_left_out_of_a_log(lines: list[str], left: list[str]) -> None:
    assert list(process.masked(lines)) == left


def test_what_a_run_leaves_in_the_background_does_not_hold_it_up(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)']); sys.exit(3)")
    begun = time.monotonic()
    outcome = job.run(one)
    assert time.monotonic() - begun < 6 and "exit code 3" in outcome.reason


def test_a_killed_run_says_so(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "signal 9, most often because memory ran out" in job.run(one).reason


def test_each_run_has_a_gpu_of_its_own_while_there_are_enough(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    wants = dataclasses.replace(one, gpu=True)
    with job._environment(wants, one.site) as a, job._environment(wants, one.site) as b, job._environment(wants, one.site) as c:
        assert [each["CUDA_VISIBLE_DEVICES"] for each in (a, b, c)] == ["3", "7", "3"]
    with job._environment(wants, one.site) as again, job._environment(one, one.site) as plain:
        assert (again["CUDA_VISIBLE_DEVICES"], plain["CUDA_VISIBLE_DEVICES"]) == ("3", "3,7")


def test_a_folder_prepared_by_somebody_else_is_not_used(one: job.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"harness-{os.getuid()}-{one.name}").mkdir(mode=0o777)
    (tmp_path / f"harness-{os.getuid()}-{one.name}").chmod(0o777)
    outcome = job.run(dataclasses.replace(one, site=dataclasses.replace(one.site, mark="")))
    assert outcome.status == "failed" and "belongs to somebody else" in outcome.reason


def test_a_run_that_the_starting_machine_has_is_not_made_again(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "raise SystemExit(1)")
    known = launch.plan(one.site.notebook, one.preset, one.given)
    outcome = job.run(dataclasses.replace(one, finished={known.folder.name.split("-")[1]: "nb-there-2"}))
    assert (outcome.status, outcome.folder) == ("reused", "nb-there-2")


# --- any executor -----------------------------------------------------------------------------------------------------


class KilledWorker(Exception):
    """As Dask names it."""


class Fake(concurrent.futures.Executor):
    """Gives each run up as often as asked, then returns."""

    def __init__(self, deaths: int) -> None:
        self.left, self.sent = deaths, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.sent, self.left = self.sent + 1, self.left - 1
        future.set_exception(KilledWorker("four workers died")) if self.left >= 0 else future.set_result(job.Outcome(args[0].number, "complete"))
        return future


@pytest.mark.parametrize(("deaths", "status", "sent"), [(0, "complete", 1), (3, "complete", 4), (99, "failed", 4)])
def test_a_run_given_up_by_dask_is_sent_again_a_few_times(one: job.Job, deaths: int, status: str, sent: int) -> None:
    done: list[job.Outcome] = []
    fake = Fake(deaths)
    sweep.work_off([one], fake, done.append)
    assert [each.status for each in done] == [status] and fake.sent == sent
    assert status == "complete" or "four workers died" in done[0].reason


def test_a_plain_pool_of_processes_will_do(one: job.Job) -> None:
    done: list[job.Outcome] = []
    refused = dataclasses.replace(one, facts={**one.facts, "notebook": "0"})
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        sweep.work_off([refused], pool, done.append)
    assert [(each.number, each.status) for each in done] == [(1, "failed")] and "notebook on" in done[0].reason


def test_how_many_are_at_work_is_said_now_and_then(one: job.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "QUIET", 0.0)
    said: list[int] = []
    with executors.Processes(1) as pool:
        pretend(monkeypatch, "import time; time.sleep(1.5)")
        sweep.work_off([one], pool, lambda outcome: None, said.append)
    assert said and set(said) <= {0, 1} and 1 in said


def test_a_slurm_job_that_is_stopped_can_be_made_again() -> None:
    assert executors.Again(divmod, 7, 2).checkpoint().result() == (3, 1)


# --- by mail ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path) -> tuple[bytes, Path]:
    """A finished run's folder as a parcel, and an empty folder to lay it into."""
    folder = tmp_path / "far" / "nb-0123456789ab"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(b"picture")
    outputs = {"images/a.png": provenance.sha256(folder / "images" / "a.png")}
    manifest.write(folder, {"schema": manifest.SCHEMA, "status": "complete", "id": "0123456789ab", "notebook": "nb", "outputs": outputs})
    (tmp_path / "near").mkdir()
    return parcel.pack(folder), tmp_path / "near"


def test_a_parcel_arrives_whole_and_beside_what_is_there(packed: tuple[bytes, Path]) -> None:
    data, near = packed
    assert parcel.unpack(data, "nb-0123456789ab", near) == near / "nb-0123456789ab"
    assert (near / "nb-0123456789ab" / "images" / "a.png").read_bytes() == b"picture"
    assert parcel.unpack(data, "nb-0123456789ab", near).name == "nb-0123456789ab-2"
    assert sorted(path.name for path in near.iterdir()) == ["nb-0123456789ab", "nb-0123456789ab-2"]


def rezipped(data: bytes, entries: dict[str, bytes], folder: Path) -> bytes:
    path = folder / "parcel.zip"
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_a_parcel_that_reaches_outside_is_refused(packed: tuple[bytes, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(HarnessError, match="lies outside"):
        parcel.unpack(rezipped(packed[0], {name: b"evil"}, tmp_path), "nb-0123456789ab", packed[1])
    assert list(packed[1].iterdir()) == [] and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["../nb", "", ".", "..", ".hidden", "a/b"])
def test_a_parcel_cannot_choose_a_name_outside(packed: tuple[bytes, Path], name: str) -> None:
    with pytest.raises(HarnessError, match="not the name of a run"):
        parcel.unpack(packed[0], name, packed[1])


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data.replace(b"picture", b"pictura"), lambda data: b""])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_parcel_is_refused(packed: tuple[bytes, Path], damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(HarnessError, match="cannot be unpacked"):
        parcel.unpack(damage(packed[0]), "nb-0123456789ab", packed[1])
    assert list(packed[1].iterdir()) == []


def test_a_parcel_whose_files_are_not_those_of_its_manifest_is_refused(packed: tuple[bytes, Path], tmp_path: Path) -> None:
    parcel.unpack(packed[0], "nb-0123456789ab", packed[1])
    (packed[1] / "nb-0123456789ab" / "images" / "a.png").write_bytes(b"another")
    with pytest.raises(HarnessError, match="images/a.png changed or gone"):
        parcel.unpack(parcel.pack(packed[1] / "nb-0123456789ab"), "nb-0123456789ab", packed[1])


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_all_and_starts_nothing(notebook: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(notebook, "letter: [a, b]\nvalue: [1, 2]\n", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert "4 runs" in out and "preset tiny" in out and len(re.findall(r"letter=[ab] value=[12]\.0  nb-\w{12}", out)) == 4
    assert not results.parent.exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_place_where_nothing_can_be_kept_is_refused_before_the_start(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                                      dry: list[str]) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv(runs.RESULTS, str(tmp_path / "file" / "runs"))
    assert cli.main(command(notebook, "letter: [a, b]", *dry)) == 2
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'file'}: is not a folder" in err and len(err.strip().splitlines()) == 1 and "row" not in out


def test_everything_that_a_sweep_keeps_lies_in_the_folder_of_runs(notebook: Path, results: Path) -> None:
    assert prepared(notebook, "letter: [a]").folder.parent == results / ".sweeps"


def test_the_price_travels_with_a_row(one: job.Job) -> None:
    words = job.command(dataclasses.replace(one, price=0.35), one.site.notebook)
    assert words[words.index("--price") + 1] == "0.35" and "--price" not in job.command(one, one.site.notebook)


@pytest.mark.parametrize(("host", "started", "said"), [("a", "10:30", True), ("a", "11:30", False), ("b", "10:30", False)])
def test_rows_that_ran_at_the_same_time_are_said_to_count_the_machine_twice(results: Path, host: str, started: str, said: bool) -> None:
    for name, where, begun, ended in (("nb-1", "a", "10:00", "11:00"), ("nb-2", host, started, "12:00")):
        (results / name).mkdir(parents=True)
        manifest.write(results / name, {"schema": manifest.SCHEMA, "status": "failed", "id": "1" * 12, "process": {"host": where},
                                        "timings": {"started": f"2026-01-01T{begun}:00+00:00", "ended": f"2026-01-01T{ended}:00+00:00", "seconds": 1.0}})
    made = board.Board(results, [], {1: {}, 2: {}}, [job.Outcome(i, "failed", f"nb-{i}") for i in (1, 2)])
    assert ("each count the whole machine" in made.text(150)) == said


def test_settings_arrive_as_they_are(notebook: Path) -> None:
    given = [{"names": ["x", "y z"]}, {"fails": True}, {"value": 1e-4}, {"letter": "a=b, 'c' # d"}, {"value": "1e-4"}]
    for each in given:
        made = launch.plan(notebook, "tiny", each)
        assert launch.plan(notebook, "tiny", dict(word.split("=", 1) for word in sweep.words(made))).resolved == made.resolved


@pytest.mark.parametrize(("words", "said"), [
    (["--workers", "-1"], "less than 0"), (["--gpu-slots", "-1"], "less than 0"), (["--option", "timeout_min=3"], "only --executor slurm"),
    (["--executor", "slurm=local", "--option", "timeout=3"], "slurm"), (["--executor", "slurm=local", "--option", "bare"], "not `name=value`"),
    (["--executor", "slurm=local", "--option", "a=[1"], "not values that can be read"),
    (["--workers", "3", "--gpu-slots", "2"], "more than --gpu-slots"), (["--executor", "dask=tcp://127.0.0.1:1", "--workers", "2"], "leave it out"),
])
def test_settings_that_contradict_each_other_are_refused(notebook: Path, results: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(notebook, "letter: [a]", *words)) == 2
    assert re.search(said, capsys.readouterr().err) and not list(results.glob("nb-*"))


def test_a_wide_table_is_continued_beneath(results: Path) -> None:
    folder = results / "nb-1"
    folder.mkdir(parents=True)
    manifest.write(folder, {"schema": manifest.SCHEMA, "status": "complete", "id": "1" * 12, "notebook": "nb", "timings": {"seconds": 3.21}})
    some = [stats.cannot_tell("style", f"artist-{i}", "planted").but(estimate=i / 10, verdict="not calibrated") for i in range(6)]
    again = some[0].but(estimate=0.9, low=0.8, high=0.95, verdict="found")
    (folder / "findings.csv").write_text(stats.table([*some, again]).to_csv(index=False))
    made = board.Board(results, ["steps"], {7: {"steps": 20}}, [job.Outcome(7, "reused", "nb-1")])
    lines = made.text(width=80).splitlines()
    assert max(map(len, lines)) <= 80 and sum(line.startswith("7  ") for line in lines) == sum(line.startswith("row") for line in lines) > 1
    assert "0.3 [–, –] not calibrated" in made.text(80) and "style: artist-0 (2)" in made.text(80) and "0.9 [0.8, 0.95] found" in made.text(80)


def test_a_run_that_cannot_be_read_does_not_cost_the_table(results: Path) -> None:
    for name, text in (("nb-1", "{"), ("nb-2", json.dumps({"schema": manifest.SCHEMA, "status": "complete", "id": "2" * 12, "timings": {"seconds": 1.0}}))):
        (results / name).mkdir(parents=True)
        (results / name / "manifest.json").write_text(text)
    (results / "nb-2" / "findings.csv").write_text("question,subject,estimate,low,high,verdict\nstyle,a,many,,,found\n")
    outcomes = [job.Outcome(1, "complete", "nb-1"), job.Outcome(2, "complete", "nb-2"), job.Outcome(3, "stopped")]
    made = board.Board(results, [], {1: {}, 2: {}, 3: {}}, outcomes).text(200)
    assert "row 1: " in made and "broken" in made and "row 2: " in made and "not a table of findings" in made and re.search(r"^3 +– +stopped", made, re.MULTILINE)
