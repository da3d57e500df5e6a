"""A run's name covers exactly what decides its result: the code that the notebook can reach, its settings, its inputs; never where they lie."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launched import folders, no_kernel, run, story, write_notebook

from harness import provenance, runs
from harness.errors import HarnessError, Refused
from harness.runs import identity, imports, inputs, launch, manifest, notebooks

__all__ = ["no_kernel"]
FIRST = Path(__file__).resolve().parents[1] / "notebooks" / "00_start_here.ipynb"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where the tests run."""
    monkeypatch.setenv(runs.RESULTS, str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- code -------------------------------------------------------------------------------------------------------------


def test_a_notebook_reaches_what_it_imports_and_nothing_else() -> None:
    found = imports.reach(["from harness import stats"])
    assert "harness/stats.py" in found and "harness/errors.py" in found and "harness/__init__.py" in found
    assert not any(name.startswith(("harness/audit", "harness/runs", "harness/world", "harness/cli")) for name in found)


def test_imports_inside_functions_count_and_those_for_type_checkers_do_not() -> None:
    found = imports.reach(["def later():\n    import harness.stats\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import harness.plots"])
    assert "harness/stats.py" in found and "harness/plots.py" not in found


def test_data_of_a_room_and_data_named_by_a_path_count() -> None:
    assert "harness/report/templates/report.css" in imports.reach(["from harness.report import write"])
    assert any(name.startswith("harness/world/weights/pipeline") for name in imports.reach(["from harness import models"]))  # `world` itself is not imported
    assert not any("weights" in name or "templates" in name for name in imports.reach(["from harness import runs"]))


@pytest.mark.parametrize("source", ["!harness ls", "out = !python -m harness ls", "x = ="])
def test_a_cell_that_runs_the_command_or_cannot_be_read_reaches_all_of_it(source: str) -> None:
    assert {"harness/cli.py", "harness/doctor.py", "harness/runs/launch.py"} <= set(imports.reach([source])) <= set(imports.everything())


@pytest.mark.parametrize("source", ["%matplotlib inline\n!ls\nx = 1", "%%bash\necho 'not ( python'", "files = !ls", "%%time\nimport harness.errors"])
def test_magics_and_shell_lines_are_no_python(source: str) -> None:
    assert len(imports.reach([source])) <= 2


@pytest.fixture
def helper(tmp_path: Path) -> Path:
    """A module beside the notebook, one that it imports, and one in a folder of tools."""
    (tmp_path / "helper.py").write_text("import second\n")
    (tmp_path / "second.py").write_text("from harness import stats\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "made.py").write_text("import beside\n")
    (tmp_path / "tools" / "beside.py").write_text("")
    (tmp_path / "other.py").write_text("")
    return tmp_path


@pytest.mark.parametrize("source", [
    "%run helper.py", "%run helper", "!python helper.py", "if 1:\n    !python ./helper.py --steps 3", "%%bash\npython helper.py", "%%sh\npython -m helper", "x = !python -m helper",
    "%%time\n!ls\nimport helper", "%%python\nimport helper", "if 1:\n    !ls\nimport helper", "y = (1\n%z)\nimport helper", "%load_ext helper", "!python -c 'import helper'",
])
def test_what_magics_and_shell_lines_run_is_followed(helper: Path, source: str) -> None:
    found = imports.reach([source], [helper])
    assert {"helper.py", "second.py", "harness/stats.py"} <= set(found) and "other.py" not in found and "harness/cli.py" not in found


def test_scripts_in_other_folders_are_followed(helper: Path) -> None:
    assert {"tools/made.py", "tools/beside.py"} <= set(imports.reach(["!python tools/made.py"], [helper]))
    (helper / "go.sh").write_text("true")
    assert "go.sh" in imports.reach([f"!bash {helper}/go.sh", "!echo " + "long" * 900], [helper.parent, helper])


def test_what_cannot_be_read_reaches_the_modules_beside_it_too(helper: Path) -> None:
    assert {"helper.py", "other.py", "tools/made.py", "harness/cli.py"} <= set(imports.reach(["x = ="], [helper]))


@pytest.mark.parametrize("content", [b"x = =", b"x = '\xe9'", b"x = 1\x00"])
def test_a_module_that_is_no_python_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "helper.py").write_bytes(content)
    with pytest.raises(HarnessError, match="helper.py: not Python that can be read"):
        imports.reach(["import helper"], [tmp_path])
    (tmp_path / "helper.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    assert "helper.py" in imports.reach(["import helper"], [tmp_path])


def test_modules_beside_the_notebook_are_followed(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("from mine import tool\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "tool.py").write_text("from . import deeper\nfrom harness import stats\n")
    (tmp_path / "mine" / "deeper.py").write_text("import importlib\nimportlib.import_module('harness.progress')\n")
    (tmp_path / "unrelated.py").write_text("")
    found = imports.reach(["import helper"], [tmp_path])
    assert {"helper.py", "mine/__init__.py", "mine/tool.py", "mine/deeper.py", "harness/stats.py", "harness/progress.py"} <= set(found)
    assert "unrelated.py" not in found


def test_the_first_notebook_loads_no_module_that_is_not_reached() -> None:
    """Against Python's own import system: what the notebook's imports really load must be among what is hashed."""
    sources = [source for source in notebooks.read(FIRST).sources if source.lstrip().startswith(("from", "import"))]
    show = "import sys, json\nprint(json.dumps([name for name in sys.modules if name.split('.')[0] == 'harness']))"
    done = subprocess.run([sys.executable, "-c", "\n".join([*sources, show])], capture_output=True, text=True, cwd=FIRST.parents[1])
    loaded = json.loads(done.stdout.splitlines()[-1])
    reached = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in imports.reach(notebooks.read(FIRST).sources)}
    assert len(loaded) > 20 and set(loaded) <= reached
    assert not {"harness.cli", "harness.prove", "harness.runs.launch", "harness.compare.compare", "harness.sweep.sweep", "harness.doctor"} & reached


# --- the same wherever it lies ----------------------------------------------------------------------------------------


def project(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "data" / "a.txt").write_text("1")
    return write_notebook(folder, "nb", "import helper\nfrom harness import runs\nrun = runs.start('nb', globals())")


def test_the_id_is_the_same_wherever_the_project_and_its_data_lie(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for place in ("one", "two/deeper"):
        path = project(home / place)
        (path.parent / "helper.py").write_text("x = 1\n")
        for cwd, given in ((path.parent, "data"), (path.parent, str(path.parent / "data")), (path.parent / "data", "../data"), (home, str(path.parent / "data"))):
            monkeypatch.chdir(cwd)
            found = launch.plan(path, None, {"data": given})
            assert found.resolved["data"] == given
            ids.add(identity.run_id(found.facts))
    assert len(ids) == 1


def test_the_id_is_the_same_from_another_copy_of_the_harness(home: Path) -> None:
    path = write_notebook(home, "nb", "from harness import runs, stats\nrun = runs.start('nb', globals())")
    shutil.copytree(provenance.PACKAGE, home / "copy" / "harness", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    code = f"from harness.runs import identity, launch; from pathlib import Path; print(identity.run_id(launch.plan(Path({str(path)!r}), None, {{}}).facts))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(home / "copy")})
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=provenance.PACKAGE.parent)
    assert len(done.stdout.strip()) == 12 and done.stdout == again.stdout


def test_data_outside_the_project_go_by_name_and_bytes(home: Path) -> None:
    (home / "p").mkdir()
    path = write_notebook(home / "p", "nb", "x = 1")
    ids = {}
    for place, text in (("x", "1"), ("y", "1"), ("z", "2")):
        (home / place / "art").mkdir(parents=True)
        (home / place / "art" / "a.txt").write_text(text)
        ids[place] = identity.run_id(launch.plan(path, None, {"data": str(home / place / "art")}).facts)
    assert ids["x"] == ids["y"] != ids["z"]


def test_a_text_that_only_looks_like_a_path_stays_as_it_is(home: Path) -> None:
    path = write_notebook(home, "nb", "x = 1")
    assert launch.plan(path, None, {"data": "/not/there/at/all"}).facts["parameters"]["data"] == "/not/there/at/all"


# --- why new ----------------------------------------------------------------------------------------------------------


def test_the_changed_file_is_named_and_one_out_of_reach_changes_nothing(home: Path, no_kernel: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = story(home, "nb", "import helper")
    (home / "helper.py").write_text("x = 1\n")
    (home / "unrelated.py").write_text("x = 1\n")
    run(path)
    (home / "unrelated.py").write_text("x = 2\n")
    run(path)
    assert "finished already" in capsys.readouterr().out and len(folders(home / "results")) == 1
    (home / "helper.py").write_text("import unrelated\n")
    run(path)
    assert "new: helper.py changed; unrelated.py is newly reached\n" in capsys.readouterr().out
    (home / "unrelated.py").write_text("x = 3\n")
    run(path)
    assert "new: unrelated.py changed\n" in capsys.readouterr().out


def test_folders_of_an_earlier_schema_are_named_and_skipped(home: Path, no_kernel: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = story(home, "nb")
    for name, text in (("nb-old", '{"schema": 1, "notebook": "nb"}'), ("nb-broken", "{"), ("nb-odd", '{"schema": 2, "notebook": "nb"}')):
        (home / "results" / name).mkdir(parents=True)
        (home / "results" / name / manifest.NAME).write_text(text)
    assert run(path) == 0
    shown = capsys.readouterr().out
    assert "its schema is 1, this version reads 2" in shown and "nb-broken" in shown and shown.count("left out: ") >= 3
    assert "new: the first run of this notebook here" in shown


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_an_input_carries_its_card_and_licence(home: Path) -> None:
    for name in ("cards", "art", "model", "bare", "data_cards"):
        (home / name).mkdir()
    (home / "art" / "samples.csv").write_text("file,sha256\n")
    digest = provenance.sha256(home / "art" / "samples.csv")
    (home / "data_cards" / "art.md").write_text(f"---\nname: art\nlicense: CC-BY-4.0\ntable_sha256: {digest}\n---\n\n# Art\n")
    (home / "data_cards" / "other.md").write_text("---\nname: other\nlicense: CC0-1.0\ntable_sha256: 00\n---\n\n# Other\n")
    (home / "model" / "README.md").write_text("---\nlicense: openrail\n---\nA model.\n")
    (home / "bare" / "README.md").write_text("No front matter.\n")
    found = inputs.find({"a": str(home / "art"), "b": ["model", "bare"], "c": "miniature", "d": 3}, home)
    rows = [(row["parameter"], row["name"], row["card"], row["licence"]) for row in inputs.described(found, home)]
    assert rows == [("a", "art", "art.md", "CC-BY-4.0"), ("b", "model", "README.md", "openrail"), ("b", "bare", None, None)]
    assert found[0].sha256 == provenance.sha256(home / "art")


def test_inputs_that_are_no_data_are_refused(home: Path) -> None:
    (home / "p" / "art").mkdir(parents=True)
    for word in ("/", str(home), str(Path.home())):
        with pytest.raises(Refused, match="`data`.*holds the whole project or home"):
            inputs.find({"data": word}, home / "p")
    if hasattr(os, "mkfifo"):
        os.mkfifo(home / "p" / "art" / "pipe")
        with pytest.raises(HarnessError, match="neither a file nor a folder"):
            inputs.find({"data": str(home / "p" / "art")}, home / "p")
        (home / "p" / "art" / "pipe").unlink()
    (home / "p" / "art" / "gone").symlink_to(home / "nowhere")
    with pytest.raises(HarnessError, match="`data`: .*gone cannot be read"):
        inputs.find({"data": str(home / "p" / "art")}, home / "p")


def test_a_plain_word_is_no_input_because_a_file_is_called_so(home: Path) -> None:
    for name in ("miniature", "a.txt", "key.pem"):
        (home / name).write_text("1")
    (home / "art").mkdir()
    (home / "p").mkdir()
    words = ["miniature", "a.txt", "art", "./a.txt", str(home / "miniature"), "gone.txt"]
    assert [each.path for each in inputs.find({"x": words}, home / "p")] == ["a.txt", "art", "./a.txt", str(home / "miniature")]


@pytest.mark.parametrize("kind", ["", "RSA ", "OPENSSH ", "ENCRYPTED "])
def test_a_private_key_is_no_input(home: Path, kind: str) -> None:
    (home / "p").mkdir()
    (home / "key.pem").write_text(f"-----BEGIN {kind}PRIVATE" + " KEY-----\nabc\n")
    with pytest.raises(Refused, match="`key`: .*key.pem is a private key"):
        inputs.find({"key": "key.pem"}, home / "p")


def test_the_cached_commit_of_a_hub_model_decides(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_notebook(home, "nb", "x = 1", parameters='model: str = "owner/name"  # a model\nclip: str = "miniature"  # another')
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    ref, seen = home / "hf" / "hub" / "models--owner--name" / "refs" / "main", [launch.plan(path, None, {}).facts]
    ref.parent.mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        ref.write_text(commit)
        seen.append(launch.plan(path, None, {}).facts)
    assert [facts["inputs"] for facts in seen] == [{}, {"model=owner/name": "a" * 40}, {"model=owner/name": "b" * 40}]
    assert len({identity.run_id(facts) for facts in seen}) == 3


def test_threads_belong_to_a_processor_and_not_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "usable_gpus", lambda: [])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = provenance.device()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert one != provenance.device() and identity.facts(None, {})["device"] == provenance.device()
    monkeypatch.setattr(provenance, "usable_gpus", lambda: [{"name": "H100"}])
    assert provenance.device() == "H100"
