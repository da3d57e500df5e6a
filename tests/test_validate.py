"""`harness validate` finds planted faults of every kind, and says how many of each it looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import made_run
import pytest

from harness import cli, prove, stats
from harness.images import atomic_write, sha256, write_csv
from harness.runs import manifest, notebooks
from harness.validate import checkrun, validate

FIRST = """# harness run notebooks/planted.ipynb --preset smoke
# Run in the tests.
steps: 4
"""


def written(path: Path, held: object) -> Path:
    return atomic_write(path, held if isinstance(held, str) else json.dumps(held, ensure_ascii=False))


@pytest.fixture
def project(tmp_path: Path, root: Path) -> Path:
    """A project with one sound thing of each kind."""
    top = tmp_path / "project"
    written(top / "pyproject.toml", "[project]\n")
    cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Planted\n\n**Question:** what is wrong here?"},
             {"cell_type": "code", "id": "parameters", "metadata": {"tags": ["parameters"]}, "source": "steps: int = 2  # training steps", "outputs": [], "execution_count": None}]
    told = {"refuse": [["steps < 1", "at least one step"]], "work": {"train_steps": "steps"}}
    written(top / "notebooks" / "planted.ipynb", {"cells": cells, "metadata": {"harness": told}, "nbformat": 4, "nbformat_minor": 5})
    written(top / "notebooks" / "presets" / "planted.smoke.yaml", FIRST)
    for name in ("miniature-base-artists.md", "miniature-base-artists.croissant.json", "miniature-model.md"):
        (top / "data_cards").mkdir(exist_ok=True)
        shutil.copyfile(root / "data_cards" / name, top / "data_cards" / name)
    run = a_run(top / "results" / "runs")
    shutil.copyfile(run / "findings.csv", written(top / "results" / "published" / "planted.findings.csv", ""))
    written(top / "results" / "published" / "planted.md", "Made by `harness run notebooks/planted.ipynb`.\n")
    return top


def a_run(parent: Path) -> Path:
    table = made_run.values("style", "artist-21", made_run.asked(2, 2), lambda i: i / 10)
    return made_run.make(parent, 1, [table], [made_run.finding("style", "artist-21", table)])


def faults(top: Path) -> list[str]:
    return [f"{fault.path.relative_to(top).as_posix()}: {fault.what}" for fault in validate.check(validate.find(top))]


def test_a_sound_project_has_no_fault_and_everything_is_counted(project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(project) == []
    monkeypatch.chdir(project / "notebooks")
    assert cli.main(["validate"]) == 0
    told = capsys.readouterr().out
    assert "looked at 1 notebook, 1 preset, 3 cards, 1 run, 2 published results" in told and "no fault" in told


def test_a_fault_is_named_and_the_exit_code_says_so(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "notebooks" / "presets" / "planted.smoke.yaml").write_text("stepz: 4\n")
    assert cli.main(["validate", str(project)]) == 1
    told = capsys.readouterr().out
    assert "planted.smoke.yaml: " in told and "stepz" in told and "did you mean `steps`?" in told


def test_this_checkout_has_no_fault(root: Path) -> None:
    for part, least in (("notebooks", 5), ("data_cards", 7), ("results/published", 10)):
        found = validate.find(root / part)
        assert sum(map(len, found.values())) >= least
        # whether a stamp is stale is asked by test_published
        assert [f"{fault.path.name}: {fault.what}" for fault in validate.check(found) if not fault.path.name.endswith(prove.STAMP)] == []


def test_nothing_to_check_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["validate", str(tmp_path)]) == 2 and "nothing here to check" in capsys.readouterr().err
    assert cli.main(["validate", str(tmp_path / "lost")]) == 2


@pytest.mark.parametrize("sound", [True, False])
def test_a_path_that_is_not_there_is_refused_and_its_folder_is_not_searched(project: Path, capsys: pytest.CaptureFixture, sound: bool) -> None:
    written(project / "notebooks" / "broken.ipynb", "{")
    named = [str(project / "data_cards")] * sound + [str(project / "notebooks" / "lost.ipynb")]
    assert cli.main(["validate", *named]) == 2
    told = capsys.readouterr()
    assert "lost.ipynb: there is no such file or folder" in told.err and "broken" not in told.out + told.err and "looked at" not in told.out


def test_no_path_outside_a_project_and_an_empty_path_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """`harness validate "$UNSET"` in a folder such as /tmp would find fault with everything that lies there."""
    written(tmp_path / "broken.ipynb", "{")
    monkeypatch.chdir(tmp_path)
    for words, said in (([], "not inside a project"), ([""], "an empty path")):
        assert cli.main(["validate", *words]) == 2
        told = capsys.readouterr()
        assert said in told.err and "broken" not in told.out + told.err
    assert cli.main(["validate", "."]) == 1


def test_several_paths_are_checked_together_and_nothing_twice(project: Path, capsys: pytest.CaptureFixture) -> None:
    cards = project / "data_cards"
    assert cli.main(["validate", str(cards), str(project / "notebooks"), str(cards / "miniature-model.md")]) == 0
    assert "looked at 1 notebook, 1 preset, 3 cards, 0 runs" in capsys.readouterr().out


def test_a_notebook_that_was_run_by_itself_need_not_be_saved_there(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    told(lambda held: held["process"].update(by=manifest.ALONE))(run)
    (run / "notebook.ipynb").unlink()
    assert faults(tmp_path) == []


def test_one_file_or_one_run_can_be_named(project: Path) -> None:
    (run,) = (project / "results" / "runs").iterdir()
    for path, kind in ((run, "runs"), (project / "notebooks" / "planted.ipynb", "notebooks"), (project / "data_cards" / "miniature-model.md", "cards")):
        assert {name: len(found) for name, found in validate.find(path).items() if found} == {kind: 1}


# --- notebooks, presets ---------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """An edit of the planted notebook's JSON."""
    def edit(top: Path) -> None:
        path = top / "notebooks" / "planted.ipynb"
        held = json.loads(path.read_text())
        change(held)
        written(path, held)
    return edit


NOTEBOOK: dict[str, Callable[[dict], object]] = {
    "tagged": lambda nb: nb["cells"][1]["metadata"].clear(),
    "not a literal": lambda nb: nb["cells"][1].update(source="steps: int = len('x')  # steps"),
    "saved with outputs": lambda nb: nb["cells"][1].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}]),
    "code cell 1 was saved": lambda nb: nb["cells"][1].update(execution_count=3),
    "hold widgets": lambda nb: nb["metadata"].update(widgets={}),
    "headings of the first level": lambda nb: nb["cells"][0].update(source="## Planted\n\nWhat?"),
    "is a question": lambda nb: nb["cells"][0].update(source="# Planted\n\nNothing asked."),
    "not a notebook of format 4": lambda nb: nb["cells"][0].update(cell_type="prose"),
    "cell 1 has no id": lambda nb: nb["cells"][0].pop("id"),
    "have one id": lambda nb: nb["cells"][1].update(id="title"),
    "contradict each other": lambda nb: nb["metadata"]["harness"].update(refuse=[["steps < 3", "too few"]]),
    "cannot be worked out": lambda nb: nb["metadata"]["harness"].update(refuse=[["stepz < 3", "too few"]]),
    "no parameter `stepz`": lambda nb: nb["metadata"]["harness"].update(work={"train_steps": "stepz"}),
    "looks like a secret": lambda nb: nb["cells"][0].update(source=nb["cells"][0]["source"] + " hf_" + "aB3" * 10),
}


@pytest.mark.parametrize("said", NOTEBOOK)
def test_a_planted_fault_of_a_notebook_is_found(project: Path, said: str) -> None:
    edited(NOTEBOOK[said])(project)
    found = [line for line in faults(project) if line.startswith("notebooks/planted.ipynb")]
    assert found and any(said in line for line in found)


PRESET = {
    "steps: four\n": "must be int", FIRST + "steps: 5\n": "given twice", FIRST.replace("--preset smoke", "--preset tiny"): "first line",
    FIRST.replace("# Run in the tests.\n", "# Small.\n"): "ever run", FIRST.replace("4", "0"): "at least one step", "a: [": "not a YAML file", FIRST + "key: hf_" + "x1" * 12: "key",
}


@pytest.mark.parametrize("text", PRESET)
def test_a_planted_fault_of_a_preset_is_found(project: Path, text: str) -> None:
    written(project / "notebooks" / "presets" / "planted.smoke.yaml", text)
    assert any(PRESET[text] in line for line in faults(project))


def test_a_preset_of_no_notebook_is_found(project: Path) -> None:
    written(project / "notebooks" / "presets" / "other.smoke.yaml", FIRST)
    assert any("other.smoke.yaml: there is no notebook other.ipynb" in line for line in faults(project))


# --- cards, published results -------------------------------------------------------------------------------------------


def replaced(name: str, old: str, new: str) -> Callable[[Path], object]:
    """An edit of one text file of the project."""
    def edit(top: Path) -> None:
        text = (top / name).read_text(encoding="utf-8")
        assert old in text
        written(top / name, text.replace(old, new, 1))
    return edit


CARD = "data_cards/miniature-base-artists"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "licence": (replaced(f"{CARD}.md", "license: CC-BY-4.0", "license: ''"), "license is empty"),
    "use": (replaced(f"{CARD}.md", "cawg.", "cawg.any_"), "not a use of the CAWG vocabulary"),
    "field": (replaced(f"{CARD}.md", "license:", "licence:"), "unknown fields"),
    "name": (replaced(f"{CARD}.md", "name: miniature-base-artists", "name: other"), "calls itself other"),
    "twins differ": (replaced(f"{CARD}.croissant.json", "Portraits in nine", "Portraits in ninety"), "`description` is not what"),
    "croissant": (replaced(f"{CARD}.croissant.json", '"@type": "sc:Dataset"', '"@type": "sc:Person"'), "croissant.json"),
    "broken json": (lambda top: written(top / f"{CARD}.croissant.json", "{"), "not JSON"),
    "twin": (lambda top: (top / f"{CARD}.croissant.json").unlink(), "twin for machines"),
    "other twin": (lambda top: (top / f"{CARD}.md").unlink(), "twin for people"),
    "model card": (replaced("data_cards/miniature-model.md", "license: cc-by-4.0\n", ""), "says no `license`"),
    "model's data": (replaced("data_cards/miniature-model.md", "[miniature-base-artists]", "[nobody-knows]"), "`nobody-knows`, which has no card"),
    "no front": (lambda top: written(top / "data_cards" / "plain.md", "# Plain\n"), "no front matter"),
    "command": (lambda top: written(top / "results/published/planted.md", "Numbers.\n"), "nothing says which command made it"),
    "findings": (replaced("results/published/planted.findings.csv", "not calibrated", "surely"), "'surely' is none of"),
    "nan": (replaced("results/published/planted.findings.csv", "0.15", "inf"), "inf"),
    "table": (lambda top: written(top / "results/published/planted.csv", "a,b\n"), "without a row"),
    "json": (lambda top: written(top / "results/published/planted.json", "{"), "not JSON"),
    "picture": (lambda top: written(top / "results/published/planted.png", "no"), "not a whole picture"),
    "stamp": (lambda top: written(top / "results/published/planted.stamp.json", {"command": "harness x"}), "it says no `code`"),
    "stamp beside another": (lambda top: (stamp(top, {"planted.findings.csv": "0" * 64, "planted.md": "0" * 64}), written(top / "results/published/other.stamp.json", {"command": "x"})), "it says no `code`"),
    "broken stamp": (lambda top: written(top / "results/published/planted.stamp.json", "[]"), "not a stamp"),
    "unstamped": (lambda top: stamp(top, {}), "does not name it"),
    "stale": (lambda top: stamp(top, {"planted.findings.csv": "0" * 64, "planted.md": "0" * 64}), "there is no proof of this name"),
    "restamped": (lambda top: stamp(top, {"planted.findings.csv": "0" * 64, "planted.md": "0" * 64}), "planted.findings.csv: is not what `planted` wrote"),
}


def stamp(top: Path, results: dict[str, str]) -> None:
    held = {"command": "harness x", "code": ["a.py"], "code_sha256": "0" * 64, "results": results or {"gone.csv": "0" * 64}, "date": "2026-01-01", "device": "cpu"}
    written(top / "results/published/planted.stamp.json", held)


@pytest.mark.parametrize("name", FILES)
def test_a_planted_fault_of_a_card_or_result_is_found(project: Path, name: str) -> None:
    plant, said = FILES[name]
    plant(project)
    assert any(said in line for line in faults(project)), faults(project)


# --- runs -----------------------------------------------------------------------------------------------------------------


def told(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """An edit of a run's manifest."""
    def edit(run: Path) -> None:
        held = json.loads((run / "manifest.json").read_text())
        change(held)
        written(run / "manifest.json", held)
    return edit


def table(name: str, old: str, new: str) -> Callable[[Path], object]:
    """An edit of a table that leaves the hash in the manifest right: only the table's own check can find it."""
    def edit(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        written(run / name, text.replace(old, new, 1))
        hashed(run)
    return edit


def hashed(run: Path) -> None:
    told(lambda held: held.update(outputs={name: sha256(run / name) for name in manifest.output_files(run, [run])}))(run)


RUNS: dict[str, tuple[Callable[[Path], object], str]] = {
    "broken": (lambda run: written(run / "manifest.json", '{"schema": 2, "sta'), "broken"),
    "old": (told(lambda held: held.update(schema=1)), "its schema is 1"),
    "lacks": (told(lambda held: held.pop("git")), "'git' is a required property"),
    "status": (told(lambda held: held.update(status="done")), "`status` missing or not what"),
    "type": (told(lambda held: held["timings"].update(attempts="two")), "`timings` missing or not what"),
    "no reason": (told(lambda held: held.update(status="failed")), "manifest.json, error"),
    "no end": (told(lambda held: held["timings"].update(ended=None)), "timings.ended"),
    "escape": (told(lambda held: held["outputs"].update({"../x": "0" * 64})), "outputs"),
    "parameters": (told(lambda held: held["parameters"]["resolved"].update(steps=999)), "not the hash of the parameters"),
    "folder": (lambda run: run.rename(run.with_name("planted-" + "0" * 12)), "cannot lie in a folder of this name"),
    "changed": (lambda run: written(run / "report.html", "<p>better</p>"), "report.html is changed"),
    "gone": (lambda run: (run / "rows.csv").unlink(), "rows.csv is gone"),
    "verdict": (table("findings.csv", "not calibrated", "proven"), "'proven' is none of"),
    "column": (table("findings.csv", "verdict,", "judgement,"), "its columns are"),
    "mean": (table("rows.csv", ",0.3", ",0.9"), "the mean of the rows"),
    "rows": (table("rows.csv", "style,artist-21", "style,artist-22"), "rows and no finding"),
    "picture": (lambda run: ((run / "tuned" / "00000.png").write_bytes((run / "tuned" / "00001.png").read_bytes()), hashed(run)), "differ from samples.csv"),
    "outside": (table("samples.csv", "tuned/00000.png", "../00000.png"), "leads outside the folder"),
    "works": (table("works.csv", "sha256", "hash"), "no column sha256"),
    "hash": (table("works.csv", ",artist-21", "x,artist-21"), "is no SHA-256"),
    "notebook": (lambda run: written(run / "notebook.ipynb", {"cells": [{"cell_type": "code"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), "notebook.ipynb: not a notebook"),
    "widgets": (lambda run: written(run / "notebook.ipynb", {"cells": [], "metadata": {"widgets": {}}, "nbformat": 4, "nbformat_minor": 5}), "hold widgets"),
    "lost notebook": (lambda run: (run / "notebook.ipynb").unlink(), "notebook.ipynb is not there: the launcher was killed"),
    "secret": (lambda run: (written(run / "log.txt", "hf_" + "Qq1" * 10), hashed(run)), "log.txt: it holds what looks like a secret"),
    "seal": (lambda run: sealed(run), "not as it was sealed: findings.csv"),
}


def sealed(run: Path) -> None:
    from harness.report import seal

    seal.write(run)
    table("findings.csv", "planted", "Planted")(run)


@pytest.mark.parametrize("name", RUNS)
def test_a_planted_fault_of_a_run_is_found(tmp_path: Path, name: str) -> None:
    plant, said = RUNS[name]
    run = a_run(tmp_path)
    assert faults(tmp_path) == []
    plant(run)
    assert any(said in line for line in faults(tmp_path)), faults(tmp_path)


def test_a_stopped_run_is_no_fault_but_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = a_run(tmp_path)
    told(lambda held: held.update(status="running", outputs={}))(run)
    assert cli.main(["validate", str(tmp_path)]) == 0 and "1 are not complete: 1 running" in capsys.readouterr().out


def test_the_schema_fits_what_runs_write(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest as `runs` itself writes it, begun, failed and complete; so the schema cannot drift from the code."""
    from harness import runs

    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path))
    defaults = notebooks.read(root / "notebooks" / "00_start_here.ipynb").defaults
    monkeypatch.chdir(root)
    run = runs.start("00_start_here", defaults)
    assert checkrun.run(run.folder) == []
    run.fail(3, "x = 1", "ValueError: planted")
    assert checkrun.run(run.folder) == []
    write_csv(run.folder / "findings.csv", stats.table([stats.cannot_tell("style", "artist-21", "planted")]))
    run.finish()
    assert checkrun.run(run.folder) == [] and run.manifest["status"] == "complete"
