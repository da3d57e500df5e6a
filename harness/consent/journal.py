"""What was begun and is not finished: plans of deletions, so that the next call can end what a crash interrupted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.consent import database
from harness.errors import HarnessError


@dataclass(frozen=True)
class Intent:
    """One thing that was begun."""

    id: int
    """To finish it by."""
    at: str
    """UTC, when it was begun."""
    kind: str
    """forget, withdraw, sweep."""
    subject: str
    """About whom."""
    plan: Mapping[str, Any]
    """What is to be done."""
    done: Mapping[str, Any]
    """How far it came, as the doer noted it."""


class Journal:
    """The intents of a ledger. They are no part of the chain: each is gone when it is finished."""

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Callable[[], datetime]) -> None:
        self._connection, self._path, self._clock = connection, path, clock

    def begin(self, kind: str, subject: str, plan: Mapping[str, Any]) -> int:
        """Write down what is going to be done, before doing it."""
        values = (self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"), kind, subject, json.dumps(plan), "{}")
        return self._do("INSERT INTO intents (at, kind, subject, plan, done) VALUES (?, ?, ?, ?, ?)", values)

    def done(self, id: int, state: Mapping[str, Any]) -> None:
        """Note how far it came."""
        self._do("UPDATE intents SET done = ? WHERE id = ?", (json.dumps(state), id), must=True)

    def finish(self, id: int) -> None:
        """It is done: take it out."""
        self._do("DELETE FROM intents WHERE id = ?", (id,), must=True)

    def open(self) -> list[Intent]:
        """What was begun and not finished, the oldest first."""
        with database.in_words(self._path):
            rows = self._connection.execute("SELECT id, at, kind, subject, plan, done FROM intents ORDER BY id").fetchall()
        return [Intent(*row[:4], json.loads(row[4]), json.loads(row[5])) for row in rows]

    def _do(self, statement: str, values: tuple, must: bool = False) -> int:
        with database.in_words(self._path), database.transaction(self._connection):
            cursor = self._connection.execute(statement, values)
            if must and not cursor.rowcount:
                raise HarnessError(f"{self._path}: there is no such intent; another call has finished it.")
            return cursor.lastrowid or 0
