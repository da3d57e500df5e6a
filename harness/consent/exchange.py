"""Ledgers in and out: CSV for spreadsheets, JSON for programs, Croissant for catalogues; and what is saved from a damaged one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.consent import chain, database, history
from harness.consent import ledger as ledgers
from harness.consent.cards import CONTEXT
from harness.consent.history import Event
from harness.consent.ledger import ALL_WORKS, COLUMNS, Record
from harness.consent.store import Store
from harness.errors import HarnessError
from harness.images import ImageSet, atomic_write, sha256

FORMAT, VERSION, RECORD_SET = "likeness-consent", 1, "consent"
ABOUT = "Who agreed to what use of which works, in the vocabulary of the CAWG training and data mining assertion."


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    added: int
    """Records that were entered."""
    known: int
    """Records that hold in the ledger already, and were not entered twice."""


@dataclass(frozen=True)
class Gaps:
    """Where records and files do not meet. Neither is an error: the gate blocks a file without a record."""

    without_file: tuple[str, ...]
    """Hashes of works in the ledger of which no file is there."""
    without_record: tuple[str, ...]
    """Files about which nothing is recorded."""


@dataclass(frozen=True)
class Rescued:
    """What was saved from a damaged ledger."""

    path: Path
    """The JSON that holds it."""
    records: int
    """How many records."""
    lost: int
    """Entries whose content could not be read, or was not what had been entered; at least one where anything else is wrong."""


def write(records: Iterable[Record], path: Path) -> Path:
    """Write records as the file's name says: .csv, .json, or .croissant.json. Raises HarnessError for another name."""
    kept, path = tuple(records), Path(path)
    if path.name.endswith(".croissant.json"):
        return atomic_write(path, _text(croissant(kept, path.name.removesuffix(".croissant.json"))))
    if path.suffix == ".json":
        return atomic_write(path, _text({"format": FORMAT, "version": VERSION, "records": [_plain(record) for record in kept]}))
    if path.suffix == ".csv":
        ledgers.write(path, kept)
        return path
    raise HarnessError(f"{path}: the name must end in .csv, .json or .croissant.json, as that says the form.")


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _plain(record: Record) -> dict[str, str]:
    """A record without its empty fields."""
    return {name: value for name, value in asdict(record).items() if value}


def read(path: Path) -> list[Record]:
    """Records from a CSV, JSON or Croissant file; raises HarnessError naming the record for anything that is not right."""
    path = Path(path)
    if path.suffix != ".json":
        return list(ledgers.read(path).records)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: not readable as JSON ({str(error).splitlines()[0]}).") from error
    if isinstance(found, dict) and found.get("format") == FORMAT:
        if found.get("version") != VERSION:
            raise HarnessError(f"{path}: written in version {found.get('version')!r} of the form, and this program knows {VERSION}; update it.")
        return _records(path, found.get("records"))
    return _records(path, _inline(path, found))


def _records(path: Path, rows: Any) -> list[Record]:
    """Rows of plain text as records."""
    if not isinstance(rows, list):
        raise HarnessError(f"{path}: no list of records in it.")
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not set(row) <= set(COLUMNS) or not all(isinstance(value, str) for value in row.values()):
            raise HarnessError(f"{path}, record {number}: must hold text under {', '.join(COLUMNS)} and nothing else.")
        try:
            found.append(Record(**row))
        except (HarnessError, TypeError) as error:
            raise HarnessError(f"{path}, record {number}: {error}") from error
    return found


def _inline(path: Path, found: Any) -> list[dict[str, Any]]:
    """The rows of a Croissant file's record set `consent`."""
    sets = found.get("recordSet") if isinstance(found, dict) else None
    for each in sets if isinstance(sets, list) else ():
        if isinstance(each, dict) and each.get("@id") == RECORD_SET and isinstance(each.get("data"), list):
            return [{str(name).removeprefix(RECORD_SET + "/"): value for name, value in row.items() if value != ""} if isinstance(row, dict) else row
                    for row in each["data"]]
    raise HarnessError(f"{path}: neither a ledger's JSON nor Croissant with a record set '{RECORD_SET}'; nothing in it says who agreed to what.")


def croissant(records: Sequence[Record], name: str) -> dict[str, Any]:
    """Records as Croissant 1.0 with one record set, whose rows stand in the file itself."""
    columns = [{"@type": "cr:Field", "@id": f"{RECORD_SET}/{column}", "name": f"{RECORD_SET}/{column}", "dataType": "sc:Text"} for column in COLUMNS]
    rows = [{f"{RECORD_SET}/{column}": value for column, value in asdict(record).items()} for record in records]
    digest = sha256(chain.canonical(rows).encode())
    return {"@context": CONTEXT, "@type": "sc:Dataset", "name": name, "conformsTo": "http://mlcommons.org/croissant/1.0", "description": ABOUT,
            "license": "Not to be passed on without those whom it names.", "url": f"urn:sha256:{digest}", "version": "1.0.0",
            "citeAs": name, "datePublished": max((record.granted for record in records), default="1970-01-01"),
            "recordSet": [{"@type": "cr:RecordSet", "@id": RECORD_SET, "name": RECORD_SET, "field": columns, "data": rows}]}


def import_into(store: Store, path: Path, recorded_by: str = "") -> Imported:
    """Enter the records of a file into a ledger, all or none; those that hold there already are counted and left."""
    held = set(store.book().records)
    found = [replace(record, subject=store.known(record.subject) or record.subject, recorded_by=record.recorded_by or recorded_by) for record in read(path)]
    new = [record for record in dict.fromkeys(found) if record not in held]
    if new:
        store.add(new)
    return Imported(len(new), len(found) - len(new))


def gaps(records: Iterable[Record], images: ImageSet) -> Gaps:
    """Which recorded works are not among the pictures, and about which pictures nothing is recorded."""
    listed = list(records)
    works, whole = {record.sha256 for record in listed}, {record.subject for record in listed if record.sha256 == ALL_WORKS}
    artists = images.table["artist"] if "artist" in images.table else [""] * len(images)
    missing = sorted(works - set(images.table["sha256"]) - {ALL_WORKS})
    bare = [name for name, work, artist in zip(images.table["file"], images.table["sha256"], artists, strict=True) if work not in works and artist not in whole]
    return Gaps(tuple(missing), tuple(bare))


def evidence(path: Path) -> str:
    """The hash by which a file is named as evidence; nothing of the file itself is held. Raises HarnessError."""
    try:
        return sha256(path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the evidence ({error.strerror}); check the path.") from error


def rescue(path: Path, out: Path) -> Rescued:
    """Save what can be read of a damaged ledger as JSON, for a new one; the damaged file is left as it is.

    Among entries that are lost may be withdrawals, and where a link, a signature or the head does not hold somebody may have
    written what was never said: then every permission that was saved becomes `constrained` and no attestation is taken over,
    so that the gate blocks until somebody has asked again. Raises HarnessError where `out` exists.
    """
    if Path(out).exists():
        raise HarnessError(f"{out}: there is a file already, and a rescue writes over nothing; choose another name.")
    tables = database.salvage(path)
    every = [chain.Entry(*row) for row in tables["entries"]]
    entries = {entry.seq: entry for entry in every if chain.stands(entry)}
    names = {number: (name, key) for number, name, key in tables["subjects"]}
    rows = {seq: chain.Row(*names.get(subject, ("", b"")), payload) for seq, subject, payload in tables["rows"]}
    sound = {seq: row for seq, row in rows.items() if seq in entries and chain.matches(entries[seq], row)}
    whole = chain.check(every, rows, chain.Head(*tables["head"][0][1:]) if tables["head"] else None)
    refusals = sum(entry.kind == "refusal" for entry in every)  # nameless: no record can say them, so all has to be asked again
    lost = max(_lost(entries, set(sound), tables["head"]), int(not whole.ok), refusals)
    events = [Event(seq, entries[seq].at, entries[seq].kind, row.subject, json.loads(row.payload)) for seq, row in sound.items()]
    records = [_doubted(record, lost) for _, record in history.fold(events).records]
    write(records, out)
    return Rescued(Path(out), len(records), lost)


def _lost(entries: Mapping[int, chain.Entry], sound: set[int], head: Sequence[tuple]) -> int:
    """Entries that cannot be read, or that should have content and have none; at least one where nobody can say how many there were."""
    end = head[0][1] if head and isinstance(head[0][1], int) else max(entries, default=0) + 1
    gone = chain.erased(entries.values())
    return sum(1 for seq in range(1, end + 1) if seq not in entries or entries[seq].commitment and seq not in sound and seq not in gone)


def _doubted(record: Record, lost: int) -> Record:
    if lost and record.adult == "attested":
        record = replace(record, adult="")
    if not lost or record.decision != "allowed":
        return record
    return replace(record, decision="constrained", note=f"saved from a damaged ledger that lost {lost} entries: ask again. {record.note}".strip())
