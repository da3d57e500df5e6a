"""Which checkpoint is kept: the rule and its reasons, open abstention, and taking another by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import HarnessError
from harness.finetune import choose as choosing
from harness.finetune import record
from harness.finetune.adapter import MANIFEST_KEY, WEIGHTS, Adapter, tensor_file
from harness.finetune.choose import Rule, choose
from harness.images import write_csv


def said(**measures: list[tuple[float, float, float]]) -> pd.DataFrame:
    """Rows of a training's checkpoints.csv, a step every 50, from measure=[(estimate, low, high), ...]."""
    return pd.DataFrame([{"step": 50 * (i + 1), "measure": name, "estimate": e, "low": low, "high": high}
                         for name, values in measures.items() for i, (e, low, high) in enumerate(values)])


RISING = [(0.2, 0.15, 0.25), (0.5, 0.45, 0.55), (0.6, 0.54, 0.66), (0.9, 0.85, 0.95)]
NONE, SOME = (0.0, 0.0, 0.1), (0.4, 0.2, 0.6)
LITTLE, MUCH = (0.3, 0.2, 0.4), (1.4, 1.2, 1.6)


def test_the_highest_fidelity_is_not_kept_where_it_copies() -> None:
    found = choose(said(fidelity=RISING, copies=[NONE, NONE, NONE, SOME], drift=[LITTLE] * 4))
    assert found.step == 100 and "step 150" in found.why and "cannot tell" in found.why
    assert list(found.table["passes"]) == [True, True, True, False]
    assert "copies 40.0% (at most 60.0%) above 10%" in found.table["note"].iloc[3]


def test_the_best_is_kept_where_no_earlier_step_comes_near() -> None:
    found = choose(said(fidelity=RISING, copies=[NONE] * 4, drift=[LITTLE] * 4))
    assert found.step == 200 and "no earlier step comes near" in found.why


def test_a_person_may_want_the_best_whatever_its_neighbours() -> None:
    rows = said(fidelity=RISING[:3], copies=[NONE] * 3, drift=[LITTLE] * 3)
    assert choose(rows).step == 100 and choose(rows, Rule(earliest=False)).step == 150


def test_drift_bounds_too() -> None:
    found = choose(said(fidelity=RISING, copies=[NONE] * 4, drift=[LITTLE, LITTLE, MUCH, MUCH]))
    assert found.step == 100 and "drift 1.40 above 1" in found.table["note"].iloc[2]


def test_a_tie_may_not_be_won_by_a_step_that_does_not_pass() -> None:
    same = [(0.5, 0.4, 0.6)] * 3
    assert choose(said(fidelity=same, copies=[SOME, NONE, NONE], drift=[LITTLE] * 3)).step == 100


def test_when_no_step_passes_the_last_is_kept_and_that_is_said() -> None:
    found = choose(said(fidelity=RISING, copies=[SOME] * 4, drift=[LITTLE, LITTLE, MUCH, MUCH]))
    assert found.step == 200 and found.why.startswith("no step passes: step 50 has copies 40.0%")
    assert "the last is kept" in found.why and "step 200 has copies 40.0% (at most 60.0%) above 10%; drift 1.40 above 1" in found.why
    assert not found.table["passes"].any() and list(found.table["chosen"]) == [False, False, False, True]


def test_what_was_not_measured_bounds_nothing_and_that_is_said() -> None:
    found = choose(said(fidelity=RISING))
    assert found.step == 200 and "No judge measured copies or drift" in found.why
    assert "No judge measured" not in choose(said(fidelity=RISING, copies=[NONE] * 4, drift=[LITTLE] * 4)).why


def test_the_order_of_rows_does_not_matter() -> None:
    rows = said(fidelity=RISING, copies=[NONE, NONE, NONE, SOME], drift=[LITTLE] * 4)
    again = choose(rows.sample(frac=1, random_state=3))
    assert again.step == choose(rows).step and list(again.table["step"]) == [50, 100, 150, 200]


@pytest.mark.parametrize(("rows", "words"), [
    (said(copies=[NONE]), "fidelity among them"),
    (said(fidelity=RISING, copies=[NONE]), "same measures"),
    (pd.concat([said(fidelity=RISING)] * 2), "one measure twice"),
    (said(fidelity=[(0.5, 0.6, 0.7)]), "outside of its interval"),
    (said(fidelity=[(float("nan"), 0.6, 0.7)]), "not a number"),
    (said(fidelity=RISING).drop(columns="low"), "low is missing"),
    (said(fidelity=RISING).iloc[:0], "is missing")])
def test_a_broken_table_is_refused(rows: pd.DataFrame, words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        choose(rows)


def test_bounds_that_no_share_can_have_are_refused() -> None:
    for given in ({"most_copies": 1.5}, {"most_copies": -0.1}, {"most_drift": -1}):
        with pytest.raises(HarnessError, match="most_copies"):
            Rule(**given)


def test_the_text_marks_the_chosen_step_and_tells_the_rule() -> None:
    found = choose(said(fidelity=RISING, prompt=[(1.0, 0.7, 1.0)] * 4, copies=[NONE, NONE, NONE, SOME], drift=[LITTLE] * 4), Rule(most_copies=0.25))
    lines = choosing.text(found).splitlines()
    assert lines[0].split() == ["step", "fidelity", "prompt", "copies", "drift"]
    assert [line for line in lines if line.lstrip().startswith("→")] == [lines[2]] and "→ 100" in lines[2]
    assert "at most 25% copies" in lines[-1] and found.rule.words in lines[-1]


def test_the_picture_shows_every_measure() -> None:
    small = choosing.picture(choose(said(fidelity=RISING)))
    large = choosing.picture(choose(said(fidelity=RISING, copies=[NONE] * 4, drift=[LITTLE] * 4)))
    assert large.width == small.width and large.height > small.height


# --- taking another ---------------------------------------------------------------------------------------------------


def training(out: Path) -> Path:
    """The folder of a finished training with three saved steps, of which the second is kept."""
    import torch

    for step in (50, 100, 150):
        folder = record.step_folder(out, step)
        folder.mkdir(parents=True)
        manifest = {"recipe": "lora", "step": step, "consent": {"exportable": True}}
        (folder / WEIGHTS).write_bytes(tensor_file({"a": torch.full((2,), float(step))}, {MANIFEST_KEY: json.dumps(manifest)}))
        (folder / "extra").mkdir()
        (folder / "extra" / "words.txt").write_text(f"words {step}")
    write_csv(out / "losses.csv", pd.DataFrame({"step": [1], "loss": [0.5], "learning_rate": [1e-3]}))
    record.put_in_place(out, 100, WEIGHTS, {"last_loss": 0.25, "chosen": {"step": 100, "why": "rule"}})
    return out


def test_a_person_takes_another_step(tmp_path: Path) -> None:
    out = training(tmp_path)
    taken = choosing.take(out, 150, "I like it better")
    assert taken.manifest["step"] == 150 and Adapter.open(out).path.read_bytes() == (record.step_folder(out, 150) / WEIGHTS).read_bytes()
    assert (out / "extra" / "words.txt").read_text() == "words 150"
    told = json.loads((out / "manifest.json").read_text())
    assert told["chosen"] == {"step": 150, "why": "I like it better"} and told["last_loss"] == 0.25 and told["step"] == 150
    assert choosing.take(out, 100).manifest["step"] == 100  # and back again


def test_a_step_that_was_not_saved_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    out = training(tmp_path)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(HarnessError, match="step 120 was not saved; there are 50, 100, 150"):
        choosing.take(out, 120)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_unfinished_training_has_nothing_to_take_the_place_of(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no finished training"):
        choosing.take(tmp_path, 50)
