"""Photos of people go when their time is over, by whatever command comes next; what was made from them with consent stays."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import planted
from harness import cli
from harness.consent import forget, kept, keys, retention
from harness.consent.forget import Eyes
from harness.consent.store import Store, open_store
from harness.errors import HarnessError
from harness.images import sha256

RUN = Path("results/runs/02_avatars-abc123")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("HARNESS_KEPT", str(tmp_path / "home" / "kept.json"))
    monkeypatch.setenv("HARNESS_KEY", str(keys.create(tmp_path / "key.pem").path))
    monkeypatch.setattr(forget, "eyes", lambda: Eyes(planted.describe, planted.alike))
    planted.plant(tmp_path / "root")
    with open_store(tmp_path / "consent.db", create=True) as opened:
        yield opened


def photos(tmp_path: Path, name: str = "mira") -> list[Path]:
    return sorted((tmp_path / "root" / "photos" / name).glob("*.png"))


def test_a_day_is_what_photos_are_kept_for(store: Store, tmp_path: Path) -> None:
    until = retention.keep(store, "mira", photos(tmp_path), [tmp_path / "root"])
    assert timedelta(hours=23.9) < until - datetime.now(UTC) <= timedelta(hours=24)
    assert retention.enforce() == 0 and retention.sweep(store) == 0 and len(photos(tmp_path)) == 3
    assert retention.sweep(store, now=until + timedelta(seconds=1)) == 3 and not photos(tmp_path) and not store.photos()


def test_what_shows_a_person_goes_and_what_was_made_stays(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "root"
    retention.keep(store, "mira", photos(tmp_path), [root], hours=0)
    assert retention.enforce() == 3 and not photos(tmp_path) and len(photos(tmp_path, "noor")) == 3
    assert not list((root / RUN / "adapter-mira/latents").glob("*")) and len(list((root / RUN / "adapter-noor/latents").iterdir())) == 3
    assert not (root / "elsewhere/crop-100.png").exists() and (root / "elsewhere/crop-200.png").exists()
    assert (root / RUN / "adapter-mira/pytorch_lora_weights.safetensors").exists() and (root / RUN / "avatars-mira/0.png").exists()
    with np.load(root / RUN / "embeddings/clip-cccc.npz") as stored:
        assert len(stored["sha256"]) == 9
    manifest = json.loads((root / RUN / "manifest.json").read_text())
    assert manifest["status"] == "complete" and all(sha256(root / RUN / name) == digest for name, digest in manifest["outputs"].items())
    assert store.verify_chain().ok and not store.photos()


def test_the_next_command_enforces_it_and_without_photos_it_costs_nothing(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    for _ in range(1000):
        kept.enforce()
    assert (time.perf_counter() - began) / 1000 < 1e-3
    retention.keep(store, "mira", photos(tmp_path), [], hours=0)
    assert stat.S_IMODE(kept.notice().stat().st_mode) == 0o600
    kept.enforce()
    assert not photos(tmp_path) and "3 photos of people" in capsys.readouterr().err
    assert json.loads(kept.notice().read_text())["ledgers"] == {}


def test_a_clock_that_went_back_keeps_no_photo_longer(store: Store, tmp_path: Path) -> None:
    until = retention.keep(store, "mira", photos(tmp_path), [])
    held = json.loads(kept.notice().read_text())
    kept.notice().write_text(json.dumps(held | {"seen": (until + timedelta(hours=1)).isoformat()}))
    store.clock = lambda: datetime.now(UTC) - timedelta(days=3)
    with suppress(HarnessError):  # whether the ledger minds the clock or not, the photos are gone
        retention.sweep(store)
    assert not photos(tmp_path)


def test_a_photo_that_is_gone_already_and_a_ledger_that_was_moved_do_no_harm(store: Store, tmp_path: Path) -> None:
    retention.keep(store, "mira", photos(tmp_path), [], hours=0)
    photos(tmp_path)[0].unlink()
    kept.notice().write_text(kept.notice().read_text().replace('"ledgers": {', '"ledgers": {"/nowhere/x.db": {"due": "2000-01-01T00:00:00Z", "roots": []}, '))
    assert retention.enforce() == 3 and not photos(tmp_path)
    said: list[dict] = []
    retention.enforce(said.append)
    assert "is gone" in said[0]["note"]
    kept.notice().write_text("damaged")
    assert retention.enforce() == 0
    with pytest.raises(HarnessError, match="is not there to be kept"):
        retention.keep(store, "mira", [tmp_path / "none.png"], [])


def test_what_goes_wrong_is_said_and_does_not_stop_a_command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retention.keep(store, "mira", photos(tmp_path), [], hours=0)
    store.path.write_bytes(b"SQLite format 3\0 and no more")
    kept.enforce()
    assert capsys.readouterr().err.startswith("error: photos of people are due and could not be deleted: ")


def test_a_sweep_that_was_killed_is_finished_by_the_next(store: Store, tmp_path: Path) -> None:
    retention.keep(store, "mira", photos(tmp_path), [tmp_path / "root"], hours=0)
    said = []

    def stop(event: dict) -> None:
        said.append(event)
        if len(said) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retention.sweep(store, progress=stop)
    assert store.intents.open() and store.photos()
    retention.sweep(store)
    assert not store.intents.open() and not store.photos() and not photos(tmp_path)


def test_the_command_says_nothing_when_nothing_is_due(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["consent", "sweep", "--ledger", str(store.path)]
    assert cli.main(words) == 0 and capsys.readouterr().out == ""
    retention.keep(store, "mira", photos(tmp_path), [tmp_path / "root"], hours=0)
    store.close()
    assert cli.main(words) == 0 and "3 photos of people were kept for as long as was said, and are gone" in "".join(capsys.readouterr())
    assert not photos(tmp_path) and len(photos(tmp_path, "noor")) == 3


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"ledgers": {"a": {}}}', '{"ledgers": {"a": {"due": "soon"}}}', '{"ledgers": {"a": 3}}', '{"ledgers": {}, "seen": "never"}'])
def test_a_damaged_notice_stops_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str) -> None:
    (tmp_path / "kept.json").write_text(damaged)
    monkeypatch.setenv("HARNESS_KEPT", str(tmp_path / "kept.json"))
    kept.enforce()
    assert cli.main(["--version"]) == 0 and kept.noted().get("ledgers", {}) == {}


# --- what is not there, not due, or not theirs -----------------------------------------------------------------------


def test_a_photo_on_a_disk_that_is_away_stays_entered_and_is_said(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retention.keep(store, "mira", photos(tmp_path), [], hours=0)
    (tmp_path / "root" / "photos").rename(tmp_path / "away")
    kept.enforce()
    assert "its folder is not there" in capsys.readouterr().err and len(store.photos()) == 3
    assert cli.main(["consent", "sweep", "--ledger", str(store.path)]) == 1 and "not done:" in capsys.readouterr().out
    (tmp_path / "away").rename(tmp_path / "root" / "photos")
    kept.enforce()
    assert capsys.readouterr().err == "3 photos of people were kept for as long as was said, and are gone\n" and not store.photos() and not photos(tmp_path)


def test_photos_whose_folder_is_gone_for_good_are_given_up_on_a_word(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    retention.keep(store, "mira", photos(tmp_path)[:1], [], hours=0)
    retention.keep(store, "noor", photos(tmp_path, "noor")[:1], [])
    shutil.rmtree(tmp_path / "root" / "photos" / "mira")
    assert cli.main(["consent", "sweep", "--ledger", str(store.path), "--abandon", "Mira"]) == 0 and "1 photo whose folder is gone" in capsys.readouterr().out
    assert [photo.subject for photo in store.photos()] == ["noor"]
    assert cli.main(["consent", "sweep", "--ledger", str(store.path), "--abandon", "mira"]) == 2


@pytest.mark.parametrize("bad", ["damaged", "missing", "no zone", "no roots"])
def test_one_ledger_does_not_keep_the_photos_of_another(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str) -> None:
    retention.keep(store, "mira", photos(tmp_path), [], hours=0)
    held = json.loads(kept.notice().read_text())
    if bad == "damaged":
        (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + b"x" * 4000)
    entry = {"due": "2024-01-01T00:00:00" + ("" if bad == "no zone" else "Z")} | ({} if bad == "no roots" else {"roots": []})
    kept.notice().write_text(json.dumps({"ledgers": {str(tmp_path / "a.db"): entry} | held["ledgers"], "seen": "2024-01-01T00:00:00"}))
    kept.enforce()
    said = capsys.readouterr().err
    assert not photos(tmp_path) and "3 photos of people were kept" in said and "could not be deleted" in said and "a.db" in said


def test_a_burst_shot_of_another_and_a_photo_that_is_not_due_stay(store: Store, tmp_path: Path) -> None:
    first = photos(tmp_path)[0]
    for name in ("burst", "later", "copy"):
        (tmp_path / "root" / name).mkdir()
        planted.decode(first).resize((60 - len(name), 60)).save(tmp_path / "root" / name / "x.png")
    retention.keep(store, "mira", [first], [tmp_path / "root"], hours=0)
    retention.keep(store, "zoe", [tmp_path / "root" / "burst" / "x.png"], [tmp_path / "root"])
    retention.keep(store, "mira", [tmp_path / "root" / "later" / "x.png"], [tmp_path / "root"])
    assert retention.sweep(store) == 1 and not first.exists() and not (tmp_path / "root" / "copy").exists()
    assert (tmp_path / "root" / "burst" / "x.png").exists() and (tmp_path / "root" / "later" / "x.png").exists() and len(store.photos()) == 2


def test_a_clock_that_was_wrong_once_deletes_nothing_that_is_kept_from_now_on(store: Store, tmp_path: Path) -> None:
    kept.notice().parent.mkdir(parents=True)
    kept.notice().write_text(json.dumps({"ledgers": {}, "seen": "2099-01-01T00:00:00+00:00"}))
    until = retention.keep(store, "mira", photos(tmp_path), [])
    kept.enforce()
    assert len(photos(tmp_path)) == 3 and json.loads(kept.notice().read_text())["seen"] < until.isoformat()


def test_one_photo_is_one_photo_and_the_command_keeps_a_folder(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "root" / "photos" / "mira"
    for photo in photos(tmp_path)[1:]:
        photo.unlink()
    assert cli.main(["consent", "keep", "mira", str(folder), "--hours", "0", "--ledger", str(store.path), "--in", str(tmp_path / "root")]) == 0
    assert "1 photo of mira kept until" in capsys.readouterr().out
    assert cli.main(["consent", "show", str(store.path)]) == 0
    assert capsys.readouterr().err == "1 photo of a person was kept for as long as was said, and is gone\n" and not photos(tmp_path)
    assert cli.main(["consent", "keep", "mira", str(folder / "none.png"), "--ledger", str(store.path)]) == 2 and "no photo here" in capsys.readouterr().err
