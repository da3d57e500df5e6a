"""`harness consent`: who agreed to what; and what follows when somebody says no, or wants to be forgotten."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness import params
from harness.consent import ledger as ledgers
from harness.consent.ledger import Record
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.consent.search import Answer
    from harness.consent.store import Store

LEDGER = Path("consent.db")
PLACES = ("results", "photos", "data")
"""folders that are looked into when none is named, as far as they are there"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every action with its own options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="list the records of a ledger")
    show.add_argument("ledger", type=Path, nargs="?", default=LEDGER, help=f"the ledger: a store or a CSV (default: {LEDGER})")
    show.add_argument("subject", nargs="?", default="", help="only this artist's or person's")
    ask = actions.add_parser("ask", help="may these pictures be used?")
    ask.add_argument("images", type=Path, help="folder of pictures with a samples.csv that has a column artist")
    ask.add_argument("--ledger", type=Path, default=LEDGER, help=f"the ledger: a store or a CSV (default: {LEDGER})")
    ask.add_argument("--use", choices=ledgers.USES, required=True, help="what for")
    ask.add_argument("--purpose", choices=("training", "audit"), default="training", help="an audit goes on without consent, marked")
    record = _with_ledger(actions, "record", "write down a decision; the ledger is begun when there is none")
    params.add_arguments(record, Record)
    _add_exchange(actions)
    _add_rights(actions)
    verify = actions.add_parser("verify", help="check a ledger's chain, or tombstones")
    verify.add_argument("path", type=Path, nargs="?", default=LEDGER, help="a ledger, a tombstone, or a folder with tombstones")
    verify.add_argument("--key", default="", metavar="FINGERPRINT", help="the key that must have begun the ledger, or signed the tombstone")
    verify.add_argument("--known", default="", metavar="HASH", help="hash of an entry noted elsewhere, such as in a report")


def _add_exchange(actions: argparse._SubParsersAction) -> None:
    bring = _with_ledger(actions, "import", "enter the records of a CSV, JSON or Croissant file")
    bring.add_argument("file", type=Path, help="the file to read")
    bring.add_argument("--by", default="", help="who recorded them, where the file does not say")
    rescue = actions.add_parser("rescue", help="keep what can still be read of a damaged ledger")
    rescue.add_argument("ledger", type=Path, help="the damaged ledger; it is not changed")
    rescue.add_argument("--out", type=Path, default=Path("rescued.json"), help="the JSON to write (default: rescued.json)")
    give = _with_ledger(actions, "export", "write the ledger as CSV, JSON or Croissant; or, with a subject, everything that is held about them")
    give.add_argument("subject", nargs="?", default="", help="artist or person; without one the whole ledger is written")
    give.add_argument("--out", type=Path, required=True, help="the file (.csv, .json), or with a subject the new folder, to write")
    _with_places(give)


def _add_rights(actions: argparse._SubParsersAction) -> None:
    reach = _with_places(_with_ledger(actions, "reach", "what did a subject or work reach? (changes nothing)"))
    reach.add_argument("who", help="artist, person, or the SHA-256 of one work")
    withdraw = _with_places(_with_ledger(actions, "withdraw", "enter a withdrawal (it holds at once) and list what it reached; --apply takes that out"))
    withdraw.add_argument("who", help="artist, person, or the SHA-256 of one work")
    withdraw.add_argument("--apply", action="store_true", help="delete and rewrite what is listed, and leave signed tombstones")
    withdraw.add_argument("--leave-hashes", action="store_true", help="keep perceptual descriptors in the ledger, so that copies of the works are found")
    withdraw.add_argument("--by", default="", help="who entered the withdrawal")
    withdraw.add_argument("--why", default="", help="what was said")
    forget = _with_places(_with_ledger(actions, "forget", "take everything of a person out, prove by a search that nothing is left"))
    forget.add_argument("subject", help="artist or person")
    forget.add_argument("--word", action="append", default=[], help="a further name or token to be taken out; may be repeated")
    search = _with_places(actions.add_parser("search", help="is anything of these photos or names left? (changes nothing)"))
    search.add_argument("--photo", type=Path, action="append", default=[], help="a photo to look for, by hash and by look; may be repeated")
    search.add_argument("--word", action="append", default=[], help="a name to look for; may be repeated")
    sweep = _with_places(_with_ledger(actions, "sweep", "delete photos of people whose time is over, and finish what a crash interrupted"))
    sweep.description = "Suits a timer: it is quick and says nothing when nothing is due."


def _with_ledger(actions: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    parser.add_argument("--ledger", type=Path, default=LEDGER, help=f"the ledger's store (default: {LEDGER})")
    return parser


def _with_places(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--in", dest="roots", type=Path, action="append", default=[], metavar="FOLDER",
                        help=f"folder to look into; may be repeated (default: {', '.join(PLACES)}, where they are)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Run the action. A refusal, or anything wrong, is raised; a search that finds something ends with 1."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "show": _show, "ask": _ask, "record": _record, "import": _import, "export": _export, "reach": _reach, "withdraw": _withdraw,
        "forget": _forget, "search": _search, "sweep": _sweep, "verify": _verify, "rescue": _rescue}
    return actions[args.action](args)


def _roots(args: argparse.Namespace) -> list[Path]:
    found = args.roots or [Path(name) for name in PLACES if Path(name).is_dir()]
    if not found:
        raise HarnessError(f"there is none of the folders {', '.join(PLACES)} here; name those to look into with --in.")
    return found


def _open(args: argparse.Namespace, create: bool = False) -> Store:
    from harness.consent.store import open_store

    return open_store(args.ledger, create=create)


def _show(args: argparse.Namespace) -> int:
    """One line a record."""
    from harness.consent import gate

    book = gate.book_of(args.ledger)
    records = [record for record in book.records if args.subject in ("", record.subject)]
    print(f"{args.ledger}: {len(records)} records")
    for record in records:
        days = f"from {record.granted}" + (f" until {record.expires}" if record.expires else "")
        gone = f", withdrawn {record.withdrawn}" if record.withdrawn else ""
        note = f" ({record.note})" if record.note else ""
        print(f"  {record.subject}, {record.works}: {record.use} {record.decision} {days}{gone}; {record.basis}{note}")
    return 0


def _ask(args: argparse.Namespace) -> int:
    """The gate's answer in words."""
    from harness.consent import gate
    from harness.images import open_set

    decision = gate.ask(open_set(args.images), args.ledger, args.use, args.purpose)
    print(f"{decision.images - decision.blocked} of {decision.images} pictures are allowed for {decision.use} on {decision.at}")
    for reason in decision.reasons:
        print(f"  blocked: {reason}")
    if decision.purpose == "audit":
        print("  purpose audit: what is made from them is marked and must not be exported")
    return 0


def _record(args: argparse.Namespace) -> int:
    """Enter one decision; where a work is named by its file, its hash is taken."""
    from harness.images import sha256

    work = Path(args.sha256)
    if work.is_file():
        args.sha256 = sha256(work)
    record = params.from_args(Record, args)
    with _open(args, create=True) as store:
        (entry,) = store.add([replace(record, evidence=_evidence(record.evidence))])
    print(f"{args.ledger}: entry {entry}, {record.subject}, {record.works}: {record.use} {record.decision}")
    return 0


def _evidence(text: str) -> str:
    from harness.images import sha256

    return sha256(Path(text)) if text and Path(text).is_file() else text


def _import(args: argparse.Namespace) -> int:
    """Enter what a file holds and the ledger does not."""
    from harness.consent import exchange

    with _open(args, create=True) as store:
        done = exchange.import_into(store, args.file, args.by)
    print(f"{args.ledger}: {done.added} records entered, {done.known} were there already")
    return 0


def _export(args: argparse.Namespace) -> int:
    """The whole ledger as a file, or everything about one subject as a folder."""
    from harness.consent import exchange, gate, rights

    if not args.subject:
        book = gate.book_of(args.ledger)
        print(f"{exchange.write(book.records, args.out)}: {len(book.records)} records")
        return 0
    with _open(args) as store:
        print(rights.export(store, args.subject, _roots(args), args.out))
    return 0


def _rescue(args: argparse.Namespace) -> int:
    """What is still readable of a damaged ledger, as JSON that `import` reads."""
    from harness.consent import exchange

    saved = exchange.rescue(args.ledger, args.out)
    print(f"{saved.path}: {saved.records} records saved, {saved.lost} entries lost")
    return 0


def _reach(args: argparse.Namespace) -> int:
    """The list alone."""
    from harness.consent import gate, reach, rights

    store = _open(args) if args.ledger.is_file() and gate.is_store(args.ledger) else None
    _print_reach(reach.find(rights.target(store, args.who), _roots(args)))
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    """Enter the withdrawal, and list or take out."""
    from harness.consent import rights
    from harness.progress import printer

    with _open(args) as store:
        found = rights.withdraw(store, args.who, _roots(args), args.apply, args.by, args.why, args.leave_hashes, progress=printer())
    _print_reach(found)
    print("taken out, with signed tombstones" if args.apply else "the withdrawal holds from now on; no file was changed (--apply does what is listed)")
    return 0


def _print_reach(found: object) -> None:
    for trace in found.traces:
        print(f"  {trace.action:<7} {trace.path} ({trace.kind}: {trace.why}){', then ' + trace.after if trace.after else ''}")
    for again in found.retrain:
        print(f"  retrain {again['adapter']} with the {len(again['works_left'])} works that are left, without {again['works_taken_out']}")
    for path in found.undecided:
        print(f"  look    {path} (does not say of which pictures it is)")
    print(f"{len(found.traces)} files were reached" + (f": {', '.join(f'{n} {kind}' for kind, n in found.counts().items())}" if found.traces else ""))


def _forget(args: argparse.Namespace) -> int:
    """Forget, and say what the search found."""
    from harness.consent import rights
    from harness.progress import printer

    with _open(args, create=True) as store:
        answer = rights.forget(store, args.subject, _roots(args), args.word, progress=printer())
    print(f"forgotten; searched by hash, look, name and bytes: {answer.sentence()}")
    return 0


def _search(args: argparse.Namespace) -> int:
    """0 when nothing was found, 1 otherwise."""
    from harness.consent import rights

    if not (args.photo or args.word):
        raise HarnessError("say what to look for: --photo FILE or --word NAME.")
    answer = rights.sees(_roots(args), args.word, args.photo)
    _print_answer(answer)
    return 1 if answer.hits else 0


def _print_answer(answer: Answer) -> None:
    for hit in answer.hits:
        print(f"  {hit.place} ({hit.how}: {hit.what})")
    for name in answer.unread:
        print(f"  not looked into: {name}")
    print(answer.sentence())


def _sweep(args: argparse.Namespace) -> int:
    """What is due in this ledger and in every other that holds photos."""
    from harness.consent import retention
    from harness.progress import printer

    gone = retention.enforce(printer())
    if args.ledger.exists():
        with _open(args) as store:
            gone += retention.sweep(store, args.roots, progress=printer())
    if gone:
        print(f"{gone} photos of people were kept for as long as was said, and are gone")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """A ledger's chain, or tombstones."""
    from harness.consent import gate, tombstone

    if not args.path.is_dir() and gate.is_store(args.path):
        return _verify_ledger(args)
    stones = tombstone.all_below([args.path]) if args.path.is_dir() else [args.path]
    for path in stones:
        held = tombstone.read(path)
        if args.key and held["signer"] != args.key:
            raise HarnessError(f"{path}: signed by {held['signer']}, not by {args.key}.")
        print(f"{path}: {held['kind']} of {held['at'][:10]}, unchanged, " + (f"signed by {held['signer']}" if args.key else f"signer unknown ({held['signer']})"))
    print(f"{len(stones)} tombstones")
    return 0


def _verify_ledger(args: argparse.Namespace) -> int:
    from harness.consent.store import open_store

    with open_store(args.path) as store:
        checked = store.verify_chain(args.key, args.known)
    if not checked.ok:
        raise HarnessError(f"{args.path}: {checked}.")
    print(f"{args.path}: {checked}")
    return 0
