"""Tombstones: a signed note of what was taken away and what has to be made again, in place of what was there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent import keys
from harness.errors import HarnessError
from harness.images import atomic_write

if TYPE_CHECKING:
    from harness.consent.keys import Key

FOLDER = "tombstones"
DOMAIN = b"likeness tombstone\n"
"""before what is signed, so that no signature of one kind of thing serves for another"""
SCHEMA = 1


def write(root: Path, facts: Mapping[str, Any], key: Key) -> Path:
    """Sign `facts` (which must have an `id`) and write them below `root/tombstones`; the same facts give the same file."""
    body = {"likeness": "tombstone", "schema": SCHEMA, **facts, "signer": key.fingerprint, "public": key.public.hex()}
    signed = body | {"signature": key.sign(DOMAIN + _canonical(body)).hex()}
    return atomic_write(Path(root) / FOLDER / f"{facts['id']}.json", json.dumps(signed, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A tombstone whose signature holds. Raises HarnessError for one that was changed, or is none."""
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        body = {name: value for name, value in held.items() if name != "signature"}
        public, signature = bytes.fromhex(held["public"]), bytes.fromhex(held["signature"])
        known = held["likeness"] == "tombstone" and held["schema"] == SCHEMA and held["signer"] == keys.fingerprint(public)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"{path}: not a tombstone that can be read ({type(error).__name__}).") from error
    if not known or not keys.verify(public, signature, DOMAIN + _canonical(body)):
        raise HarnessError(f"{path}: was changed after it was signed, or is of another version; do not rely on it.")
    return held


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], key: Key) -> bool:
    """Change the facts of a tombstone that holds, and sign it anew; was there anything to change? One that does not hold is left as it is."""
    try:
        held = read(path)
    except HarnessError:
        return False
    facts = {name: value for name, value in held.items() if name not in ("likeness", "schema", "signer", "public", "signature")}
    if (changed := change(facts)) == facts:
        return False
    write(path.parent.parent, changed, key)
    return True


def all_below(roots: Iterable[Path]) -> list[Path]:
    """Every tombstone below some folders, by name."""
    return sorted(path for root in roots for path in Path(root).rglob(f"{FOLDER}/*.json"))


def _canonical(body: Mapping[str, Any]) -> bytes:
    """RFC 8785."""
    import rfc8785

    return rfc8785.dumps(body)
