"""Take works, or a whole person, out of everything that they reached, and go on where a crash stopped it.

First the intent is written down: what was reached, what has to go, by which marks it can be known again. Every step after
that may be done twice. The intent is destroyed when the search (harness.consent.search) has found nothing.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.consent import files, reach, tombstone
from harness.consent.files import Index
from harness.consent.keys import Key
from harness.consent.reach import Reach, Target
from harness.consent.scrub import Scrub
from harness.errors import BadImage, HarnessError, Refused
from harness.images import atomic_write, decode, sha256
from harness.progress import Progress, silent

FORGET, WITHDRAW, SWEEP = "forget", "withdraw", "sweep"
HALF = re.compile(r"\..*\.(\d+)\.tmp")
FRAGMENT, LARGE = 48, 2**30
"""bytes by which a tensor is known; bytes above which a file is not read as a whole"""


@dataclass(frozen=True)
class Intent:
    """What is to be done, complete enough to go on with after the files that told it are gone."""

    id: str
    """Random; names the tombstone."""
    kind: str
    """forget (names too), withdraw (works and what was made of them) or sweep (only what shows them)."""
    at: str
    """UTC."""
    roots: list[str]
    """Folders to work on."""
    subject: str
    """Whom it is about; empty for single works."""
    names: list[str]
    """Names that must go; none when withdrawing."""
    works: list[str]
    """Hashes of the works."""
    tainted: list[str]
    """Hashes of the works and of all that was made of them."""
    near: list[str]
    """Perceptual descriptors of those, hexadecimal."""
    fragments: list[str]
    """Bytes of tensors and vectors that have to go, hexadecimal."""
    whole: list[str]
    """Files that go although nothing in them says why (caches and checkpoints of a reached training)."""
    runs: list[str]
    """Run folders that were reached."""
    retrain: list[dict]
    """Adapters to be made again without the works."""
    sign: list[str]
    """Reports to be signed again."""
    removed: dict[str, int] = field(default_factory=dict)
    """Files by kind, for the tombstone."""


@dataclass(frozen=True)
class Eyes:
    """How pictures are compared; harness.perceptual unless a test says otherwise."""

    describe: Callable[[Any], bytes]
    """Descriptor of a picture."""
    alike: Callable[[bytes, bytes], bool]
    """Are two descriptors those of near-duplicates?"""

    def reads(self, mark: bytes) -> bool:
        """Can a descriptor be compared, or is it of another version? (An old one must not stand in the way of forgetting.)"""
        try:
            return self.alike(mark, mark)
        except HarnessError:
            return False


def eyes() -> Eyes:
    """The shipped perceptual descriptors."""
    from harness import perceptual

    return Eyes(perceptual.descriptor, perceptual.is_near)


def intend(target: Target, roots: Iterable[Path], kind: str, look: Eyes | None = None) -> Intent:
    """Find out everything that has to go, before anything does. Raises HarnessError for missing folders."""
    roots = [Path(os.path.realpath(root)) for root in roots]
    look, held = look or eyes(), files.index(roots)
    found = reach.find(target, roots, held, follow=kind != SWEEP)
    _refuse_at_work(held, found)
    near = sorted({*filter(look.reads, target.near), *_descriptors(found, held, look)})
    gone = {trace.path: trace for trace in found.traces if trace.action == "delete"}
    unnamed = [path for path, trace in gone.items() if trace.kind in ("latents", "checkpoint", "adapter", "seal")]
    also = [path for path in found.undecided if path.name != "checkpoint.safetensors"] if kind == FORGET else []
    return Intent(
        secrets.token_hex(8), kind, datetime.now(UTC).isoformat(timespec="seconds"), [str(root) for root in roots], target.subject,
        list(dict.fromkeys(name for name in (target.subject, *target.words) if name)) if kind == FORGET else [],
        sorted(found.target.works), sorted(found.tainted), [mark.hex() for mark in near],
        sorted({piece.hex() for path in (*unnamed, *held.vectors) for piece in _fragments(path, found.tainted)} | {mark.hex() for mark in target.near}),
        [str(path) for path in (*unnamed, *also)], sorted({str(run) for t in found.traces if (run := held.run_of(t.path))}),
        list(found.retrain), [str(t.path) for t in found.traces if t.after == "sign again"], found.counts())


def _refuse_at_work(held: Index, found: Reach) -> None:
    """A run that is at work would write again what is taken out."""
    for folder in {run for trace in found.traces if (run := held.run_of(trace.path))}:
        process = held.runs[folder].get("process") or {}
        if held.runs[folder]["status"] == "running" and process.get("host") == socket.gethostname() and _is_alive(int(process.get("pid", 0))):
            raise Refused(f"{folder}: this run is at work with them in process {process['pid']}; end it, or wait for it, then run the same command again.")


def _descriptors(found: Reach, held: Index, look: Eyes) -> set[bytes]:
    """How the pictures that have to go look."""
    marks = set()
    for trace in found.traces:
        if trace.kind in ("picture", "drawn"):
            with suppress(BadImage):
                marks.add(look.describe(decode(trace.path)))
    loose = (p for p in held.files if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") and held.sha256(p) in found.tainted)
    return marks | {look.describe(decode(path)) for path in loose}


def _fragments(path: Path, tainted: Iterable[str]) -> Iterable[bytes]:
    """Bytes by which tensors, or the vectors of tainted pictures, are known wherever they are copied to."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            vectors = stored["vectors"] if "vectors" in stored.files and "sha256" in stored.files else []
            rows = [vectors[i].tobytes() for i, name in enumerate(stored["sha256"]) if str(name) in tainted] if len(vectors) else []
        yield from (row[:FRAGMENT] for row in rows)
    elif path.suffix == ".safetensors":
        data = path.read_bytes()
        body = data[8 + int.from_bytes(data[:8], "little"):]
        pieces = [body[at:at + FRAGMENT] for at in (0, len(body) // 4, len(body) // 2)]
        yield from (piece for piece in pieces if len(piece) == FRAGMENT and len(set(piece)) > FRAGMENT // 4)


def apply(intent: Intent, look: Eyes | None = None, spared: Iterable[Path] = (), progress: Progress = silent) -> int:
    """Do, or go on doing, what was intended; returns how many files were changed. `spared`: files that are seen to elsewhere (the ledger)."""
    look, held = look or eyes(), files.index(map(Path, intent.roots))
    spared, changed = {os.path.realpath(path) for path in spared}, 0
    cleaner = _Cleaner(intent, held, look)
    for path in held.files:
        if str(path) not in spared and cleaner.file(path, progress):
            changed += 1
    _rename(intent, progress)
    for name in intent.runs:
        _mark(Path(name), intent, cleaner.scrub(None), progress)
    return changed


class _Cleaner:
    """Every file of the roots, one after the other."""

    def __init__(self, intent: Intent, held: Index, look: Eyes) -> None:
        self.intent, self.held, self.look = intent, held, look
        self.tainted = frozenset(intent.tainted)
        self.near = [bytes.fromhex(mark) for mark in intent.near]
        self.whole, self.runs = frozenset(intent.whole), {Path(name) for name in intent.runs}
        about = Scrub(self.tainted, tuple(intent.names)).of_them
        self.claimed = frozenset(row["sha256"] for table in held.tables for row in table.rows if _is_told(row) and not about(row))
        self.scrubs: dict[Path | None, Scrub] = {}

    def scrub(self, run: Path | None) -> Scrub:
        """What to take out of files of a run that was reached, or (None) of any other file."""
        if run not in self.scrubs:
            doubt = self._doubt(run) if run else (lambda picture: False)
            self.scrubs[run] = Scrub(self.tainted, tuple(self.intent.names), self._near, doubt, self.claimed, self.intent.kind == SWEEP)
        return self.scrubs[run]

    def _near(self, picture: Any) -> bool:
        return bool(self.near) and self._is_like(self.look.describe(picture), self.near)

    def _is_like(self, mark: bytes, others: list[bytes]) -> bool:
        return any(mark == other or self.look.alike(mark, other) for other in others)

    def _doubt(self, run: Path) -> Callable[[Any], bool]:
        """A picture that is recognisably one of others' in this run may stay in its pages; a contact sheet is not recognisable."""
        @cache
        def marks() -> list[bytes]:
            here = {name for table in self.held.tables if run in table.path.parents for name in table.hashes} & self.claimed
            files_of_others = {path for table in self.held.tables if table.hashes & here for row in table.rows
                               if row.get("sha256") in here and (path := table.file(row)) and path.is_file()}
            return [self.look.describe(decode(path)) for path in sorted(files_of_others)]
        return lambda picture: not self._is_like(self.look.describe(picture), marks())

    def file(self, path: Path, progress: Progress) -> bool:
        """Clean one file; was it changed?"""
        half = HALF.fullmatch(path.name)
        if half and not _is_alive(int(half.group(1))):
            return self._delete(path, "half-written", progress)
        if str(path) in self.whole:
            return self._delete(path, "made of them as a whole", progress)
        run = self.held.run_of(path)
        run = run if run in self.runs else None
        if path.stat().st_size > LARGE:  # weights of a whole model: they go as they are, or stay
            return self.held.sha256(path) in self.tainted and self._delete(path, "theirs", progress)
        data = path.read_bytes()
        scrub = self.scrub(run)
        sheet = run is not None and files.is_picture(data) and scrub.is_theirs(data, embedded=True)
        cleaned = None if sheet else scrub.clean(path.name, data)
        if cleaned is None:
            return self._delete(path, "theirs", progress)
        if cleaned == data:
            return False
        progress({"stage": self.intent.kind, "note": f"rewriting {path}"})
        atomic_write(path, cleaned)
        return True

    def _delete(self, path: Path, why: str, progress: Progress) -> bool:
        progress({"stage": self.intent.kind, "note": f"deleting {path} ({why})"})
        path.unlink(missing_ok=True)
        for parent in path.parents:  # folders that this leaves empty
            if str(parent) in self.intent.roots or parent in self.runs or any(parent.iterdir()):
                break
            parent.rmdir()
        return True


def _is_told(row: dict[str, str]) -> bool:
    """Does a row say whose picture it is, or what it was drawn from?"""
    return bool(row.get("sha256")) and any(row.get(column) for column in (*files.OWNER, "prompt"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid != os.getpid()


def _rename(intent: Intent, progress: Progress) -> None:
    """Files and folders whose names hold a name get another; tables name them by the same other name already."""
    plain = Scrub(frozenset(), tuple(intent.names))
    for root in intent.roots if intent.names else ():
        for where, folders, names in os.walk(root, topdown=False):
            for name in (*names, *folders):
                free = plain.text(name)
                if os.path.islink(Path(where) / name) and plain.text(to := os.readlink(Path(where) / name)) != to:
                    os.unlink(Path(where) / name)
                elif free != name:
                    progress({"stage": intent.kind, "note": f"renaming a file in {Path(where).name}"})
                    os.rename(Path(where) / name, _free(Path(where) / free))


def _free(path: Path) -> Path:
    """A name that nothing has yet."""
    n = 2
    while path.exists():
        path, n = path.with_name(f"{path.stem.rpartition('~')[0] or path.stem}~{n}{path.suffix}"), n + 1
    return path


def _mark(folder: Path, intent: Intent, scrub: Scrub, progress: Progress) -> None:
    """Say in a run's manifest what its outputs are now and, unless only photos went, that it failed, why and what to do."""
    folder = Path(*(scrub.text(part) for part in folder.parts)) if not folder.is_dir() else folder
    path = folder / "manifest.json"
    if not path.is_file():
        return
    held = json.loads(path.read_bytes())
    reason = f"consent was withdrawn on {intent.at[:10]}: works, and what was made of them, were taken out (tombstone {intent.id}); run it again without them"
    outputs = {name: sha256(folder / name) for name in held.get("outputs") or {} if (folder / name).is_file()}
    report = held.get("report") if held.get("report") in outputs else None
    stands = {} if intent.kind == SWEEP else {"status": "failed", "error": {"cell": None, "source": "", "reason": reason}}
    marked = held | {"outputs": outputs, "report": report} | stands
    if marked != held:
        progress({"stage": intent.kind, "note": f"marking the run {folder.name}"})
        atomic_write(path, json.dumps(marked, indent=1, ensure_ascii=False) + "\n")


def bury(intent: Intent, key: Key, found: str) -> list[Path]:
    """Leave a signed tombstone in every root. After forgetting it holds numbers and nothing by which they could be known again."""
    facts: dict[str, Any] = {"id": intent.id, "kind": intent.kind, "at": intent.at, "removed": intent.removed, "search": found,
                             "retrain": intent.retrain, "run_again": intent.runs, "sign_again": intent.sign}
    if intent.kind == WITHDRAW:
        facts |= {"subject": intent.subject, "works": intent.works}
    else:
        facts = Scrub(frozenset(intent.tainted), tuple(intent.names)).value(facts)
    return [tombstone.write(Path(root), _relative(facts, Path(root)), key) for root in intent.roots]


def _relative(facts: dict[str, Any], root: Path) -> dict[str, Any]:
    """Paths as they read from the root."""
    return json.loads(json.dumps(facts).replace(json.dumps(f"{root}/")[1:-1], "").replace(json.dumps(str(root))[1:-1], "."))
