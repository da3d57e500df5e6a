"""How far did a work reach? Every cache, adapter, checkpoint, picture, table, run and report that came from it.

The answer comes from what the files themselves say: tables of pictures with their hashes, the training manifest inside an
adapter, the hashes in caches. It is followed to its end: work → adapter → pictures drawn with it → adapters trained on those.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.consent import files, whose
from harness.consent.files import PARENTS, Index, Table

PAGES = {".html", ".ipynb", ".md"}
REPORT, SEAL = "report.json", "seal.json"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MADE = ("adapter", "checkpoint", "drawn")
"""kinds that were made from works and do not show them"""


@dataclass(frozen=True)
class Target:
    """Whose traces are looked for."""

    works: frozenset[str]
    """Works by the hash of their files."""
    subject: str = ""
    """The artist or person, as tables and ledger call them; empty for single works."""
    words: tuple[str, ...] = ()
    """Names that must not be left anywhere (forgetting); empty where names may stay (withdrawing)."""
    near: tuple[bytes, ...] = ()
    """Perceptual descriptors of the works (harness.perceptual)."""
    holder: str = ""
    """Who speaks, where single works are meant."""
    others: tuple[str, ...] = ()
    """Names of everybody else that is known: one in which the subject's stands is not the subject."""
    claims: tuple[tuple[str, str], ...] = ()
    """Works of which the ledger says that they are another's: hash and whose."""
    shown: frozenset[str] = frozenset()
    """Works of which the ledger says that they show the subject."""

    @property
    def own(self) -> list[str]:
        """Every name of whoever speaks."""
        return [name for name in dict.fromkeys((self.subject, *self.words, self.holder)) if name]


@dataclass(frozen=True)
class Trace:
    """One file that the works reached."""

    path: Path
    """Where it lies."""
    kind: str
    """picture, original, link, drawn, latents, embeddings, adapter, checkpoint, table, notebook, report, seal, run; copy, page, archive, file."""
    action: str
    """delete, rewrite without them, or keep (another's original, which may no longer be used)."""
    after: str
    """What a person or the next run has to do then: retrain, run again, sign again; or nothing."""
    why: str
    """How the works came here."""


@dataclass(frozen=True)
class Reach:
    """Everything that some works reached."""

    target: Target
    """What was asked, with every work that the tables say is the subject's."""
    tainted: frozenset[str]
    """Hashes of the works and of all that was made from them, others' originals excepted."""
    traces: tuple[Trace, ...]
    """The files, by path."""
    retrain: tuple[dict, ...]
    """Adapters to be made again without the works: path, base model, settings, the works that are left."""
    undecided: tuple[Path, ...]
    """Caches that do not say of which picture they are, and lie where they may be of these."""
    kept: dict[str, str] = field(default_factory=dict)
    """Others' originals among the works, by hash, and whose they are."""
    shown: frozenset[str] = frozenset()
    """Those of them that show the subject."""
    unread: tuple[str, ...] = ()
    """What could not be read, and why."""

    def counts(self) -> dict[str, int]:
        """Files by kind."""
        return dict(sorted(Counter(trace.kind for trace in self.traces).items()))


def find(target: Target, roots: Iterable[Path], held: Index | None = None, follow: bool = True, spread: bool = True, thorough: bool = False) -> Reach:
    """Follow the works through the folders `roots` (or through an index of them). Raises HarnessError for a missing folder.

    Without `follow` only what shows the works themselves is found: pictures, latents, vectors, pages, and not what was made from
    them; without `spread` not what was made from others' originals among them. `thorough` also hashes pictures that no table lists.
    """
    held = held or files.index(roots)
    target, named = whose.complete(target, held)
    kept = whose.of_others(target, held)
    shown = whose.shown(target, held, kept)
    start = target.works if spread else target.works - set(kept)
    reached = _closure(start, held) if follow else set(start)
    tainted = frozenset(reached - set(kept))
    adapters = [path for path, said in held.headers.items() if files.ADAPTER in said and _mentions(said, reached)]
    found = [*_files(held, target, tainted, reached, adapters), *_originals(held, kept, shown), *_loose(held, tainted, kept, shown, named, thorough)]
    traces = {trace.path: trace for trace in reversed(found) if follow or trace.kind not in MADE}
    traces |= {trace.path: trace for trace in _links(held, traces)}
    touched = {run for trace in traces.values() if (run := held.run_of(trace.path))}
    trained = {path.parent for path in adapters} | {trace.path.parent.parent for trace in traces.values() if trace.kind == "latents"}
    caches, undecided = _unnamed(held, trained, touched)
    traces |= {trace.path: trace for trace in caches} | {trace.path: trace for trace in _runs(held, touched) if trace.path not in traces}
    listed = tuple(traces[path] for path in sorted(traces) if follow or traces[path].kind not in MADE)
    again = tuple(_again(path, held.headers[path], reached) for path in sorted(adapters) if follow)
    unread = (*(f"{path} ({why})" for path, why in held.unread.items()), *whose.unclear(target, held, tainted))
    return Reach(target, tainted, listed, again, tuple(undecided), kept, shown, unread)


def _closure(works: Collection[str], held: Index) -> set[str]:
    """Hashes of the works, of adapters trained on them, of pictures made with those, and so on to the end."""
    tainted, size = set(works), -1
    while len(tainted) > size:
        size = len(tainted)
        tainted |= {held.sha256(path) for path, said in held.headers.items() if _mentions(said, tainted)}
        for table in held.tables:
            if table.hashes & tainted:
                tainted |= {row["sha256"] for row in table.rows if files.is_hash(row.get("sha256")) and any(row.get(c) in tainted for c in PARENTS)}
    return tainted


def _mentions(said: dict[str, str], tainted: Collection[str]) -> bool:
    """Does a tensor file's metadata name one of the hashes?"""
    return any(found in tainted for value in said.values() for found in files.hashes(value))


def _files(held: Index, target: Target, tainted: Collection[str], reached: Collection[str], adapters: list[Path]) -> Iterator[Trace]:
    """Pictures, tables, caches and adapters."""
    for table in held.tables:
        if table.hashes & tainted:
            yield Trace(table.path, "table", "rewrite", "", f"lists {len(table.hashes & tainted)} of them")
            yield from _pictures(table, target, tainted)
    for path, names in held.vectors.items():
        n = sum(name in reached for name in names)
        if n:
            yield Trace(path, "embeddings", "rewrite" if n < len(names) else "delete", "", f"{n} of {len(names)} vectors")
    for path, said in held.headers.items():
        if path in adapters:
            yield from _adapter(path, held)
        elif _mentions(said, reached):
            yield Trace(path, "latents", "delete", "", "the latents of one of them")


def _pictures(table: Table, target: Target, tainted: Collection[str]) -> Iterator[Trace]:
    for row in table.rows:
        path = table.file(row) if row.get("sha256") in tainted else None
        if path and os.path.realpath(path.parent) == str(path.parent) and path.is_symlink():
            yield Trace(path, "link", "delete", "", f"named as one of them; what it leads to is not touched ({os.path.realpath(path)})")
        elif path and os.path.realpath(path) == str(path) and path.is_file():
            own = row["sha256"] in target.works
            yield Trace(path, "picture" if own else "drawn", "delete", "", "one of the works" if own else "drawn with or from what was made of them")


def _originals(held: Index, kept: dict[str, str], shown: Collection[str]) -> Iterator[Trace]:
    """Others' originals."""
    for table in held.tables if kept else ():
        for row in table.rows if table.hashes & set(kept) else ():
            path = table.file(row) if row.get("sha256") in kept else None
            if path and path.is_file() and not path.is_symlink():
                yield _original(path, kept[row["sha256"]], row["sha256"] in shown)


def _original(path: Path, name: str, shows: bool) -> Trace:
    return Trace(path, "original", "keep", "", f"{name}'s, so it stays; it may no longer be used" + (", and it shows them" if shows else ""))


def _loose(held: Index, tainted: Collection[str], kept: dict[str, str], shown: Collection[str], named: Collection[Path], thorough: bool) -> Iterator[Trace]:
    """Pictures of which no table speaks: those that their names or folders give to the subject, and with `thorough` those with the works' hashes."""
    for path in held.files if thorough else named:
        if path in named or path.suffix.lower() in PICTURES:
            digest = held.sha256(path)
            if digest in tainted:
                yield Trace(path, "picture", "delete", "", "its name or folder says whose it is" if path in named else "one of the works")
            elif digest in kept:
                yield _original(path, kept[digest], digest in shown)


def _links(held: Index, traces: dict[Path, Trace]) -> Iterator[Trace]:
    """Links to what goes."""
    for link in held.links:
        to = traces.get(Path(os.path.realpath(link)))
        if to and to.action == "delete" and link not in traces:
            yield Trace(link, "link", "delete", "", f"leads to {to.path}")


def _adapter(path: Path, held: Index) -> Iterator[Trace]:
    """The adapter, and what its training left beside it."""
    yield Trace(path, "adapter", "delete", "retrain", "trained on them")
    for name in ("checkpoint.safetensors", "manifest.json", "times.json", "losses.csv"):
        if (path.parent / name).is_file() and path.parent not in held.runs:
            yield Trace(path.parent / name, "checkpoint" if name.startswith("check") else "adapter", "delete", "", "of the same training")


def _unnamed(held: Index, trained: Collection[Path], touched: Collection[Path]) -> tuple[list[Trace], list[Path]]:
    """Caches and checkpoints that name no picture: those of a reached training or run go, of others stay, the rest is undecided."""
    others = {path.parent for path, said in held.headers.items() if files.ADAPTER in said} - set(trained)
    gone, undecided = [], []
    for path, said in held.headers.items():
        kind, home = _kind(path, said)
        if kind and home not in others:
            theirs = home in trained or held.run_of(path) in touched
            (gone if theirs else undecided).append(path)
    why = "of a training that they went into; names no picture, so it goes whole"
    return [Trace(path, _kind(path, held.headers[path])[0], "delete", "", why) for path in gone], undecided


def _kind(path: Path, said: dict[str, str]) -> tuple[str, Path]:
    """latents or checkpoint, and the folder of the training; ("", …) for what names its pictures, or is something else."""
    if path.name == "checkpoint.safetensors":
        return "checkpoint", path.parent
    unnamed = files.ADAPTER not in said and not any(files.hashes(value) for value in said.values()) and re.fullmatch(r"[0-9a-f]{64}", path.stem)
    return ("latents" if unnamed and set(files.tensor_header(path)) - {"__metadata__"} == {"mean", "std"} else ""), path.parent.parent


def _runs(held: Index, touched: Collection[Path]) -> Iterator[Trace]:
    """Manifests, notebooks and reports of the runs that were reached."""
    for folder in touched:
        yield Trace(folder / "manifest.json", "run", "rewrite", "run again", "a run that they, or what was made of them, went into")
    for path in held.files:
        if held.run_of(path) in touched:
            if path.suffix == ".ipynb":
                yield Trace(path, "notebook", "rewrite", "", "saved by that run; shows pictures")
            elif path.name == SEAL:
                yield Trace(path, "seal", "delete", "sign again", "the signature of a report that changes")
            elif path.suffix in PAGES or path.name == REPORT:
                yield Trace(path, "report", "rewrite", "sign again", "written by that run; shows pictures and rests on them")


def _again(path: Path, said: dict[str, str], tainted: Collection[str]) -> dict:
    """What is needed to train an adapter again without the works."""
    try:
        manifest = json.loads(said[files.ADAPTER])
    except ValueError:
        manifest = {}
    listed = [image["sha256"] for image in manifest.get("images", []) if image.get("sha256")]
    return {"adapter": str(path), "recipe": manifest.get("recipe", ""), "base_model_sha256": manifest.get("base_model_sha256", ""),
            "settings": manifest.get("settings", {}), "works_left": [work for work in listed if work not in tainted],
            "works_taken_out": sum(work in tainted for work in listed)}
