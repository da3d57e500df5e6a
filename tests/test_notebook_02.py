"""The notebook on fine-tuning: what it refuses, what it leaves behind, and that every recipe goes from photos to a file that opens elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import params
from harness.finetune.adapter import KNOWN, Adapter, read_manifest
from harness.report import verify
from harness.runs import notebooks
from harness.trials import lesson

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "02_fine_tune.ipynb"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of the smoke preset, and what was printed."""
    results = tmp_path_factory.mktemp("runs")
    done = subprocess.run([sys.executable, "-m", "harness", "run", str(NOTEBOOK), "--preset", "smoke"], cwd=ROOT, capture_output=True, text=True, timeout=600,
                          env={**os.environ, "HARNESS_RESULTS": str(results)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = [path.parent for path in results.glob("*/manifest.json")]
    return folder, done.stdout


def cells(results: Path, **given: Any) -> dict[str, Any]:
    """The notebook's cells one after the other in this process, on the smoke preset; returns its variables."""
    told = notebooks.read(NOTEBOOK)
    values = params.read_preset(told.presets()["smoke"], told.parameters) | given
    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(results))
        for cell in notebooks.load(NOTEBOOK)["cells"]:
            if cell["cell_type"] == "code":
                exec(compile(notebooks.text(cell), cell["id"], "exec"), names)
                names |= values if "parameters" in cell["metadata"].get("tags", []) else {}
    return names


def test_without_an_attestation_nothing_is_trained_and_with_one_it_is(run: tuple[Path, str]) -> None:
    folder, printed = run
    assert "refused: no adult attestation that stands for person-06-0" in printed
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notes"]["purpose"] == "training" and manifest["notes"]["consent"]["exportable"]
    works = pd.read_csv(folder / "works.csv")
    photos = pd.read_csv(folder / "person" / "photos" / "samples.csv")
    inside = read_manifest(folder / "person" / "adapter" / KNOWN[0])
    assert {row["sha256"] for row in inside["images"]} <= set(photos["sha256"]) & set(works.loc[works["role"] == "trained on", "sha256"])
    assert inside["consent"]["allowed"] and all("shld" in row["caption"] for row in inside["images"]) and photos["crop"].notna().all()


def test_every_figure_is_kept_and_the_report_is_whole(run: tuple[Path, str]) -> None:
    folder, _ = run
    for name in ("words", "crops", "person", "choice", "face", "hand", "style", "pairs"):
        assert (folder / f"{name}.png").stat().st_size > 1000, name
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [f["question"] for f in report["findings"]] == ["copies", "copies", "style"] and {f["verdict"] for f in report["findings"]} <= {"cannot tell", "not calibrated"}
    assert not verify.check(folder).differs and report["credits"]


def test_the_checkpoint_chose_itself_and_its_files_are_the_result(run: tuple[Path, str]) -> None:
    folder, printed = run
    for part in ("person", "hand"):
        out = folder / part / "adapter"
        chosen = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["chosen"]
        kept = Adapter.open(out)
        assert kept.path.read_bytes() == (out / "steps" / f"{chosen['step']:05d}" / KNOWN[0]).read_bytes() and chosen["why"] in printed
        table = pd.read_csv(out / "checkpoints.csv")
        assert list(table["step"].unique()) == [2, 4] and set(table["measure"]) == {"fidelity", "prompt", "copies", "drift"}
        assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()
        assert list(pd.read_csv(out / "validation.csv")["step"]) == [2, 4] and kept.manifest["held_out"]


def test_programs_rated_blind_and_people_may(run: tuple[Path, str]) -> None:
    folder, _ = run
    preferred = pd.read_csv(folder / "preferred.csv")
    assert set(preferred["rater"]) <= {"clip-and-prompt", "judge-of-style"} and preferred["win rate"].between(0, 1).all()
    for file in (folder / "ratings").glob("*.csv"):
        assert len(pd.read_csv(file)) == 4 and "tuned" not in file.read_text()
    assert "application/vnd.jupyter.widget" not in (folder / "notebook.ipynb").read_text(encoding="utf-8")


def test_the_adapter_opens_in_plain_diffusers(run: tuple[Path, str]) -> None:
    assert json.loads((run[0] / "manifest.json").read_text(encoding="utf-8"))["notes"]["round_trip"]["largest_difference_of_255"] <= 1


@pytest.mark.parametrize("recipe", lesson.RECIPES[1:])
def test_every_other_recipe_runs_and_opens_in_plain_diffusers(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells in this process; what is left behind is loaded by diffusers' own loaders and draws the same."""
    monkeypatch.chdir(ROOT)
    names = cells(tmp_path, recipe=recipe, rater="rater-1" if recipe == "pivotal" else "")
    manifest, adapter = names["run"].manifest, names["adapter"]
    assert manifest["status"] == "complete" and manifest["notes"]["round_trip"]["largest_difference_of_255"] <= 1
    assert adapter.manifest["recipe"] == names["lesson"].kind and adapter.manifest["step"] in (2, 4) and names["styled"].manifest["recipe"] == adapter.manifest["recipe"]
    words = recipe in lesson.LEARNS_WORDS
    assert (names["face"], names["hand"]) == (lesson.WORDS if words else ("shld", "nwsl"))
    assert ((adapter.path.parent / "learned_embeds.safetensors").is_file(), adapter.pipeline is not None) == (words, recipe == "full")
    if recipe == "pivotal":
        assert names["ballot"].next.number == 1 and not names["ballot"].file.exists()


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for given, words in (("photos=4", "5 or more"), ("prompts=13", "2 to 12 prompts")):
        done = subprocess.run([sys.executable, "-m", "harness", "run", str(NOTEBOOK), "--preset", "smoke", "-p", given], cwd=ROOT, capture_output=True, text=True,
                              timeout=300, env={**os.environ, "HARNESS_RESULTS": str(tmp_path)})
        assert done.returncode != 0 and words in done.stdout + done.stderr, done.stdout[-500:] + done.stderr[-500:]
