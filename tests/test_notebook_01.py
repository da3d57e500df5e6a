"""The second notebook: what was planted in its story is found, and what has to stay is still there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from harness.report import verify
from harness.trials import roles

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_data_and_consent.ipynb"
TEXTS = (".csv", ".json", ".html", ".ipynb")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of the smoke preset; its house lies in a temporary folder of its own."""
    results, beside = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("beside")
    done = subprocess.run([sys.executable, "-m", "harness", "run", str(NOTEBOOK), "--preset", "smoke"], cwd=ROOT, capture_output=True, text=True, timeout=600,
                          env={**os.environ, "HARNESS_RESULTS": str(results), "TMPDIR": str(beside)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = [path.parent for path in results.glob("*/manifest.json")]
    assert not list(beside.glob("likeness-house-*")), "the house is left behind"
    yield folder


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(run / name, keep_default_na=False)


def notes(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))["notes"]


def test_every_role_gets_the_answer_that_it_should(run: Path) -> None:
    consent, works = notes(run)["consent"], 4
    said = {reason.partition(":")[0]: reason for reason in consent["reasons"]}
    assert f"{works} works expired" in said[roles.EXPIRED] and f"{works} works notAllowed" in said[roles.NO]
    assert f"{works} works of {roles.CLIENT}'s, who holds the rights: without any record" in said[roles.FOR_CLIENT]
    assert "1 work " in said[roles.WITHDRAWS] and "opt-out list" in said[roles.WITHDRAWS] and "1 work " in said[roles.NAMELESS] and "in the file" in said[roles.NAMELESS]
    assert roles.FORGOTTEN not in said and roles.OTHER not in said
    assert consent["blocked"] == 3 * works + 2 and consent["wishes"] == [f"{roles.NAMELESS} asks not to be a token"]
    assert notes(run)["purpose"] == "training" and notes(run)["audit"]["purpose"] == "audit"
    told = (run / "notebook.ipynb").read_text(encoding="utf-8")
    assert "no adult attestation that stands for person-b" in told and "whose name was asked not to be a token" in told


def test_a_rewritten_history_is_found_and_a_whole_forgery_by_the_pin(run: Path) -> None:
    forged = table(run, "forgeries.csv")
    assert list(forged["found"]) == [True, True, True, False, False] and forged["found with pin"].all()


def test_the_copy_under_another_name_is_found_and_my_work_is_in_here(run: Path) -> None:
    (twice,) = table(run, "near_duplicates.csv").to_dict("records")
    assert {twice["file"], twice["other"]} == {"artist-21-0.png", "artist-25-4.png"}
    mine, strange = table(run, "mine.csv"), table(run, "not-in-here.csv")
    assert len(mine) == 4 and (mine["answer"] == "yes").all() and mine["file"].isin([f"artist-21-{i}.png" for i in range(4)] + ["artist-25-4.png"]).all()
    assert len(strange) == 20 and (strange["answer"] == "yes").sum() <= 1
    told = (run / "notebook.ipynb").read_text(encoding="utf-8")
    assert "Tried here on 20 changed copies" in told and "Of 20 works 0 are in the folder" in told


def test_shares_signals_filter_and_search_say_what_was_planted(run: Path) -> None:
    shares = table(run, "shares.csv").set_index("value")["pictures"]
    assert shares["gallery.example"] == 20 and shares["mirror.example"] == 1 and shares[roles.CLIENT] == 4
    assert set(table(run, "signals.csv")["file"]) == {"artist-22-1.png", "artist-25-0.png"} and len(table(run, "filter.csv")) > 10
    assert table(run, "search-by-picture.csv")["file"].iloc[0] == "person-a-0.png" and len(table(run, "search-by-words.csv")) == 6


def test_the_withdrawal_reaches_everything_and_changed_copies_are_caught(run: Path) -> None:
    kinds = table(run, "impact.csv").groupby("kind")["file"].size()
    assert dict(kinds[["picture", "drawn", "latents", "seal", "run", "notebook"]]) == {"picture": 4, "drawn": 2, "latents": 3, "seal": 1, "run": 1, "notebook": 1}
    assert {"adapter", "embeddings", "report", "table"} <= set(kinds.index)
    assert not table(run, "impact.csv")["file"].str.contains("avatars").any()
    caught = table(run, "caught.csv").set_index("what")
    assert caught.loc["all changed copies", "share"] >= 0.9 and caught.loc["all changed copies", "low"] < 0.6
    assert caught.loc["other works, blocked by mistake", "caught"] <= 1
    assert "still reached: nothing" in (run / "notebook.ipynb").read_text(encoding="utf-8")


def test_of_one_person_nothing_is_left_and_of_the_other_everything(run: Path) -> None:
    found = table(run, "searches.csv").set_index("search")
    before = found.loc["person-a, before"]
    assert before["by hash"] > 3 and before["by look"] > 3 and before["by word"] > 3
    assert not found.loc["person-a, after"].any()
    assert (found.loc["person-b, before"] == found.loc["person-b, after"]).all() and found.loc["person-b, after", "by look"] > 3
    handed = table(run, "handed-over.csv").groupby("kind")["copied"].sum()
    assert handed["picture"] == 3 and handed["drawn"] == 4 and handed["latents"] == 3


def test_the_report_is_whole_and_nothing_private_is_in_the_run(run: Path) -> None:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert [f["question"] for f in report["findings"]] == ["copies"] and report["findings"][0]["verdict"] in ("cannot tell", "not calibrated")
    assert "changed copies were caught" in " ".join(report["methods"]) and report["credits"]
    assert not verify.check(run).differs
    for path in run.rglob("*"):
        if path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8")
            assert "PRIVATE KEY" not in text and str(run.parent.parent) not in text.replace(str(run), ""), path.name
