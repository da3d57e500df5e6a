"""Whose a picture is: what tables, the ledger and, where those are silent, the names of files and folders say."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.consent import files
from harness.consent.files import Index, Table
from harness.consent.names import Names, fold, is_format

if TYPE_CHECKING:
    from harness.consent.reach import Target


def complete(target: Target, held: Index) -> tuple[Target, set[Path]]:
    """The target with every work that tables or names of files give to the subject, and with everybody else's name; and those files."""
    names = [name for name in dict.fromkeys((target.subject, *target.words)) if name]
    if not names:
        return target, set()
    probe = Names(names)
    likely = [table for table in held.tables if probe.probe(table.data)]
    own = {fold(name) for name in names}
    owners = {name for table in likely for row in table.rows for name in files.named(row)}
    others = {*target.others, *(name for name in owners if fold(name).split("/")[0] not in own)}
    target = replace(target, others=tuple(sorted(others)))
    owned = {row["sha256"] for table in likely for row in table.rows if files.is_hash(row.get("sha256")) and files.owned(row, names)}
    named = _named(Names([name for name in names if not is_format(name)], others), held)
    return replace(target, works=target.works | owned | {held.sha256(path) for path in named}), named


def _named(names: Names, held: Index) -> set[Path]:
    """Pictures that a name of theirs, or of a folder on the way from the root, gives to the subject, and no table to anybody or anything else."""
    @cache
    def is_in(folder: str) -> bool:
        return names.search(os.path.basename(folder)) or (folder not in held.roots and folder != "/" and is_in(os.path.dirname(folder)))

    split = ((path, *str(path).rpartition(os.sep)[::2]) for path in held.files)
    found = {path for path, folder, name in split if (is_in(folder) or names.probe(os.fsencode(name)) and names.search(name)) and _shows(path)}
    return {path for path in found if not _is_told(path, held.tables_of)}


def _shows(path: Path) -> bool:
    with open(path, "rb") as file:
        return files.shows(file.read(16))


def _is_told(path: Path, tables: dict[Path, list[Table]]) -> bool:
    """Does a table say whose the picture is, or that it was drawn?"""
    rows = (row for folder in path.parents for table in tables.get(folder, ()) if (row := table.by_file.get(str(path))))
    return any(row.get(column) for row in rows for column in (*files.OWNER, *files.PARENTS, "prompt"))


def of_others(target: Target, held: Index) -> dict[str, str]:
    """Which of the works are another's, and whose: whoever made them; where nobody says who did, whoever is shown; else who holds the rights.

    What tables say goes before what the ledger says. Nothing where nobody speaks (single works, photos whose time is over).
    """
    said: dict[str, tuple[list[str], ...]] = {}
    for table in held.tables if target.own else ():
        for row in table.rows if table.hashes & target.works else ():
            if row.get("sha256") in target.works:
                tiers = said.setdefault(row["sha256"], ([], [], []))
                for tier, columns in zip(tiers, (files.MAKERS, files.SHOWN, files.HOLDERS), strict=True):
                    tier += files.named(row, columns)
    found = {work: name for work, name in target.claims if work in target.works and not any(said.get(work, ()))} if target.own else {}
    for work, tiers in said.items():
        names = next((tier for tier in tiers if tier), [])
        if names and not files.owned({"subject": ";".join(names)}, target.own):
            found[work] = names[0]
    return found


def shown(target: Target, held: Index, works: Collection[str]) -> frozenset[str]:
    """Which of some works show the subject."""
    rows = (row for table in held.tables if table.hashes & set(works) for row in table.rows if row.get("sha256") in works)
    return frozenset(row["sha256"] for row in rows if files.owned(row, target.own, files.SHOWN)) | target.shown & frozenset(works)


def unclear(target: Target, held: Index, tainted: Collection[str]) -> Iterator[str]:
    """Tables that speak of the subject, and of files in a way that is not understood: nobody may go by them, or pass them over."""
    names = Names(target.own, target.others)
    for table in held.tables:
        if (target.own and names.probe(table.data) or table.hashes & set(tainted)) and not table.is_plain() and _speaks(table, names, tainted):
            yield f"{table.path} (a table that names them, and no column sha256 or file)"


def _speaks(table: Table, names: Names, tainted: Collection[str]) -> bool:
    return bool(table.hashes & set(tainted)) or names.search(table.text)


def claims(records: Iterable[tuple[str, str, str, tuple[str, ...]]], own: Collection[str]) -> dict[str, str]:
    """Works that the ledger gives to others, by hash. `records` are (work, subject or creator, rights holder, depicted).

    Whoever another's record on the same work names as holding the rights, or as shown, did not make it.
    """
    makers: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    for work, maker, holder, shown in records:
        makers.setdefault(work, set()).add(maker)
        named.setdefault(work, set()).update(fold(name) for name in (holder, *shown) if name)
    mine, found = {fold(name) for name in own}, {}
    for work, names in makers.items():
        likely = {fold(name): name for name in sorted(names) if fold(name) not in named[work]}
        if likely and not mine & set(likely):
            found[work] = next(iter(likely.values()))
    return found
