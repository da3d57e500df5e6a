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
    store.forget(subject, intent=None) -> Forgotten       destroys key and rows, takes the name out of others' rows, scrubs the file
    store.admit(public, note="") -> entry number          another key may sign from now on
    store.verify_chain(pin="", known="") -> chain.Checked names the first wrong entry; pin defaults to the key in hand
    store.intents -> journal.Journal                      begin(kind, subject, plan) -> id, done(id, state), finish(id), open() -> list[Intent]

Everything raises HarnessError in one sentence; nothing is entered half.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.consent import chain, database, history, keys, reading
from harness.consent.history import Event, Photo
from harness.consent.journal import Journal
from harness.consent.ledger import ALL_WORKS, HASH, USES, Ledger, Record
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


def stamp(at: datetime) -> str:
    """A time as the ledger writes it: UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


class Store:
    """A ledger that is open; see the module for what it can do. Not shared between threads: open it in each."""

    def __init__(self, path: Path, connection: sqlite3.Connection, key: keys.Key | None, clock: Callable[[], datetime]) -> None:
        self.path, self.clock, self._connection, self._given = path, clock, connection, key
        self.intents = Journal(connection, path, clock)
        self._held: tuple[tuple[int, ...], reading.Everything] | None = None

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

    # --- reading

    def subjects(self) -> list[str]:
        """Everybody whom an entry is about, by name."""
        with database.in_words(self.path):
            return [name for (name,) in self._connection.execute("SELECT name FROM subjects ORDER BY name")]

    def _sound(self) -> reading.Everything:
        """The whole ledger, once its chain, contents and signed head were looked at; read anew whenever somebody wrote."""
        with database.in_words(self.path):
            state = (*self._connection.execute("PRAGMA data_version").fetchone(), self._connection.total_changes)
        if self._held is None or self._held[0] != state:
            self._held = (state, reading.everything(self._connection, self.path))
        found = self._held[1]
        if not found.quick.ok:
            raise HarnessError(f"{self.path}: {found.quick.problem}; the ledger cannot be relied upon until `harness consent verify` finds nothing.")
        return found

    def history(self, subject: str | None = None) -> list[Event]:
        """Everything that was entered, in order; of one subject, or of all. Raises HarnessError as `book` does."""
        return [event for event in self._sound().events if subject is None or event.subject == subject]

    def book(self) -> Ledger:
        """What holds now. Raises HarnessError when the chain, a row or the signed head does not hold (see `verify_chain`)."""
        return self._sound().ledger(self.path.name)

    def records(self, subject: str) -> list[tuple[int, Record]]:
        """Entry and record of everything that the subject decided and that was not replaced, withdrawn ones included."""
        return [(seq, record) for seq, record in self._sound().standing.records if record.subject == subject]

    def works(self, subject: str) -> set[str]:
        """Hashes of the works and photos that the ledger names with the subject, as theirs or as showing them.

        Only what stands counts: a work of which a record was replaced, because it had been entered by mistake, is not theirs.
        """
        now = self._sound().standing
        named = {record.sha256 for _, record in now.records if subject in (record.subject, *record.people)}
        held = {work for who, work, _ in now.marks if who == subject} | {photo.sha256 for photo in now.photos if photo.subject == subject}
        return (named | held) - {ALL_WORKS}

    def descriptors(self, subject: str) -> dict[str, bytes]:
        """The perceptual descriptor of each of the subject's works for which one is held."""
        return {work: descriptor for who, work, descriptor in self._sound().standing.marks if who == subject}

    def photos(self, subject: str | None = None, due: datetime | None = None) -> list[Photo]:
        """Photos of people that are kept; with `due` only those whose time is over by then."""
        until = stamp(due) if due else "9"
        return [photo for photo in self._sound().standing.photos if photo.until <= until and subject in (None, photo.subject)]

    def verify_chain(self, pin: str = "", known: str = "") -> chain.Checked:
        """Look at every link, signature and row, and name the first wrong one.

        `pin` is the fingerprint that the ledger must have been begun with (of the key given to `open_store`, if any), `known`
        the hash of an entry noted elsewhere, such as a manifest's.
        """
        found = reading.everything(self._connection, self.path)
        return chain.check(found.entries, found.rows, found.head, pin or (self._given.fingerprint if self._given else ""), known)

    # --- writing

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """Enter all of it or nothing."""
        with database.in_words(self.path), database.transaction(self._connection):
            writer = Writer(self._connection, self.path, self.key, stamp(self.clock()))
            yield writer
            writer.close()

    def _begin(self) -> None:
        """The first entry of a new ledger, unless another process has just made it."""
        with database.in_words(self.path):
            begun = self._connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        if not begun:
            with self._writing() as writer:
                writer.begin()

    def add(self, records: Record | Iterable[Record], descriptors: Mapping[str, bytes] | None = None, replaces: Sequence[int] = ()) -> list[int]:
        """Enter records, and the perceptual descriptors (by sha256) of the works that they are about.

        `replaces` are entries of the same subject, withdrawals too, that no longer hold. Records that contradict each
        other may be entered; the gate then blocks and names both.
        """
        listed = [records] if isinstance(records, Record) else list(records)
        with self._writing() as writer:
            writer.check_replaced(replaces, {record.subject for record in listed})
            return [writer.record(record, replaces, (descriptors or {}).get(record.sha256)) for record in listed]

    def withdraw(self, target: str, by: str = "", subject: str = "", at: date | None = None, why: str = "", leave_hashes: bool = False,
                 descriptors: Mapping[str, bytes] | None = None, uses: Sequence[str] = USES) -> Withdrawal:
        """Withdraw all that a subject agreed to, or one work (its sha256; of `subject`, where the ledger does not say whose it is).

        It holds from now on whatever day is asked about. With `leave_hashes` the perceptual descriptors stay, so that copies
        of these works are found; otherwise they are erased.
        """
        single = bool(HASH.fullmatch(target))
        who = subject or (self._owner(target) if single else target)
        if who not in self.subjects():
            raise HarnessError(f"{self.path}: there is nothing about {who}; the subjects are {', '.join(self.subjects()) or 'none'}.")
        if not uses or not set(uses) <= set(USES):
            raise HarnessError(f"a withdrawal is from one or more of {', '.join(USES)}, not from {', '.join(map(repr, uses)) or 'nothing'}.")
        work = target if single else ALL_WORKS
        said = {"sha256": work, "by": by, "day": f"{at or self.clock():%Y-%m-%d}", "why": why, "left": leave_hashes, "uses": list(uses)}
        with self._writing() as writer:
            gone = [event.seq for event in self.history(who) if event.kind == "descriptor" and (not single or event.payload["sha256"] == work)]
            for sha256, descriptor in (descriptors or {}).items() if leave_hashes else ():
                writer.descriptor(who, sha256, descriptor)
            seq = writer.enter("withdrawal", who, said)
            if gone and not leave_hashes:
                writer.erase(gone, "descriptors of withdrawn works")
        return Withdrawal(seq, who, work, frozenset({work} if single else self.works(who)))

    def _owner(self, sha256: str) -> str:
        """Whose the work is that is to be withdrawn."""
        owners = sorted({record.subject for _, record in self._sound().standing.records if record.sha256 == sha256})
        if len(owners) != 1:
            found = f"records of {', '.join(owners)} are" if owners else "no record is"
            raise HarnessError(f"{self.path}: {found} on the work {sha256[:12]}…; say who withdraws it.")
        return owners[0]

    def tombstone(self, what: Mapping[str, Any], subject: str = "") -> int:
        """Enter what was deleted; with a subject it is forgotten with them, without one it must hold nothing personal."""
        with self._writing() as writer:
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
        with self._writing() as writer:
            return writer.erase([photo.seq for photo in photos], why)

    def forget(self, subject: str, intent: int | None = None) -> Forgotten:
        """Destroy the subject's key and rows, take the name out of the rows of others, finish `intent`, and scrub the file.

        A crash after the first step leaves the file marked, and the next opening scrubs it. Another subject's record that
        named this one as depicted or as rights holder goes on blocking: it names "(forgotten)", whom nobody can ask.
        """
        if subject not in self.subjects():
            raise HarnessError(f"{self.path}: there is nothing about {subject}.")
        with self._writing() as writer:
            gone = [event.seq for event in self.history(subject)] + writer.rename(self.history(), subject, history.FORGOTTEN)
            seq = writer.erase(gone, "forgotten")
            writer.destroy(subject, intent)
        database.scrub(self._connection, self.path)
        return Forgotten(seq, len(gone))

    def admit(self, public: bytes, note: str = "") -> int:
        """Let another key (32 raw bytes, `keys.read_public`) sign entries from now on."""
        with self._writing() as writer:
            return writer.tell("admit", {"public": public.hex(), "note": note})

    def export(self, subject: str) -> dict[str, Any]:
        """Everything that is held about a subject, readable: what holds, how it came about, and where others' records name them."""
        events = self.history()
        named = [seq for seq, record in self._sound().standing.records if record.subject != subject and
                 subject in (*record.people, record.creator, record.rights_holder, record.recorded_by)]
        return {"subject": subject, "records": [{"entry": seq} | asdict(record) for seq, record in self.records(subject)],
                "history": [{"entry": e.seq, "at": e.at, "kind": e.kind} | dict(e.payload) for e in events if e.subject == subject],
                "photos": [asdict(photo) for photo in self.photos(subject)], "named_in_entries": named}
