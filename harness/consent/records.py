"""The actions of `harness consent` on what is recorded: show, ask, record, import, export, rescue, verify."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from harness import params
from harness.consent import exchange, gate, tombstone
from harness.consent.ledger import ALL_WORKS, HASH, USES, Record
from harness.consent.names import fold
from harness.consent.requests import opened, places
from harness.errors import HarnessError
from harness.images import SUFFIXES, ImageSet, open_set, sha256

MOST = 20
"""names of files that are listed, of all that there are"""


def show_(args: argparse.Namespace) -> int:
    """One line a record or withdrawal, with the number of its entry."""
    if not args.ledger.exists() and not args.subject and Path("consent.db").is_file():
        args.ledger, args.subject = Path("consent.db"), str(args.ledger)  # `show mira`
    book = gate.book_of(args.ledger)
    places = book.numbers or range(2, 2 + len(book.records))
    listed = [(number, record) for number, record in zip(places, book.records, strict=True) if fold(args.subject) in ("", fold(record.subject))]
    if args.subject and not listed:
        print(f"{args.ledger}: nothing is recorded of {args.subject}; the subjects are {', '.join(sorted({r.subject for r in book.records})) or 'none'}")
        return 1
    word = "entry" if book.numbers else "line"
    lines = [_line(word, number, [record for _, record in same]) for number, same in groupby(listed, key=lambda each: each[0])]
    print(f"{args.ledger}: {counted(len(lines), 'record')}")
    print(*lines, sep="\n") if lines else None
    return 0


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _line(word: str, number: int, records: Sequence[Record]) -> str:
    """What one entry says; a withdrawal concerns several uses at once."""
    first, uses = records[0], [record.use for record in records]
    days = f"from {first.granted}" + (f" until {first.expires}" if first.expires else "")
    gone = f", withdrawn {first.withdrawn}" if first.withdrawn else ""
    note = f" ({first.note})" if first.note else ""
    return f"  {word} {number}: {first.subject}, {first.works}: {'every use' if set(uses) == set(USES) else ', '.join(uses)} {first.decision} {days}{gone}; {first.basis}{note}"


def ask_(args: argparse.Namespace) -> int:
    """The gate's answer in words; what is left in the files themselves is heard, and files that nobody was asked about are named (then it ends with 1)."""
    from harness.consent import signals

    images, book = open_set(args.images), gate.book_of(args.ledger)
    beside = _beside(images)
    _name("not in its table, so nobody was asked about", beside)
    _name("without any record", exchange.gaps(book.records, images).without_record)
    decision = gate.ask(images, args.ledger, args.use, args.purpose, signals=signals.scan(images))
    print(f"{decision.images - decision.blocked} of {counted(decision.images, 'picture')} {'is' if decision.images == 1 else 'are'} allowed for {decision.use} on {decision.at}")
    for reason in decision.reasons:
        print(f"  blocked: {reason}")
    if decision.purpose == "audit":
        print("  purpose audit: what is made from them is marked and must not be exported")
    return 1 if beside else 0


def _beside(images: ImageSet) -> list[str]:
    """Pictures in the folder that its table does not list."""
    listed, folder = set(images.table["file"]), Path(images.folder)
    return sorted(name for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and (name := path.relative_to(folder).as_posix()) not in listed)


def _name(what: str, files: Sequence[str]) -> None:
    if files:
        print(f"{counted(len(files), 'picture')} of the folder {'is' if len(files) == 1 else 'are'} {what}: {', '.join(files[:MOST])}{', …' if len(files) > MOST else ''}")


def record_(args: argparse.Namespace) -> int:
    """Enter one decision; where a work is named by its file, its hash is taken."""
    if args.sha256 != ALL_WORKS and not HASH.fullmatch(args.sha256):
        args.sha256 = sha256(_file(args.sha256, "--sha256"))
    shown = getattr(args, "evidence", "")
    if shown and not HASH.fullmatch(shown):
        args.evidence = exchange.evidence(_file(shown, "--evidence"))
    record = params.from_args(Record, args)
    with opened(args, create=True) as store:
        (entry,) = store.add([record], replaces=args.replaces)
    print(f"{args.ledger}: entry {entry}, {record.subject}, {record.works}: {record.use} {record.decision}")
    return 0


def _file(name: str, option: str) -> Path:
    if not Path(name).is_file():
        raise HarnessError(f"{option} {name}: there is no such file; give a file, or the SHA-256 of one{', or * for all works' if option == '--sha256' else ''}.")
    return Path(name)


def import_(args: argparse.Namespace) -> int:
    """Enter what a file holds and the ledger does not; a ledger is begun only for a file that holds something."""
    found = exchange.read(args.file)
    if not found and not args.ledger.exists():
        raise HarnessError(f"{args.file}: there is no record in it; no ledger was begun.")
    with opened(args, create=True) as store:
        done = exchange.import_into(store, args.file, args.by)
    print(f"{args.ledger}: {counted(done.added, 'record')} entered, {done.known} were there already")
    return 0


def export_(args: argparse.Namespace) -> int:
    """The whole ledger as a file, or everything about one subject as a folder."""
    from harness.consent import rights

    if not args.subject:
        book = gate.book_of(args.ledger)
        print(f"{exchange.write(book.records, args.out)}: {counted(len(book.records), 'record')}")
        return 0
    with opened(args) as store:
        print(rights.export(store, args.subject, places(args), args.out))
    return 0


def rescue_(args: argparse.Namespace) -> int:
    """What is still readable of a damaged ledger, as JSON that `import` reads."""
    saved = exchange.rescue(args.ledger, args.out)
    print(f"{saved.path}: {counted(saved.records, 'record')} saved, {saved.lost} entries lost")
    return 0


def verify_(args: argparse.Namespace) -> int:
    """A ledger's chain, or tombstones."""
    if not args.path.is_dir() and gate.is_store(args.path):
        return _verify_ledger(args)
    stones = tombstone.all_below([args.path]) if args.path.is_dir() else [args.path]
    if not stones:
        raise HarnessError(f"{args.path}: there is no tombstone below this folder; nothing was checked.")
    _check(stones, args.key)
    print(counted(len(stones), "tombstone"))
    return 0


def _check(stones: Iterable[Path], key: str) -> None:
    for path in stones:
        held = tombstone.read(path)
        if key and held["signer"] != key:
            raise HarnessError(f"{path}: signed by {held['signer']}, not by {key}.")
        print(f"{path}: {held['kind']} of {held['at'][:10]}, unchanged, " + (f"signed by {held['signer']}" if key else f"signer unknown ({held['signer']})"))


def _verify_ledger(args: argparse.Namespace) -> int:
    from harness.consent.store import open_store

    with open_store(args.path) as store:
        checked = store.verify_chain(args.key, args.known)
    if not checked.ok:
        raise HarnessError(f"{args.path}: {checked}.")
    print(f"{args.path}: {checked}")
    return 0
