"""The gate: may these pictures be used for this? Whatever is not plainly allowed is blocked.

Asked for each picture: the artist, whoever else holds the rights, whoever is depicted, and whoever left a word on the very
work. Depicted persons must besides be attested to be adult, and no purpose gets around that.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path

from harness.consent import ledger as ledgers
from harness.consent import near
from harness.consent.ledger import ALL_WORKS, USES, Ledger, Record
from harness.consent.store import Store, open_store
from harness.errors import HarnessError, Refused
from harness.images import ImageSet

SAID = 20  # reasons that a refusal spells out; a decision holds all of them
PURPOSES = ("training", "audit")
ACTIONS = {"fine-tuning": "cawg.ai_generative_training", "image-to-image": "cawg.ai_inference", "avatars": "cawg.ai_generative_training",
           "embedding": "cawg.data_mining", "publishing": "cawg.ai_generative_training"}
"""What is done here, and the use that has to be allowed for it; what a model made is published where making it was allowed."""


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
    """Hash of the ledger that answered; of a store its last entry's, to pin its history by."""
    works: frozenset[str]
    """The pictures' hashes."""
    wishes: tuple[str, ...] = ()
    """What those who agreed asked for besides: how they must not be named."""
    blocked_works: tuple[tuple[str, str], ...] = ()
    """Hash of each blocked picture, and why it is blocked."""

    @property
    def exportable(self) -> bool:
        """May what is made from these pictures leave the house?"""
        return self.allowed and self.purpose == "training"

    def covers(self, images: ImageSet) -> bool:
        """Were all of these pictures among those asked about?"""
        return set(images.table["sha256"]) <= self.works

    def as_dict(self) -> dict:
        """For a manifest: everything but the lists of works, which the manifest holds itself."""
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("works", "blocked_works")}
        return kept | {"reasons": list(self.reasons), "wishes": list(self.wishes), "exportable": self.exportable}


Copies = Callable[[ImageSet, Sequence[tuple[str, bytes]]], Mapping[str, str]]


def ask(images: ImageSet, ledger: Ledger | Store | Path, use: str = "cawg.ai_generative_training", purpose: str = "training",
        at: date | None = None, depicts: Sequence[str] = (), token: str = "", signals: Iterable[Record] = (), copies: Copies = near.copies) -> Decision:
    """Ask the ledger about every picture (columns `sha256`, `artist`, perhaps `depicts`), for the day `at` (UTC today).

    Missing, expired, withdrawn, not yet granted, constrained, notAllowed, out of scope, and contradictory records all
    block, and so do near-duplicates of withdrawn works whose artist left their hashes: purpose "training" then raises
    Refused with subjects and counts, "audit" goes on with a marked Decision.

    `use` is a CAWG use or one of ACTIONS; `depicts` are persons whom all pictures show (several in the column with ";"),
    `token` is the word by which a model is to call the subject, `signals` are records found in the files (`signals.scan`),
    `copies` finds near-duplicates. A depicted person who is not attested to be adult is refused for any purpose.
    """
    use = ACTIONS.get(use, use)
    if purpose not in PURPOSES or use not in USES:
        raise HarnessError(f"cannot ask for purpose {purpose!r} and use {use!r}; purposes are {', '.join(PURPOSES)}, "
                           f"uses are {', '.join((*USES, *ACTIONS))}.")
    if "artist" not in images.table:
        raise HarnessError(f"{images.folder}: no column 'artist'; the gate has to know whose works these are.")
    book = book_of(ledger)
    day = at or _today(book)
    asked = _Question(book, (*book.records, *signals), use, day, token)
    works = [(work, artist, (*depicts, *shown)) for work, artist, shown in _works(images, book)]
    asked.refuse_minors({person for _, _, people in works for person in people} | {p for work, artist, _ in works for p in asked.shown(work, artist)})
    blocks = _blocks(asked, works, copies(images, book.left) if book.left else {})
    counts = Counter((artist, why) for _, artist, why in blocks)
    reasons = tuple(f"{who or '(no artist named)'}: {n} work{'s' if n > 1 else ''} {why}" for (who, why), n in counts.items())
    if blocks and purpose == "training":
        more = f"; and {len(reasons) - SAID} more reasons" if len(reasons) > SAID else ""
        raise Refused(f"{len(blocks)} of {len(images)} pictures may not be used for {use}: " + "; ".join(reasons[:SAID])
                      + f"{more}. Take them out, or record the consent in the ledger.")
    return Decision(not blocks, purpose, use, day.isoformat(), reasons, len(images), len(blocks), book.sha256, frozenset(images.table["sha256"]),
                    asked.wishes({artist for _, artist, _ in works}), tuple((work, why) for work, _, why in blocks))


def book_of(ledger: Ledger | Store | Path) -> Ledger:
    """What holds now, from a ledger in memory, a CSV, or a store or its path; raises HarnessError for anything else."""
    if isinstance(ledger, Ledger):
        return ledger
    if isinstance(ledger, Store):
        return ledger.book()
    if not is_store(ledger):
        return ledgers.read(ledger)
    with open_store(ledger) as store:
        return store.book()


def is_store(path: Path) -> bool:
    """Is the file at this path a store rather than a table, by its first bytes or else its name?"""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return file.read(16) == b"SQLite format 3\0" or path.suffix in (".db", ".sqlite")
    except OSError:
        return path.suffix in (".db", ".sqlite")


def _today(book: Ledger) -> date:
    """Today in UTC, unless the clock went back behind the ledger: what has expired would hold again."""
    day = datetime.now(UTC).date()
    if day.isoformat() < book.last:
        raise HarnessError(f"the clock of this machine says {day}, and {book.name} has an entry of {book.last}; set the clock.")
    return day


def _works(images: ImageSet, book: Ledger) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """Hash and artist of every picture, and whom the table or the store's photos say that it shows."""
    table = images.table
    column = table["depicts"] if "depicts" in table else [""] * len(table)
    for work, artist, shown in zip(table["sha256"], table["artist"], column, strict=True):
        people = tuple(name.strip() for name in shown.split(";") if name.strip()) if shown else ()
        yield work, artist, people + ((book.photos[work],) if work in book.photos else ())


def _blocks(asked: _Question, works: Sequence[tuple[str, str, tuple[str, ...]]], copied: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Hash, artist and reason of every picture that is blocked."""
    blocks = []
    for work, artist, people in works:
        why = asked.why_not(work, artist, people)
        if not why and work in copied:
            why = f"nearly the same as a withdrawn work ({copied[work][:12]})"
        if why:
            blocks.append((work, artist, why))
    return blocks


class _Question:
    """One use on one day, and the records sorted for it."""

    def __init__(self, book: Ledger, records: Sequence[Record], use: str, day: date, token: str) -> None:
        self.book, self.use, self.token = book, use, token
        self.state = {id(record): record.state(day) for record in records}
        self.by_subject, self.by_work, self.of = defaultdict(list), defaultdict(list), defaultdict(list)
        for record in records:
            self.of[record.subject].append(record)
            (self.by_subject[record.subject] if record.sha256 == ALL_WORKS else self.by_work[record.sha256]).append(record)

    def shown(self, work: str, artist: str) -> list[str]:
        """Whom the records say that a work shows."""
        return [person for record in self._on(work, artist) for person in record.people]

    def _on(self, work: str, artist: str) -> list[Record]:
        # A record on the very work counts whoever it is from: a client or a person shown may say no too.
        return self.by_subject.get(artist, []) + self.by_work.get(work, [])

    def refuse_minors(self, people: Iterable[str]) -> None:
        """Raise Refused when somebody shown may be a minor: nobody said that they are adult, or somebody that they are not."""
        said = {name: {r.adult for r in self.of.get(name, []) if self.state[id(r)] != "not yet granted"} for name in people}
        missing = sorted(name for name, words in said.items() if "attested" not in words or words & {"minor", "unknown"})
        if missing:
            raise Refused(f"no adult attestation that stands for {', '.join(missing)}, who {'is' if len(missing) == 1 else 'are'} depicted; "
                          "pictures of somebody who may be a minor are used for nothing here, audits included. Take them out.")

    def why_not(self, work: str, artist: str, people: Sequence[str]) -> str:
        """Why a work is blocked, or ''."""
        on = self._on(work, artist)
        holders = {record.rights_holder for record in on} - {"", artist}
        others = [(name, f"of {name}'s, who holds the rights: ") for name in sorted(holders)]
        others += [(name, f"showing {name}: ") for name in dict.fromkeys((*people, *self.shown(work, artist))) if name != artist]
        records = {id(record): record for name, _ in [(artist, ""), *others] for record in self._on(work, name)}
        asked = [record for record in records.values() if record.use == self.use]
        why = self._no(asked) or self._missing(artist, asked, list(records.values()), "")
        for name, words in others:
            why = why or self._missing(name, asked, list(records.values()), words)
        return why or self._unwanted_name(records.values())

    def _no(self, asked: Sequence[Record]) -> str:
        """Does anybody say no, or only under a condition?"""
        no = [record for record in asked if self.state[id(record)] in ("notAllowed", "withdrawn", "constrained")]
        yes = [record for record in asked if self.state[id(record)] == "allowed"]
        withdrawn = [record for record in no if self.state[id(record)] == "withdrawn"]
        if yes and no and not withdrawn:
            return "under contradictory records: " + ", ".join(f"{self.book.line(r)} ({self.state[id(r)]})" for r in (yes[0], *no))
        return ", ".join(f"{self.state[id(record)]} ({self._where(record)})" for record in withdrawn or no)

    def _missing(self, name: str, asked: Sequence[Record], records: Sequence[Record], words: str) -> str:
        """Is there a yes of this very party? If not, what there is instead."""
        own = [record for record in asked if record.subject == name]
        if any(self.state[id(record)] == "allowed" for record in own):
            return ""
        if own:  # expired or not yet granted
            return words + ", ".join(f"{self.state[id(record)]} ({self._where(record)})" for record in own)
        scopes = sorted({record.use for record in records if record.subject == name})
        return words + (f"out of scope (recorded only for {', '.join(scopes)})" if scopes else "without any record")

    def _where(self, record: Record) -> str:
        """Line and, for a record with a condition, the condition."""
        return self.book.line(record) + (f": {record.note}" if record.decision == "constrained" and record.note else "")

    def _unwanted_name(self, records: Iterable[Record]) -> str:
        """Is the model to be taught a name that its bearer does not want there?"""
        for record in records if self.token else ():
            if record.not_as_token and any(_within(name, self.token) for name in (record.subject, record.creator) if name):
                return f"whose name was asked not to be a token ({self.book.line(record)})"
        return ""

    def wishes(self, artists: Iterable[str]) -> tuple[str, ...]:
        """How the artists must not be named."""
        named = {(r.subject, words) for artist in artists for r in self.of.get(artist, []) for flag, words in
                 ((r.not_as_token, "not to be a token"), (r.not_affiliated, "not to be named as taking part")) if flag}
        return tuple(f"{subject} asks {words}" for subject, words in sorted(named))


def _within(name: str, token: str) -> bool:
    """Does a name stand in a token, whatever the case and whatever joins its words?"""
    plain = [" ".join(re.split(r"[\W_]+", text.casefold().strip("<>"))) for text in (name, token)]
    return bool(plain[0].strip()) and f" {plain[0].strip()} " in f" {plain[1]} "
