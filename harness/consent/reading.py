"""A store's tables as chain, rows and events, all of one moment."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from harness.consent import database, history
from harness.consent.chain import Entry, Head, Row
from harness.consent.history import Event
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


def events(connection: sqlite3.Connection, path: Path) -> list[Event]:
    """Everything that was entered, in order."""
    return _events(everything(connection, path))


def _events(found: Everything) -> list[Event]:
    return [Event(entry.seq, entry.at, entry.kind, row.subject if row else "", json.loads(row.payload if row else entry.told or "{}"))
            for entry in found.entries for row in (found.rows.get(entry.seq),)]


def ledger(found: Everything, name: str) -> Ledger:
    """What holds now, for the gate."""
    now = history.fold(_events(found))
    return Ledger(tuple(record for _, record in now.records), found.entries[-1].hash, name, tuple(seq for seq, _ in now.records), now.left,
                  {photo.sha256: photo.subject for photo in now.photos}, found.entries[-1].at[:10])
