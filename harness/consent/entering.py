"""Who is meant, and their no: entered in the ledger before anything else can go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.consent import reach, whose
from harness.consent.ledger import ALL_WORKS, HASH, Record
from harness.consent.names import fold
from harness.consent.reach import Target
from harness.consent.store import Store
from harness.errors import HarnessError
from harness.progress import Progress


def target(store: Store | None, who: str, words: Sequence[str] = (), holder: str = "") -> Target:
    """What the ledger knows of a subject, or of one work by its hash (and of `holder`, who speaks for it)."""
    records = [(name, record) for name in store.subjects() for _, record in store.records(name)] if store else []
    subject = "" if HASH.fullmatch(who) else who
    own = [name for name in (subject or holder, *words) if name]
    everybody = {name for _, record in records for name in (record.subject, record.creator, record.rights_holder, *record.people) if name}
    claims = whose.claims(((r.sha256, r.creator or r.subject, r.rights_holder, r.people) for _, r in records if r.sha256 != ALL_WORKS), own) if own else {}
    shown = frozenset(r.sha256 for _, r in records if {fold(name) for name in r.people} & set(map(fold, own)))
    works = (store.works(subject) if store else set()) if subject else {who}
    near = tuple(store.descriptors(subject).values()) if store and subject else ()
    return Target(frozenset(works), subject, tuple(words), near, holder, tuple(sorted(everybody)), tuple(sorted(claims.items())), shown)


def there(roots: Iterable[Path], stage: str, progress: Progress) -> list[Path]:
    """The folders that are there; of the others a word."""
    for root in (root for root in roots if not Path(root).is_dir()):
        progress({"stage": stage, "note": f"{root}: no such folder to look into; it was skipped"})
    return [Path(root) for root in roots if Path(root).is_dir()]


def enter(store: Store, who: str, roots: Sequence[Path], by: str, why: str, leave_hashes: bool, subject: str, uses: Sequence[str]) -> str:
    """Enter the no, before anything else can go wrong; returns whose it is."""
    single = HASH.fullmatch(who)
    name = subject or (_holder(store, who) if single else who)
    if fold(name) not in map(fold, store.subjects()):
        if not single and not reach.find(Target(frozenset(), name), [root for root in roots if Path(root).is_dir()]).traces:
            store.withdraw(name)  # raises: nobody knows the name
        store.add([_refusal(name, who if single else ALL_WORKS, use, by, why) for use in uses])
    elif not _is_withdrawn(store, who, name, uses):
        store.withdraw(who, by, subject=name if single else "", why=why, leave_hashes=leave_hashes, uses=uses)
    return name


def _holder(store: Store, work: str) -> str:
    """Whose a work is, by the ledger."""
    owners = sorted({record.subject for name in store.subjects() for _, record in store.records(name) if record.sha256 == work})
    if len(owners) != 1:
        found = f"records of {', '.join(owners)} are" if owners else "no record is"
        raise HarnessError(f"{store.path}: {found} on the work {work[:12]}…; say who withdraws it: --subject NAME.")
    return owners[0]


def _is_withdrawn(store: Store, who: str, name: str, uses: Sequence[str]) -> bool:
    """Is everything that there was to withdraw withdrawn?"""
    held = [record for each in store.subjects() if fold(each) == fold(name) for _, record in store.records(each) if record.use in uses and (who == name or record.sha256 == who)]
    return {record.use for record in held} == set(uses) and all(record.withdrawn or record.decision == "notAllowed" for record in held)


def _refusal(subject: str, work: str, use: str, by: str, why: str) -> Record:
    """The record of somebody's no who never said yes."""
    return Record(subject, work, use, "notAllowed", why or "a withdrawal, where nothing had been recorded", datetime.now(UTC).date().isoformat(), recorded_by=by)
