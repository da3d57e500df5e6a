"""The ledger as a table: who agreed to what use of which works. A CSV holds one, a `store.Store` keeps one with its history.

The uses and decisions are those of the CAWG training and data mining assertion, version 1.1 (cawg.io).
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path

from harness.errors import HarnessError
from harness.images import atomic_write, sha256

USES = ("cawg.data_mining", "cawg.ai_training", "cawg.ai_generative_training", "cawg.ai_inference")
DECISIONS = ("allowed", "notAllowed", "constrained")
ALL_WORKS = "*"
ADULT = ("", "attested", "minor", "unknown")
YES = ("", "yes")
HASH = re.compile(r"[0-9a-f]{64}")


@lru_cache(maxsize=100_000)
def plain(name: str) -> str:
    """A name as it is compared: whoever is written in another case, with other spaces or in other Unicode is the same one."""
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFKC", name).casefold().split()))


def unnamed(work: str) -> str:
    """What is kept of a work (its sha256) that somebody refused who was forgotten: whoever has the file can tell that it is meant, nobody else."""
    return sha256(b"likeness refusal\n" + work.encode())


@dataclass(frozen=True)
class Record:
    """One decision of one subject on one use. Dates are ISO days (2026-01-31); raises HarnessError on nonsense.

    The subject is whoever decides: an artist, a rights holder, a person who is depicted. Everything is text, so that a
    spreadsheet can hold it, and a CSV may leave out every column after `note`.
    """

    subject: str
    """Whose decision: an artist's or a person's pseudonym."""
    sha256: str
    """The work, by the hash of its file; * for all works of the subject."""
    use: str
    """One of the CAWG uses."""
    decision: str
    """allowed, notAllowed, or constrained (the note says how; a person has to look)."""
    basis: str
    """What it rests on: a letter, a licence, a role in a demonstration."""
    granted: str
    """Day of the decision."""
    expires: str = ""
    """First day on which it no longer holds; empty for none."""
    withdrawn: str = ""
    """Day of the withdrawal; empty for none."""
    note: str = ""
    """Anything else; for `constrained` the constraint."""
    creator: str = ""
    """Who made the work, where that is not the subject."""
    rights_holder: str = ""
    """Whose the rights are, where that is somebody else: then they are asked too."""
    licence: str = ""
    """SPDX identifier or address."""
    source: str = ""
    """Where the work comes from."""
    depicted: str = ""
    """Whom the work shows, several with ";": each of them is asked too, and must be attested to be adult."""
    adult: str = ""
    """Of the subject, where it is a person who is depicted: attested, minor or unknown; empty when nobody said."""
    purpose: str = ""
    """What the subject was told that it is for."""
    recorded_by: str = ""
    """Who wrote this down."""
    evidence: str = ""
    """SHA-256 of the file that shows the decision (a letter, a form)."""
    not_as_token: str = ""
    """yes: the subject's name must not become the word by which a model calls them."""
    not_affiliated: str = ""
    """yes: the subject must not be named as taking part."""

    def __post_init__(self) -> None:
        """Say what is wrong with a record."""
        problem = _problem(self)
        if problem:
            raise HarnessError(f"consent record of {self.subject or '(no subject)'}: {problem}.")

    @property
    def works(self) -> str:
        """The works meant, in words."""
        return "all works" if self.sha256 == ALL_WORKS else f"work {self.sha256[:12]}"

    @property
    def people(self) -> tuple[str, ...]:
        """Whom the work shows."""
        return several(self.depicted)

    def state(self, at: date) -> str:
        """allowed, notAllowed, constrained, withdrawn, expired or "not yet granted" on a day.

        A withdrawal holds whatever the day asked about: nobody has to argue with a clock to be heard.
        """
        if self.withdrawn:
            return "withdrawn"
        if self.expires and at >= date.fromisoformat(self.expires):
            return "expired"
        return "not yet granted" if at < date.fromisoformat(self.granted) else self.decision


def several(names: str) -> tuple[str, ...]:
    """Names in a field that may hold several, with ";" between them."""
    return tuple(name.strip() for name in names.split(";") if name.strip())


def _problem(record: Record) -> str:
    """What is wrong with a record, or ''."""
    if not record.subject.strip():
        return "the subject is empty"
    if record.sha256 != ALL_WORKS and not HASH.fullmatch(record.sha256):
        return f"sha256 must be 64 hex digits or *, not {record.sha256!r}"
    if record.use not in USES:
        return f"use {record.use!r} is none of {', '.join(USES)}"
    if record.decision not in DECISIONS:
        return f"decision {record.decision!r} is none of {', '.join(DECISIONS)}"
    if not record.basis.strip():
        return "the basis is empty; say what the decision rests on"
    return _word_problem(record) or _date_problem(record)


def _word_problem(record: Record) -> str:
    """What is wrong with the fields that know only some words, or ''."""
    for name, words in (("adult", ADULT), ("not_as_token", YES), ("not_affiliated", YES)):
        if getattr(record, name) not in words:
            return f"{name} must be {' or '.join(words[1:])} or empty, not {getattr(record, name)!r}"
    if record.evidence and not HASH.fullmatch(record.evidence):
        return f"evidence must be the SHA-256 of a file, not {record.evidence!r}"
    return ""


def _date_problem(record: Record) -> str:
    """What is wrong with a record's days, or ''."""
    for name in ("granted", "expires", "withdrawn"):
        value = getattr(record, name)
        if (value or name == "granted") and not _is_day(value):
            return f"{name} must be a day like 2026-01-31, not {value!r}"
    if record.expires and record.expires <= record.granted:
        return f"it expires ({record.expires}) no later than it was granted ({record.granted})"
    return ""


def _is_day(text: str) -> bool:
    """Is it a day of the calendar, written in the one form that sorts?"""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


COLUMNS = tuple(each.name for each in fields(Record))
BASIC = COLUMNS[: COLUMNS.index("note") + 1]


@dataclass(frozen=True)
class Ledger:
    """Records in order, and the hash of what they came from."""

    records: tuple[Record, ...]
    """Line i + 2 of a file is record i; for a store see `numbers`."""
    sha256: str
    """Of the file's bytes; for a store the hash of its last entry, on which all before it depend."""
    name: str = "ledger"
    """The file's name, for messages."""
    numbers: tuple[int, ...] = ()
    """For a store the entry of each record; empty for a file."""
    left: tuple[tuple[str, bytes], ...] = ()
    """Works (sha256, perceptual descriptor) whose copies an artist wants to be found after the withdrawal."""
    photos: Mapping[str, str] = field(default_factory=dict)
    """Photos of people: sha256 of the file to the person shown."""
    refused: frozenset[tuple[str, str]] = frozenset()
    """Works (as `unnamed` gives them) and uses that somebody refused who was forgotten since."""
    last: str = ""
    """Day of the last entry of a store: no question is answered for an earlier one by a clock that went back."""

    def line(self, record: Record) -> str:
        """Where a record stands, to be named in a reason; for one from elsewhere, what it rests on."""
        place = self._lines.get(id(record))
        return f"{self.name} {'entry' if self.numbers else 'line'} {place}" if place else record.basis

    @cached_property
    def _lines(self) -> dict[int, int]:
        """Line of each record object (equal records may stand on several lines)."""
        places = self.numbers or range(2, 2 + len(self.records))
        return {id(record): place for record, place in zip(self.records, places, strict=True)}


def of(records: Iterable[Record], name: str = "ledger") -> Ledger:
    """A ledger from records, as if it had been written and read."""
    kept = tuple(records)
    return Ledger(kept, sha256(_csv(kept).encode()), name)


def read(path: Path) -> Ledger:
    """Read a ledger; raises HarnessError naming the line for other columns, days in other forms, unknown words."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        rows = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HarnessError(f"{path}: not a readable ledger ({error}); it must be a CSV in UTF-8.") from error
    columns = tuple(rows[0]) if rows else ()
    if columns[: len(BASIC)] != BASIC or not set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        raise HarnessError(f"{path}: the first line must be {','.join(BASIC)}, then any of {','.join(COLUMNS[len(BASIC):])}; "
                           f"it is {','.join(columns) or 'missing'}.")
    return Ledger(tuple(_record(path, i, row, columns) for i, row in enumerate(rows[1:], 2)), sha256(raw), path.name)


def _record(path: Path, line: int, row: list[str], columns: tuple[str, ...]) -> Record:
    """One line of the file as a Record."""
    if len(row) != len(columns):
        raise HarnessError(f"{path} line {line}: {len(row)} fields instead of {len(columns)}.")
    try:
        return Record(**dict(zip(columns, row, strict=True)))
    except HarnessError as error:
        raise HarnessError(f"{path} line {line}: {error}") from error


def write(path: Path, records: Iterable[Record]) -> Ledger:
    """Write a ledger, whole or not at all, and give it back as it reads."""
    atomic_write(path, _csv(tuple(records)))
    return read(path)


def _csv(records: tuple[Record, ...]) -> str:
    """The file's text; the columns after `note` stand in it where a record uses them."""
    columns = BASIC + tuple(name for name in COLUMNS[len(BASIC):] if any(getattr(record, name) for record in records))
    return "".join(_line(row) for row in [columns, *([getattr(record, name) for name in columns] for record in records)])


def _line(values: Sequence[str]) -> str:
    """One line of the file. The writer quotes only what its own line end holds, so it gets both kinds and one is cut off."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(values)
    return out.getvalue().removesuffix("\r\n") + "\n"
