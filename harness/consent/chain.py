"""The chain: what was entered when and by whom, without saying about whom.

Each entry is bound by hash to the one before it and signed (Ed25519). Of what was entered it holds only a keyed commitment
(HMAC-SHA-256 with a key of the subject's own), so that a person can be forgotten: with the key and the row gone, nothing
in the chain can be led back to them, and the chain still verifies. A signed head says which entry is the last.

What it cannot find alone: whoever holds an admitted key can write another history, and whoever holds an old copy of the
whole file can put it back. Against both stands a pin: the fingerprint of the signer, and the hash of an entry that was
noted elsewhere (every run's manifest and every report hold the head that answered).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.consent import keys
from harness.errors import HarnessError

ENTRY, HEAD = b"likeness ledger entry\n", b"likeness ledger head\n"  # so that no signature serves for anything else
START = "0" * 64
MALFORMED = (ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True)
class Entry:
    """One link of the chain."""

    seq: int
    """1, 2, 3 …"""
    at: str
    """UTC, like 2026-01-31T12:00:00Z."""
    kind: str
    """genesis, admit, record, withdrawal, descriptor, photo, tombstone, refusal or erase."""
    commitment: str
    """HMAC of the row, 64 hex digits; empty for an entry about no subject."""
    told: str
    """What an entry about no subject says, as JSON."""
    previous: str
    """Hash of the entry before."""
    signer: str
    """Fingerprint of the key that signed."""
    hash: str
    """SHA-256 of all of the above."""
    signature: bytes
    """Of the hash."""

    def digest(self) -> str:
        """The hash that the entry should have."""
        body = canonical([self.seq, self.at, self.kind, self.commitment, self.told, self.previous, self.signer])
        return hashlib.sha256(ENTRY + body.encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """What an entry commits to, as long as its subject is not forgotten."""

    subject: str
    """Whom it is about."""
    key: bytes
    """The subject's key, 32 bytes."""
    payload: str
    """What was entered, as JSON."""


@dataclass(frozen=True)
class Head:
    """The last entry, signed: without it the end of a chain could be cut off unseen."""

    seq: int
    """Of the last entry."""
    hash: str
    """Of the last entry."""
    signer: str
    """Fingerprint."""
    signature: bytes
    """Of both."""


@dataclass(frozen=True)
class Checked:
    """What looking at a chain found."""

    problem: str
    """The first thing that is wrong, in words; empty when nothing is."""
    seq: int
    """Its entry; 0 when nothing is wrong or it lies outside the entries."""
    entries: int
    """How many there are."""
    head: str
    """Hash of the last one."""
    signer: str
    """Fingerprint of the key that began the ledger."""
    pinned: bool
    """Was the signer compared with one that is known?"""

    @property
    def ok(self) -> bool:
        """Is nothing wrong?"""
        return not self.problem

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return f"{self.entries} entries, unchanged, " + (f"signed by {self.signer}" if self.pinned else f"signer unknown ({self.signer})")


def canonical(value: Any) -> str:
    """JSON of one form only: RFC 8785 for what stands in a ledger (text, whole numbers, truth, ASCII names)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HarnessError(f"the ledger holds Unicode text only; {value!r} is none (half a surrogate pair).") from error
    return text


def commit(seq: int, kind: str, row: Row) -> str:
    """The commitment of a row: it binds the row to its place, its kind and its subject."""
    return hmac.digest(row.key, canonical([seq, kind, row.subject, row.payload]).encode(), "sha256").hex()


def link(previous: Entry | None, kind: str, at: str, key: keys.Key, row: Row | None = None, told: Any = None) -> Entry:
    """The next entry, signed."""
    seq = previous.seq + 1 if previous else 1
    bare = Entry(seq, at, kind, commit(seq, kind, row) if row else "", "" if row else canonical(told),
                 previous.hash if previous else START, key.fingerprint, "", b"")
    digest = bare.digest()
    return replace(bare, hash=digest, signature=key.sign(ENTRY + bytes.fromhex(digest)))


def head(last: Entry, key: keys.Key) -> Head:
    """Say, signed, which entry is the last."""
    return Head(last.seq, last.hash, key.fingerprint, key.sign(_head_bytes(last.seq, last.hash)))


def _head_bytes(seq: int, digest: str) -> bytes:
    return HEAD + canonical([seq, digest]).encode()


def admitted(entries: Iterable[Entry]) -> dict[str, bytes]:
    """Public keys, by fingerprint, that the first entry and later ones admit."""
    told = [json.loads(entry.told) for entry in entries if entry.kind in ("genesis", "admit")]
    public = [bytes.fromhex(each["public"]) for each in told]
    return {keys.fingerprint(each): each for each in public}


def erased(entries: Iterable[Entry]) -> dict[int, int]:
    """Entries whose rows are gone, each with the later entry that says so."""
    return {seq: entry.seq for entry in entries if entry.kind == "erase" for seq in json.loads(entry.told)["erased"] if seq < entry.seq}


def check(entries: Sequence[Entry], rows: Mapping[int, Row], last: Head | None, pin: str = "", known: str = "", signatures: bool = True) -> Checked:
    """Look at a whole chain and name the first wrong entry.

    `pin` is the fingerprint that the first entry must be signed by, `known` the hash of an entry that must be among them.
    Without `signatures` only those are checked that let a key in and that of the head, on which all hashes depend: no less
    strong against whoever has no key, and ten times faster.
    """
    signer = entries[0].signer if entries else ""
    wrong = _first_wrong(entries, rows, signatures) or _wrong_end(entries, rows, last)
    if not wrong and pin and signer != pin:
        wrong = (1, f"the ledger is signed by {signer}, not by {pin}")
    if not wrong and known and known not in {entry.hash for entry in entries}:
        wrong = (0, f"the entry {known[:16]}… that was noted elsewhere is not in the ledger: its history was rewritten or put back")
    seq, problem = wrong or (0, "")
    return Checked(problem, seq, len(entries), entries[-1].hash if entries else "", signer, bool(pin))


def _first_wrong(entries: Sequence[Entry], rows: Mapping[int, Row], signatures: bool) -> tuple[int, str] | None:
    """The first entry that does not hold, with what is wrong about it."""
    try:
        gone, keyring = erased(entries), _Keyring()
    except MALFORMED:
        gone, keyring = {}, _Keyring()
    previous = START
    for place, entry in enumerate(entries, 1):
        problem = _broken(entry, place, previous) or keyring.refuses(entry, signatures) or _row_problem(entry, rows.get(entry.seq), gone)
        if problem:
            return place, f"entry {place}: {problem}"
        previous = entry.hash
    return None


def _broken(entry: Entry, place: int, previous: str) -> str:
    """Does the entry stand in its place, linked and unchanged? Why not, or ''."""
    if entry.seq != place:
        return f"it is missing (the next is {entry.seq})"
    if entry.previous != previous:
        return "it does not follow from the entry before"
    return "" if stands(entry) else "it was changed after it was entered"


def stands(entry: Entry) -> bool:
    """Does the entry have the hash that it says?"""
    try:
        return entry.digest() == entry.hash
    except (HarnessError, TypeError, ValueError):  # a damaged cell holds what no entry can
        return False


class _Keyring:
    """The keys admitted so far, while walking along the chain."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def refuses(self, entry: Entry, signatures: bool) -> str:
        """Why the entry's signature does not count, or ''; takes up the keys that it admits."""
        try:
            new = admitted([entry])
        except MALFORMED:
            return "it admits what is no key"
        if entry.seq == 1:
            if entry.kind != "genesis":
                return "it is not the beginning of a ledger"
            self.held |= new
        elif entry.kind == "genesis":
            return "it begins a ledger within a ledger"
        if entry.signer not in self.held:
            return f"it is signed by {entry.signer}, whom nobody admitted"
        if (signatures or new) and not keys.verify(self.held[entry.signer], entry.signature, ENTRY + bytes.fromhex(entry.hash)):
            return "its signature is not that of its signer"
        self.held |= new
        return ""


def _row_problem(entry: Entry, row: Row | None, gone: Mapping[int, int]) -> str:
    """Does the row say what the entry commits to? Why not, or ''."""
    if not entry.commitment:
        return "a row was put under it" if row else ""
    if entry.seq in gone:
        return f"its content is there again, although entry {gone[entry.seq]} says that it was erased" if row else ""
    if row is None:
        return "its content was removed, and no later entry says so"
    return "" if matches(entry, row) else "its content was changed"


def matches(entry: Entry, row: Row) -> bool:
    """Is it what was entered?"""
    try:
        return hmac.compare_digest(commit(entry.seq, entry.kind, row), entry.commitment)
    except (HarnessError, TypeError, ValueError):
        return False


def _wrong_end(entries: Sequence[Entry], rows: Mapping[int, Row], last: Head | None) -> tuple[int, str] | None:
    """Is the last entry the one that the head names, and is there no row beyond? What is wrong, or None."""
    if not entries:
        return (0, "the ledger has no entries")
    wrong = wrong_head(entries[-1], last, admitted(entries))
    beyond = sorted(set(rows) - {entry.seq for entry in entries})
    return wrong or ((beyond[0], f"entry {beyond[0]}: there is content and no entry for it") if beyond else None)


def wrong_head(end: Entry, last: Head | None, public: Mapping[str, bytes]) -> tuple[int, str] | None:
    """Is the head signed by one of the keys (32 raw bytes, by fingerprint), and does it name this entry? What is wrong, or None."""
    if last is None:
        return (0, "the signed head is missing; entries at the end may have been removed")
    if not isinstance(last.hash, str) or not keys.verify(public.get(last.signer, b""), last.signature, _head_bytes(last.seq, last.hash)):
        return (0, "the signed head is not signed by a key of this ledger")
    if (last.seq, last.hash) != (end.seq, end.hash):
        return (min(last.seq, end.seq + 1), f"the ledger ends at entry {end.seq}, and its signed head names entry {last.seq}")
    return None
