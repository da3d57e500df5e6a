"""Nothing passes the gate that is not plainly allowed; cards that people and machines can read."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import cli
from harness.consent import cards, gate, ledger
from harness.consent.ledger import USES, Record
from harness.errors import HarnessError, Refused
from harness.images import ImageSet, sha256

USE, DAY = "cawg.ai_generative_training", date(2026, 6, 1)
WORKS = [f"{i:064x}" for i in range(6)]


def works(owners: dict[str, str]) -> ImageSet:
    return ImageSet(Path("nowhere"), pd.DataFrame({"file": "x", "sha256": list(owners), "artist": list(owners.values())}))


def yes(subject: str, work: str = "*", **changes: str) -> Record:
    return Record(**{"subject": subject, "sha256": work, "use": USE, "decision": "allowed", "basis": "letter", "granted": "2026-01-01"} | changes)


def reasons(images: ImageSet, records: list[Record], use: str = USE, at: date = DAY) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        gate.ask(images, ledger.of(records), use, at=at)
    audit = gate.ask(images, ledger.of(records), use, "audit", at)
    assert not audit.allowed and not audit.exportable and audit.purpose == "audit" and all(r in str(refused.value) for r in audit.reasons)
    return audit.reasons


ONE = works({WORKS[0]: "artist-1"})


def test_a_plain_yes_passes() -> None:
    for record in (yes("artist-1"), yes("artist-1", WORKS[0]), yes("artist-1", expires="2026-06-02")):
        decision = gate.ask(ONE, ledger.of([record]), USE, at=DAY)
        assert decision.allowed and decision.exportable and decision.reasons == () and decision.covers(ONE)


@pytest.mark.parametrize(("records", "words"), [
    ([], "without any record"),
    ([yes("artist-2")], "without any record"),
    ([yes("artist-1", WORKS[1])], "without any record"),
    ([yes("artist-1", use="cawg.data_mining")], "out of scope (recorded only for cawg.data_mining)"),
    ([yes("artist-1", decision="notAllowed")], "notAllowed (ledger line 2)"),
    ([yes("artist-1", decision="constrained", note="prints only")], "constrained (ledger line 2: prints only)"),
    ([yes("artist-1", expires="2026-06-01")], "expired"),
    ([yes("artist-1", granted="2026-06-02")], "not yet granted"),
    ([yes("artist-1", withdrawn="2026-05-31")], "withdrawn"),
    ([yes("artist-1", withdrawn="2030-01-01")], "withdrawn"),
    ([yes("artist-1"), yes("artist-1", WORKS[0], decision="notAllowed")], "contradictory records: ledger line 2 (allowed), ledger line 3 (notAllowed)"),
    ([yes("artist-1"), yes("a client", WORKS[0], decision="notAllowed")], "contradictory"),
    ([yes("a client", WORKS[0])], "without any record"),
    ([yes("a client", WORKS[0]), yes("artist-1", expires="2026-02-01")], "expired"),
])
def test_whatever_is_not_plainly_allowed_blocks_with_its_reason(records: list[Record], words: str) -> None:
    (reason,) = reasons(ONE, records)
    assert reason.startswith("artist-1: 1 work ") and words in reason


def test_a_renewal_after_an_expired_record_passes() -> None:
    book = ledger.of([yes("artist-1", granted="2025-01-01", expires="2026-01-01"), yes("artist-1", granted="2026-01-01")])
    assert gate.ask(ONE, book, USE, at=DAY).allowed


def test_reasons_name_subjects_and_counts() -> None:
    many = works({work: f"artist-{i % 2}" for i, work in enumerate(WORKS)})
    assert reasons(many, [yes("artist-0"), yes("artist-1", decision="notAllowed")]) == ("artist-1: 3 works notAllowed (ledger line 3)",)
    assert reasons(works({WORKS[0]: ""}), [yes("artist-1")]) == ("(no artist named): 1 work without any record",)


def shift(days: int) -> str:
    return (DAY + timedelta(days=days)).isoformat()


SUBJECTS = st.sampled_from(["artist-0", "artist-1", "artist-2", "a client"])
RECORDS = st.builds(
    Record, subject=SUBJECTS, sha256=st.sampled_from(["*", *WORKS[:3]]), use=st.sampled_from(USES), decision=st.sampled_from(ledger.DECISIONS),
    basis=st.just("letter"), granted=st.integers(-400, 3).map(shift), expires=st.one_of(st.just(""), st.integers(4, 9).map(shift)),
    withdrawn=st.one_of(st.just(""), st.just(""), st.integers(-9, 9).map(shift)))
OWNERS = st.dictionaries(st.sampled_from(WORKS[:3]), st.sampled_from(["artist-0", "artist-1", "artist-2", ""]), min_size=1)


def plainly_allowed(work: str, artist: str, records: list[Record], use: str, at: date) -> bool:
    """The rule, written a second time and differently: own and other people's live records on the work, none against."""
    concern = [r for r in records if r.use == use and (r.sha256 == work or (r.sha256 == "*" and r.subject == artist))]
    live = [r for r in concern if r.granted <= at.isoformat() and not (r.expires and r.expires <= at.isoformat())]
    own = any(r.subject == artist and r.decision == "allowed" and not r.withdrawn for r in live)
    return own and not any(r.withdrawn for r in concern) and all(r.decision == "allowed" for r in live)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(OWNERS, st.lists(RECORDS, max_size=6), st.sampled_from(USES), st.integers(-5, 12))
def test_the_gate_agrees_with_the_rule_on_any_ledger(owners: dict[str, str], records: list[Record], use: str, days: int) -> None:
    at = DAY + timedelta(days=days)
    decision = gate.ask(works(owners), ledger.of(records), use, "audit", at)
    right = [plainly_allowed(work, artist, records, use, at) for work, artist in owners.items()]
    assert decision.allowed == all(right) and decision.blocked == right.count(False)
    if not all(right):
        with pytest.raises(Refused):
            gate.ask(works(owners), ledger.of(records), use, "training", at)


SPOILERS = {
    "missing": lambda r, at: [], "withdrawn": lambda r, at: [replace(r, withdrawn=at.isoformat())],
    "expired": lambda r, at: [replace(r, granted="2020-01-01", expires=at.isoformat())],
    "refused": lambda r, at: [replace(r, decision="notAllowed")], "constrained": lambda r, at: [replace(r, decision="constrained")],
    "scope": lambda r, at: [replace(r, use=USES[(USES.index(r.use) + 1) % 4])], "disputed": lambda r, at: [r, replace(r, decision="notAllowed")]}


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["artist-0", "artist-1", "artist-2"]), min_size=1, max_size=6), st.sampled_from(USES),
       st.sampled_from(sorted(SPOILERS)), st.integers(0, 5), st.booleans())
def test_one_spoilt_record_among_good_ones_blocks_exactly_its_works(artists: list[str], use: str, spoiler: str, which: int, single: bool) -> None:
    owners = dict(zip(WORKS, artists, strict=False))
    good = [yes(a, w if single else "*", use=use) for w, a in (owners.items() if single else {a: a for a in owners.values()}.items())]
    assert gate.ask(works(owners), ledger.of(good), use, at=DAY).allowed
    at = which % len(good)
    spoilt = good[:at] + SPOILERS[spoiler](good[at], DAY) + good[at + 1:]
    hit = [w for w, a in owners.items() if (w == good[at].sha256 if single else a == good[at].subject)]
    assert gate.ask(works(owners), ledger.of(spoilt), use, "audit", DAY).blocked == len(hit)


def test_requests_that_make_no_sense() -> None:
    for bad in ({"use": "fun"}, {"purpose": "art"}):
        with pytest.raises(HarnessError, match="cannot ask"):
            gate.ask(ONE, ledger.of([]), **{"use": USE} | bad)
    with pytest.raises(HarnessError, match="column 'artist'"):
        gate.ask(ImageSet(Path("x"), pd.DataFrame({"file": ["a"], "sha256": WORKS[:1]})), ledger.of([]), USE)


# --- the file


def test_a_ledger_comes_back_as_it_was_written(tmp_path: Path) -> None:
    records = [yes("artist-1", note='with "quotes", commas\nand lines'), yes("Künstlerin", WORKS[0], expires="2027-01-01")]
    book = ledger.write(tmp_path / "l.csv", records)
    assert list(book.records) == records and book.sha256 == sha256(tmp_path / "l.csv") == ledger.of(records).sha256
    (tmp_path / "l.csv").write_text("\ufeff" + (tmp_path / "l.csv").read_text(), encoding="utf-8")  # as a spreadsheet saves it
    assert list(ledger.read(tmp_path / "l.csv").records) == records


@pytest.mark.parametrize(("change", "words"), [
    ({"granted": "01.02.2026"}, "like 2026-01-31"), ({"granted": ""}, "granted"), ({"granted": "20260101"}, "like 2026-01-31"),
    ({"expires": "soon"}, "expires"), ({"expires": "2026-01-01"}, "no later than"), ({"decision": "maybe"}, "maybe"), ({"use": "training"}, "'training'"),
    ({"sha256": "abc"}, "64 hex"), ({"subject": " "}, "subject is empty"), ({"basis": ""}, "basis")])
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, str], words: str) -> None:
    good = asdict(yes("artist-1"))
    rows = pd.DataFrame([good, good | change])
    rows.to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(HarnessError, match=words) as caught:
        ledger.read(tmp_path / "l.csv")
    assert "line 3" in str(caught.value)


def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    cases = {"columns.csv": "artist,ok\na,yes\n", "empty.csv": "", "short.csv": ",".join(ledger.COLUMNS) + "\nonly,two\n"}
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.csv").write_bytes("Künstler".encode("latin-1"))
    for name in (*cases, "latin.csv", "gone.csv"):
        with pytest.raises(HarnessError, match=name.replace(".", r"\.")):
            ledger.read(tmp_path / name)


def test_the_command_line_shows_and_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.pictures(tmp_path / "works", n=3)
    ledger.write(tmp_path / "l.csv", [yes("artist-07", decision="notAllowed")])
    assert cli.main(["consent", "show", str(tmp_path / "l.csv")]) == 0
    assert "artist-07, all works: cawg.ai_generative_training notAllowed" in capsys.readouterr().out
    ask = ["consent", "ask", str(tmp_path / "works"), "--ledger", str(tmp_path / "l.csv"), "--use", USE]
    assert cli.main(ask) == 2
    assert "artist-07: 3 works notAllowed" in capsys.readouterr().err
    assert cli.main([*ask, "--purpose", "audit"]) == 0
    assert "must not be exported" in capsys.readouterr().out


# --- cards

CARD = cards.Card(
    "tiny-works", "Tiny works", "Six pictures: of noise.", "1.0", "2026-01-31", "CC0-1.0", ("somebody",), ("made here",), "none needed", "made here",
    (USE,), ("cawg.data_mining",), "drawn by a program", "no one", "all noise", "nothing can be concluded", "the maker answers",
    body="## More\n\n---\n\nthe end")


def test_a_card_comes_back_as_it_was_written_and_machines_agree(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    images = tiny.pictures(tmp_path)
    text, machine = cards.write(tmp_path, CARD, images)
    assert cards.read(text) == replace(CARD, table_sha256=sha256(tmp_path / "samples.csv"))
    cards.check(machine)
    rows = list(mlcroissant.Dataset(jsonld=str(machine)).records(record_set="samples"))
    assert [row["samples/sha256"].decode() for row in rows] == images.table["sha256"].tolist()
    cards.check(cards.write(tmp_path / "alone", CARD)[1])
    machine.write_text(machine.read_text().replace("sc:Text", "sc:Nothing").replace('"samples/file"', '"elsewhere"', 1))
    with pytest.raises(HarnessError, match="not valid Croissant"):
        cards.check(machine)


def test_a_card_is_a_precondition(tmp_path: Path) -> None:
    images = tiny.pictures(tmp_path)
    card = cards.read(cards.write(tmp_path, CARD, images)[0])
    cards.require(card, USE, images)
    for change, words in (({"license": ""}, "license is empty"), ({"consent_basis": ""}, "consent_basis"), ({"table_sha256": ""}, "hash"),
                          ({"uses_allowed": ()}, "not among"), ({"uses_refused": (USE,)}, "both allowed and refused")):
        with pytest.raises(Refused, match=words):
            cards.require(replace(card, **change), USE, images)
    with pytest.raises(Refused, match="refused"):
        cards.require(card, "cawg.data_mining", images)
    other = tiny.pictures(tmp_path / "other", seed=3)
    with pytest.raises(Refused, match="not the table"):
        cards.require(card, USE, other)


def test_a_card_written_by_hand_is_read_as_meant(tmp_path: Path) -> None:
    path, _ = cards.write(tmp_path, CARD)
    path.write_text(path.read_text().replace("'2026-01-31'", "2026-01-31").replace("'1.0'", "1.0"))
    assert cards.read(path) == CARD


@pytest.mark.parametrize("text", ["no front matter", "---\nname: [\n---\n", "---\nlicence: misspelt\n---\nx", "---\njust words\n---\n"])
def test_files_that_are_no_card(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.md").write_text(text)
    with pytest.raises(HarnessError, match="not a data card"):
        cards.read(tmp_path / "c.md")


def test_a_card_with_gaps_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="license is empty"):
        cards.write(tmp_path, replace(CARD, license=""))
    assert not list(tmp_path.iterdir())
