"""The file under the ledger: SQLite, its versions, its errors in words, and how something is made to be gone from it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError

APPLICATION = 0x4C494B45
PATIENCE = 30.0  # seconds to wait for another process
# Version n is the state after the first n of these. A released one is never changed; a new one is added.
MIGRATIONS = (
    """
    CREATE TABLE entries (seq INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, commitment TEXT NOT NULL, told TEXT NOT NULL,
                          previous TEXT NOT NULL, signer TEXT NOT NULL, hash TEXT NOT NULL, signature BLOB NOT NULL);
    CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash TEXT NOT NULL, signer TEXT NOT NULL, signature BLOB NOT NULL);
    CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, key BLOB NOT NULL);
    CREATE TABLE rows (seq INTEGER PRIMARY KEY, subject INTEGER NOT NULL REFERENCES subjects(id), payload TEXT NOT NULL);
    CREATE INDEX rows_of_subject ON rows(subject);
    """,
    """
    CREATE TABLE intents (id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, plan TEXT NOT NULL, done TEXT NOT NULL);
    CREATE TABLE unclean (one INTEGER PRIMARY KEY CHECK (one = 1));
    """,
    """
    ALTER TABLE intents DROP COLUMN done;
    ALTER TABLE intents ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE intents ADD COLUMN signature BLOB NOT NULL DEFAULT x'';
    """,
)


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one sentence with what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise HarnessError(f"{path}: another process has held the ledger for {PATIENCE:.0f} s; let it end, then run this again.") from error
        if "full" in text:
            raise HarnessError(f"{path}: the disk is full and nothing was entered; make room, then run this again.") from error
        if "readonly" in text or "unable to open" in text:
            raise HarnessError(f"{path}: the ledger cannot be opened or written there ({text}); check the path and its permissions.") from error
        raise HarnessError(f"{path}: {damage(path, text)}") from error
    except sqlite3.ProgrammingError:
        raise  # a mistake of the caller's, such as a ledger that was closed; the file is not to blame
    except sqlite3.DatabaseError as error:
        raise HarnessError(f"{path}: {damage(path, str(error))}") from error


def damage(path: Path, text: str) -> str:
    """What to do about a file that SQLite cannot read."""
    return (f"not a ledger, or a damaged one ({text}); nothing was changed. `harness consent rescue {path}` keeps what can still be read; "
            "then put back a backup, or import what was rescued into a new ledger.")


def connect(path: Path, create: bool = False) -> sqlite3.Connection:
    """Open a ledger's file, and make it (mode 0600) with `create`; raises HarnessError for what is no ledger or a newer one.

    Transactions are begun and ended by hand; freed pages are overwritten with zeros (secure_delete).
    """
    path = Path(path)
    if create and not path.exists():
        _touch(path)
    if not path.is_file():
        raise HarnessError(f"{path}: there is no ledger; `harness consent record --ledger {path}` begins one.")
    with in_words(path):
        connection = sqlite3.connect(_address(path), uri=True, timeout=PATIENCE, isolation_level=None)
        try:
            _set_up(connection, path, create)
        except BaseException:
            connection.close()
            raise
        return connection


def _touch(path: Path) -> None:
    """An empty file that only its owner may read; SQLite gives its journal the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass  # another process began it in the meantime
    except OSError as error:
        raise HarnessError(f"{path}: cannot begin a ledger there ({error.strerror}); choose another place.") from error


def _address(path: Path) -> str:
    """The file as SQLite wants it; where nothing may be written beside it, as one that does not change."""
    fixed = not os.access(path.parent, os.W_OK) or not os.access(path, os.W_OK)
    journal = path.with_name(path.name + "-wal")
    if fixed and journal.exists() and journal.stat().st_size:
        raise HarnessError(f"{path}: its last entries are in {journal.name} still, and nothing may be written there; "
                           "open it once where it can be written.")
    return path.absolute().as_uri() + ("?mode=ro&immutable=1" if fixed else "?mode=rw")


def _set_up(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    """Check whose file it is, then settings, then missing versions."""
    (application,), (version,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION and (tables or not create):
        raise HarnessError(f"{path}: not a ledger{'' if tables else ' but an empty file'}; check the path.")
    if version > len(MIGRATIONS):
        raise HarnessError(f"{path}: this ledger is of version {version} and this program knows up to {len(MIGRATIONS)}; update the program.")
    for setting in ("foreign_keys = ON", "secure_delete = ON", "temp_store = MEMORY", "synchronous = FULL", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {setting}")
    if version < len(MIGRATIONS):
        _migrate(connection)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")  # on a file that cannot change this has no effect, and needs none


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest version, all of it or nothing; another process may have done so in the meantime."""
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; the lock is taken at once, so that what is read inside is what is written upon."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def scrub(connection: sqlite3.Connection, path: Path) -> None:
    """Leave nothing of what was deleted in the file or its journal: zeroed pages written, file rebuilt, journal cut to nothing.

    Raises HarnessError while another process reads; the file stays marked, and the next opening goes on here. What a
    file system keeps of blocks that it has freed, and backups, are beyond the reach of any program like this.
    """
    with in_words(path):
        _truncate_journal(connection)
        connection.execute("VACUUM")
        _truncate_journal(connection)
        with transaction(connection):
            connection.execute("DELETE FROM unclean")
        _truncate_journal(connection)


def _truncate_journal(connection: sqlite3.Connection) -> None:
    """Move the journal into the file and cut it to nothing, waiting for readers."""
    until = time.monotonic() + PATIENCE
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > until:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(0.05)


def salvage(path: Path) -> dict[str, list[tuple]]:
    """Every row of a damaged file that can still be read, by table, from a copy. Raises HarnessError if none can."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for each in (path, path.with_name(path.name + "-wal")):
                if each.exists():
                    shutil.copyfile(each, Path(folder) / each.name)
            connection = sqlite3.connect(Path(folder) / path.name)
            most = path.stat().st_size // 32 + 1  # no row takes less, whatever a damaged page says of their number
            found = {table: _readable(connection, table, key, most) for table, key in (("subjects", "id"), ("rows", "seq"), ("entries", "seq"), ("head", "one"))}
            connection.close()
        except OSError as error:
            raise HarnessError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    if not any(found.values()):
        raise HarnessError(f"{path}: nothing of it can be read; put back a backup.")
    return found


def _readable(connection: sqlite3.Connection, table: str, key: str, most: int) -> list[tuple]:
    """The rows of a table, asked for one by one: a damaged page hides only what lies on it."""
    found = []
    for number in range(1, most):
        with suppress(sqlite3.Error):
            found += connection.execute(f"SELECT * FROM {table} WHERE {key} = ?", (number,)).fetchall()
    return found
