"""One file after the other: what has to become of it, and doing so. The list that a person reads and the deed come from the same verdict."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.consent import files, seals
from harness.consent.files import Index
from harness.consent.plan import SWEEP, WITHDRAW, Eyes, Plan
from harness.consent.scrub import Scrub
from harness.images import atomic_write, decode, sha256
from harness.progress import Progress

HALF = re.compile(r"\..*\.(\d+)\.tmp")
LARGE = 2**30
"""bytes above which a file is not read as a whole"""
KINDS = {".ipynb": "notebook", ".html": "page", ".md": "page", ".csv": "table", ".tsv": "table", ".npz": "embeddings", ".safetensors": "latents", ".zip": "archive"}


@dataclass(frozen=True)
class Verdict:
    """What has to become of a file."""

    kind: str
    """As in reach.Trace."""
    why: str
    """In a few words."""
    data: bytes | None = None
    """What it will hold; None when it goes."""
    before: str = ""
    """Its hash as it is."""

    @property
    def action(self) -> str:
        """delete or rewrite."""
        return "delete" if self.data is None else "rewrite"


class Cleaner:
    """Every file of the roots of a plan."""

    def __init__(self, plan: Plan, held: Index, look: Eyes) -> None:
        self.plan, self.held, self.look = plan, held, look
        self.tainted = frozenset(plan.tainted)
        self.near = [bytes.fromhex(mark) for mark in plan.near]
        self.whole, self.runs = frozenset(plan.whole), {Path(name) for name in plan.runs}
        about = Scrub(self.tainted, tuple(plan.names)).of_them
        told = (row["sha256"] for table in held.tables for row in table.rows if _is_told(row) and not about(row))
        self.claimed = (frozenset(told) | set(plan.kept) | set(plan.claimed)) - self.tainted
        self.scrubs: dict[Path | None, Scrub] = {}
        self.unread: dict[Path, str] = {}
        self.gone = {path for path, action, *_ in plan.steps or () if action == "delete"}
        self.changed = {path for path, action, *_ in plan.steps or () if action == "rewrite"}

    def scrub(self, run: Path | None) -> Scrub:
        """What to take out of files of a run that was reached, or (None) of any other file."""
        if run not in self.scrubs:
            doubt = self._doubt(run) if run else (lambda picture: False)
            made_of = frozenset(self.plan.kept) if self.plan.kind == WITHDRAW else frozenset()
            self.scrubs[run] = Scrub(self.tainted, tuple(self.plan.names), tuple(self.plan.others), self._near, doubt, self.claimed, self.plan.kind == SWEEP, made_of)
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
            return [mark for path in sorted(files_of_others) if (mark := described(path, self.look))]
        return lambda picture: not self._is_like(self.look.describe(picture), marks())

    def verdicts(self, spared: Iterable[str]) -> dict[Path, Verdict]:
        """What will become of every file that is not left as it is."""
        found = {path: verdict for path in self.held.files if str(path) not in set(spared) and path.name != seals.NAME and (verdict := self.verdict(path))}
        self.gone |= {str(path) for path, verdict in found.items() if verdict.data is None}
        self.changed |= {str(path) for path, verdict in found.items() if verdict.data is not None}
        found |= {path: verdict for path in self.held.files if path.name == seals.NAME and (verdict := self.verdict(path))}
        return found | {link: Verdict("link", "leads to one of them") for link in self.held.links if os.path.realpath(link) in self.gone}

    def verdict(self, path: Path) -> Verdict | None:
        """What has to become of a file; None where it is left. One that cannot be read goes by its hash, or is noted as unread."""
        try:
            return self._verdict(path)
        except FileNotFoundError:
            return None
        except files.BROKEN as error:
            try:
                if self.held.sha256(path) in self.tainted:
                    return Verdict("picture", "theirs, by its hash", before=self.held.sha256(path))
            except OSError:
                pass
            self.unread[path] = str(error) or type(error).__name__
            return None

    def _verdict(self, path: Path) -> Verdict | None:
        half = HALF.fullmatch(path.name)
        if half and not is_alive(int(half.group(1))):
            return Verdict("file", "half-written")
        kind = KINDS.get(path.suffix, "file")
        if str(path) in self.whole:
            return Verdict(kind, "made of them as a whole", before=self.held.sha256(path))
        if path.stat().st_size > LARGE:  # weights of a whole model: they go as they are, or stay
            return Verdict(kind, "theirs", before=self.held.sha256(path)) if self.held.sha256(path) in self.tainted else None
        data = path.read_bytes()
        kind, cleaned = ("seal", self._seal(path, data)) if path.name == seals.NAME else ("copy" if files.is_picture(data) else kind, self._cleaned(path, data))
        return None if cleaned == data else Verdict(kind, "theirs" if cleaned is None else "without them", cleaned, sha256(data))

    def _cleaned(self, path: Path, data: bytes) -> bytes | None:
        run = self.held.run_of(path)
        scrub = self.scrub(run if run in self.runs else None)
        sheet = run in self.runs and files.is_picture(data) and scrub.is_theirs(data, embedded=True)
        return None if sheet else scrub.clean(path.name, data)

    def _seal(self, path: Path, data: bytes) -> bytes | None:
        """A seal with the leaves alone of what goes; none where a file under it is rewritten, as then it has to be sealed again."""
        names = {os.path.relpath(name, path.parent): name in self.changed for name in self.gone | self.changed if name.startswith(f"{path.parent}{os.sep}")}
        plain = self.scrub(None).plain
        if any(seals.covers(data, name) for name, changed in names.items() if changed):
            return None
        shut = seals.without(data, lambda name, digest: name in names or digest in self.tainted)
        return None if plain(text := shut.decode()) != text else shut

    def act(self, path: Path, progress: Progress) -> bool:
        """Clean one file; was it changed?"""
        verdict = self.verdict(path)
        if verdict is None:
            return False
        if verdict.data is None:
            return self._delete(path, verdict.why, progress)
        progress({"stage": self.plan.kind, "note": f"rewriting {path}"})
        atomic_write(path, verdict.data)
        return True

    def _delete(self, path: Path, why: str, progress: Progress) -> bool:
        progress({"stage": self.plan.kind, "note": f"deleting {path} ({why})"})
        path.unlink(missing_ok=True)
        self.gone.add(str(path))
        for parent in path.parents:  # folders that this leaves empty
            if str(parent) in self.plan.roots or parent in self.runs or any(parent.iterdir()):
                break
            parent.rmdir()
        return True

    def unlink(self, progress: Progress) -> None:
        """Links to what went, or that were named as one of the works, go; what they lead to is never touched through them."""
        for link in self.held.links:
            if (str(link) in self.gone or os.path.realpath(link) in self.gone) and link.is_symlink():
                self._delete(link, "a link to one of them", progress)


def described(path: Path, look: Eyes) -> bytes:
    """The descriptor of a picture's file; b"" for one that cannot be read."""
    try:
        return look.describe(decode(path))
    except files.BROKEN:
        return b""


def _is_told(row: dict[str, str]) -> bool:
    """Does a row say whose picture it is, or what it was drawn from?"""
    return bool(row.get("sha256")) and any(row.get(column) for column in (*files.OWNER, "prompt"))


def is_alive(pid: int) -> bool:
    """Is there another process of this number?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return pid != os.getpid()
