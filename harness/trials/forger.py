"""Somebody who holds a copy of the ledger and rewrites its history: five ways, each on a copy of its own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.consent.keys import Key
from harness.consent.ledger import Record
from harness.consent.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

REFUSAL = "SELECT min(seq) FROM rows WHERE payload LIKE '%notAllowed%'"


def _edit(ledger: sqlite3.Connection) -> None:
    """A no becomes a yes."""
    ledger.execute("UPDATE rows SET payload = replace(payload, 'notAllowed', 'allowed')")


def _drop(ledger: sqlite3.Connection) -> None:
    """A refusal was never there."""
    (seq,) = ledger.execute(REFUSAL).fetchone()
    ledger.execute("DELETE FROM rows WHERE seq = ?", (seq,))
    ledger.execute("DELETE FROM entries WHERE seq = ?", (seq,))


def _cut(ledger: sqlite3.Connection) -> None:
    """The last entry is cut off."""
    (seq,) = ledger.execute("SELECT max(seq) FROM entries").fetchone()
    ledger.execute("DELETE FROM rows WHERE seq = ?", (seq,))
    ledger.execute("DELETE FROM entries WHERE seq = ?", (seq,))


EDITS: dict[str, Callable[[sqlite3.Connection], None]] = {"a no was turned into a yes": _edit, "a refusal was taken out": _drop, "the end was cut off": _cut}
ANEW, OLD = "everything was written anew and signed with another key", "an older copy was put back"


def forge(store: Store, older: Path, records: Sequence[Record], folder: Path, key: Key) -> dict[str, Path]:
    """Forged ledgers by what was done: three edits, one written anew with the forger's `key` and all of `records` allowed, one `older` copy."""
    forged = {}
    for number, (what, edit) in enumerate(EDITS.items()):
        path = copy(store, folder / f"{number}.db")
        with closing(sqlite3.connect(path)) as ledger, ledger:
            edit(ledger)
        forged[what] = path
    with open_store(folder / "anew.db", key, create=True, clock=store.clock) as anew:
        anew.add([replace(record, decision="allowed", expires="") for record in records])
    return forged | {ANEW: folder / "anew.db", OLD: older}


def copy(store: Store, to: Path) -> Path:
    """A copy of the ledger's file as it stands."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(store.path)) as held, closing(sqlite3.connect(to)) as copied:
        held.backup(copied)
    to.chmod(0o600)
    return to


def found(forged: dict[str, Path], pin: str, known: str) -> pd.DataFrame:
    """What `harness consent verify` says of each, first by itself, then knowing the signer's fingerprint and the last entry's hash."""
    import pandas as pd

    rows = []
    for what, path in forged.items():
        with open_store(path) as store:
            alone, knowing = store.verify_chain(), store.verify_chain(pin, known)
        rows.append((what, not alone.ok, not knowing.ok, _short(knowing.problem)))
    return pd.DataFrame(rows, columns=["what the forger did", "found", "found with pin", "what the check says"])


def _short(problem: str) -> str:
    """The sentence without the digits of hashes, which are others in every run."""
    return re.sub(r"\b[0-9a-f]{16,64}", "…", problem).replace("……", "…")
