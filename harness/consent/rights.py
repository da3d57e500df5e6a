"""What an artist or a person can ask for: withdraw, forget, and see everything that is held.

Ties the ledger to the files: the intent is kept in the ledger until it is carried out, so that the next call finishes what a
crash interrupted (`resume`). What is left afterwards is looked for by a search that shares no code with the taking out.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from harness.consent import files, forget as forgetting, reach, search as searching
from harness.consent.forget import FORGET, WITHDRAW, Eyes, Intent
from harness.consent.journal import Intent as Open
from harness.consent.ledger import ALL_WORKS, HASH, USES, Record
from harness.consent.reach import Reach, Target
from harness.consent.search import Answer, Needles
from harness.consent.store import Store
from harness.errors import HarnessError
from harness.images import atomic_write, decode, sha256
from harness.progress import Progress, silent


def target(store: Store | None, who: str, words: Sequence[str] = ()) -> Target:
    """What the ledger knows of a subject, or of one work by its hash."""
    if HASH.fullmatch(who):
        return Target(frozenset({who}))
    known = store.works(who) if store else set()
    near = tuple(store.descriptors(who).values()) if store else ()
    return Target(frozenset(known), who, tuple(words), near)


def withdraw(store: Store, who: str, roots: Sequence[Path], apply: bool = False, by: str = "", why: str = "", leave_hashes: bool = False,
             look: Eyes | None = None, progress: Progress = silent) -> Reach:
    """Enter the withdrawal of a subject or work (it holds at once), and find what it reached; with `apply` take it out.

    Applied, every root gets a signed tombstone, and so does the ledger. Of whom the ledger knows nothing, it then knows a no. Raises
    HarnessError, and Refused while a run is at work with them (the withdrawal holds all the same).
    """
    resume(store, look, progress)
    asked = target(store, who)
    found = reach.find(asked, roots)
    if found.traces and asked.subject and asked.subject not in store.subjects():
        store.add([_refusal(asked.subject, use, by, why) for use in USES])
    elif not _is_withdrawn(store, who):
        store.withdraw(who, by, subject=asked.subject if not HASH.fullmatch(who) else "", why=why, leave_hashes=leave_hashes,
                       descriptors=_marks(found, look) if leave_hashes else None)
    if apply:
        plan = forgetting.intend(asked, roots, WITHDRAW, look)
        _withdraw(store, store.intents.begin(WITHDRAW, asked.subject, asdict(plan)), plan, look, progress)
    return found


def _is_withdrawn(store: Store, who: str) -> bool:
    """Is everything that there was to withdraw withdrawn?"""
    held = [r for name in store.subjects() for _, r in store.records(name) if who in (r.subject, r.sha256)]
    return bool(held) and all(record.withdrawn for record in held)


def _refusal(subject: str, use: str, by: str, why: str) -> Record:
    """The record of somebody's no who never said yes."""
    return Record(subject, ALL_WORKS, use, "notAllowed", why or "a withdrawal, where nothing had been recorded", datetime.now(UTC).date().isoformat(), recorded_by=by)


def _marks(found: Reach, look: Eyes | None) -> dict[str, bytes]:
    """Perceptual descriptors of the works themselves, by hash, from the files that are there."""
    look = look or forgetting.eyes()
    return {sha256(t.path): look.describe(decode(t.path)) for t in found.traces if t.kind == "picture"}


def _withdraw(store: Store, number: int, plan: Intent, look: Eyes | None, progress: Progress) -> None:
    forgetting.apply(plan, look, _ledger_files(store), progress)
    progress({"stage": WITHDRAW, "note": "leaving tombstones"})
    told = {"id": plan.id, "removed": plan.removed, "works": plan.works}
    forgetting.bury(plan, store.key, "not asked for: names and the ledger's records stay after a withdrawal")
    subject = plan.subject or next((name for name in store.subjects() if set(plan.works) & store.works(name)), "")
    if not any(event.payload.get("what", {}).get("id") == plan.id for event in store.history() if event.kind == "tombstone"):
        store.tombstone(told if subject else {"id": plan.id, "removed": plan.removed}, subject)
    store.intents.finish(number)


def forget(store: Store, subject: str, roots: Sequence[Path], words: Sequence[str] = (), look: Eyes | None = None,
           progress: Progress = silent) -> Answer:
    """Forget a person: files, caches, adapters, pictures in pages, names, and what the ledger holds. Returns what the search then finds.

    `words` are further names to be taken out (a token, a nickname). Raises HarnessError when something is left, naming it; the same
    call then goes on.
    """
    done = resume(store, look, progress, only=subject)
    if done is not None:
        return done
    asked = target(store, subject, words)
    Needles(words=tuple(word for word in (subject, *words)))  # raises for a name too short to be searched for
    plan = forgetting.intend(asked, roots, FORGET, look)
    if not plan.removed and subject not in store.subjects():
        raise HarnessError(f"{subject}: neither the ledger {store.path.name} nor {', '.join(map(str, roots))} knows this name; check its spelling.")
    return _forget(store, store.intents.begin(FORGET, subject, asdict(plan)), plan, look, progress)


def _forget(store: Store, number: int, plan: Intent, look: Eyes | None, progress: Progress) -> Answer:
    """Everything after the intent; each step may be done twice. The intent goes last, together with the subject's key."""
    ledger, look = _ledger_files(store), look or forgetting.eyes()
    forgetting.apply(plan, look, ledger, progress)
    progress({"stage": FORGET, "note": "searching"})
    needles = needles_of(plan)
    seen = searching.search(map(Path, plan.roots), needles, look.describe, look.alike)
    left = [hit for hit in seen.hits if not any(hit.place.startswith(str(path)) for path in ledger)]
    if left:
        raise HarnessError(f"{len(left)} traces of {plan.subject} are left, the first is {left[0].place} ({left[0].how}); take them out by hand "
                           "(only formats that the harness writes can be cleaned in place), then run the same command again.")
    seen = replace(seen, hits=())
    progress({"stage": FORGET, "note": "leaving tombstones"})
    forgetting.bury(plan, store.key, seen.sentence())
    if plan.subject not in store.subjects():  # nothing but the intent names them: that has to be scrubbed as well
        store.tombstone({"id": plan.id}, plan.subject)
    progress({"stage": FORGET, "note": "destroying the key of their records"})
    store.forget(plan.subject, number)
    progress({"stage": FORGET, "note": "searching the ledger"})
    return _and_ledger(seen, store, needles)


def _and_ledger(seen: Answer, store: Store, needles: Needles) -> Answer:
    """The answer with the bytes of the ledger's own files, its free pages among them."""
    hits = searching.search_files(_ledger_files(store), needles).hits
    if hits:
        raise HarnessError(f"{store.path}: the ledger still holds {hits[0].how} {hits[0].what} of them (in {hits[0].place}); "
                           "end every other program that has it open, and run the same command again.")
    return seen


def needles_of(plan: Intent) -> Needles:
    """What must not be found after an intent was carried out."""
    return Needles(frozenset(plan.tainted), tuple(plan.names), *(tuple(map(bytes.fromhex, part)) for part in (plan.near, plan.fragments)))


def _ledger_files(store: Store) -> list[Path]:
    """The ledger and SQLite's files beside it."""
    path = Path(os.path.realpath(store.path))
    return [each for each in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))) if each.exists()]


def resume(store: Store, look: Eyes | None = None, progress: Progress = silent, only: str = "") -> Answer | None:
    """Finish what earlier calls began; returns the answer to the forgetting of `only`, if that was among it."""
    answer = None
    for begun in store.intents.open():
        progress({"stage": begun.kind, "note": f"finishing what was begun on {begun.at}"})
        plan = plan_of(begun)
        if begun.kind == FORGET:
            found = _forget(store, begun.id, plan, look, progress)
            answer = found if begun.subject == only else answer
        elif begun.kind == WITHDRAW:
            _withdraw(store, begun.id, plan, look, progress)
        else:
            from harness.consent import retention
            retention.carry_out(store, begun.id, plan, look, progress)
    return answer


def plan_of(begun: Open) -> Intent:
    """The plan of an open intent. Raises HarnessError for one of another version."""
    try:
        return Intent(**begun.plan)
    except TypeError as error:
        raise HarnessError(f"the {begun.kind} that was begun on {begun.at} is of another version of the harness; finish it with that one.") from error


HELD = ("kind", "path", "copied", "why")


def export(store: Store | None, subject: str, roots: Sequence[Path], out: Path) -> Path:
    """Everything that is held about a subject, readable, into the new folder `out`: records.json, held.csv, and the files themselves.

    Of tables the lines about them are copied, of pages and shared caches only that they exist. Raises HarnessError when `out` is not
    empty or lies in a root.
    """
    out, roots = Path(os.path.realpath(out)), [Path(os.path.realpath(root)) for root in roots]
    if out.exists() and any(out.iterdir()) or any(out.is_relative_to(root) for root in roots):
        raise HarnessError(f"{out}: choose a new folder outside of those that are looked into.")
    found = reach.find(target(store, subject), roots)
    rows = [(t.kind, str(t.path), _copy(t, out, found), t.why) for t in found.traces]
    atomic_write(out / "records.json", json.dumps(store.export(subject) if store else {"subject": subject}, indent=1, ensure_ascii=False) + "\n")
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([HELD, *rows])
    return atomic_write(out / "held.csv", text.getvalue())


def _copy(trace: reach.Trace, out: Path, found: Reach) -> str:
    """Copy a file that is all theirs, or the lines of a table about them; returns the copy's name, or ''."""
    place = Path("files") / trace.kind / f"{sha256(str(trace.path.parent).encode())[:8]}-{trace.path.name}"
    if trace.kind == "table":
        held = files.Table(trace.path, trace.path.read_bytes())
        lines = [row for row in held.rows if row.get("sha256") in found.tainted or files.owned(row, [found.target.subject])]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(held.rows[0]) if held.rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        atomic_write(out / place, text.getvalue())
    elif trace.action == "delete":
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trace.path, out / place)
    else:
        return ""
    return str(place)


def sees(folders: Iterable[Path], words: Sequence[str], photos: Sequence[Path], look: Eyes | None = None, progress: Progress = silent) -> Answer:
    """Search folders for photos (by hash and by look) and words, without a ledger: for whoever wants to check by themselves."""
    look = look or forgetting.eyes()
    needles = Needles(frozenset(map(sha256, photos)), tuple(words), tuple(look.describe(decode(photo)) for photo in photos))
    return searching.search(folders, needles, look.describe, look.alike, progress)
