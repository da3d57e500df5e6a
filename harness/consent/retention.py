"""Photos of people are kept for a day and no longer, unless somebody says otherwise.

The ledger knows each photo by hash, path and time. When the time is over, the photo goes, with its copies, crops, latents,
vectors and thumbnails; what was made from it with consent (adapters, avatars) stays until it is withdrawn or forgotten. Every command asks (harness.consent.kept).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.consent import forget as forgetting, kept
from harness.consent.forget import SWEEP, Eyes, Intent
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
    for path in paths:
        store.add_photo(subject, sha256(path), path, hours)
    folders = {str(path.parent) for path in paths} | {os.path.realpath(root) for root in roots}
    _note(store, folders)
    return datetime.fromisoformat(max(photo.until for photo in store.photos(subject)))


def _note(store: Store, folders: Iterable[str]) -> None:
    """Write down when the next photo of a ledger is due; take the ledger out when it holds none."""
    held, path = kept.noted(), os.path.realpath(store.path)
    ledgers = dict(held.get("ledgers", {}))
    before = ledgers.pop(path, {"roots": []})
    due = min((photo.until for photo in store.photos()), default="")
    if due:
        ledgers[path] = {"due": due, "roots": sorted({*before["roots"], *folders})}
    if ledgers != held.get("ledgers"):
        atomic_write(kept.notice(), json.dumps({"ledgers": ledgers, "seen": kept.now(held).isoformat()}) + "\n")
        kept.notice().chmod(0o600)


def _now(held: dict[str, Any]) -> datetime:
    """The time, or the latest time ever seen here: a clock that went back must not keep a photo longer."""
    seen = held.get("seen", "")
    return max(datetime.now(UTC), datetime.fromisoformat(seen)) if seen else datetime.now(UTC)


def enforce(progress: Progress = silent) -> int:
    """Delete what is due in every ledger that holds photos; returns how many photos went. Without any this reads one small file."""
    held, gone = kept.noted(), 0
    if not held:
        return 0
    from harness.consent.store import open_store

    now = kept.now(held)
    for path, said in held.get("ledgers", {}).items():
        if datetime.fromisoformat(said["due"]) > now:
            continue
        if not Path(path).is_file():
            progress({"stage": SWEEP, "note": f"the ledger {path} is gone; photos that it knew lie below {', '.join(said['roots'])} and are due"})
        else:
            with open_store(Path(path)) as store:
                gone += sweep(store, [Path(root) for root in said["roots"]], now, progress=progress)
    return gone


def sweep(store: Store, roots: Sequence[Path] = (), now: datetime | None = None, look: Eyes | None = None, progress: Progress = silent) -> int:
    """Delete the photos whose time is over, with their copies, crops, latents, vectors and thumbnails; returns how many there were.

    Looks into `roots`, the folders noted for the ledger and those of the photos. What an earlier call began is finished first.
    """
    from harness.consent import rights

    rights.resume(store, look, progress)
    held = kept.noted()
    due = store.photos(due=now or kept.now(held))
    if not due:
        _note(store, [])
        return 0
    noted = held.get("ledgers", {}).get(os.path.realpath(store.path), {}).get("roots", [])
    folders = {*map(str, roots), *noted, *(str(Path(photo.path).parent) for photo in due)}
    plan = forgetting.intend(Target(frozenset(photo.sha256 for photo in due)), [Path(f) for f in sorted(folders) if Path(f).is_dir()], SWEEP, look)
    carry_out(store, store.intents.begin(SWEEP, "", asdict(plan)), plan, look, progress)
    return len(due)


def carry_out(store: Store, number: int, plan: Intent, look: Eyes | None, progress: Progress) -> None:
    """Do, or go on doing, what a sweep intended."""
    ledger = Path(os.path.realpath(store.path))
    forgetting.apply(plan, look, [ledger.with_name(ledger.name + end) for end in ("", "-wal", "-shm", "-journal")], progress)
    gone = [photo for photo in store.photos() if photo.sha256 in plan.works]
    progress({"stage": SWEEP, "note": f"{len(gone)} photos were kept for as long as was said, and are gone"})
    if gone:
        store.drop_photos(gone)
    store.intents.finish(number)
    _note(store, [])
