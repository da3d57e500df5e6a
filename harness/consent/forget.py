"""Take works, or a whole person, out of everything that they reached, and go on where a crash stopped it.

First the plan is written down: what was reached, what has to go, by which marks it can be known again. Every step after
that may be done twice. The plan is destroyed when the search (harness.consent.search) has found nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.consent import files, reach, tombstone
from harness.consent.cleaner import HALF, Cleaner, described, is_alive
from harness.consent.files import Index
from harness.consent.keys import Key
from harness.consent.plan import FORGET, SWEEP, WITHDRAW, Eyes, Plan
from harness.consent.reach import Reach, Target, Trace
from harness.consent.scrub import Scrub
from harness.errors import Refused
from harness.images import atomic_write, sha256
from harness.progress import Progress, silent

FRAGMENT = 48
"""bytes by which a tensor is known"""


def eyes() -> Eyes:
    """The shipped perceptual descriptors."""
    from harness import perceptual

    return Eyes(perceptual.descriptor, perceptual.is_near)


def intend(target: Target, roots: Iterable[Path], kind: str, look: Eyes | None = None, spared: Iterable[Path] = ()) -> Plan:
    """Find out everything that has to go, before anything does. Raises HarnessError for missing folders."""
    return prepare(target, roots, kind, look, spared)[0]


def prepare(target: Target, roots: Iterable[Path], kind: str, look: Eyes | None = None, spared: Iterable[Path] = ()) -> tuple[Plan, Reach]:
    """The plan, and the list of what it does: every file that will be deleted or rewritten, as the cleaner itself says, and why."""
    roots = [Path(os.path.realpath(root)) for root in roots]
    look, held = look or eyes(), files.index(roots)
    found = reach.find(target, roots, held, follow=kind != SWEEP, spread=kind == WITHDRAW, thorough=True)
    _refuse_at_work(held, found)
    plan = _plan(target, roots, kind, look, held, found)
    cleaner = Cleaner(plan, held, look)
    verdicts = cleaner.verdicts(map(os.path.realpath, spared))
    traces = {trace.path: trace for trace in found.traces}
    steps = [[str(path), v.action, traces[path].kind if path in traces else v.kind, v.before] for path, v in verdicts.items()]
    steps += [[str(trace.path), "delete", "link", ""] for trace in found.traces if trace.kind == "link" and trace.path not in verdicts]
    listed = sorted([*_listed(traces, verdicts), *_unlisted(traces, verdicts)], key=lambda trace: trace.path)
    unread = tuple(dict.fromkeys((*found.unread, *(f"{path} ({why})" for path, why in cleaner.unread.items() if path not in held.unread))))
    plan = replace(plan, steps=steps, sign=[str(trace.path) for trace in listed if trace.after == "sign again"])
    return plan, replace(found, traces=tuple(listed), unread=unread)


def _plan(target: Target, roots: list[Path], kind: str, look: Eyes, held: Index, found: Reach) -> Plan:
    own = {described(trace.path, look) for trace in found.traces if trace.kind in ("picture", "drawn")}
    near = ({*filter(look.reads, target.near)} - {described(trace.path, look) for trace in found.traces if trace.kind == "original"} | own) - {b""}
    gone = {trace.path: trace for trace in found.traces if trace.action == "delete"}
    unnamed = [path for path, trace in gone.items() if trace.kind in ("latents", "checkpoint", "adapter", "seal")]
    also = [path for path in found.undecided if path.name != "checkpoint.safetensors"] if kind == FORGET else []
    pieces = {piece.hex() for path in (*unnamed, *held.vectors) if path not in held.unread for piece in _fragments(path, found.tainted)}
    return Plan(
        secrets.token_hex(8), kind, datetime.now(UTC).isoformat(timespec="seconds"), [str(root) for root in roots], target.subject,
        list(dict.fromkeys(name for name in (target.subject, *target.words) if name)) if kind == FORGET else [],
        sorted(found.target.works - set(found.kept)), sorted(found.tainted), sorted(mark.hex() for mark in near), sorted(pieces | {mark.hex() for mark in target.near}),
        [str(path) for path in (*unnamed, *also)], sorted({str(run) for t in found.traces if (run := held.run_of(t.path))}),
        list(found.retrain), [], {}, list(found.target.others), found.kept, sorted({work for work, _ in target.claims} - found.tainted), shown=sorted(found.shown))


def _listed(traces: dict[Path, Trace], verdicts: dict[Path, Any]) -> Iterable[Trace]:
    """What was found by what files say, with what the cleaner will do to it."""
    for path, trace in traces.items():
        if path in verdicts:
            yield replace(trace, action=verdicts[path].action)
        elif trace.kind in ("original", "link", "run"):
            yield trace
        elif trace.after or trace.kind == "notebook":
            yield replace(trace, action="keep")


def _unlisted(traces: dict[Path, Trace], verdicts: dict[Path, Any]) -> Iterable[Trace]:
    """What only the cleaner sees: copies that no table names, pages and archives with them inside, seals."""
    for path, verdict in verdicts.items():
        if path not in traces:
            again = "sign again" if verdict.kind == "seal" and verdict.data is None else ""
            yield Trace(path, verdict.kind, verdict.action, again, {"copy": "looks like one of them", "link": "leads to one of them", "seal": "holds their hashes"}.get(
                verdict.kind, "shows or names them"))


def _refuse_at_work(held: Index, found: Reach) -> None:
    """A run that is at work would write again what is taken out."""
    for folder in {run for trace in found.traces if (run := held.run_of(trace.path))}:
        process = held.runs[folder].get("process")
        number = process.get("pid") if isinstance(process, dict) and process.get("host") == socket.gethostname() else None
        if held.runs[folder]["status"] == "running" and isinstance(number, int) and number > 0 and is_alive(number):
            raise Refused(f"{folder}: this run is at work with them in process {number}; end it, or wait for it, then run the same command again.")


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


def apply(plan: Plan, look: Eyes | None = None, spared: Iterable[Path] = (), progress: Progress = silent) -> list[str]:
    """Do, or go on doing, what was planned; returns what could not be read. `spared`: files that are seen to elsewhere (the ledger).

    Only files that the plan lists are touched; of somebody who is to be forgotten everything is. A root that is not there is said and skipped.
    """
    roots, missing = [root for root in plan.roots if Path(root).is_dir()], [root for root in plan.roots if not Path(root).is_dir()]
    for root in missing:
        progress({"stage": plan.kind, "note": f"{root} is not there and was not looked into"})
    held = files.index(map(Path, roots))
    cleaner, spared = Cleaner(plan, held, look or eyes()), {os.path.realpath(path) for path in spared}
    listed = {path for path, *_ in plan.steps} if plan.steps is not None and plan.kind != FORGET else None
    for path in sorted(held.files, key=lambda path: path.name == "seal.json"):  # a seal is closed over what went before
        if str(path) not in spared and (listed is None or str(path) in listed or HALF.fullmatch(path.name)):
            cleaner.act(path, progress)
    cleaner.unlink(progress)
    _rename(plan, cleaner, progress)
    for name in plan.runs:
        _mark(Path(name), plan, cleaner.scrub(None), progress)
    unread = held.unread | cleaner.unread
    return [*(f"{path} ({why})" for path, why in unread.items() if path.exists()), *(f"{root} (the folder is not there)" for root in missing)]


def _rename(plan: Plan, cleaner: Cleaner, progress: Progress) -> None:
    """Files and folders whose names hold a name get another; tables name them by the same other name already.

    What cannot be read keeps its name, and so do the folders above: the search names it then, and somebody can look.
    """
    plain = Scrub(frozenset(), tuple(plan.names), tuple(plan.others)).plain
    for root in plan.roots if plan.names else ():
        for where, folders, names in os.walk(root, topdown=False):
            for name in (*names, *folders):
                path, free = Path(where) / name, plain(name)
                if path.is_symlink() and plain(to := os.readlink(path)) != to:
                    path.unlink()
                elif free != name and not _is_opaque(path, cleaner.unread):
                    progress({"stage": plan.kind, "note": f"renaming a file in {Path(where).name}"})
                    path.rename(_free(path.with_name(free)))


def _is_opaque(path: Path, unread: Collection[Path]) -> bool:
    """Is, or holds, this a file of which nobody here can say whom it shows?"""
    if path.is_dir() and not path.is_symlink():
        return any(_is_opaque(each, unread) for each in path.iterdir())
    if path.is_symlink() or not path.is_file():
        return False
    head = path.open("rb").read(8192)
    known = files.is_picture(head) or path.suffix in (".safetensors", ".npz", ".zip") or head[:2] == b"PK"
    return path in unread or files.shows(head) and not files.is_picture(head) or not known and b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))


def _free(path: Path) -> Path:
    """A name that nothing has yet."""
    n = 2
    while path.exists():
        path, n = path.with_name(f"{path.stem.rpartition('~')[0] or path.stem}~{n}{path.suffix}"), n + 1
    return path


def _mark(folder: Path, plan: Plan, scrub: Scrub, progress: Progress) -> None:
    """Say in a run's manifest what its outputs are now and, unless only photos went, that it failed, why and what to do."""
    folder = Path(*(scrub.text(part) for part in folder.parts)) if not folder.is_dir() else folder
    path = folder / "manifest.json"
    try:
        held = json.loads(path.read_bytes())
        outputs = {name: sha256(folder / name) for name in held.get("outputs") or {} if (folder / name).is_file()}
    except files.BROKEN:
        return
    reason = f"consent was withdrawn on {plan.at[:10]}: works, and what was made of them, were taken out (tombstone {plan.id}); run it again without them"
    report = held.get("report") if held.get("report") in outputs else None
    stands = {} if plan.kind == SWEEP else {"status": "failed", "error": {"cell": None, "source": "", "reason": reason}}
    marked = held | {"outputs": outputs, "report": report} | stands
    if marked != held:
        progress({"stage": plan.kind, "note": f"marking the run {folder.name}"})
        atomic_write(path, json.dumps(marked, indent=1, ensure_ascii=False) + "\n")


def done(plan: Plan) -> tuple[dict[str, int], dict[str, int]]:
    """How many files of each kind are gone, and how many were rewritten, of those that the plan lists."""
    gone, rewritten = Counter(), Counter()
    for name, action, kind, before in plan.steps or ():
        there = os.path.lexists(name)
        if action == "delete" and not there:
            gone[kind] += 1
        elif action == "rewrite" and not (there and sha256(Path(name)) == before):
            rewritten[kind] += 1
    return dict(sorted(gone.items())), dict(sorted(rewritten.items()))


def rebury(plan: Plan, key: Key, progress: Progress = silent) -> None:
    """Take somebody who is forgotten out of the tombstones of earlier withdrawals, and sign those anew."""
    scrub = Scrub(frozenset(plan.tainted) | set(plan.kept), tuple(plan.names), tuple(plan.others))
    for path in tombstone.all_below(root for root in plan.roots if Path(root).is_dir()):
        if tombstone.rewrite(path, scrub.value, key):
            progress({"stage": plan.kind, "note": f"rewriting {path}"})


def bury(plan: Plan, key: Key, found: str) -> list[Path]:
    """Leave a signed tombstone in every root. After forgetting it holds numbers and nothing by which they could be known again."""
    gone, rewritten = done(plan)
    facts: dict[str, Any] = {"id": plan.id, "kind": plan.kind, "at": plan.at, "removed": gone, "rewritten": rewritten, "search": found,
                             "retrain": plan.retrain, "run_again": plan.runs, "sign_again": plan.sign}
    if plan.kind == WITHDRAW:
        facts |= {"subject": plan.subject, "works": plan.works}
    else:
        facts = Scrub(frozenset(plan.tainted), tuple(plan.names), tuple(plan.others)).value(facts)
    return [tombstone.write(Path(root), _relative(facts, Path(root)), key) for root in plan.roots if Path(root).is_dir()]


def _relative(facts: dict[str, Any], root: Path) -> dict[str, Any]:
    """Paths as they read from the root."""
    return json.loads(json.dumps(facts).replace(json.dumps(f"{root}/")[1:-1], "").replace(json.dumps(str(root))[1:-1], "."))
