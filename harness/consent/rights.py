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
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from harness.consent import files, forget as forgetting, history, look as look_for, reach, search as searching
from harness.consent.entering import enter, target, there
from harness.consent.forget import FORGET, WITHDRAW, Eyes, Plan
from harness.consent.journal import Intent
from harness.consent.ledger import HASH, USES
from harness.consent.names import fold, is_format
from harness.consent.reach import Reach
from harness.consent.search import Answer, Needles
from harness.consent.store import Store
from harness.errors import HarnessError
from harness.images import atomic_write, decode, sha256
from harness.progress import Progress, silent


def withdraw(store: Store, who: str, roots: Sequence[Path], apply: bool = False, by: str = "", why: str = "", leave_hashes: bool = False,
             look: Eyes | None = None, progress: Progress = silent, subject: str = "", uses: Sequence[str] = USES) -> Reach:
    """Enter the withdrawal of a subject or work (it holds at once, whatever happens then), and list what it reached; with `apply` take that out.

    `subject` is who withdraws a single work, where the ledger does not say whose it is. From some `uses` only, no file is touched:
    others are allowed still. Applied, every root gets a signed tombstone, and so does the ledger. Of whom the ledger knows
    nothing, it then knows a no. Raises HarnessError, and Refused while a run is at work with them (the withdrawal holds all the same).
    """
    name = enter(store, who, roots, by, why, leave_hashes, subject, uses)
    progress({"stage": WITHDRAW, "note": f"the withdrawal of {who if len(who) < 64 else who[:12]} holds from now on"})
    look = (look or forgetting.eyes()).remembering()
    resume(store, look, progress)
    roots = there(roots, WITHDRAW, progress)
    plan, found = forgetting.prepare(target(store, who, holder=name), roots, WITHDRAW, look, ledger_files(store))
    if leave_hashes:
        _leave(store, who, name, by, why, uses, _marks(found, look))
    if apply and set(uses) == set(USES):
        _withdraw(store, store.intents.begin(WITHDRAW, plan.subject or name, asdict(plan)), plan, look, progress)
    return found


def _marks(found: Reach, look: Eyes) -> dict[str, bytes]:
    """Perceptual descriptors of the works themselves, by hash, from the files that are there and can be read."""
    held: dict[str, bytes] = {}
    for trace in found.traces:
        if trace.kind == "picture":
            with suppress(*files.BROKEN):
                held[sha256(trace.path)] = look.describe(decode(trace.path))
    return held


def _leave(store: Store, who: str, name: str, by: str, why: str, uses: Sequence[str], marks: dict[str, bytes]) -> None:
    """Leave the descriptors of the works in the ledger, with a further word that they are to stay."""
    left = {work for work, _ in store.book().left}
    if not set(marks) <= left:
        store.withdraw(who, by, subject=name if HASH.fullmatch(who) else "", why=why, leave_hashes=True, descriptors=marks, uses=uses)


def _withdraw(store: Store, number: int, plan: Plan, look: Eyes | None, progress: Progress) -> None:
    unread = forgetting.apply(plan, look, ledger_files(store), progress)
    progress({"stage": WITHDRAW, "note": "leaving tombstones" + (f"; {len(unread)} could not be read, the first is {unread[0]}" if unread else "")})
    gone, rewritten = forgetting.done(plan)
    told = {"id": plan.id, "removed": gone, "rewritten": rewritten, "works": plan.works}
    forgetting.bury(plan, store.key, "not asked for: names and the ledger's records stay after a withdrawal")
    subject = plan.subject or next((name for name in store.subjects() if set(plan.works) & store.works(name)), "")
    if not any(event.payload.get("what", {}).get("id") == plan.id for event in store.history() if event.kind == "tombstone"):
        store.tombstone(told if subject else {"id": plan.id, "removed": gone, "rewritten": rewritten}, subject)
    store.intents.finish(number)


def forget(store: Store, subject: str, roots: Sequence[Path], words: Sequence[str] = (), look: Eyes | None = None,
           progress: Progress = silent) -> Answer:
    """Forget a person: files, caches, adapters, pictures in pages, names, and what the ledger holds. Returns what the search then finds.

    `words` are further names to be taken out (a token, a nickname). Look at `unread` of the answer: into those files nobody could
    look. Raises HarnessError, before anything is done, for what cannot be taken out; and afterwards when something is
    left, naming it; the same call then goes on.
    """
    look = (look or forgetting.eyes()).remembering()
    done = resume(store, look, progress, only=subject)
    if done is not None:
        return done
    asked = target(store, subject, words)
    Needles(words=tuple(word for word in (subject, *words)))  # raises for a name too short to be searched for
    _refuse_names(subject, words, roots)
    plan, found = forgetting.prepare(asked, roots, FORGET, look, ledger_files(store))
    if not found.traces and fold(subject) not in map(fold, store.subjects()):
        raise HarnessError(f"{subject}: neither the ledger {store.path.name} nor {', '.join(map(str, roots))} knows this name; check its spelling.")
    unclear = [each for each in found.unread if "a table that names them" in each]
    if unclear:
        raise HarnessError(f"{unclear[0]}: which files are theirs cannot be read from it; give it a column `file` or `sha256` and one `subject`, "
                           "or take it out, then run the same command again. Nothing was changed.")
    _refuse_conflicts(store, plan)
    return _forget(store, store.intents.begin(FORGET, subject, asdict(plan)), plan, look, progress)


def _refuse_names(subject: str, words: Sequence[str], roots: Sequence[Path]) -> None:
    """A folder that is looked into and itself bears the name would bear it afterwards."""
    for root in map(os.path.realpath, roots):
        if look_for.stands(os.path.basename(root), (subject, *words)):
            raise HarnessError(f"{root}: this folder itself is called by the name and could not be renamed; name the folder above it: --in {os.path.dirname(root)}.")


def _refuse_conflicts(store: Store, plan: Plan) -> None:
    """Is there a record of another in which the ledger could not take the name out? Asked before the first step, as the key is destroyed by the last."""
    needles, own = needles_of(plan), fold(plan.subject)
    events = store.history()
    others = {event.subject for event in events}
    for event in events:
        if event.subject and fold(event.subject) != own:
            text = json.dumps(history.without(event.payload, plan.subject, history.FORGOTTEN, others), ensure_ascii=False)
            if needles.words and (look_for.stands(text, needles.words, needles.others) or look_for.stands(event.subject, needles.words, needles.others)):
                raise HarnessError(f"{store.path}: entry {event.seq}, of {event.subject}, holds {plan.subject} inside of a longer word, which the ledger cannot take out; "
                                   "export it (`harness consent export --out all.json`), change that word, and import it into a new ledger. Nothing was changed.")


def _forget(store: Store, number: int, plan: Plan, look: Eyes | None, progress: Progress) -> Answer:
    """Everything after the plan; each step may be done twice. The plan goes last, together with the subject's key."""
    ledger, look = ledger_files(store), look or forgetting.eyes()
    unread = forgetting.apply(plan, look, ledger, progress)
    forgetting.rebury(plan, store.key, progress)
    progress({"stage": FORGET, "note": "searching"})
    needles = needles_of(plan)
    seen = searching.search([root for root in map(Path, plan.roots) if root.is_dir()], needles, look.describe, look.alike)
    left = [hit for hit in seen.hits if hit.file not in set(map(str, ledger))]
    if left:
        raise HarnessError(f"{len(left)} traces of {plan.subject} are left, the first is {left[0].place} ({left[0].how}); take them out by hand "
                           "(only formats that the harness writes can be cleaned in place), then run the same command again.")
    blind = [each for each in unread if each.rpartition(" (")[0] not in {name.split("!")[0].rpartition(" (")[0] for name in seen.unread}]
    seen = replace(seen, hits=(), unread=(*seen.unread, *blind), kept=_kept(plan))
    progress({"stage": FORGET, "note": "leaving tombstones"})
    forgetting.bury(plan, store.key, replace(seen, unread=(), kept=()).sentence() + (f"; {len(seen.unread)} files could not be looked into" if seen.unread else ""))
    if fold(plan.subject) not in map(fold, store.subjects()):  # nothing but the plan names them: that has to be scrubbed as well
        store.tombstone({"id": plan.id}, plan.subject)
    progress({"stage": FORGET, "note": "destroying the key of their records"})
    store.forget(next(name for name in store.subjects() if fold(name) == fold(plan.subject)), number)
    from harness.consent import retention
    retention.note_anew(store)
    progress({"stage": FORGET, "note": "searching the ledger"})
    return _and_ledger(seen, store, needles)


def _kept(plan: Plan) -> tuple[str, ...]:
    """What stays although they are forgotten, in words without hashes: others' pictures, and others' names in which theirs stands."""
    works = Counter((name, "that shows them" if work in plan.shown else "that they had a word on") for work, name in plan.kept.items())
    return (*(f"{n} x a picture of {name} {how}" for (name, how), n in sorted(works.items())),
            *(f"the name {name}" for name in look_for.around(plan.names, plan.others)),
            *(f"the word {name} wherever the files' own formats use it" for name in plan.names if is_format(name)))


def _and_ledger(seen: Answer, store: Store, needles: Needles) -> Answer:
    """The answer with the bytes of the ledger's own files, its free pages among them; works that others' records name stay named."""
    named = {record.sha256 for name in store.subjects() for _, record in store.records(name)} | {photo.sha256 for photo in store.photos()}
    hits = searching.search_files(ledger_files(store), replace(needles, hashes=needles.hashes - named)).hits
    if hits:
        raise HarnessError(f"{store.path}: the ledger still holds {hits[0].how} {hits[0].what} of them (in {hits[0].place}); "
                           "end every other program that has it open, and run the same command again.")
    return seen


def needles_of(plan: Plan) -> Needles:
    """What must not be found after a plan was carried out."""
    words = tuple(name for name in plan.names if not is_format(name))
    return Needles(frozenset(plan.tainted), words, *(tuple(map(bytes.fromhex, part)) for part in (plan.near, plan.fragments)), tuple(plan.others))


def ledger_files(store: Store) -> list[Path]:
    """The ledger and SQLite's files beside it."""
    path = Path(os.path.realpath(store.path))
    return [each for each in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))) if each.exists()]


def resume(store: Store, look: Eyes | None = None, progress: Progress = silent, only: str = "") -> Answer | None:
    """Finish what earlier calls began; returns the answer to the forgetting of `only`, if that was among it.

    What cannot be finished is said and stays for the next call (or `abandon`): it stands in nobody's way. Raises HarnessError only for
    the forgetting of `only`.
    """
    answer = None
    for begun in _open(store, progress):
        progress({"stage": begun.kind, "note": f"finishing what was begun on {begun.at}"})
        mine = bool(only) and begun.kind == FORGET and fold(begun.subject) == fold(only)
        try:
            found = _finish(store, begun, look, progress)
        except files.BROKEN as error:
            if mine:
                raise
            progress({"stage": begun.kind, "note": f"not finished (number {begun.id}{', ' + begun.subject if begun.subject else ''}): {error} "
                                                   f"`harness consent sweep --abandon {begun.id}` gives it up"})
        else:
            answer = found if mine else answer
    return answer


def _finish(store: Store, begun: Intent, look: Eyes | None, progress: Progress) -> Answer | None:
    plan = plan_of(begun)
    if begun.kind == FORGET:
        return _forget(store, begun.id, plan, look, progress)
    if begun.kind == WITHDRAW:
        _withdraw(store, begun.id, plan, look, progress)
    else:
        from harness.consent import retention
        retention.carry_out(store, begun.id, plan, look, progress)
    return None


def abandon(store: Store, who: str) -> list[Intent]:
    """Give up what was begun about a subject, or under a number, and cannot be finished; returns what. Withdrawals hold all the same."""
    if who.isdecimal():
        given = [begun for begun in _open(store) if begun.id == int(who)]
        store.intents.finish(int(who))  # also one that was never read, as nobody signed it
        return given
    given = [begun for begun in store.intents.open() if begun.subject and fold(begun.subject) == fold(who)]
    for begun in given:
        store.intents.finish(begun.id)
    return given


def _open(store: Store, progress: Progress = silent) -> list[Intent]:
    """What stands open. One that nobody signed who may write here is said: nothing of it is done, and it stops nobody."""
    try:
        return store.intents.open()
    except HarnessError as error:
        progress({"stage": "resume", "note": str(error)})
        return []


def plan_of(begun: Intent) -> Plan:
    """The plan of an open intent. Raises HarnessError for one of another version."""
    try:
        return Plan(**begun.plan)
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
    found = reach.find(target(store, subject), roots, thorough=True)
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
        lines = [row for row in held.rows if row.get("sha256") in found.tainted or files.owned(row, found.target.own)]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(held.rows[0]) if held.rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        atomic_write(out / place, text.getvalue())
    elif trace.action == "delete" and trace.kind != "link":
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
