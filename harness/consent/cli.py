"""`harness consent`: look at a ledger, and ask it about pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.consent import ledger as ledgers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `show` and `ask`."""
    actions = parser.add_subparsers(dest="action", required=True)
    show = actions.add_parser("show", help="list the records of a ledger")
    show.add_argument("ledger", type=Path, help="the ledger's CSV")
    ask = actions.add_parser("ask", help="may these pictures be used?")
    ask.add_argument("images", type=Path, help="folder of pictures with a samples.csv that has a column artist")
    ask.add_argument("--ledger", type=Path, required=True, help="the ledger's CSV")
    ask.add_argument("--use", choices=ledgers.USES, required=True, help="what for")
    ask.add_argument("--purpose", choices=("training", "audit"), default="training", help="an audit goes on without consent, marked")


def main(args: argparse.Namespace) -> int:
    """Run the action; a refusal is raised as Refused, which the command line prints and ends with 2."""
    return _show(args.ledger) if args.action == "show" else _ask(args)


def _show(path: Path) -> int:
    """One line a record."""
    book = ledgers.read(path)
    print(f"{path}: {len(book.records)} records")
    for record in book.records:
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
