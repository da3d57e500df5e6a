"""The gate: may these pictures be used for this? Whatever is not plainly allowed is blocked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from harness.consent import ledger as ledgers
from harness.consent.ledger import ALL_WORKS, USES, Ledger, Record
from harness.errors import HarnessError, Refused
from harness.images import ImageSet

PURPOSES = ("training", "audit")


@dataclass(frozen=True)
class Decision:
    """What the gate answered, to be carried into every manifest."""

    allowed: bool
    """Is every picture plainly allowed?"""
    purpose: str
    """training, or audit (which goes on without consent, marked, and never leaves the house)."""
    use: str
    """The CAWG use that was asked for."""
    at: str
    """The day asked about."""
    reasons: tuple[str, ...]
    """Why pictures are blocked, by subject and with counts; empty when all are allowed."""
    images: int
    """How many pictures were asked about."""
    blocked: int
    """How many of them are not allowed."""
    ledger_sha256: str
    """Hash of the ledger that answered."""
    works: frozenset[str]
    """The pictures' hashes."""

    @property
    def exportable(self) -> bool:
        """May what is made from these pictures leave the house?"""
        return self.allowed and self.purpose == "training"

    def covers(self, images: ImageSet) -> bool:
        """Were all of these pictures among those asked about?"""
        return set(images.table["sha256"]) <= self.works

    def as_dict(self) -> dict:
        """For a manifest: everything but the list of works, which the manifest holds itself."""
        kept = {key: value for key, value in asdict(self).items() if key != "works"}
        return kept | {"reasons": list(self.reasons), "exportable": self.exportable}


def ask(images: ImageSet, ledger: Ledger | Path, use: str = "cawg.ai_generative_training", purpose: str = "training",
        at: date | None = None) -> Decision:
    """Ask the ledger about every picture (columns `sha256` and `artist`), for the day `at` (UTC today).

    Missing, expired, withdrawn, not yet granted, constrained, notAllowed, out of scope, and contradictory records all
    block: purpose "training" then raises Refused with subjects and counts, "audit" goes on with a marked Decision.
    """
    if purpose not in PURPOSES or use not in USES:
        raise HarnessError(f"cannot ask for purpose {purpose!r} and use {use!r}; purposes are {', '.join(PURPOSES)}, "
                           f"uses are {', '.join(USES)}.")
    if "artist" not in images.table:
        raise HarnessError(f"{images.folder}: no column 'artist'; the gate has to know whose works these are.")
    book = ledger if isinstance(ledger, Ledger) else ledgers.read(ledger)
    day = at or datetime.now(UTC).date()
    blocks = _blocks(images, book, use, day)
    reasons = tuple(f"{who or '(no artist named)'}: {n} work{'s' if n > 1 else ''} {why}" for (who, why), n in blocks.items())
    blocked = sum(blocks.values())
    if blocked and purpose == "training":
        raise Refused(f"{blocked} of {len(images)} pictures may not be used for {use}: " + "; ".join(reasons)
                      + ". Take them out, or record the consent in the ledger.")
    works = frozenset(images.table["sha256"])
    return Decision(not blocked, purpose, use, day.isoformat(), reasons, len(images), blocked, book.sha256, works)


def _blocks(images: ImageSet, book: Ledger, use: str, day: date) -> dict[tuple[str, str], int]:
    """How many pictures each (artist, reason) blocks."""
    by_subject, by_work = defaultdict(list), defaultdict(list)
    for record in book.records:
        (by_subject[record.subject] if record.sha256 == ALL_WORKS else by_work[record.sha256]).append(record)
    blocks: dict[tuple[str, str], int] = defaultdict(int)
    for work, artist in zip(images.table["sha256"], images.table["artist"], strict=True):
        # A record on the very work counts whoever it is from: a client or a person shown may say no too.
        why = _why_not(book, by_subject[artist] + by_work[work], artist, use, day)
        if why:
            blocks[artist, why] += 1
    return dict(blocks)


def _why_not(book: Ledger, records: list[Record], artist: str, use: str, day: date) -> str:
    """Why one work is blocked, or ''. `records` are all that concern it."""
    asked = [(record, record.state(day)) for record in records if record.use == use]
    yes = [record for record, state in asked if state == "allowed"]
    no = [(record, state) for record, state in asked if state in ("notAllowed", "withdrawn", "constrained")]
    if yes and no:
        named = ", ".join(f"{book.line(r)} ({s})" for r, s in [(yes[0], "allowed"), *no])
        return f"under contradictory records: {named}"
    if no:
        return ", ".join(f"{state} ({_where(book, record)})" for record, state in no)
    own = [(record, state) for record, state in asked if record.subject == artist]
    if any(state == "allowed" for _, state in own):
        return ""
    if own:  # expired or not yet granted
        return ", ".join(f"{state} ({_where(book, record)})" for record, state in own)
    scopes = sorted({record.use for record in records if record.subject == artist})
    return f"out of scope (recorded only for {', '.join(scopes)})" if scopes else "without any record"


def _where(book: Ledger, record: Record) -> str:
    """Line and, for a record with a condition, the condition."""
    return book.line(record) + (f": {record.note}" if record.decision == "constrained" and record.note else "")
