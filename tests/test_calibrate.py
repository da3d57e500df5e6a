"""A verdict needs a record of this instrument, these weights and this domain that passed; the numbers stay in any case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import audit, calibrate
from harness.calibrate import Record
from harness.errors import HarnessError
from harness.stats import Finding, cannot_tell

INSTRUMENT = audit.instrument("copies", "ab" * 32)
RECORD = Record(INSTRUMENT, "drawn portraits, 64 px", True, 0.96, 0.008, 500, 1000, "2026-01-31")
FOUND = Finding("copies", "artist-31", 0.2, 0.1, 0.3, 0.95, 60, 20, 0.01, None, 0.001, f"unchecked: {INSTRUMENT}",
                "drawn portraits, 64 px", "found", 0, "More are flagged than by chance.")


@pytest.mark.parametrize("word", ["found", "not found"])
def test_a_matching_record_that_passed_lets_it_speak(word: str) -> None:
    told = calibrate.verdict(FOUND.but(verdict=word), RECORD)
    assert told.verdict == word
    assert "96.0% of 500" in told.calibration and "0.8% of 1000" in told.calibration


@pytest.mark.parametrize("record", [
    None, replace(RECORD, instrument=audit.instrument("copies", "cd" * 32)), replace(RECORD, instrument="style code=0 weights=0"),
    replace(RECORD, domain="photographs"), replace(RECORD, passed=False)])
def test_anything_less_takes_the_verdict_and_leaves_the_numbers(record: Record | None) -> None:
    told = calibrate.verdict(FOUND, record)
    assert told.verdict == "not calibrated" and told.calibration.startswith("none: ")
    assert (told.estimate, told.low, told.high, told.n, told.p_value) == (0.2, 0.1, 0.3, 60, 0.001)
    assert FOUND.why in told.why and told.why != FOUND.why


def test_a_finding_of_no_stated_domain_is_not_calibrated() -> None:
    assert calibrate.verdict(FOUND.but(domain=""), replace(RECORD, domain="")).verdict == "not calibrated"


def test_cannot_tell_stays_cannot_tell() -> None:
    assert calibrate.verdict(cannot_tell("style", "artist-31", "too few controls"), None).verdict == "cannot tell"


def test_the_instrument_changes_with_code_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("__init__.py", "copies.py", "tiles.py"):
        (tmp_path / "audit").mkdir(exist_ok=True)
        (tmp_path / "audit" / name).write_text("x = 1\n")
    for name in ("embed.py", "images.py", "stats.py"):
        (tmp_path / name).write_text("y = 1\n")
    monkeypatch.setattr(audit, "_ROOM", tmp_path / "audit")
    first = audit.instrument("copies", "ab")
    assert first != audit.instrument("copies", "cd")
    (tmp_path / "audit" / "copies.py").write_bytes(b"x = 1\r\n")
    assert audit.instrument("copies", "ab") == first
    (tmp_path / "stats.py").write_text("y = 2\n")
    assert audit.instrument("copies", "ab") != first


def test_records_come_back_and_damaged_ones_are_named(tmp_path: Path) -> None:
    path = calibrate.save(RECORD, tmp_path / "record.json")
    assert calibrate.load(path) == RECORD
    path.write_text('{"instrument": "x"}')
    with pytest.raises(HarnessError, match="not a calibration record"):
        calibrate.load(path)
    with pytest.raises(HarnessError, match="nothing was planted"):
        replace(RECORD, n_planted=0)
