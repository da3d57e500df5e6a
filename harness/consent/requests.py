"""The actions of `harness consent` that answer a request: reach, withdraw, forget, search, and keep and sweep for photos that go by themselves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.consent.cli import PLACES
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.consent.reach import Reach
    from harness.consent.search import Answer
    from harness.consent.store import Store


def opened(args: argparse.Namespace, create: bool = False) -> Store:
    """The ledger that the options name."""
    from harness.consent.store import open_store

    if not create and not args.ledger.exists():
        raise HarnessError(f"{args.ledger}: there is no ledger here; run this in its folder, or name it with --ledger.")
    return open_store(args.ledger, create=create)


def places(args: argparse.Namespace) -> list[Path]:
    """The folders to look into. Raises HarnessError where none was named and the usual ones are not there."""
    found = args.roots or [Path(name) for name in PLACES if Path(name).is_dir()]
    if not found:
        raise HarnessError(f"there is none of the folders {', '.join(PLACES)} here; name those to look into with --in.")
    return found


def reach_(args: argparse.Namespace) -> int:
    """The list alone."""
    from harness.consent import gate, reach, rights

    store = opened(args) if args.ledger.is_file() and gate.is_store(args.ledger) else None
    _print_reach(reach.find(rights.target(store, args.who), places(args)))
    print("pages, archives, and copies of which no table speaks, are listed by `withdraw`, which looks at every picture")
    return 0


def withdraw_(args: argparse.Namespace) -> int:
    """Enter the withdrawal, and list or take out. No missing folder stands in its way."""
    from harness.consent import rights
    from harness.consent.ledger import USES
    from harness.progress import printer

    roots = args.roots or [Path(name) for name in PLACES if Path(name).is_dir()]
    uses = tuple(dict.fromkeys(args.uses)) or USES
    with opened(args) as store:
        found = rights.withdraw(store, args.who, roots, args.apply, args.by, args.why, args.leave_hashes, progress=printer(), subject=args.subject, uses=uses)
    _print_reach(found)
    if not roots:
        print(f"no folder was looked into: there is none of {', '.join(PLACES)} here; run it again with --in FOLDER")
    elif set(uses) != set(USES):
        print(f"withdrawn from {', '.join(uses)} only; no file was changed, as other uses may be allowed still")
    else:
        print("taken out, with signed tombstones" if args.apply else "no file was changed (--apply does what is listed)")
    return 1 if found.unread and args.apply else 0


def _print_reach(found: Reach) -> None:
    for trace in found.traces:
        print(f"  {trace.action:<7} {trace.path} ({trace.kind}: {trace.why}){', then ' + trace.after if trace.after else ''}")
    for again in found.retrain:
        print(f"  retrain {again['adapter']} with the {len(again['works_left'])} works that are left, without {again['works_taken_out']}")
    for path in found.undecided:
        print(f"  look    {path} (does not say of which pictures it is)")
    for name in found.unread:
        print(f"  look    {name}")
    print(f"{len(found.traces)} {'file was' if len(found.traces) == 1 else 'files were'} reached"
          + (f": {', '.join(f'{n} {kind}' for kind, n in found.counts().items())}" if found.traces else ""))


def forget_(args: argparse.Namespace) -> int:
    """Forget, and say what the search found; 1 where it could not look, or where pictures of others stay."""
    from harness.consent import rights
    from harness.progress import printer

    with opened(args) as store:
        answer = rights.forget(store, args.subject, places(args), args.word, progress=printer())
    for name in answer.unread:
        print(f"  not looked into: {name}")
    for name in answer.kept:
        print(f"  stays: {name}")
    if answer.unread:
        print(f"taken out of everything that can be read; searched by hash, look, name and bytes: {answer.sentence()}; look there yourself")
        return 1
    print(f"forgotten; searched by hash, look, name and bytes: {answer.sentence()}")
    return 1 if any("that shows them" in each for each in answer.kept) else 0


def search_(args: argparse.Namespace) -> int:
    """0 when everything was read and nothing was found, 1 otherwise."""
    from harness.consent import rights

    if not (args.photo or args.word):
        raise HarnessError("say what to look for: --photo FILE or --word NAME.")
    missing = [photo for photo in args.photo if not photo.is_file()]
    if missing:
        raise HarnessError(f"--photo {missing[0]}: there is no such file.")
    answer = rights.sees(places(args), args.word, args.photo)
    _print_answer(answer)
    return 0 if answer.clean else 1


def _print_answer(answer: Answer) -> None:
    for hit in answer.hits:
        print(f"  {hit.place} ({hit.how}: {hit.what})")
    for name in answer.unread:
        print(f"  not looked into: {name}")
    print(answer.sentence())


def sweep_(args: argparse.Namespace) -> int:
    """What is due in this ledger and in every other that holds photos; 1 where something could not be done."""
    from harness.consent import kept, retention
    from harness.progress import line

    if args.abandon:
        return _abandon(args)
    failed: dict[str, None] = {}

    def say(event: dict) -> None:
        if event.get("failed"):
            failed[event["note"]] = None
        elif "step" not in event:
            print(line(event))
    gone = retention.enforce(say)
    if args.ledger.exists():
        with opened(args) as store:
            gone += retention.sweep(store, args.roots, progress=say)
    for note in failed:
        print(f"not done: {note}")
    if gone:
        print(kept.told(gone))
    return 1 if failed else 0


def _abandon(args: argparse.Namespace) -> int:
    from harness.consent import retention, rights

    with opened(args) as store:
        given, photos = rights.abandon(store, args.abandon), retention.give_up(store, args.abandon)
    for begun in given:
        print(f"given up: {begun.kind} of {begun.subject or 'single works'}, begun on {begun.at}; what it did not reach is still there")
    if photos:
        print(f"given up: {photos} {'photo' if photos == 1 else 'photos'} whose folder is gone")
    if not given and not photos and not args.abandon.isdecimal():
        raise HarnessError(f"{args.ledger}: nothing was begun about {args.abandon} that is not finished.")
    return 0


def keep_(args: argparse.Namespace) -> int:
    """Enter photos with the time for which they are kept."""
    from harness.consent import retention
    from harness.images import SUFFIXES

    photos = [path for given in args.photos for path in (sorted(p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES) if given.is_dir() else [given])]
    if not photos or not all(photo.is_file() for photo in photos):
        raise HarnessError(f"{next((p for p in photos if not p.is_file()), args.photos[0])}: there is no photo here to be kept.")
    with opened(args, create=True) as store:
        until = retention.keep(store, args.subject, photos, args.roots, args.hours)
    print(f"{args.ledger}: {len(photos)} {'photo' if len(photos) == 1 else 'photos'} of {args.subject} kept until {until:%Y-%m-%d %H:%M} UTC; whatever command comes then deletes them")
    return 0
