"""Photos of people are kept for a day and no longer, unless somebody says otherwise.

The ledger knows each photo by hash, path and time. When the time is over, the photo goes, with its copies, crops, latents,
vectors and thumbnails; what was made from it with consent (adapters, avatars) stays until it is withdrawn or forgotten. Every command asks (harness.consent.kept).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.consent import forget as forgetting, kept
from harness.consent.forget import SWEEP, Eyes, Plan
from harness.consent.history import Photo
from harness.consent.names import fold
from harness.consent.reach import Target
from harness.errors import HarnessError
from harness.images import atomic_write, sha256
from harness.progress import Progress, silent

if TYPE_CHECKING:
    from harness.consent.store import Store


def keep(store: Store, subject: str, photos: Iterable[Path], roots: Sequence[Path], hours: float = 24.0) -> datetime:
    """Enter photos of a person that are kept for some hours; returns when they have to be gone.

    `roots` are the folders in which what comes of them will lie (the run's folder, caches). Raises HarnessError for a missing file.
    """
    paths = [Path(os.path.realpath(path)) for path in photos]
    if not paths or not all(path.is_file() for path in paths):
        raise HarnessError(f"{subject}: {next((p for p in paths if not p.is_file()), 'no file')} is not there to be kept.")
    if kept.went_back():
        enforce()  # by the latest time ever seen; from here on the clock counts that these photos are entered by
    for path in paths:
        store.add_photo(subject, sha256(path), path, hours)
    folders = {str(path.parent) for path in paths} | {os.path.realpath(root) for root in roots}
    _note(store, folders, datetime.now(UTC))
    return datetime.fromisoformat(max(photo.until for photo in store.photos() if fold(photo.subject) == fold(subject)))


def _note(store: Store, folders: Iterable[str], seen: datetime | None = None) -> None:
    """Write down when the next photo of a ledger is due, and the folders that are there; take the ledger out when it holds none."""
    held, path = kept.noted(), os.path.realpath(store.path)
    ledgers = dict(held.get("ledgers", {}))
    before = ledgers.pop(path, {"roots": []})
    due = min((photo.until for photo in store.photos()), default="")
    if due:
        ledgers[path] = {"due": due, "roots": sorted({*before["roots"], *folders})}
    if ledgers != held.get("ledgers"):
        atomic_write(kept.notice(), json.dumps({"ledgers": ledgers, "seen": (seen or kept.now(held)).isoformat()}) + "\n")
        kept.notice().chmod(0o600)


def note_anew(store: Store) -> None:
    """After somebody was forgotten: the notice must not go on naming folders that were called by their name."""
    held, path = kept.noted(), os.path.realpath(store.path)
    if path in held.get("ledgers", {}):
        held["ledgers"][path]["roots"] = [root for root in held["ledgers"][path]["roots"] if Path(root).is_dir()]
        atomic_write(kept.notice(), json.dumps(held) + "\n")
        kept.notice().chmod(0o600)
        _note(store, [])


def enforce(progress: Progress = silent) -> int:
    """Delete what is due in every ledger that holds photos; returns how many photos went. Without any this reads one small file.

    A ledger that is missing or damaged is said (an event with `failed`) and keeps nobody else's photos.
    """
    held, gone = kept.noted(), 0
    now = kept.now(held)
    for path, said in held.get("ledgers", {}).items():
        if kept.moment(said["due"]) > now:
            continue
        if not Path(path).is_file():
            progress({"stage": SWEEP, "note": f"the ledger {path} is gone; photos that it knew lie below {', '.join(said['roots'])} and are due", "failed": True})
            continue
        try:
            gone += _enforce(Path(path), [Path(root) for root in said["roots"]], now, progress)
        except Exception as error:  # whatever is wrong with one ledger must not keep the photos of another
            progress({"stage": SWEEP, "note": str(error) if isinstance(error, HarnessError) else f"{path}: {type(error).__name__}: {error}", "failed": True})
    return gone


def _enforce(path: Path, roots: Sequence[Path], now: datetime, progress: Progress) -> int:
    from harness.consent.store import open_store

    with open_store(path) as store:
        return sweep(store, roots, now, progress=progress)


def sweep(store: Store, roots: Sequence[Path] = (), now: datetime | None = None, look: Eyes | None = None, progress: Progress = silent) -> int:
    """Delete the photos whose time is over, with their copies, crops, latents, vectors and thumbnails; returns how many went.

    Looks into `roots`, the folders noted for the ledger and those of the photos. What an earlier call began is finished first. A
    photo whose folder is not there (a disk that is away) stays entered, and is said.
    """
    from harness.consent import rights

    rights.resume(store, look, progress)
    held = kept.noted()
    due = store.photos(due=now or kept.now(held))
    there = [photo for photo in due if Path(photo.path).parent.is_dir()]
    for photo in due:
        if photo not in there:
            progress({"stage": SWEEP, "note": f"{photo.path} is due, and its folder is not there: put it back, or give the photo up with "
                                              f"`harness consent sweep --abandon {json.dumps(photo.subject)}`", "failed": True})
    if not there:
        _note(store, [])
        return 0
    noted = held.get("ledgers", {}).get(os.path.realpath(store.path), {}).get("roots", [])
    folders = {*map(str, roots), *noted, *(str(Path(photo.path).parent) for photo in there)}
    plan = _plan(store, there, [Path(f) for f in sorted(folders) if Path(f).is_dir()], look)
    return carry_out(store, store.intents.begin(SWEEP, "", asdict(plan)), plan, look, progress)


def _plan(store: Store, due: Sequence[Photo], folders: Sequence[Path], look: Eyes | None) -> Plan:
    """What a sweep does: photos that are kept longer, and everything that the ledger has of others, stay whatever they look like."""
    from harness.consent import rights

    over, people = {photo.seq for photo in due}, {fold(photo.subject) for photo in due}
    longer = {photo.sha256 for photo in store.photos() if photo.seq not in over}
    theirs = {work for name in store.subjects() if fold(name) not in people for work in store.works(name)}
    works = frozenset(photo.sha256 for photo in due) - longer
    claims = tuple((work, "") for work in sorted((longer | theirs) - works))
    plan = forgetting.intend(Target(works, claims=claims), folders, SWEEP, look, rights.ledger_files(store))
    return replace(plan, works=sorted(works | {photo.sha256 for photo in due}))


def carry_out(store: Store, number: int, plan: Plan, look: Eyes | None, progress: Progress) -> int:
    """Do, or go on doing, what a sweep planned; returns how many photos are gone."""
    from harness.consent import rights

    forgetting.apply(plan, look, rights.ledger_files(store), progress)
    now = kept.now(kept.noted())
    over = [photo for photo in store.photos() if photo.sha256 in plan.works and (photo.sha256 in plan.tainted or kept.moment(photo.until) <= now)]
    gone = [photo for photo in over if Path(photo.path).parent.is_dir() or any(Path(photo.path).is_relative_to(root) for root in plan.roots if Path(root).is_dir())]
    progress({"stage": SWEEP, "note": kept.told(len(gone))})
    if gone:
        store.drop_photos(gone)
    store.intents.finish(number)
    _note(store, [])
    return len(gone)


def give_up(store: Store, subject: str) -> int:
    """Take photos of a person whose folder is gone for good out of the ledger; returns how many."""
    lost = [photo for photo in store.photos() if fold(photo.subject) == fold(subject) and not Path(photo.path).parent.is_dir()]
    if lost:
        store.drop_photos(lost, "their folder is gone")
        _note(store, [])
    return len(lost)
