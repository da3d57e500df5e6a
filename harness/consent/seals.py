"""The seal of a report, as docs/verify.md states its form: how a file is taken out of it without breaking the signature.

Consent stands before the reports and does not import them; so it reads `seal.json` by its published form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

NAME = "seal.json"
LATER = ("manifest.json", "notebook.ipynb", "notebook.part.ipynb", "ro-crate-metadata.json")
"""at the top of a sealed folder these stand outside of the seal"""


def covers(data: bytes, name: str) -> bool:
    """Does a seal cover a file (its path below the seal's folder)? Raises ValueError or KeyError for what is no seal."""
    return any(entry.get("path") == name for entry in json.loads(data)["files"])


def without(data: bytes, goes: Callable[[str, str], bool]) -> bytes:
    """The seal with only the leaf left of every entry for which `goes(path, sha256)`: the root and its signature still hold.

    The leaf of a file is the SHA-256 of the byte 00 and "sha256 salt path". Raises ValueError, KeyError or TypeError for what is no seal.
    """
    import rfc8785

    held = json.loads(data)
    entries = [{"leaf": _leaf(entry)} if "path" in entry and goes(entry["path"], entry["sha256"]) else entry for entry in held["files"]]
    return data if entries == held["files"] else rfc8785.dumps(held | {"files": entries})


def _leaf(entry: dict[str, str]) -> str:
    return hashlib.sha256(b"\0" + f"{entry['sha256']} {entry['salt']} {entry['path']}".encode()).hexdigest()
