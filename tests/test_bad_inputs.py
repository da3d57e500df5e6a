"""Three hundred bad inputs and more: each one sentence, exit code not 0, and no file under a final name."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launched import cell, folders, no_kernel, story, write_notebook

from harness import cli, runs
from harness.runs import identity, launch, manifest

__all__ = ["no_kernel"]
NOBODY = 65534
PARAMETERS = """steps: int = 2  # whole
rate: float = 1e-4  # real
flag: bool = True  # switch
name: str = "a"  # text
size: int | None = None  # whole or none
seeds: list[int] = [1]  # several
kind: Literal["lora", "full"] = "lora"  # one of two
data: str = ""  # a folder"""

WHOLE = ["", "x", "1.5", "1e3", "0x10", "two", "true", "None", "nan", "inf", "1,2", "[1]", "1_", "--", "١.٥", "1 2", "+-1", "'1'"]
REAL = ["", "x", "nan", "inf", "-inf", "1,5", "1e", "e4", "true", "None", "[1.0]", "1.2.3", "0x1p3", "half", "1e999", "NaN", "1/3"]
SWITCH = ["", "x", "2", "-1", "tru", "yesno", "None", "1.0", "[true]", "nein", "falsch", "oui", "t", "f", "y", "truefalse"]
OR_NONE = ["", "x", "1.5", "nil", "true", "[]", "none1", "NULL0", "1e2"]
SEVERAL = ["1,x", "1.5", "[1, 'a']", "a", "1,,x", "true", "1;2", "{1}", "1 2", "[1.0]"]
ONE_OF = ["", "Lora", "LORA", "lora ,full", "0", "adapter", "lora,full", "['lora']"]
VALUES = [f"{name}={value}" for name, values in (("steps", WHOLE), ("rate", REAL), ("flag", SWITCH), ("size", OR_NONE), ("seeds", SEVERAL), ("kind", ONE_OF)) for value in values]
NAMES = [f"{name}=1" for name in ("stepz", "step", "Steps", "STEPS", "steps2", "st eps", "ratee", "learning_rate", "preset", "_", "0", "__builtins__", "run", "import",
                                 "steps.x", "steps[0]", "-steps", "--steps", "é", "数", "naïve", "a b", "\"steps\"", "$steps", "seed", "flags", "kinds", "sizes", "a" * 500)]
WORDS = ["steps", "", "=", "=3", " =3", "steps:3", "steps 3", "steps→3"]
SECRETS = [f"name={word}" for word in ("hf_" + "a1B2c3D4e5" * 3, "ghp_" + "0123456789" * 4, "sk-" + "z" * 40, "AKIA" + "ABCDEFGH12345678", "https://u:p" + "w@example.org/x")]

PRESETS = [
    "steps", "- steps", "steps: [", "steps: 1\nsteps: 2", "steps: null", "steps: many", "steps: 1.5", "steps: true", "steps: {a: 1}", "steps: [1]", "steps: 2026-01-31",
    "stepz: 1", "Steps: 1", "1: 2", "true: 1", "null: 1", "rate: fast", "rate: .nan", "rate: .inf", "rate: [1e-4]", "rate: true", "flag: 2", "flag: maybe", "flag: 1.0",
    "flag: null", "name: 7", "name: 1.5", "name: true", "name: null", "name: [a]", "size: x", "size: true", "size: 1.5", "seeds: 3", "seeds: [a]", "seeds: [1.5]",
    "seeds: {1: 2}", "seeds: null", "kind: half", "kind: 1", "kind: null", "? [a]\n: 1", "steps: !!python/object/apply:os.system [ls]", "steps: !mine 3",
    "a: &x [*x]", "steps: *missing", "\tsteps: 1", "steps: 'x", "steps: |\n  3\nrate", "%YAML 9.9\n---\nsteps: 1\n...\n---\nsteps: 2", "\x00", "steps: \x07",
    "steps: 1\n---\nsteps: 2", "[steps, 1]", "'steps: 1'", "42", "<<: 3", "steps: 1e3", "steps: 0o17x", "seeds: [[1]]",
    "steps: 2026-02-31", "steps: 2026-13-01T00:00:00", "seeds: " + "[" * 3000, "steps: " + "9" * 5000, "name: !!timestamp x", "steps: !!int x", "name: !!binary é",
]

CELLS = [
    "import os", "steps = 3  # no type", "steps: int  # no default", "steps: int = 2 * 3  # computed", "steps: int = len('a')  # call", "steps: int = 3", "steps: int = 'x'  # wrong",
    "steps: int = 2.5  # wrong", "steps: dict = {}  # wrong", "steps: int = 3  # one\nsteps: int = 4  # two", "steps: int = = 3  # broken", "steps: str | dict = ''  # wrong",
    "steps: list = []  # of what", "steps: tuple[int] = (1,)  # no", "a.b: int = 3  # no", "a[0]: int = 3  # no", "steps: int = None  # no", "rate: float = 'fast'  # no",
    "flag: bool = 1  # no", "kind: Literal['a'] = 'b'  # no", "x: int = y  # no", "print('hello')", "def f(): pass", "for i in []: pass", "if True:\n    steps: int = 3  # x",
    "steps: int = 3 # ", "(steps): int = f'{3}'  # no", "x: bytes = b'1'  # no", "x: complex = 1j  # no", "x: set = {1}  # no", "\x00", "'a text'", "steps: int = 10 ** 9  # computed",
    "x: Literal[y] = 'y'  # no", "x: Literal['a', f()] = 'a'  # no", "x: list[list] = []  # no", "x: int = 1; y: int = 2", "x: 'int' = 3  # no", "x: float = float('inf')  # no",
    "x: float = 1e999  # no", "x: str = 'a' 'b' + 'c'  # no", "steps: int = -'a'  # no", "%matplotlib inline", "!ls", "x: int = [1, 2  # open", "steps: list[int] = 3  # no",
    "x: int = {[]: 1}  # no", "x: int = {{}}  # no", "x: int = " + "-" * 5000 + "1  # no", "x: int = " + "[" * 3000, "x: " + "int | " * 5000 + "int = 1  # no",
]


def book(**changes: Any) -> dict[str, Any]:
    """A notebook as JSON, with changes at its top."""
    cells = [cell(PARAMETERS, tags=["parameters"]), cell("x = 1")]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4, **changes}


NOTEBOOKS: list[Any] = [
    "", "{", "[]", "null", "3", "\"text\"", "not json", b"\xff\xfe\x00", b"\x89PNG\r\n", "{\"cells\": ", "[" * 100_000, {}, {"cells": None}, {"cells": 3}, {"cells": {}}, {"cells": "x"},
    {"cells": [3]}, {"cells": [None]}, {"cells": ["x"]}, {"cells": [[]]}, book(cells=[]), book(metadata=None), book(metadata=[]), book(metadata="x"),
    book(cells=[cell("x = 1")]), book(cells=[cell(PARAMETERS, tags=["parameters"])] * 2), book(cells=[cell(PARAMETERS, "markdown", tags=["parameters"])]),
    book(cells=[cell(PARAMETERS, tags=["Parameters"])]), book(cells=[cell(PARAMETERS, tags="parameters")]), book(cells=[cell(PARAMETERS, tags=None)]), book(cells=[cell(PARAMETERS, tags=[3])]),
    book(cells=[{"cell_type": "code"}]), book(cells=[{"cell_type": "code", "metadata": []}]), book(cells=[{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [1, None]}]),
    book(cells=[cell(PARAMETERS, tags=["parameters"]), cell("x = '\ud800'")]), book(cells=[cell("x: str = '\udcff'  # x", tags=["parameters"])]),
    *(book(cells=[cell(PARAMETERS, tags=["parameters"]), {"cell_type": "code", "metadata": {}, "source": source}]) for source in (5, None, {}, [5], [["x"]], True)),
    book(cells=[{"metadata": {"tags": ["parameters"]}, "source": PARAMETERS}]), book(worksheets=[], cells=None), book(metadata={"harness": []}), book(metadata={"harness": "x"}),
    *(book(metadata={"harness": {"refuse": rules}}) for rules in (
        3, "steps < 3", {"steps": 3}, [3], [["steps < 3"]], [["steps < 3", 3]], [[3, "x"]], [["stepz < 3", "x"]], [["steps <", "x"]], [["__import__('os')", "x"]], [["name * 9", "x"]],
        [["steps / 0", "x"]], [["steps < 3", "there are too few"]], [["len(name) == 1 and flag", "contradiction"]], [["(" * 500 + "1" + ")" * 500, "x"]], [["steps.real", "x"]])),
]

PATHS = ["gone.ipynb", "folder.ipynb", "loop.ipynb", "", ".", "nb", "nb.ipynb/x", "a\x00b.ipynb", "x" * 300 + ".ipynb", "~nobody/nb.ipynb", "nb.IPYNB", "presets"]
MANIFESTS = ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 3}', '{"schema": "2"}', "[" * 100_000, "\xff"]
PLACES = ["~nobody-there/x", "file", "file/below", "folder-is-file", "/proc/nothing", "/dev/null"]
SHUT = ["notebook", "preset", "results", "manifest", "input"]
REAL_COMMANDS = [("gone.ipynb",), ("nb.ipynb", "-p", "stepz=3"), ("nb.ipynb", "-p", "rate=nan"), ("nb.ipynb", "--preset", "huge")]
ALL = (VALUES, NAMES, WORDS, SECRETS, PRESETS, CELLS, NOTEBOOKS, PATHS, MANIFESTS, PLACES, SHUT)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one notebook; its runs would lie in ``results``."""
    monkeypatch.setenv(runs.RESULTS, str(tmp_path / "results"))
    monkeypatch.setattr(identity, "code", lambda notebook: {})
    monkeypatch.setattr(launch, "_papermill", lambda *_: pytest.fail("a kernel was about to start"))
    write_notebook(tmp_path, "nb", "x = 1", parameters=PARAMETERS)
    return tmp_path


def complain(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run ``harness run``; its one sentence. Fails for success, for several lines, and for a traceback."""
    code = cli.main(["run", *words])
    said = capsys.readouterr().err
    assert code != 0, words
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said and 20 < len(said) < 1500, (words, said)
    return said


def final_files(folder: Path) -> list[str]:
    """Files of runs under final names."""
    return [str(path) for path in (folder / "results").rglob("*") if path.is_file() and not path.name.startswith(".")] if (folder / "results").is_dir() else []


def test_there_are_three_hundred() -> None:
    assert sum(map(len, ALL)) >= 300


def test_bad_values_names_and_words(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in VALUES + NAMES + WORDS + SECRETS:
        said = complain(capsys, str(place / "nb.ipynb"), f"-p{word}" if word else "-p=")
        assert word in SECRETS or word.partition("=")[0].strip()[:40] in said
    for words in (("-psteps=1", "-psteps=2"), ("-psteps=1", "-pstepz=2"), ("--preset=tiny",), ("--preset=",), ("--preset=../x",), ("--price=-1",), ("--price=nan", "--dry-run")):
        if words != ("--preset=",):  # no preset is asked for
            complain(capsys, str(place / "nb.ipynb"), *words)
    assert final_files(place) == []


def test_bad_presets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "presets" / "nb.bad.yaml"
    path.parent.mkdir()
    for text in PRESETS:
        path.write_bytes(text.encode())
        said = complain(capsys, str(place / "nb.ipynb"), "--preset", "bad")
        assert "nb.bad.yaml" in said or "`" in said
    path.write_bytes(b"steps: \xff\xfe")
    complain(capsys, str(place / "nb.ipynb"), "--preset", "bad")
    assert final_files(place) == []


@pytest.mark.parametrize("kind", ["folder", "dangling", "loop"])
def test_a_preset_that_is_no_file(place: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = place / "presets" / "nb.tiny.yaml"
    path.parent.mkdir()
    path.mkdir() if kind == "folder" else path.symlink_to(path if kind == "loop" else place / "nowhere")
    for words in ((), ("--preset", "tiny")):
        assert "nb.tiny.yaml: cannot be read" in complain(capsys, str(place / "nb.ipynb"), *words)


def test_bad_modules_beside_a_notebook(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(runs.RESULTS, str(place / "results"))
    path = write_notebook(place, "uses", "import helper")
    for content in (b"x = =", b"'\xe9'", b"\x00", b"(" * 3000):
        (place / "helper.py").write_bytes(content)
        assert "helper.py: not Python" in complain(capsys, str(path))
    assert final_files(place) == []


def wrong_fields(facts: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A manifest with one field lost, or of another type, also one level below."""
    for name in manifest.FIELDS:
        yield name, {key: value for key, value in facts.items() if key != name}
        for value in (3, "x", [3], {"a": 3}, None, True, [None], {"code": 3}):
            if not isinstance(value, type(facts[name])) and value is not None and (name, value) != ("report", "x"):
                yield name, facts | {name: value}
    for name, below in (("parameters", {"resolved": 3}), ("timings", {"started": 3}), ("timings", {"started": "x"}), ("timings", {"attempts": "x"}), ("identity", {"code": 3}),
                        ("identity", {"packages": {"a": 3}}), ("identity", {"notebook": 3}), ("outputs", {"a": 3}), ("error", {"reason": 3}), ("timings", {"ended": []})):
        yield name, facts | {name: {**(facts[name] or {}), **below}}


@pytest.mark.parametrize("status", ["complete", "running", "failed"])
def test_a_manifest_with_one_wrong_field(place: Path, capsys: pytest.CaptureFixture[str], status: str) -> None:
    made = plan(place)
    run = runs.create(made.folder, "nb", made.facts, made.resolved, [], place, given={})
    facts = {**run.manifest, "status": status}
    cases = list(wrong_fields(facts))
    for name, wrong in cases:
        (made.folder / manifest.NAME).write_text(json.dumps(wrong))
        assert f"`{name}" in complain(capsys, str(place / "nb.ipynb")), wrong[name] if name in wrong else name
    assert len(cases) > 80


def test_bad_parameter_cells(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in CELLS:
        path = write_notebook(place, "cells", "x = 1", parameters=source)
        assert "parameters cell" in complain(capsys, str(path))
    assert final_files(place) == []


def test_bad_notebooks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "bad.ipynb"
    for content in NOTEBOOKS:
        path.write_bytes(content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode())
        complain(capsys, str(path))
    (place / "folder.ipynb").mkdir()
    (place / "loop.ipynb").symlink_to(place / "loop.ipynb")
    for name in PATHS:
        complain(capsys, str(place / name) if name else "")
    assert final_files(place) == []


# --- folders, permissions, a full disk --------------------------------------------------------------------------------


def plan(place: Path) -> launch.Plan:
    return launch.plan(place / "nb.ipynb", None, {})


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_run_folder_with_a_broken_manifest(place: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    folder = plan(place).folder
    folder.mkdir(parents=True)
    (folder / manifest.NAME).write_text(text, encoding="latin-1")
    assert manifest.NAME in complain(capsys, str(place / "nb.ipynb"))
    assert (folder / manifest.NAME).read_text(encoding="latin-1") == text


@pytest.mark.parametrize("where", PLACES)
def test_results_where_nothing_can_be_written(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    (place / "file").write_text("")
    if where == "folder-is-file":
        folder = plan(place).folder
        folder.parent.mkdir()
        folder.write_text("")
    else:
        monkeypatch.setenv(runs.RESULTS, where if where.startswith(("/", "~")) else str(place / where))
    complain(capsys, str(place / "nb.ipynb"))


@pytest.fixture
def nobody(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same place for a user whom permissions stop: root is somebody else meanwhile."""
    if os.name == "nt" or os.geteuid() != 0:
        yield place
        return
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(place / "nb.ipynb", name)
        monkeypatch.setenv(runs.RESULTS, f"{name}/results")
        for path in (Path(name), *Path(name).iterdir()):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        yield Path(name)
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="permissions are something else there")
@pytest.mark.parametrize("what", SHUT)
def test_permissions(nobody: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    (nobody / "presets").mkdir()
    (nobody / "presets" / "nb.tiny.yaml").write_text("# harness run nb.ipynb --preset tiny\n")
    (nobody / "art").mkdir()
    (nobody / "art" / "a.txt").write_text("1")
    given = f"data={nobody / 'art'}"
    folder = launch.plan(nobody / "nb.ipynb", None, {"data": str(nobody / "art")}).folder
    folder.mkdir(parents=True)
    (folder / manifest.NAME).write_text('{"schema": 2, "status": "complete"}')
    shut = {"notebook": nobody / "nb.ipynb", "preset": nobody / "presets" / "nb.tiny.yaml", "results": nobody / "results", "manifest": folder / manifest.NAME,
            "input": nobody / "art"}[what]
    shut.chmod(0)
    try:
        assert "ermission" in complain(capsys, str(nobody / "nb.ipynb"), "-p", given)
    finally:
        shut.chmod(0o700)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A disk that is full from the n-th file on, counting from 0."""
    real, left = os.fsync, [1 << 30]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    yield lambda count: left.__setitem__(0, count)


def test_a_disk_that_is_full_at_any_file(place: Path, no_kernel: None, full: Callable[[int], None], capsys: pytest.CaptureFixture[str]) -> None:
    path = story(place, "full")
    for count in range(4):
        full(count)
        assert cli.main(["run", str(path), "-p", f"steps={count + 3}"]) != 0
        said = capsys.readouterr().err
        assert "No space left on device" in said and "Traceback" not in said
        full(1 << 30)
        assert not list((place / "results").rglob("*.tmp"))
        states = [manifest.status(folder) for folder in folders(place / "results")]
        assert "complete" not in states or count == 3  # then only what the run took is missing
    assert cli.main(["run", str(path), "-p", "steps=3"]) == 0


def test_a_disk_that_is_full_for_the_lock(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runs import lock

    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "write", no_space)
    assert "No space left on device" in complain(capsys, str(place / "nb.ipynb"))
    assert final_files(place) == []


# --- as real commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", REAL_COMMANDS)
def test_a_sample_as_real_commands(place: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", "harness", "run", *words], cwd=place, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not done.stdout
    assert final_files(place) == []


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files")
def test_a_real_limit_on_what_can_be_written(place: Path) -> None:
    """Every write beyond the first bytes fails in the operating system itself."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from harness.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "run", str(place / "nb.ipynb")], capture_output=True, text=True)
    assert done.returncode == 2 and "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert final_files(place) == []
