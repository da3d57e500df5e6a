"""What was begun and is not finished: plans of deletions, so that the next call can end what a crash interrupted.

A plan deletes files, so it counts only with the signature of the very key that now goes on with it: a ledger that came from
elsewhere can have nothing deleted here. What a living process is at work on is left to that process.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.consent import chain, database, keys
from harness.errors import HarnessError

INTENT = b"likeness ledger intent\n"


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


class Journal:
    """The intents of a ledger. They are no part of the chain: each is gone when it is finished."""

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Callable[[], datetime], key: Callable[[], keys.Key]) -> None:
        self._connection, self._path, self._clock, self._key = connection, path, clock, key

    def begin(self, kind: str, subject: str, plan: Mapping[str, Any]) -> int:
        """Write down, signed, what is going to be done, before doing it.

        Raises HarnessError while another living process does the same about the same subject.
        """
        said = (self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"), kind, subject, json.dumps(plan), process(os.getpid()))
        key = self._key()
        with database.in_words(self._path), database.transaction(self._connection):
            for (owner,) in self._connection.execute("SELECT owner FROM intents WHERE kind = ? AND subject = ?", (kind, subject)).fetchall():
                if subject and _elsewhere(owner):
                    raise HarnessError(f"{self._path}: the process {owner.split()[0]} is at work on the same ({kind}); let it end, then run this again.")
            cursor = self._connection.execute("INSERT INTO intents (at, kind, subject, plan, owner, signature) VALUES (?, ?, ?, ?, ?, ?)",
                                              (*said, key.sign(self._bytes(*said))))
            return cursor.lastrowid or 0

    def finish(self, id: int) -> None:
        """It is done: take it out, if nobody has done so before."""
        with database.in_words(self._path), database.transaction(self._connection):
            self._connection.execute("DELETE FROM intents WHERE id = ?", (id,))

    def open(self) -> list[Intent]:
        """What this key began and did not finish, the oldest first, but for what another living process is at work on.

        Raises HarnessError for an intent that nobody signed who may write here; nothing of it is to be carried out.
        """
        with database.in_words(self._path):
            rows = self._connection.execute("SELECT id, at, kind, subject, plan, owner, signature FROM intents ORDER BY id").fetchall()
            return [Intent(*row[:4], json.loads(row[4])) for row in rows if self._is_own(row) and not _elsewhere(row[5])]

    def _is_own(self, row: tuple) -> bool:
        """Did the key in hand sign the intent? Another that was admitted finishes its own. Raises HarnessError when it was neither."""
        id, *said, signature = row
        data = self._bytes(*said)
        if keys.verify(self._key().public, signature, data):
            return True
        told = self._connection.execute("SELECT told FROM entries WHERE kind IN ('genesis', 'admit')").fetchall()
        if any(keys.verify(bytes.fromhex(json.loads(text)["public"]), signature, data) for (text,) in told):
            return False
        raise HarnessError(f"{self._path}: a deletion stands open in it (number {id}) that nobody signed who may write here; nothing of it was carried out. "
                           f"Put back a backup, or take it out with `Store.intents.finish({id})`.")

    def _bytes(self, *said: str) -> bytes:
        """What is signed: the intent, and the ledger in which it stands."""
        ledger = self._connection.execute("SELECT hash FROM entries WHERE seq = 1").fetchone()
        return INTENT + chain.canonical([*(ledger or ("",)), *map(str, said)]).encode()


def process(pid: int) -> str:
    """A process and when it began, as numbers come again; "" when there is none, or it only waits to be taken note of."""
    import psutil

    try:
        found = psutil.Process(pid)
        return "" if found.status() == psutil.STATUS_ZOMBIE else f"{pid} {found.create_time():.2f}"
    except psutil.Error:
        return ""


def _elsewhere(owner: str) -> bool:
    """Is another process than this one at work, and alive?"""
    pid = owner.partition(" ")[0]
    return pid.isdecimal() and int(pid) != os.getpid() and process(int(pid)) == owner
