"""A store's tables as chain, rows and events, all of one moment."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.consent import database
from harness.consent.chain import Checked, Entry, Head, Row, check
from harness.consent.history import Event, Standing, fold
from harness.consent.ledger import Ledger


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
        """The chain looked at without every single signature."""
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
                      {photo.sha256: photo.subject for photo in now.photos}, self.entries[-1].at[:10])


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
