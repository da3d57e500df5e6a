"""The ledger: a CSV that says who agreed to what use of which works.

The uses and decisions are those of the CAWG training and data mining assertion (ANCHORS section 7).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import date
from functools import cached_property
from pathlib import Path

from harness.errors import HarnessError
from harness.images import atomic_write, sha256

USES = ("cawg.data_mining", "cawg.ai_training", "cawg.ai_generative_training", "cawg.ai_inference")
DECISIONS = ("allowed", "notAllowed", "constrained")
ALL_WORKS = "*"


@dataclass(frozen=True)
class Record:
    """One decision of one subject on one use. Dates are ISO days (2026-01-31); raises HarnessError on nonsense."""

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
    """Anything else."""

    def __post_init__(self) -> None:
        """Say what is wrong with a record."""
        problem = _problem(self)
        if problem:
            raise HarnessError(f"consent record of {self.subject or '(no subject)'}: {problem}.")

    @property
    def works(self) -> str:
        """The works meant, in words."""
        return "all works" if self.sha256 == ALL_WORKS else f"work {self.sha256[:12]}"

    def state(self, at: date) -> str:
        """allowed, notAllowed, constrained, withdrawn, expired or "not yet granted" on a day.

        A withdrawal holds whatever the day asked about: nobody has to argue with a clock to be heard.
        """
        if self.withdrawn:
            return "withdrawn"
        if self.expires and at >= date.fromisoformat(self.expires):
            return "expired"
        return "not yet granted" if at < date.fromisoformat(self.granted) else self.decision


def _problem(record: Record) -> str:
    """What is wrong with a record, or ''."""
    if not record.subject.strip():
        return "the subject is empty"
    if record.sha256 != ALL_WORKS and not re.fullmatch(r"[0-9a-f]{64}", record.sha256):
        return f"sha256 must be 64 hex digits or *, not {record.sha256!r}"
    if record.use not in USES:
        return f"use {record.use!r} is none of {', '.join(USES)}"
    if record.decision not in DECISIONS:
        return f"decision {record.decision!r} is none of {', '.join(DECISIONS)}"
    if not record.basis.strip():
        return "the basis is empty; say what the decision rests on"
    return _date_problem(record)


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


COLUMNS = tuple(field.name for field in fields(Record))


@dataclass(frozen=True)
class Ledger:
    """Records in the order of the file, and the hash of the file that they came from."""

    records: tuple[Record, ...]
    """Line i + 2 of the file is record i."""
    sha256: str
    """Of the file's bytes."""
    name: str = "ledger"
    """The file's name, for messages."""

    def line(self, record: Record) -> str:
        """Where a record stands, to be named in a reason."""
        return f"{self.name} line {self._lines[id(record)]}"

    @cached_property
    def _lines(self) -> dict[int, int]:
        """Line of each record object (equal records may stand on several lines)."""
        return {id(record): i for i, record in enumerate(self.records, 2)}


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
    if not rows or tuple(rows[0]) != COLUMNS:
        raise HarnessError(f"{path}: the first line must be {','.join(COLUMNS)}; it is {','.join(rows[0]) if rows else 'missing'}.")
    return Ledger(tuple(_record(path, i, row) for i, row in enumerate(rows[1:], 2)), sha256(raw), path.name)


def _record(path: Path, line: int, row: list[str]) -> Record:
    """One line of the file as a Record."""
    if len(row) != len(COLUMNS):
        raise HarnessError(f"{path} line {line}: {len(row)} fields instead of {len(COLUMNS)}.")
    try:
        return Record(*row)
    except HarnessError as error:
        raise HarnessError(f"{path} line {line}: {error}") from error


def write(path: Path, records: Iterable[Record]) -> Ledger:
    """Write a ledger, whole or not at all, and give it back as it reads."""
    atomic_write(path, _csv(tuple(records)))
    return read(path)


def _csv(records: tuple[Record, ...]) -> str:
    """The file's text."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *(astuple(record) for record in records)])
    return out.getvalue()
