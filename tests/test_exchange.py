"""Ledgers go out and come in again unchanged, in three forms; what is wrong in a file is named, and then nothing is entered."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.consent import cards, chain, exchange, gate, keys, ledger
from harness.consent.ledger import ADULT, DECISIONS, USES, YES, Record
from harness.consent.store import Store, open_store
from harness.errors import HarnessError
from harness.images import ImageSet, sha256

WORKS = [f"{i:064x}" for i in range(4)]
FORMS = ("l.csv", "l.json", "l.croissant.json")


def yes(subject: str, work: str = "*", **changes: str) -> Record:
    return Record(**{"subject": subject, "sha256": work, "use": USES[2], "decision": "allowed", "basis": "letter", "granted": "2026-01-01"} | changes)


@pytest.fixture
def book(tmp_path: Path) -> Store:
    with open_store(tmp_path / "ledger.db", keys.create(tmp_path / "key.pem"), create=True) as opened:
        yield opened


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = WORDS.filter(str.strip)
ANY = st.builds(Record, subject=NAME, sha256=st.sampled_from(["*", *WORKS]), use=st.sampled_from(USES), decision=st.sampled_from(DECISIONS), basis=NAME,
                granted=st.just("2026-01-01"), expires=st.sampled_from(["", "2026-02-01"]), withdrawn=st.sampled_from(["", "2026-02-01"]), note=WORDS, creator=WORDS,
                rights_holder=WORDS, licence=WORDS, source=WORDS, depicted=WORDS, adult=st.sampled_from(ADULT), purpose=WORDS, recorded_by=WORDS,
                evidence=st.sampled_from(["", WORKS[1]]), not_as_token=st.sampled_from(YES), not_affiliated=st.sampled_from(YES))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(ANY, max_size=5), st.sampled_from(FORMS))
def test_any_ledger_comes_back_from_any_form(session_tmp: Path, records: list[Record], form: str) -> None:
    assert exchange.read(exchange.write(records, session_tmp / form)) == records


def test_a_store_comes_back_from_any_form(book: Store, tmp_path: Path) -> None:
    book.add([yes("artist-1"), yes("artist-2", WORKS[0], rights_holder="client", adult="attested"), yes("artist-3")])
    book.withdraw("artist-3")
    for form in FORMS:
        with open_store(tmp_path / f"{form}.db", book.key, create=True) as other:
            path = exchange.write(book.book().records, tmp_path / form)
            assert exchange.import_into(other, path, "ml").added == 7
            assert [r.recorded_by for r in other.book().records] == ["ml"] * 7
            assert [asdict(r) | {"recorded_by": ""} for r in other.book().records] == [asdict(r) for r in book.book().records]
            assert exchange.import_into(other, path, "ml") == exchange.Imported(0, 7)


def test_croissant_is_what_machines_take_for_it(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    path = exchange.write([yes("Künstlerin", note='"quoted"\nlines'), yes("artist-2")], tmp_path / "l.croissant.json")
    cards.check(path)
    rows = list(mlcroissant.Dataset(jsonld=str(path)).records(record_set="consent"))
    assert [row["consent/subject"].decode() if isinstance(row["consent/subject"], bytes) else row["consent/subject"] for row in rows] == ["Künstlerin", "artist-2"]


GOOD = {"subject": "a", "sha256": "*", "use": USES[0], "decision": "allowed", "basis": "b", "granted": "2026-01-01"}
WRONG = {
    "broken.json": "{", "list.json": "[]", "card.json": json.dumps({"@type": "sc:Dataset", "recordSet": [{"@id": "samples"}]}), "sets.json": '{"recordSet": {"a": 1}}',
    "newer.json": json.dumps({"format": "likeness-consent", "version": 2, "records": []}), "none.json": json.dumps({"format": "likeness-consent", "version": 1}),
    "field.json": json.dumps({"format": "likeness-consent", "version": 1, "records": [GOOD, GOOD | {"gps": "48,8"}]}),
    "type.json": json.dumps({"format": "likeness-consent", "version": 1, "records": [GOOD, GOOD | {"note": 7}]}),
    "gap.json": json.dumps({"format": "likeness-consent", "version": 1, "records": [GOOD, {"subject": "a"}]}),
    "day.json": json.dumps({"format": "likeness-consent", "version": 1, "records": [GOOD, GOOD | {"granted": "1 May 2026"}]}),
    "inline.json": json.dumps({"recordSet": [{"@id": "consent", "data": [GOOD, "text"]}]}), "deep.json": "[" * 100_000,
    "columns.csv": "artist,ok\na,yes\n", "extra.csv": ",".join(ledger.BASIC) + ",gps\n", "twice.csv": ",".join(ledger.BASIC) + ",adult,adult\n",
    "date.csv": ",".join(ledger.BASIC) + "\na,*,cawg.ai_training,allowed,b,01.02.2026,,,\n", "adult.csv": ",".join((*ledger.BASIC, "adult")) + "\na,*,cawg.ai_training,allowed,b,2026-01-01,,,,18\n"}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_is_wrong_is_named_and_nothing_is_entered(book: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(WRONG[name])
    with pytest.raises(HarnessError, match=name.replace(".", r"\.")) as caught:
        exchange.import_into(book, tmp_path / name)
    assert book.subjects() == [] and "\n" not in str(caught.value)
    if name in ("field.json", "type.json", "gap.json", "day.json", "inline.json"):
        assert "record 2" in str(caught.value)
    with pytest.raises(HarnessError):
        exchange.read(tmp_path / ("gone" + name))


def test_a_name_that_says_no_form(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="must end in"):
        exchange.write([], tmp_path / "l.xlsx")


def test_records_that_contradict_each_other_come_in_and_block_with_both_named(book: Store, tmp_path: Path) -> None:
    exchange.import_into(book, exchange.write([yes("artist-1"), yes("artist-1", decision="notAllowed")], tmp_path / "l.csv"))
    images = ImageSet(tmp_path, pd.DataFrame({"file": ["a"], "sha256": WORKS[:1], "artist": ["artist-1"]}))
    (reason,) = gate.ask(images, book, purpose="audit").reasons
    assert "contradictory records: ledger.db entry 2 (allowed), ledger.db entry 3 (notAllowed)" in reason


def test_hashes_without_files_and_files_without_records() -> None:
    images = ImageSet(Path("x"), pd.DataFrame({"file": ["a.png", "b.png", "c.png"], "sha256": WORKS[:3], "artist": ["artist-1", "artist-2", "artist-3"]}))
    found = exchange.gaps([yes("artist-1", WORKS[0]), yes("artist-1", WORKS[3]), yes("artist-2")], images)
    assert found == exchange.Gaps((WORKS[3],), ("c.png",))
    assert exchange.gaps([], ImageSet(Path("x"), images.table.drop(columns="artist"))).without_record == ("a.png", "b.png", "c.png")


def forged(path: Path) -> None:
    """Turn the no of a ledger into a yes, with row, commitment and hash to fit, as whoever has the file can."""
    connection = sqlite3.connect(path)
    entry = chain.Entry(*connection.execute("SELECT seq, at, kind, commitment, told, previous, signer, hash, signature FROM entries WHERE seq = 2").fetchone())
    name, key, said = connection.execute("SELECT name, key, payload FROM rows JOIN subjects ON subjects.id = subject").fetchone()
    row = chain.Row(name, key, said.replace("notAllowed", "allowed"))
    new = dataclasses.replace(entry, commitment=chain.commit(2, "record", row))
    connection.execute("UPDATE rows SET payload = ?", (row.payload,))
    connection.execute("UPDATE entries SET commitment = ?, hash = ? WHERE seq = 2", (new.commitment, new.digest()))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [
    forged, "UPDATE entries SET signature = 'abc' WHERE seq = 2", "UPDATE head SET hash = 'zz'", "INSERT INTO rows VALUES (99, 1, '{}')", "DELETE FROM entries"],
    ids=["forged", "signature", "head", "row", "entries"])
def test_nothing_that_was_tampered_with_is_saved_as_a_yes(book: Store, tmp_path: Path, damage: object) -> None:
    book.add(yes("mira", decision="notAllowed", adult="attested") if damage is forged else yes("mira", adult="attested"))
    path = tmp_path / "tampered.db"
    with sqlite3.connect(path) as copy:
        book._connection.backup(copy)
        copy.executescript("" if damage is forged else damage)
    copy.close()
    if damage is forged:
        forged(path)
    saved = exchange.rescue(path, tmp_path / "saved.json")
    assert saved.lost >= 1 and not any(record.decision == "allowed" or record.adult for record in exchange.read(saved.path))
    with pytest.raises(HarnessError, match="writes over nothing"):
        exchange.rescue(path, saved.path)


def test_a_refusal_without_a_name_is_not_lost_by_a_rescue(book: Store, tmp_path: Path) -> None:
    book.add([yes("painter"), yes("noor", "a" * 64, decision="notAllowed")])
    book.forget("noor")
    (record,) = exchange.read(exchange.rescue(book.path, tmp_path / "saved.json").path)
    assert (record.subject, record.decision) == ("painter", "constrained")


def test_evidence_is_a_hash(tmp_path: Path) -> None:
    (tmp_path / "letter.pdf").write_bytes(b"I agree.")
    assert exchange.evidence(tmp_path / "letter.pdf") == sha256(b"I agree.")
    with pytest.raises(HarnessError, match="evidence"):
        exchange.evidence(tmp_path / "gone.pdf")
