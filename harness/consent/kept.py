"""Is any photo of a person due? One small file answers, so that every command can ask; nothing heavy is imported until one is."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NOTICE = "HARNESS_KEPT"


def notice() -> Path:
    """The file that says which ledgers hold photos of people: $HARNESS_KEPT, or beside the user's key."""
    return Path(os.environ.get(NOTICE) or "~/.config/likeness/kept.json").expanduser()


def noted() -> dict[str, Any]:
    """What it says: `ledgers`, by path with `due` and `roots`, and the latest time ever `seen`; {} where there is none, or a damaged one."""
    try:
        held = json.loads(notice().read_bytes())
        for moment in [*(said["due"] for said in held["ledgers"].values()), *filter(None, [held.get("seen")])]:
            datetime.fromisoformat(moment)
        return held
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}  # it is written anew with the next photo; `harness consent sweep --ledger` does not need it


def now(held: dict[str, Any]) -> datetime:
    """The time, or the latest ever seen here: a clock that went back must not keep a photo longer."""
    seen = held.get("seen", "")
    return max(datetime.now(UTC), datetime.fromisoformat(seen)) if seen else datetime.now(UTC)


def enforce() -> None:
    """For every command: delete what is due, and say so. What goes wrong is said, and does not stop the command."""
    held = noted()
    if not any(datetime.fromisoformat(said["due"]) <= now(held) for said in held.get("ledgers", {}).values()):
        return
    from harness.consent import retention
    from harness.errors import HarnessError

    try:
        gone = retention.enforce()
    except HarnessError as error:
        print(f"error: photos of people are due and could not be deleted: {error}", file=sys.stderr)
    else:
        print(f"{gone} photos of people were kept for as long as was said, and are gone", file=sys.stderr) if gone else None
