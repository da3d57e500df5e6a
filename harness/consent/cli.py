"""`harness consent`: who agreed to what; and what follows when somebody says no, or wants to be forgotten."""

from __future__ import annotations

import argparse
import importlib
from datetime import UTC, datetime
from pathlib import Path

from harness import params
from harness.consent import ledger as ledgers
from harness.consent.ledger import ALL_WORKS, Record

LEDGER = Path("consent.db")
PLACES = ("results", "photos", "data")
"""folders that are looked into when none is named, as far as they are there"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every action with its own options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="list the records of a ledger")
    show.add_argument("ledger", type=Path, nargs="?", default=LEDGER, help=f"the ledger: a store or a CSV (default: {LEDGER}, with the subject alone)")
    show.add_argument("subject", nargs="?", default="", help="only this artist's or person's")
    ask = actions.add_parser("ask", help="may these pictures be used?")
    ask.add_argument("images", type=Path, help="folder of pictures with a samples.csv that has a column artist")
    ask.add_argument("--ledger", type=Path, default=LEDGER, help=f"the ledger: a store or a CSV (default: {LEDGER})")
    ask.add_argument("--use", choices=ledgers.USES, required=True, help="what for")
    ask.add_argument("--purpose", choices=("training", "audit"), default="training", help="an audit goes on without consent, marked")
    record = _with_ledger(actions, "record", "write down a decision; the ledger is begun when there is none")
    params.add_arguments(record, Record)
    for action in record._actions:  # a decision that is entered is mostly on all works, and of today
        if action.dest in ("sha256", "granted"):
            action.required, action.help = False, action.help.replace("(required)", "(default: all works)" if action.dest == "sha256" else "(default: today)")
    record.set_defaults(sha256=ALL_WORKS, granted=f"{datetime.now(UTC):%Y-%m-%d}")
    record.add_argument("--replaces", type=int, action="append", default=[], metavar="ENTRY", help="entry of the same subject that no longer holds, as `show` numbers it; may be repeated")
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
    withdraw.add_argument("--subject", default="", help="who withdraws a single work, where the ledger does not say whose it is")
    withdraw.add_argument("--use", dest="uses", choices=ledgers.USES, action="append", default=[],
                          help="withdraw this use only (no file is touched then); may be repeated (default: every use)")
    withdraw.add_argument("--by", default="", help="who entered the withdrawal")
    withdraw.add_argument("--why", default="", help="what was said")
    forget = _with_places(_with_ledger(actions, "forget", "take everything of a person out, prove by a search that nothing is left"))
    forget.add_argument("subject", help="artist or person")
    forget.add_argument("--word", action="append", default=[], help="a further name or token to be taken out; may be repeated")
    search = _with_places(actions.add_parser("search", help="is anything of these photos or names left? (changes nothing)"))
    search.add_argument("--photo", type=Path, action="append", default=[], help="a photo to look for, by hash and by look; may be repeated")
    search.add_argument("--word", action="append", default=[], help="a name to look for; may be repeated")
    sweep = _with_places(_with_ledger(actions, "sweep", "delete photos of people whose time is over, and finish what a crash interrupted"))
    sweep.add_argument("--abandon", default="", metavar="SUBJECT", help="give up what cannot be finished: what was begun about a subject (or under a number), "
                       "and photos of theirs whose folder is gone for good; withdrawals hold all the same")
    keep = _with_places(_with_ledger(actions, "keep", "enter photos of a person, which are deleted when their time is over"))
    keep.add_argument("subject", help="who is on them")
    keep.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    keep.add_argument("--hours", type=float, default=24.0, help="how long they are kept (default: 24)")
    sweep.description = "Suits a timer: it is quick and says nothing when nothing is due."


def _with_ledger(actions: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    parser.add_argument("--ledger", type=Path, default=LEDGER, help=f"the ledger's store (default: {LEDGER})")
    return parser


def _with_places(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--in", dest="roots", type=Path, action="append", default=[], metavar="FOLDER",
                        help=f"folder to look into; may be repeated (default: {', '.join(PLACES)}, where they are)")
    return parser


ROOMS = {"show": "records", "ask": "records", "record": "records", "import": "records", "export": "records", "rescue": "records", "verify": "records",
         "reach": "requests", "withdraw": "requests", "forget": "requests", "search": "requests", "sweep": "requests", "keep": "requests"}


def main(args: argparse.Namespace) -> int:
    """Run the action. A refusal, or anything wrong, is raised; 1 where something was found, left or not looked into."""
    return getattr(importlib.import_module(f"harness.consent.{ROOMS[args.action]}"), f"{args.action}_")(args)
