"""What a run checks, chooses and records around its cells: preset, contradictions, what went in, what lies in its folder."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from launched import folders, made, no_kernel, only, results, run, story, write_notebook

from harness import provenance, runs
from harness.errors import HarnessError, Refused
from harness.images import ImageSet
from harness.runs import folders as places
from harness.runs import launch, manifest, notebooks, presets, refuse
from harness.runs.presets import Machine

__all__ = ["made", "no_kernel", "results"]
GIB = 1 << 30
SMALL = Machine("", 0, 8 * GIB)


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def four(tmp_path: Path) -> notebooks.Notebook:
    """A notebook with the four usual presets, of which the one for the largest GPU wants a model."""
    (tmp_path / "presets").mkdir()
    for name, more in (("smoke", ""), ("tiny", ""), ("t4", ""), ("a100", " -p model=FOLDER_OR_HUB_ID")):
        (tmp_path / "presets" / f"nb.{name}.yaml").write_text(f"# harness run nb.ipynb --preset {name}{more}\nsteps: 3\n")
    return notebooks.read(write_notebook(tmp_path, "nb", "x = 1"))


@pytest.mark.parametrize(
    ("here", "given", "preset", "why"),
    [
        (SMALL, (), "tiny", "no GPU that torch can use"), (Machine("", 0, GIB), (), "smoke", "only 1.0 GiB of memory are free"),
        (Machine("T4", 15360, 8 * GIB), (), "t4", "T4 with 15 GiB"), (Machine("GTX", 6144, 8 * GIB), (), "tiny", "GTX with 6 GiB"),
        (Machine("H100", 81559, 8 * GIB), ("model",), "a100", "H100 with 79 GiB"),
        (Machine("H100", 81559, 8 * GIB), (), "t4", "H100 with 79 GiB; `a100` would want -p model=…"),
    ],
)
def test_the_machine_chooses_the_preset_and_the_run_says_why(four: notebooks.Notebook, here: Machine, given: tuple[str, ...], preset: str, why: str) -> None:
    assert presets.choose(four, None, given, here) == (preset, why)


def test_a_preset_that_was_asked_for_is_taken_and_one_that_is_not_there_refused(four: notebooks.Notebook, tmp_path: Path) -> None:
    assert presets.choose(four, "a100", (), SMALL) == ("a100", "asked for")
    with pytest.raises(HarnessError, match="no preset `huge`; there are a100, smoke, t4, tiny"):
        presets.choose(four, "huge", (), SMALL)
    bare = notebooks.read(write_notebook(tmp_path, "other", "x = 1"))
    assert presets.choose(bare, None, (), SMALL) == (None, "it has no presets, the notebook's own defaults")


def test_the_manifest_says_which_preset_and_why(four: notebooks.Notebook, results: Path, no_kernel: None) -> None:
    assert run(four.path, "-p", "rate=0.5") == 0
    found = only(results)["parameters"]
    assert found["preset"] == "tiny" and "no GPU" in found["preset_why"] and found["given"] == {"rate": "0.5"}
    assert found["resolved"]["steps"] == 3 and found["resolved"]["rate"] == 0.5


# --- contradictions ---------------------------------------------------------------------------------------------------

VALUES = {"steps": 3, "rate": 0.5, "kind": "a", "seeds": [1, 2], "flag": True, "size": None}


@pytest.mark.parametrize("condition", [
    "steps < 5", "steps * 2 > 5 and flag", "kind in ['a', 'b']", "len(seeds) == 2", "size is None", "not flag or rate <= 0.5", "1 < steps < 4", "-steps == -3",
    "steps % 2 == 1", "max(steps, 7) == 7", "kind != 'b'",
])
def test_a_condition_that_holds_refuses_with_its_sentence(condition: str) -> None:
    with pytest.raises(Refused, match=r"^too few of them \(now .* = "):
        refuse.contradictions([[condition, "too few of them."]], VALUES, "nb")


@pytest.mark.parametrize("condition", ["steps > 5", "kind == 'b'", "flag and rate > 1", "3 in seeds", "size is not None"])
def test_a_condition_that_does_not_hold_lets_pass(condition: str) -> None:
    refuse.contradictions([[condition, "no"]], VALUES, "nb")


@pytest.mark.parametrize("rule", [
    ["__import__('os')", "x"], ["steps.real > 1", "x"], ["stepz < 1", "x"], ["steps <", "x"], ["kind * 9", "x"], ["steps / 0", "x"], ["(lambda: 1)()", "x"],
    ["steps < 'a'", "x"], ["[x for x in seeds]", "x"], ["open('f')", "x"], ["steps > 5 and stepz", "x"], ["steps < 5"], "steps < 5", ["steps < 5", 3],
])
def test_a_rule_that_cannot_be_read_is_named(rule: object) -> None:
    with pytest.raises(HarnessError, match="^nb: .*(cannot be worked out|pairs)"):
        refuse.contradictions([rule], VALUES, "nb")


def test_contradictory_settings_start_nothing(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = story(tmp_path, "nb", refuse=[["steps < 2 and flag", "one step cannot be mirrored"]])
    assert run(path, "-p", "steps=1") == 2
    assert capsys.readouterr().err == "error: one step cannot be mirrored (now flag = True, steps = 1)\n" and not results.exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="one step"):
        runs.start("nb", {"steps": 1})


# --- what lies in the folder ------------------------------------------------------------------------------------------


def pictures(folder: Path, **columns: list[str]) -> ImageSet:
    return ImageSet(folder, pd.DataFrame(columns))


def test_every_picture_that_went_in_is_written_down_once(made: Path, results: Path) -> None:
    begun = runs.Run(folders(results)[0])
    works = pictures(begun.folder, sha256=["a", "b"], artist=["artist-07", "artist-07"], person=["p1", ""])
    begun.used(works, "trained on")
    begun.used(works, "trained on")
    begun.used(pictures(begun.folder, sha256=["a", "c"]), "held out")
    rows = list(csv.reader((begun.folder / "works.csv").open()))
    assert rows == [["sha256", "subject", "role"], ["a", "artist-07", "trained on"], ["a", "p1", "trained on"], ["b", "artist-07", "trained on"],
                    ["a", "", "held out"], ["c", "", "held out"]]
    begun.finish()
    assert "works.csv" in begun.manifest["outputs"]


def test_pictures_without_a_hash_or_a_role_are_refused(tmp_path: Path) -> None:
    for images, role in ((pictures(tmp_path, file=["a.png"]), "trained on"), (pictures(tmp_path, sha256=["a"]), " ")):
        with pytest.raises(HarnessError, match="written down by `sha256`"):
            places.add_works(tmp_path, images, role)
    for text in ("", "file,role\n1,2\n", "sha256,subject,role\n1,2\n"):
        (tmp_path / "works.csv").write_text(text)
        with pytest.raises(HarnessError, match="works.csv: "):
            places.add_works(tmp_path, pictures(tmp_path, sha256=["a"]), "trained on")


def test_a_run_that_was_killed_before_its_notebook_was_saved_goes_on(made: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders(results)[0]
    (folder / manifest.SAVED).unlink()
    (folder / ".half.123.tmp").write_text("half")
    (folder / ".made.tmp" / "in").mkdir(parents=True)
    assert run(made) == 0
    assert "goes on where it was killed" in capsys.readouterr().out and (folder / manifest.SAVED).exists()
    assert only(results)["timings"]["attempts"] == 2 and not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(("names", "force", "chosen"), [
    (["-2", "-4"], True, "-5"), (["-2", "-4"], False, "-4"), (["", "-3"], True, "-4"), (["", "-3"], False, "-3"), (["-x", "f", "-2-3"], False, ""), (["", "-10", "-9"], True, "-11"),
])
def test_holes_among_the_tries_hide_none(tmp_path: Path, names: list[str], force: bool, chosen: str) -> None:
    for name in names:
        (tmp_path / f"n.b-abc{name}").mkdir()
    assert places.choose_folder(tmp_path, "n.b", "abc", force).name == f"n.b-abc{chosen}"


def test_complete_is_asked_in_one_place(made: Path, results: Path) -> None:
    (folder,) = folders(results)
    assert places.is_complete(folder) and not places.is_complete(results / "nowhere")
    report = folder / "report.html"
    for text in ("changed", None):
        report.write_text(text) if text else report.unlink()
        assert not places.is_complete(folder)
    report.write_text("<p>report</p>")
    (folder / manifest.SAVED).unlink()
    assert not places.is_complete(folder)


def test_determinism_hardware_and_driver_are_recorded(made: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = only(results)
    assert found["determinism"]["OMP_NUM_THREADS"] == "1" and "PYTHONHASHSEED" in found["determinism"]
    assert found["hardware"]["cores"] >= 1 and "driver" in found["hardware"]
    monkeypatch.setattr(provenance, "gpus", lambda: [{"name": "T4", "memory": "15360 MiB", "driver": "550.1"}])
    assert provenance.hardware()["driver"] == "550.1"
    flags = SimpleNamespace(deterministic=True, benchmark=False)
    torch = SimpleNamespace(are_deterministic_algorithms_enabled=lambda: True, get_num_threads=lambda: 3, get_float32_matmul_precision=lambda: "high",
                            backends=SimpleNamespace(cudnn=flags))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert provenance.determinism().items() >= {"torch_threads": 3, "torch_deterministic_algorithms": True, "cudnn_benchmark": False}.items()


def test_a_cpu_build_of_torch_uses_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "gpus", lambda: [{"name": "T4", "memory": "15360 MiB", "driver": "550.1"}])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    for text, count in (("cuda: Optional[str] = None\nhip: Optional[str] = None\n", 0), ("cuda: Optional[str] = '13.0'\n", 1), ("hip: Optional[str] = '6.4'\n", 1)):
        (tmp_path / "version.py").write_text(text)
        provenance.usable_gpus.cache_clear()
        assert len(provenance.usable_gpus()) == count
    provenance.usable_gpus.cache_clear()


def test_a_plan_writes_nothing_and_takes_its_results_where_it_is_told(tmp_path: Path) -> None:
    path = story(tmp_path, "nb")
    before = sorted(tmp_path.rglob("*"))
    found = launch.plan(path, None, {"steps": "4"}, results=tmp_path / "elsewhere")
    assert found.folder.parent == tmp_path / "elsewhere" and found.resolved["steps"] == 4 and found.preset is None
    assert sorted(tmp_path.rglob("*")) == before
