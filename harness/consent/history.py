"""From the history of a store to what holds now: entries never change, so a later one says what became of an earlier one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from harness.consent.ledger import ALL_WORKS, Record, plain
from harness.consent.names import Names

FORGOTTEN = "(forgotten)"
"""Stands where others' records named somebody who was forgotten: nobody, who can agree to nothing."""
FREE = frozenset(("basis", "note", "creator", "rights_holder", "licence", "source", "depicted", "purpose", "recorded_by", "by", "why", "path", "what"))
"""Fields in which a name can stand; the others hold hashes, days and words of a vocabulary, which somebody may be called by chance."""
FIELDS = tuple(each.name for each in fields(Record))


@dataclass(frozen=True)
class Event:
    """One entry with what it says, as long as that is not forgotten."""

    seq: int
    """Number of the entry."""
    at: str
    """UTC, like 2026-01-31T12:00:00Z."""
    kind: str
    """record, withdrawal, descriptor, photo, tombstone; genesis, admit, refusal, erase."""
    subject: str
    """Whom it is about; empty for nobody."""
    payload: Mapping[str, Any]
    """What was entered; empty when it was erased."""

    @property
    def place(self) -> int:
        """Where it stands in the order of things: an entry that was written anew without a forgotten name keeps its place."""
        return self.payload.get("stands_for", self.seq)


@dataclass(frozen=True)
class Photo:
    """A picture of a person that is kept for a time only."""

    seq: int
    """Its entry."""
    subject: str
    """Whom it shows."""
    sha256: str
    """Of the file."""
    path: str
    """Where it lies."""
    until: str
    """UTC, like 2026-01-31T12:00:00Z: from then on it has to be gone."""


@dataclass(frozen=True)
class Standing:
    """What holds after a history."""

    records: tuple[tuple[int, Record], ...]
    """Number and record, withdrawn ones included."""
    marks: tuple[tuple[str, str, bytes], ...]
    """Subject, work and descriptor of every work for which one is held."""
    left: tuple[tuple[str, bytes], ...]
    """Work and descriptor of what was withdrawn, where the artist left them to find copies by."""
    photos: tuple[Photo, ...]
    """Photos of people that are still kept."""
    refused: frozenset[tuple[str, str]]
    """Works (as ledger.unnamed gives them) and uses that somebody refused who was forgotten."""


def fold(events: Iterable[Event]) -> Standing:
    """What holds after these events, taken in their order."""
    ordered = sorted((event for event in events if event.payload), key=lambda event: event.place)
    records: dict[tuple[int, str], Record] = {}
    hit: dict[int, set[tuple[int, str]]] = {}
    withdrawals: dict[int, Event] = {}
    mistaken: set[tuple[str, str]] = set()
    for event in ordered:
        if event.kind == "record":
            for seq in event.payload.get("replaces", ()):
                mistaken |= _drop(records, hit, seq)
                withdrawals.pop(seq, None)
            records[event.place, event.payload["use"]] = Record(**{k: v for k, v in event.payload.items() if k in FIELDS}, subject=event.subject)
        elif event.kind == "withdrawal":
            withdrawals[event.place] = event
            hit[event.place] = _withdraw(records, event)
    marks = _marks(ordered, mistaken - {(record.subject, record.sha256) for record in records.values()})
    return Standing(tuple((seq, record) for (seq, _), record in records.items()), marks, _left(marks, withdrawals),
                    _photos(ordered), frozenset((work, use) for event in ordered if event.kind == "refusal" for work, use in event.payload["works"]))


def _drop(records: dict[tuple[int, str], Record], hit: Mapping[int, set[tuple[int, str]]], seq: int) -> set[tuple[str, str]]:
    """Take out a replaced record; with a replaced withdrawal also what it had withdrawn, which must not come to life again.

    Returns whose works they were about.
    """
    gone = [records.pop(key) for key in [key for key in records if key[0] == seq or key in hit.get(seq, ())]]
    return {(record.subject, record.sha256) for record in gone}


def _withdraw(records: dict[tuple[int, str], Record], event: Event) -> set[tuple[int, str]]:
    """Mark the subject's records as withdrawn, and add one for each use, against records that others may bring later."""
    said, subject = event.payload, event.subject
    meant = {key for key, record in records.items() if plain(record.subject) == plain(subject) and record.use in said["uses"]
             and said["sha256"] in (ALL_WORKS, record.sha256)}
    for key in meant:
        records[key] = replace(records[key], withdrawn=records[key].withdrawn or said["day"])
    basis = f"withdrawn through {said['by']}" if said["by"] else "withdrawn"
    for use in said["uses"]:
        records[event.place, use] = Record(subject, said["sha256"], use, "notAllowed", basis, said["day"], withdrawn=said["day"], note=said["why"])
    return meant


def _marks(events: list[Event], mistaken: set[tuple[str, str]]) -> tuple[tuple[str, str, bytes], ...]:
    """Descriptors, but for those of works that stood there by mistake."""
    return tuple((event.subject, event.payload["sha256"], bytes.fromhex(event.payload["descriptor"])) for event in events
                 if event.kind == "descriptor" and (event.subject, event.payload["sha256"]) not in mistaken)


def _left(marks: Iterable[tuple[str, str, bytes]], withdrawals: Mapping[int, Event]) -> tuple[tuple[str, bytes], ...]:
    """Descriptors of withdrawn works whose artist left them."""
    meant = {(plain(event.subject), event.payload["sha256"]) for event in withdrawals.values() if event.payload["left"]}
    return tuple((work, descriptor) for subject, work, descriptor in marks if meant & {(plain(subject), work), (plain(subject), ALL_WORKS)})


def _photos(events: list[Event]) -> tuple[Photo, ...]:
    return tuple(Photo(event.seq, event.subject, **{name: event.payload[name] for name in ("sha256", "path", "until")})
                 for event in events if event.kind == "photo")


def without(payload: Mapping[str, Any], name: str, instead: str, others: Iterable[str] = ()) -> dict[str, Any]:
    """What was entered, with a subject's name taken out wherever it stands as words, but not out of the longer names of ``others``."""
    names = Names([name], others)
    return {key: _replaced(value, names, instead) if key in FREE else value for key, value in payload.items()}


def _replaced(value: Any, names: Names, instead: str) -> Any:
    if isinstance(value, str):
        composed = unicodedata.normalize("NFC", value)
        return names.sub(instead, composed) if names.search(composed) else value
    if isinstance(value, Mapping):
        return {_replaced(key, names, instead): _replaced(each, names, instead) for key, each in value.items()}
    return [_replaced(each, names, instead) for each in value] if isinstance(value, list) else value
