"""Entering something into a store: the writer lives for one transaction and leaves a signed head behind."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from harness.consent import chain, history, keys
from harness.consent.chain import Entry, Head, Row
from harness.consent.ledger import Record, plain
from harness.errors import HarnessError


class Writer:
    """Appends entries; made inside a transaction, and closed (which signs the head) before that ends."""

    def __init__(self, connection: sqlite3.Connection, path: Path, key: keys.Key, at: str, always: bool = False) -> None:
        """Raises HarnessError when the clock went back, the key was not admitted, or the end of the ledger was tampered with.

        With `always` no clock stops what is entered: it gets the time of the last entry where that is later.
        """
        self._connection, self._path, self._key, self._at = connection, path, key, at
        row = connection.execute("SELECT seq, at, kind, commitment, told, previous, signer, hash, signature FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        self._last = Entry(*row) if row else None
        self._subjects: dict[str, tuple[int, str, bytes]] = {}
        if self._last:
            self._at = max(at, self._last.at) if always else at
            self._check(self._last)

    def _check(self, last: Entry) -> None:
        """May this key write here and now?"""
        if self._at < last.at:
            raise HarnessError(f"{self._path}: the clock of this machine says {self._at}, and the last entry is of {last.at}; set the clock, then run this again.")
        told = self._connection.execute("SELECT told FROM entries WHERE kind IN ('genesis', 'admit')")
        public = {keys.fingerprint(each): each for (text,) in told for each in (bytes.fromhex(json.loads(text)["public"]),)}
        if self._key.fingerprint not in public:
            raise HarnessError(f"{self._path}: the key {self._key.fingerprint} may not sign here; somebody who may has to admit it "
                               "(`harness key show --pem` writes its public half).")
        head = self._connection.execute("SELECT seq, hash, signer, signature FROM head").fetchone()
        if chain.wrong_head(last, Head(*head) if head else None, public) or not chain.stands(last):
            raise HarnessError(f"{self._path}: its last entry is not the one that was signed; `harness consent verify` says more, and nothing was entered.")

    def begin(self) -> int:
        """The first entry: which key begins the ledger, and a number that tells ledgers apart. Nothing where another process was first.

        Raises HarnessError where there is content and no entry: somebody took the entries away.
        """
        if not self._last and any(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("rows", "subjects", "head")):
            raise HarnessError(f"{self._path}: its entries were taken away; put back a backup, nothing was entered.")
        return self._last.seq if self._last else self.tell("genesis", {"ledger": secrets.token_hex(16), "public": self._key.public.hex()})

    def tell(self, kind: str, told: Any) -> int:
        """Enter something that is about nobody."""
        return self._append(kind, None, told)

    def enter(self, kind: str, subject: str, payload: Mapping[str, Any]) -> int:
        """Enter something about a subject, who gets a key at their first entry."""
        if not subject.strip() or subject == history.FORGOTTEN:
            raise HarnessError(f"{self._path}: a {kind} needs a subject, and {subject!r} is nobody.")
        number, name, key = self._subject(subject)
        row = Row(name, key, chain.canonical(payload))
        seq = self._append(kind, row, None)
        self._connection.execute("INSERT INTO rows (seq, subject, payload) VALUES (?, ?, ?)", (seq, number, row.payload))
        return seq

    def _append(self, kind: str, row: Row | None, told: Any) -> int:
        self._last = chain.link(self._last, kind, self._at, self._key, row, told)
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(self._last))
        return self._last.seq

    def _subject(self, name: str) -> tuple[int, str, bytes]:
        """Number, name and key of a subject, made at first use; spelled otherwise it is the same one."""
        if not self._subjects:
            held = self._connection.execute("SELECT id, name, key FROM subjects ORDER BY id DESC").fetchall()
            self._subjects = {plain(each[1]): each for each in held}
        if plain(name) not in self._subjects:
            made, key = " ".join(name.split()), secrets.token_bytes(32)
            number = self._connection.execute("INSERT INTO subjects (name, key) VALUES (?, ?)", (made, key)).lastrowid or 0
            self._subjects[plain(name)] = (number, made, key)
        return self._subjects[plain(name)]

    def record(self, record: Record, replaces: Sequence[int], descriptor: bytes | None) -> int:
        """Enter a record and, where there is one, the descriptor of its work."""
        said = {name: value for name, value in asdict(record).items() if value and name != "subject"}
        seq = self.enter("record", record.subject, said | ({"replaces": list(replaces)} if replaces else {}))
        if descriptor is not None:
            self.descriptor(record.subject, record.sha256, descriptor)
        return seq

    def descriptor(self, subject: str, sha256: str, descriptor: bytes) -> int:
        """Enter the perceptual descriptor of a work."""
        return self.enter("descriptor", subject, {"sha256": sha256, "descriptor": descriptor.hex()})

    def check_replaced(self, replaces: Sequence[int], subjects: set[str]) -> None:
        """Only records and withdrawals of the one subject who now decides anew may be replaced."""
        for seq in replaces:
            found = self._connection.execute("SELECT name, kind FROM rows JOIN subjects ON subjects.id = rows.subject JOIN entries USING (seq) WHERE seq = ?",
                                             (seq,)).fetchone()
            if not found or found[1] not in ("record", "withdrawal") or {plain(found[0])} != set(map(plain, subjects)):
                raise HarnessError(f"{self._path}: entry {seq} is no record or withdrawal of {', '.join(sorted(subjects)) or 'anybody'}; nothing was replaced.")

    def erase(self, seqs: Sequence[int], why: str) -> int:
        """Delete the rows of entries, with an entry that says so."""
        for seq in seqs:
            self._connection.execute("DELETE FROM rows WHERE seq = ?", (seq,))
        return self.tell("erase", {"erased": sorted(seqs), "why": why})

    def rename(self, events: Sequence[history.Event], name: str, instead: str) -> list[int]:
        """Enter anew, with their old places, the rows of others that hold a name; returns the old entries, to be erased."""
        old, others = [], {event.subject for event in events}
        for event in events:
            new = history.without(event.payload, name, instead, others)
            if plain(event.subject) not in ("", plain(name)) and new != event.payload:
                self.enter(event.kind, event.subject, new | {"stands_for": event.place})
                old.append(event.seq)
        return old

    def destroy(self, subject: str, intent: int | None) -> None:
        """Delete a subject with their key, however spelled, and the intent that asked for it; mark the file as one to be scrubbed."""
        for number, name in self._connection.execute("SELECT id, name FROM subjects").fetchall():
            if plain(name) == plain(subject):
                self._connection.execute("DELETE FROM subjects WHERE id = ?", (number,))
        self._connection.execute("DELETE FROM intents WHERE id = ?", (intent,))
        self._connection.execute("INSERT OR IGNORE INTO unclean VALUES (1)")

    def close(self) -> None:
        """Sign the head."""
        if self._last:
            self._connection.execute("REPLACE INTO head VALUES (1, ?, ?, ?, ?)", astuple(chain.head(self._last, self._key)))
