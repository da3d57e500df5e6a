"""The ledger as a store: SQLite, append-only, chained and signed; several processes may write, and a person can be forgotten.

What other rooms and commands call (the rest of this package builds on these and on nothing below them):

    open_store(path, key=None, create=False) -> Store     a context manager; without a key it reads, and signs with keys.default()
    store.subjects() -> list[str]
    store.book() -> ledger.Ledger                         what holds now, for the gate; checks hashes, contents and the signed head
    store.records(subject) -> list[(entry number, Record)]
    store.history(subject=None) -> list[history.Event]    everything that was entered, in order
    store.works(subject) -> set[sha256]                   works and photos that the ledger names with the subject
    store.descriptors(subject) -> dict[sha256, bytes]     perceptual descriptors held
    store.add(records, descriptors={}, replaces=()) -> list[entry numbers]
    store.withdraw(target, by="", subject="", at=None, why="", leave_hashes=False, descriptors={}, uses=USES) -> Withdrawal
    store.tombstone(what, subject="") -> entry number     a signed entry saying what was deleted
    store.add_photo(subject, sha256, path, hours=24) -> entry number
    store.photos(subject=None, due=None) -> list[history.Photo]
    store.drop_photos(photos, why) -> entry number        erases them from the ledger; the files are the caller's to delete first
    store.forget(subject, intent=None) -> Forgotten       destroys key and rows, takes the name out of others' rows, scrubs the file;
                                                          what they had refused stays refused, namelessly
    store.known(name) -> str                              how the ledger spells a subject ("Mira " and "mira" are one), or ""
    store.admit(public, note="") -> entry number          another key may sign from now on
    store.verify_chain(pin="", known="") -> chain.Checked names the first wrong entry; pin defaults to the key in hand
    store.intents -> journal.Journal                      begin(kind, subject, plan) -> id, finish(id), open() -> list[Intent]

Everything raises HarnessError in one sentence; nothing is entered half.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.consent import database, history, keys, reading
from harness.consent.history import Photo
from harness.consent.journal import Journal
from harness.consent.ledger import ALL_WORKS, HASH, USES, Record, unnamed
from harness.consent.reading import stamp
from harness.consent.writing import Writer
from harness.errors import HarnessError

HOURS = 24.0
"""How long photos of people are kept when nobody says otherwise."""


@dataclass(frozen=True)
class Withdrawal:
    """What was withdrawn."""

    seq: int
    """Its entry."""
    subject: str
    """Who withdrew."""
    sha256: str
    """The work, or * for all."""
    works: frozenset[str]
    """Works that the ledger names: where the subject agreed to all works, there are more than it knows."""
    left: frozenset[str] = frozenset()
    """Works whose descriptors stay, so that their copies are found: none where they were asked for and there are none to leave."""


@dataclass(frozen=True)
class Forgotten:
    """What the ledger no longer holds."""

    seq: int
    """The entry that says so, without a name."""
    entries: int
    """How many entries lost their content."""


def utc_now() -> datetime:
    """The time that entries carry."""
    return datetime.now(UTC)


def open_store(path: Path, key: keys.Key | None = None, create: bool = False, clock: Callable[[], datetime] = utc_now) -> Store:
    """Open a ledger, or begin one with `create`. Raises HarnessError for what is no ledger, a damaged one, or a newer one.

    What an interrupted `forget` left to be scrubbed is scrubbed first.
    """
    store = Store(Path(path), database.connect(path, create), key, clock)
    try:
        if create:
            store._begin()
        with database.in_words(store.path):
            unclean = store._connection.execute("SELECT count(*) FROM unclean").fetchone()[0]
        if unclean:
            database.scrub(store._connection, store.path)
    except BaseException:
        store.close()
        raise
    return store


class Store(reading.Reader):
    """A ledger that is open; see the module for what it can do. Not shared between threads: open it in each."""

    def __init__(self, path: Path, connection: sqlite3.Connection, key: keys.Key | None, clock: Callable[[], datetime]) -> None:
        super().__init__(path, connection, key.fingerprint if key else "")
        self.clock, self._given = clock, key
        self.intents = Journal(connection, path, clock, lambda: self.key)
        self._trusted: tuple[int, ...] = ()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @cached_property
    def key(self) -> keys.Key:
        """What signs: the key given, or this user's own."""
        return self._given or keys.default()

    # --- writing

    @contextmanager
    def _writing(self, always: bool = False, begin: bool = False) -> Iterator[Writer]:
        """Enter all of it or nothing, and only in a ledger that holds: what the gate refuses to read is not signed anew.

        With `always` a clock that is wrong, or was wrong once, does not stop it: a no has to be heard.
        """
        with database.in_words(self.path), database.transaction(self._connection):
            if not begin and self._state() != self._trusted:
                self._sound()
            writer = Writer(self._connection, self.path, self.key, stamp(self.clock()), always)
            yield writer
            writer.close()
            state = self._state()  # before the lock is let go: what others write from then on has to be looked at
        self._trusted = () if begin else state

    def _begin(self) -> None:
        """The first entry of a new ledger, unless another process has just made it."""
        with database.in_words(self.path):
            begun = self._connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        if not begun:
            with self._writing(begin=True) as writer:
                writer.begin()

    def add(self, records: Record | Iterable[Record], descriptors: Mapping[str, bytes] | None = None, replaces: Sequence[int] = ()) -> list[int]:
        """Enter records, and the perceptual descriptors (by sha256) of the works that they are about.

        `replaces` are entries of the same subject, withdrawals too, that no longer hold. Records that contradict each
        other may be entered; the gate then blocks and names both.
        """
        listed = [records] if isinstance(records, Record) else list(records)
        with self._writing(all(record.decision == "notAllowed" for record in listed)) as writer:
            writer.check_replaced(replaces, {record.subject for record in listed})
            return [writer.record(record, replaces, (descriptors or {}).get(record.sha256)) for record in listed]

    def withdraw(self, target: str, by: str = "", subject: str = "", at: date | None = None, why: str = "", leave_hashes: bool = False,
                 descriptors: Mapping[str, bytes] | None = None, uses: Sequence[str] = USES) -> Withdrawal:
        """Withdraw all that a subject agreed to, or one work (its sha256; of `subject`, where the ledger does not say whose it is).

        It holds from now on whatever day is asked about. With `leave_hashes` the perceptual descriptors stay, so that copies
        of these works are found (a second call may leave them too; `left` says which do); otherwise they are erased.
        """
        single = bool(HASH.fullmatch(target))
        asked = subject or (self._owner(target) if single else target)
        who = self.known(asked)
        if not who:
            raise HarnessError(f"{self.path}: there is nothing about {asked}; the subjects are {', '.join(self.subjects()) or 'none'}.")
        if not uses or not set(uses) <= set(USES):
            raise HarnessError(f"a withdrawal is from one or more of {', '.join(USES)}, not from {', '.join(map(repr, uses)) or 'nothing'}.")
        work = target if single else ALL_WORKS
        said = {"sha256": work, "by": by, "day": f"{at or self.clock():%Y-%m-%d}", "why": why, "left": leave_hashes, "uses": list(uses)}
        with self._writing(always=True) as writer:
            gone = [event.seq for event in self.history(who) if event.kind == "descriptor" and (not single or event.payload["sha256"] == work)]
            for sha256, descriptor in (descriptors or {}).items() if leave_hashes else ():
                writer.descriptor(who, sha256, descriptor)
            seq = writer.enter("withdrawal", who, said)
            if gone and not leave_hashes:
                writer.erase(gone, "descriptors of withdrawn works")
        left = frozenset(self.descriptors(who) if leave_hashes else ())
        return Withdrawal(seq, who, work, frozenset({work} if single else self.works(who)), left & {work} if single else left)

    def _owner(self, sha256: str) -> str:
        """Whose the work is that is to be withdrawn."""
        owners = sorted({record.subject for _, record in self._sound().standing.records if record.sha256 == sha256})
        if len(owners) != 1:
            found = f"records of {', '.join(owners)} are" if owners else "no record is"
            raise HarnessError(f"{self.path}: {found} on the work {sha256[:12]}…; say who withdraws it.")
        return owners[0]

    def tombstone(self, what: Mapping[str, Any], subject: str = "") -> int:
        """Enter what was deleted; with a subject it is forgotten with them, without one it must hold nothing personal."""
        with self._writing(always=True) as writer:
            return writer.enter("tombstone", subject, {"what": dict(what)}) if subject else writer.tell("tombstone", {"what": dict(what)})

    def add_photo(self, subject: str, sha256: str, path: Path | str, hours: float = HOURS) -> int:
        """Enter a photo of a person, and until when it may be kept. Only hash and path are held, nothing of the file itself."""
        if not HASH.fullmatch(sha256) or hours < 0:
            raise HarnessError(f"a photo needs the SHA-256 of its file and hours of 0 or more, not {sha256!r} and {hours}.")
        until = stamp(self.clock() + timedelta(hours=hours))
        with self._writing() as writer:
            return writer.enter("photo", subject, {"sha256": sha256, "path": str(path), "until": until})

    def drop_photos(self, photos: Iterable[Photo], why: str = "retention") -> int:
        """Erase photos from the ledger, with an entry that says how many and why."""
        with self._writing(always=True) as writer:
            return writer.erase([photo.seq for photo in photos], why)

    def forget(self, subject: str, intent: int | None = None) -> Forgotten:
        """Destroy the subject's key and rows, take the name out of the rows of others, finish `intent`, and scrub the file.

        A crash after the first step leaves the file marked, and the next opening scrubs it. Another subject's record that
        named this one as depicted or as rights holder goes on blocking: it names "(forgotten)", whom nobody can ask. And a work
        that this one had refused stays blocked: of it a hash of its hash is kept, by which only whoever has the file can know it.
        """
        if not self.known(subject):
            raise HarnessError(f"{self.path}: there is nothing about {subject}.")
        with self._writing(always=True) as writer:
            refused = self._refused(subject)
            gone = [event.seq for event in self.history(subject)] + writer.rename(self.history(), subject, history.FORGOTTEN)
            if refused:
                writer.tell("refusal", {"works": refused})
            seq = writer.erase(gone, "forgotten")
            writer.destroy(subject, intent)
        database.scrub(self._connection, self.path)
        return Forgotten(seq, len(gone))

    def _refused(self, subject: str) -> list[list[str]]:
        """Works that the subject said no to, or yes only under a condition, each with the use; without their names."""
        today = self.clock().date()
        return sorted([unnamed(record.sha256), record.use] for _, record in self.records(subject)
                      if record.sha256 != ALL_WORKS and record.state(today) not in ("allowed", "expired") and (record.withdrawn or record.decision != "allowed"))

    def admit(self, public: bytes, note: str = "") -> int:
        """Let another key (32 raw bytes, `keys.read_public`) sign entries from now on."""
        with self._writing() as writer:
            return writer.tell("admit", {"public": public.hex(), "note": note})
