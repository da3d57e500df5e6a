"""Is any photo of a person due? One small file answers, so that every command can ask; nothing heavy is imported until one is."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NOTICE = "HARNESS_KEPT"


def notice() -> Path:
    """The file that says which ledgers hold photos of people: $HARNESS_KEPT, or beside the user's key."""
    return Path(os.environ.get(NOTICE) or "~/.config/likeness/kept.json").expanduser()


def noted() -> dict[str, Any]:
    """What it says: `ledgers`, by path with `due` and `roots`, and the latest time ever `seen`; {} where there is none, or a damaged one.

    An entry that is damaged is left out, the others count.
    """
    try:
        held = json.loads(notice().read_bytes())
        ledgers = {str(path): _entry(said) for path, said in held["ledgers"].items() if _entry(said)}
        moment(held.get("seen") or "2000-01-01")
        return {"ledgers": ledgers, "seen": held.get("seen") or ""}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}  # it is written anew with the next photo; `harness consent sweep --ledger` does not need it


def _entry(said: Any) -> dict[str, Any]:
    """One ledger's part of the notice; {} for a damaged one."""
    try:
        moment(said["due"])
        roots = said.get("roots")
        return {"due": said["due"], "roots": [root for root in roots if isinstance(root, str)] if isinstance(roots, list) else []}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}


def moment(text: str) -> datetime:
    """A time as it was written; without a zone it is UTC."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def now(held: dict[str, Any]) -> datetime:
    """The time, or the latest ever seen here: a clock that went back must not keep a photo longer."""
    seen = held.get("seen", "")
    return max(datetime.now(UTC), moment(seen)) if seen else datetime.now(UTC)


def went_back() -> bool:
    """Is the clock behind the latest time ever seen here?"""
    seen = noted().get("seen", "")
    return bool(seen) and moment(seen) > datetime.now(UTC)


def told(count: int) -> str:
    """That photos are gone, in words."""
    return f"{count} photos of people were kept for as long as was said, and are gone" if count != 1 else "1 photo of a person was kept for as long as was said, and is gone"


def enforce() -> None:
    """For every command: delete what is due, and say so. What goes wrong is said, and does not stop the command."""
    held = noted()
    if not any(moment(said["due"]) <= now(held) for said in held.get("ledgers", {}).values()):
        return
    from harness.consent import retention

    gone = retention.enforce(_say)
    if gone:
        print(told(gone), file=sys.stderr)


def _say(event: Mapping[str, Any]) -> None:
    """What went wrong; the rest is nobody's business in the middle of another command."""
    if event.get("failed"):
        print(f"error: photos of people are due and could not be deleted: {event['note']}", file=sys.stderr)
