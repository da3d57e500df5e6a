"""A store's tables as chain, rows and events, all of one moment; and what can be asked of a ledger without writing to it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.consent import database
from harness.consent.chain import Checked, Entry, Head, Row, check
from harness.consent.history import Event, Photo, Standing, fold
from harness.consent.ledger import ALL_WORKS, Ledger, Record, plain
from harness.errors import HarnessError


def stamp(at: datetime) -> str:
    """A time as the ledger writes it: UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Everything:
    """The whole ledger."""

    entries: list[Entry]
    """In order."""
    rows: dict[int, Row]
    """What they commit to, by entry."""
    head: Head | None
    """Which one is the last."""

    @cached_property
    def quick(self) -> Checked:
        """The chain looked at without the signatures on which nothing hangs that the head's does not cover."""
        return check(self.entries, self.rows, self.head, signatures=False)

    @cached_property
    def events(self) -> list[Event]:
        """Everything that was entered, in order; read only what `quick` found sound."""
        return [Event(entry.seq, entry.at, entry.kind, row.subject if row else "", json.loads(row.payload if row else entry.told or "{}"))
                for entry in self.entries for row in (self.rows.get(entry.seq),)]

    @cached_property
    def standing(self) -> Standing:
        """What holds now."""
        return fold(self.events)

    def ledger(self, name: str) -> Ledger:
        """What holds now, for the gate."""
        now = self.standing
        return Ledger(tuple(record for _, record in now.records), self.entries[-1].hash, name, tuple(seq for seq, _ in now.records), now.left,
                      {photo.sha256: photo.subject for photo in now.photos}, now.refused, self.entries[-1].at[:10])


def everything(connection: sqlite3.Connection, path: Path) -> Everything:
    """Read the whole ledger in one transaction, so that no other process writes between two tables."""
    with database.in_words(path):
        inside = connection.in_transaction
        if not inside:
            connection.execute("BEGIN")
        try:
            entries = [Entry(*row) for row in connection.execute(
                "SELECT seq, at, kind, commitment, told, previous, signer, hash, signature FROM entries ORDER BY seq")]
            rows = {seq: Row(*rest) for seq, *rest in connection.execute(
                "SELECT seq, coalesce(name, ''), coalesce(key, x''), payload FROM rows LEFT JOIN subjects ON subjects.id = rows.subject")}
            head = connection.execute("SELECT seq, hash, signer, signature FROM head").fetchone()
        finally:
            if not inside:
                connection.execute("COMMIT")
    return Everything(entries, rows, Head(*head) if head else None)


class Reader:
    """A ledger that is open, to be asked."""

    def __init__(self, path: Path, connection: sqlite3.Connection, pin: str) -> None:
        """`pin` is the fingerprint of the key in hand, or ""."""
        self.path, self._connection, self._pin = path, connection, pin
        self._held: tuple[tuple[int, ...], Everything] | None = None

    def subjects(self) -> list[str]:
        """Everybody whom an entry is about, by name."""
        with database.in_words(self.path):
            return [name for (name,) in self._connection.execute("SELECT name FROM subjects ORDER BY name")]

    def known(self, name: str) -> str:
        """How the ledger spells a subject, whose name may come in another case or spacing; "" for one that it does not know."""
        return next((each for each in self.subjects() if plain(each) == plain(name)), "")

    def _state(self) -> tuple[int, ...]:
        """Other numbers than before whenever somebody wrote, this connection or another one."""
        with database.in_words(self.path):
            return (*self._connection.execute("PRAGMA data_version").fetchone(), self._connection.total_changes)

    def _sound(self) -> Everything:
        """The whole ledger, once its chain, contents and signed head were looked at; read anew whenever somebody wrote."""
        state = self._state()
        if self._held is None or self._held[0] != state:
            self._held = (state, everything(self._connection, self.path))
        found = self._held[1]
        if not found.quick.ok:
            raise HarnessError(f"{self.path}: {found.quick.problem}; the ledger cannot be relied upon until `harness consent verify` finds nothing.")
        return found

    def history(self, subject: str | None = None) -> list[Event]:
        """Everything that was entered, in order; of one subject, or of all. Raises HarnessError as `book` does."""
        return [event for event in self._sound().events if subject is None or plain(event.subject) == plain(subject)]

    def book(self) -> Ledger:
        """What holds now. Raises HarnessError when the chain, a row or the signed head does not hold (see `verify_chain`)."""
        return self._sound().ledger(self.path.name)

    def records(self, subject: str) -> list[tuple[int, Record]]:
        """Entry and record of everything that the subject decided and that was not replaced, withdrawn ones included."""
        return [(seq, record) for seq, record in self._sound().standing.records if plain(record.subject) == plain(subject)]

    def works(self, subject: str) -> set[str]:
        """Hashes of the works and photos that the ledger names with the subject, as theirs or as showing them.

        Only what stands counts: a work of which a record was replaced, because it had been entered by mistake, is not theirs.
        """
        now, name = self._sound().standing, plain(subject)
        named = {record.sha256 for _, record in now.records if name in map(plain, (record.subject, *record.people))}
        held = {work for who, work, _ in now.marks if plain(who) == name} | {photo.sha256 for photo in now.photos if plain(photo.subject) == name}
        return (named | held) - {ALL_WORKS}

    def descriptors(self, subject: str) -> dict[str, bytes]:
        """The perceptual descriptor of each of the subject's works for which one is held."""
        return {work: descriptor for who, work, descriptor in self._sound().standing.marks if plain(who) == plain(subject)}

    def photos(self, subject: str | None = None, due: datetime | None = None) -> list[Photo]:
        """Photos of people that are kept; with `due` only those whose time is over by then."""
        until = stamp(due) if due else "9"
        return [photo for photo in self._sound().standing.photos if photo.until <= until and (subject is None or plain(photo.subject) == plain(subject))]

    def verify_chain(self, pin: str = "", known: str = "") -> Checked:
        """Look at every link, signature and row, and name the first wrong one.

        `pin` is the fingerprint that the ledger must have been begun with (of the key given to `open_store`, if any), `known`
        the hash of an entry noted elsewhere, such as a manifest's.
        """
        found = everything(self._connection, self.path)
        return check(found.entries, found.rows, found.head, pin or self._pin, known)

    def export(self, subject: str) -> dict[str, Any]:
        """Everything that is held about a subject, readable: what holds, how it came about, and where others' records name them."""
        events, name = self.history(), plain(subject)
        named = [seq for seq, record in self._sound().standing.records if plain(record.subject) != name and
                 name in map(plain, (*record.people, record.creator, record.rights_holder, record.recorded_by))]
        return {"subject": subject, "records": [{"entry": seq} | asdict(record) for seq, record in self.records(subject)],
                "history": [{"entry": e.seq, "at": e.at, "kind": e.kind} | dict(e.payload) for e in events if plain(e.subject) == name],
                "photos": [asdict(photo) for photo in self.photos(subject)], "named_in_entries": named}
