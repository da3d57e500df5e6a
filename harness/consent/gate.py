"""The gate: may these pictures be used for this? Whatever is not plainly allowed is blocked.

Asked for each picture: the artist, whoever else holds the rights, whoever is depicted, and whoever left a word on the very
work; whom their records name is asked in turn. Whoever made the work can say no, and need not say yes. Depicted persons
must besides be attested to be adult, and no purpose gets around that.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness.consent import ledger as ledgers
from harness.consent import near
from harness.consent.ledger import ALL_WORKS, USES, Ledger, Record, plain, several, unnamed
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
    """Ask the ledger about every picture for the day `at` (UTC today).

    The table has the columns `sha256` and `artist`; in `subject` and `rights_holder` others may be named who have to agree,
    in `creator` one who may say no, in `depicts`, `depicted` and `person` who is shown (several with ";").

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
    works = [asked.concerning(work, depicts) for work in _works(images, book)]
    asked.refuse_minors({person for work in works for person in work.shown})
    blocks = _blocks(asked, works, copies(images, book.left) if book.left else {})
    counts = Counter((artist, why) for _, artist, why in blocks)
    reasons = tuple(f"{who or '(no artist named)'}: {n} work{'s' if n > 1 else ''} {why}" for (who, why), n in counts.items())
    if blocks and purpose == "training":
        more = f"; and {len(reasons) - SAID} more reasons" if len(reasons) > SAID else ""
        raise Refused(f"{len(blocks)} of {len(images)} pictures may not be used for {use}: " + "; ".join(reasons[:SAID])
                      + f"{more}. Take them out, or record the consent in the ledger.")
    return Decision(not blocks, purpose, use, day.isoformat(), reasons, len(images), len(blocks), book.sha256, frozenset(images.table["sha256"]),
                    asked.wishes({work.artist for work in works}), tuple((work, why) for work, _, why in blocks))


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


class _Work(NamedTuple):
    """A picture, and whom it concerns."""

    sha256: str
    artist: str
    holders: tuple[str, ...]
    shown: tuple[str, ...]
    makers: tuple[str, ...]


def _works(images: ImageSet, book: Ledger) -> Iterable[_Work]:
    """Every picture with those whom the table names, and whom the store's photos say that it shows."""
    table = images.table
    columns = [[_text(value) for value in table[name]] if name in table else [""] * len(table)
               for name in ("sha256", "artist", "subject", "rights_holder", "depicts", "depicted", "person", "creator")]
    for work, artist, subject, holder, depicts, depicted, person, creator in zip(*columns, strict=True):
        drawn = plain(person).startswith(plain(artist) + "/")  # artist-21/4eebab3f: a figure that the artist made up
        shown = several(";".join((depicts, depicted, "" if drawn else person)))
        photo = (book.photos[work],) if work in book.photos else ()
        yield _Work(work, artist, several(f"{subject};{holder}"), shown + photo, several(creator))


def _text(value: Any) -> str:
    """A cell as text: tables from elsewhere hold numbers for names, and nothing at all."""
    return value if isinstance(value, str) else "" if value is None or value != value else str(value)


def _blocks(asked: _Question, works: Sequence[_Work], copied: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Hash, artist and reason of every picture that is blocked."""
    blocks = []
    for work in works:
        why = asked.why_not(work)
        if not why and work.sha256 in copied:
            why = f"nearly the same as a withdrawn work ({copied[work.sha256][:12]})"
        if why:
            blocks.append((work.sha256, work.artist, why))
    return blocks


class _Question:
    """One use on one day, and the records sorted for it."""

    def __init__(self, book: Ledger, records: Sequence[Record], use: str, day: date, token: str) -> None:
        self.book, self.use, self.token = book, use, token
        self.state = {id(record): record.state(day) for record in records}
        self.by_subject, self.by_work, self.of = defaultdict(list), defaultdict(list), defaultdict(list)
        for record in records:
            name = plain(record.subject)
            self.of[name].append(record)
            (self.by_subject[name] if record.sha256 == ALL_WORKS else self.by_work[record.sha256]).append(record)

    def _on(self, work: str, name: str) -> list[Record]:
        # A record on the very work counts whoever it is from: a client or a person shown may say no too.
        return self.by_subject.get(plain(name), []) + self.by_work.get(work, [])

    def concerning(self, work: _Work, depicts: Sequence[str]) -> _Work:
        """The picture with everybody whom it concerns: whom the table names, whom their records name, and so on."""
        holders, shown, makers = ({plain(name): name for name in names} for names in (work.holders, (*depicts, *work.shown), work.makers))
        names, seen = [work.artist, *holders.values(), *shown.values(), *makers.values()], set()
        while names:
            name = names.pop()
            if plain(name) in seen:
                continue
            seen.add(plain(name))
            for record in self._on(work.sha256, name) if len(seen) == 1 else self.by_subject.get(plain(name), ()):
                for into, named in ((holders, several(record.rights_holder)), (shown, record.people), (makers, several(record.creator))):
                    names += [into.setdefault(plain(each), each) for each in named]
        return work._replace(holders=tuple(sorted(holders.values())), shown=tuple(shown.values()), makers=tuple(makers.values()))

    def refuse_minors(self, people: Iterable[str]) -> None:
        """Raise Refused when somebody shown may be a minor: nobody said that they are adult, or somebody that they are not."""
        said = {name: {r.adult for r in self.of.get(plain(name), []) if self.state[id(r)] != "not yet granted"} for name in people}
        missing = sorted(name for name, words in said.items() if "attested" not in words or words & {"minor", "unknown"})
        if missing:
            raise Refused(f"no adult attestation that stands for {', '.join(missing)}, who {'is' if len(missing) == 1 else 'are'} depicted; "
                          "pictures of somebody who may be a minor are used for nothing here, audits included. Take them out.")

    def why_not(self, work: _Work) -> str:
        """Why a work is blocked, or ''."""
        if self.book.refused and (unnamed(work.sha256), self.use) in self.book.refused:
            return "refused (by somebody who was forgotten)"
        others = [(name, f"of {name}'s, who holds the rights: ") for name in work.holders if plain(name) != plain(work.artist)]
        others += [(name, f"showing {name}: ") for name in work.shown if plain(name) != plain(work.artist)]
        names = dict.fromkeys(map(plain, (work.artist, *(name for name, _ in others), *work.makers)))
        records = self.by_work.get(work.sha256, []) + [record for name in names for record in self.by_subject.get(name, ())]
        asked = [record for record in records if record.use == self.use]
        why = self._no(asked) or self._missing(work.artist, asked, records, "")
        for name, words in others:
            why = why or self._missing(name, asked, records, words)
        return why or self._unwanted_name(records)

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
        own = [record for record in asked if plain(record.subject) == plain(name)]
        if any(self.state[id(record)] == "allowed" for record in own):
            return ""
        if own:  # expired or not yet granted
            return words + ", ".join(f"{self.state[id(record)]} ({self._where(record)})" for record in own)
        scopes = sorted({record.use for record in records if plain(record.subject) == plain(name)})
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
        named = {(r.subject, words) for artist in artists for r in self.of.get(plain(artist), []) for flag, words in
                 ((r.not_as_token, "not to be a token"), (r.not_affiliated, "not to be named as taking part")) if flag}
        return tuple(f"{subject} asks {words}" for subject, words in sorted(named))


SPLIT = re.compile(r"[\W_]+|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])")
"""Between words, between a word and a number, and where a capital follows: "MiraSolen2" is of three parts."""


def _within(name: str, token: str) -> bool:
    """Does a name stand in a token, as some of its parts in a row, whatever the case and whatever joins them?"""
    wanted = "".join(SPLIT.split(unicodedata.normalize("NFKC", name))).casefold()
    parts = [part.casefold() for part in SPLIT.split(unicodedata.normalize("NFKC", token)) if part]
    return bool(wanted) and any("".join(parts[i:j]) == wanted for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
