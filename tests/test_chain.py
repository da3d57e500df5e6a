"""Any change of a ledger's history is found, and the first wrong entry is named."""

from __future__ import annotations

import json
import random
from dataclasses import fields, replace
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.consent import chain, keys
from harness.consent.chain import Entry, Head, Row
from harness.errors import HarnessError


class Book:
    """A ledger in memory, as the store keeps one in tables."""

    def __init__(self, key: keys.Key) -> None:
        self.key, self.entries, self.rows, self.head = key, [], {}, None
        self.tell("genesis", {"ledger": "x", "public": key.public.hex()})

    def tell(self, kind: str, told: object, row: Row | None = None, key: keys.Key | None = None) -> None:
        self.entries.append(chain.link(self.entries[-1] if self.entries else None, kind, "2026-01-01T00:00:00Z", key or self.key, row, told))
        self.head = chain.head(self.entries[-1], self.key)

    def enter(self, subject: str, payload: object) -> None:
        row = Row(subject, subject.encode().ljust(32), chain.canonical(payload))
        self.tell("record", None, row)
        self.rows[len(self.entries)] = row

    def erase(self, *seqs: int) -> None:
        for seq in seqs:
            del self.rows[seq]
        self.tell("erase", {"erased": list(seqs), "why": "forgotten"})

    def check(self, **how: object) -> chain.Checked:
        return chain.check(self.entries, self.rows, self.head, **how)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[keys.Key, keys.Key]:
    folder = tmp_path_factory.mktemp("keys")
    return keys.create(folder / "mine"), keys.create(folder / "theirs")


KEYS: dict[str, keys.Key] = {}


@pytest.fixture(scope="module", autouse=True)
def both(pair: tuple[keys.Key, keys.Key]) -> None:
    KEYS["mine"], KEYS["theirs"] = pair


def book(size: int, erased: bool) -> Book:
    made = Book(KEYS["mine"])
    for number in range(size):
        made.enter(f"artist-{number % 3}", {"use": "cawg.ai_training", "decision": "allowed", "n": number})
    if erased:
        made.erase(2, 4)
    made.enter("artist-9", {"last": True})
    return made


def test_an_untouched_chain_holds() -> None:
    for erased in (False, True):
        made = book(6, erased)
        checked = made.check(pin=KEYS["mine"].fingerprint, known=made.entries[3].hash)
        assert checked.ok and checked.seq == 0 and checked.entries == len(made.entries) and checked.head == made.entries[-1].hash
        assert "unchanged, signed by ed25519:" in str(checked) and "signer unknown" in str(made.check())


def test_what_is_signed_is_canonical_and_serves_for_nothing_else() -> None:
    value = {"b": [1, "ü\n\u2028"], "a": {"y": True, "x": None}, "long": 2**53 - 1}
    assert chain.canonical(value).encode() == rfc8785.dumps(value)
    entry = book(1, False).entries[0]
    assert not keys.verify(KEYS["mine"].public, entry.signature, bytes.fromhex(entry.hash))
    for bad in ("\ud800", {"x": ["\udfff"]}):
        with pytest.raises(HarnessError, match="Unicode"):
            chain.canonical(bad)


def relink(made: Book, start: int, key: keys.Key | None = None) -> None:
    """Make the hashes right again from an entry on; with a key sign anew, without one leave the old signatures."""
    for place in range(start, len(made.entries)):
        entry = replace(made.entries[place], previous=made.entries[place - 1].hash if place else chain.START)
        entry = replace(entry, signer=key.fingerprint) if key else entry
        entry = replace(entry, hash=entry.digest())
        made.entries[place] = replace(entry, signature=key.sign(chain.ENTRY + bytes.fromhex(entry.hash))) if key else entry
    made.head = chain.head(made.entries[-1], key) if key else replace(made.head, hash=made.entries[-1].hash, seq=made.entries[-1].seq)


def bend(value: object, rng: random.Random) -> object:
    """A value with one thing changed."""
    if isinstance(value, int):
        return value + rng.choice([-1, 1, 7])
    at = rng.randrange(len(value)) if value else 0
    if isinstance(value, bytes):
        return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1:]
    return value[:at] + ("x" if value[at:at + 1] != "x" else "y") + value[at + 1:]


def bend_entry(made: Book, at: int, rng: random.Random) -> int:
    name = rng.choice([each.name for each in fields(Entry)])
    made.entries[at] = replace(made.entries[at], **{name: bend(getattr(made.entries[at], name), rng)})
    return at


def bend_and_relink(made: Book, at: int, rng: random.Random) -> int:
    name = rng.choice(["at", "kind", "commitment", "told"])
    made.entries[at] = replace(made.entries[at], **{name: bend(getattr(made.entries[at], name), rng)})
    relink(made, at)
    return at


def bend_and_sign_with_another_key(made: Book, at: int, rng: random.Random) -> int:
    made.entries[at] = replace(made.entries[at], at="2020-01-01T00:00:00Z")
    relink(made, at, KEYS["theirs"])
    return at


def remove_entry(made: Book, at: int, rng: random.Random) -> int:
    made.rows.pop(made.entries[at].seq, None)
    del made.entries[at]
    return min(at, len(made.entries))


def remove_entry_and_number_anew(made: Book, at: int, rng: random.Random) -> int:
    remove_entry(made, at, rng)
    made.entries[at:] = [replace(entry, seq=entry.seq - 1) for entry in made.entries[at:]]
    made.rows = {seq - (seq > at): row for seq, row in made.rows.items()}
    relink(made, at)
    return at


def swap(made: Book, at: int, rng: random.Random) -> int:
    other = rng.choice([place for place in range(len(made.entries)) if place != at])
    made.entries[at], made.entries[other] = made.entries[other], made.entries[at]
    return min(at, other)


def cut(made: Book, at: int, rng: random.Random) -> int:
    del made.entries[at:]
    made.rows = {seq: row for seq, row in made.rows.items() if seq <= at}
    return at


def bend_row(made: Book, at: int, rng: random.Random) -> int:
    seq = rng.choice(sorted(made.rows))
    name = rng.choice(["subject", "key", "payload"])
    made.rows[seq] = replace(made.rows[seq], **{name: bend(getattr(made.rows[seq], name), rng)})
    return seq - 1


def remove_row(made: Book, at: int, rng: random.Random) -> int:
    seq = rng.choice(sorted(made.rows))
    del made.rows[seq]
    return seq - 1


def move_row(made: Book, at: int, rng: random.Random) -> int:
    one, two = rng.sample(sorted(made.rows), 2)
    made.rows[one], made.rows[two] = made.rows[two], made.rows[one]
    return min(one, two) - 1


def add_row(made: Book, at: int, rng: random.Random) -> int:
    seq = rng.choice([1, len(made.entries) + 1])
    made.rows[seq] = Row("artist-0", bytes(32), "{}")
    return seq - 1


def bend_head(made: Book, at: int, rng: random.Random) -> int:
    name = rng.choice([each.name for each in fields(Head)])
    made.head = replace(made.head, **{name: bend(getattr(made.head, name), rng)})
    return -1


def no_head(made: Book, at: int, rng: random.Random) -> int:
    made.head = None
    return -1


def erase_unsaid(made: Book, at: int, rng: random.Random) -> int:
    """Say in an entry of one's own that a row was forgotten."""
    seq = rng.choice(sorted(made.rows))
    del made.rows[seq]
    made.entries.append(chain.link(made.entries[-1], "erase", "2026-01-01T00:00:00Z", KEYS["theirs"], None, {"erased": [seq]}))
    made.head = chain.head(made.entries[-1], KEYS["theirs"])
    return len(made.entries) - 1


def splice(made: Book, at: int, rng: random.Random) -> int:
    """Put in an entry of another history that the same key signed: every entry is sound by itself."""
    fork = Book(KEYS["mine"])
    fork.entries, fork.rows = made.entries[:1], {}
    for number in range(len(made.entries)):
        fork.enter("artist-0", {"use": "cawg.ai_training", "decision": "allowed", "fork": number})
    at = rng.choice([seq for seq in made.rows if seq < len(made.entries)])
    made.entries[at - 1], made.rows[at] = fork.entries[at - 1], fork.rows[at]
    return at - 1


TAMPERINGS = (splice, bend_entry, bend_and_relink, bend_and_sign_with_another_key, remove_entry, remove_entry_and_number_anew, swap, cut, bend_row, remove_row,
              move_row, add_row, bend_head, no_head, erase_unsaid)


@settings(max_examples=900, deadline=None, derandomize=True)
@given(st.integers(4, 9), st.booleans(), st.sampled_from(TAMPERINGS), st.integers(0, 99), st.integers(0, 2**32))
def test_a_rewritten_history_is_always_found(size: int, erased: bool, tamper: object, at: int, seed: int) -> None:
    made = book(size, erased)
    first = tamper(made, at % len(made.entries), random.Random(seed))
    checked = made.check(pin=KEYS["mine"].fingerprint)
    assert not checked.ok and checked.problem
    if first >= 0 and checked.seq:
        assert checked.seq <= first + 2 and any(words in checked.problem for words in (f"entry {checked.seq}:", "ends at", "signed by"))


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda each: each.__name__)
def test_the_quick_look_finds_all_but_a_bent_signature(tamper: object) -> None:
    for seed in range(30):
        made = book(6, True)
        untouched = list(made.entries)
        tamper(made, seed % len(made.entries), random.Random(seed))
        only_signature = [replace(entry, signature=b"") for entry in made.entries] == [replace(entry, signature=b"") for entry in untouched]
        assert not made.check(signatures=False).ok or tamper is bend_entry and only_signature


def test_a_whole_forgery_is_told_apart_by_the_pin() -> None:
    made = book(5, True)
    made.entries[0] = replace(made.entries[0], told=json.dumps({"ledger": "x", "public": KEYS["theirs"].public.hex()}, separators=(",", ":")))
    relink(made, 0, KEYS["theirs"])
    assert made.check().ok and "signer unknown" in str(made.check())
    checked = made.check(pin=KEYS["mine"].fingerprint)
    assert not checked.ok and checked.seq == 1 and "not by" in checked.problem


def test_an_old_copy_put_back_is_found_by_an_entry_noted_elsewhere() -> None:
    made = book(5, False)
    old, head = list(made.entries), made.head
    made.enter("artist-1", {"withdrawn": True})
    noted = made.entries[-1].hash
    assert made.check(known=noted).ok
    made.entries, made.head = old, head
    del made.rows[len(old) + 1]
    assert made.check().ok and "noted elsewhere" in made.check(known=noted).problem


def test_another_key_signs_from_where_it_was_admitted_and_not_before() -> None:
    made = book(2, False)
    made.tell("admit", {"public": KEYS["theirs"].public.hex(), "note": ""})
    made.tell("tombstone", {"what": {}}, key=KEYS["theirs"])
    assert made.check(pin=KEYS["mine"].fingerprint).ok
    early = book(2, False)
    early.tell("tombstone", {"what": {}}, key=KEYS["theirs"])
    early.tell("admit", {"public": KEYS["theirs"].public.hex(), "note": ""})
    assert early.check().seq == 5 and "nobody admitted" in early.check().problem


def test_erased_content_must_not_come_back() -> None:
    made = book(4, False)
    row = made.rows[2]
    made.erase(2)
    assert made.check().ok
    made.rows[2] = row
    assert made.check().seq == 2 and "there again" in made.check().problem


def test_nobody_erases_what_is_yet_to_come() -> None:
    made = book(1, False)
    made.tell("erase", {"erased": [5], "why": "forgotten"})
    made.enter("artist-1", {"withdrawn": True})
    assert made.check().ok
    del made.rows[5]
    assert made.check().seq == 5 and "no later entry says so" in made.check().problem


def test_nothing_can_be_led_back_to_a_forgotten_subject() -> None:
    """Without the key the commitment is as good as random: the right row and a wrong one look alike."""
    made = Book(KEYS["mine"])
    row = Row("artist-1", random.Random(1).randbytes(32), '{"use":"x"}')
    made.tell("record", None, row)
    entry = made.entries[-1]
    assert "artist-1" not in str(entry) and chain.matches(entry, row)
    assert not any(chain.matches(entry, replace(row, key=bytes([byte]) * 32)) for byte in range(256))


def test_an_empty_ledger_is_not_whole() -> None:
    assert "no entries" in chain.check([], {}, None).problem


def test_keys_stand_where_they_should(pair: tuple[keys.Key, keys.Key], tmp_path: Path) -> None:
    made = Book(pair[0])
    made.tell("genesis", {"public": pair[1].public.hex()})
    assert "within a ledger" in made.check().problem
    made.entries = made.entries[1:]
    assert not made.check().ok
    made = Book(pair[0])
    made.tell("admit", {"public": "no key"})
    assert "no key" in made.check().problem
