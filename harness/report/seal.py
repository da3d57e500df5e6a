"""The seal of a report: every file of its folder under one Merkle root, and a signature of that root.

`seal.json` is JSON in the canonical form of RFC 8785. Its `files` name every file with its SHA-256 and a salt; the leaves
and the root are those of RFC 6962, section 2.1; the signature is Ed25519 (RFC 8032). docs/verify.md says it in one
paragraph, with a verifier of twenty lines. The same files and the same key give the same bytes: there is no clock in it.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.consent.keys import Key
from harness.errors import HarnessError
from harness.images import atomic_write, sha256

NAME, SCHEMA = "seal.json", 1
WRITTEN_LATER = ("manifest.json", "notebook.ipynb", "notebook.part.ipynb", "ro-crate-metadata.json")
"""At the top of a run's folder: they say how the run went, and so are finished after the report. `verify` names them."""
ANYWHERE = ("times.json", ".DS_Store", "Thumbs.db", "desktop.ini")
"""In any folder: when a training began and ended, which no repetition gives again, and what desktops leave lying about."""
HASH = re.compile(r"[0-9a-f]{64}\Z")
SALT = re.compile(r"([0-9a-f]{32})?\Z")
SIGNED = re.compile(r"[0-9a-f]{64} [0-9a-f]{128}\Z| \Z")
OPEN, SHUT = {"path", "salt", "sha256"}, {"leaf"}


class Broken(HarnessError):
    """A seal that is not as it was written; the message says what about it."""


@dataclass(frozen=True)
class Entry:
    """One file under the seal. `leaf` alone is known of one that was withheld together with its name."""

    leaf: str
    """hash of the entry, 64 hex digits"""
    path: str = ""
    """relative, with /"""
    sha256: str = ""
    """of the file's bytes"""
    salt: str = ""
    """makes the leaf say nothing about a file that can be guessed; empty in an unsigned seal"""
    withheld: bool = False
    """left out of a redacted form"""

    def as_dict(self) -> dict[str, Any]:
        """For seal.json."""
        if not self.path:
            return {"leaf": self.leaf}
        return {"path": self.path, "salt": self.salt, "sha256": self.sha256} | ({"withheld": True} if self.withheld else {})


@dataclass(frozen=True)
class Seal:
    """What seal.json holds."""

    entries: tuple[Entry, ...]
    """the files, by path"""
    root: str
    """the Merkle root that was signed, 64 hex digits"""
    key: str
    """the public key, 64 hex digits; empty when nobody signed"""
    signature: str
    """128 hex digits; empty when nobody signed"""

    @property
    def signed(self) -> dict[str, Any]:
        """What the signature covers."""
        return {"files": len(self.entries), "key": self.key, "root": self.root, "seal": SCHEMA}

    def data(self) -> bytes:
        """seal.json, in its one form."""
        return canonical({"files": [e.as_dict() for e in self.entries], "signature": self.signature, "signed": self.signed})


def canonical(value: Any) -> bytes:
    """JSON in the canonical form of RFC 8785; raises HarnessError for what it cannot hold (NaN, numbers beyond 2^53)."""
    import rfc8785

    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise HarnessError(f"a report cannot hold this as canonical JSON: {error}; write such numbers as text.") from error


def leaf(sha256: str, salt: str, path: str) -> str:
    """The leaf of one file: SHA-256 of the byte 00 and "sha256 salt path" (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\0" + f"{sha256} {salt} {path}".encode()).hexdigest()


def merkle_root(leaves: Sequence[str]) -> str:
    """The root over leaves (hex): SHA-256 of the byte 01, left and right, split at the largest power of two (RFC 6962, 2.1)."""
    if not leaves:
        raise HarnessError("there is nothing to seal: the folder holds no file.")
    level = [bytes.fromhex(each) for each in leaves]
    while len(level) > 1:  # pairs from the left, an odd last one goes up as it is: the same tree, without recursion
        pairs = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2])]
        level = pairs + level[len(pairs) * 2:]
    return level[0].hex()


def write(folder: Path, key: Key | None = None) -> Path:
    """Seal every file of a report's folder as it is now; returns seal.json. Do it last: what comes later is not covered.

    Without a key the seal holds the files together and names nobody. Raises HarnessError for links and for names that
    cannot be written on every system.
    """
    folder = Path(folder)
    found = {name: sha256(folder / name) for name in listed(folder)}
    secret = key.sign(b"likeness salts 1\n" + "".join(f"{h} {n}\n" for n, h in found.items()).encode()) if key else b""
    entries = []
    for name, digest in found.items():
        salt = hmac.new(secret, name.encode(), "sha256").hexdigest()[:32] if secret else ""
        entries.append(Entry(leaf(digest, salt, name), name, digest, salt))
    bare = Seal(tuple(entries), merkle_root([e.leaf for e in entries]), key.public.hex() if key else "", "")
    return save(folder, Seal(bare.entries, bare.root, bare.key, key.sign(canonical(bare.signed)).hex() if key else ""))


def save(folder: Path, seal: Seal) -> Path:
    """Write seal.json, whole or not at all."""
    return atomic_write(Path(folder) / NAME, seal.data())


def listed(folder: Path) -> list[str]:
    """The files of a folder that a seal covers, sorted by their names' code points.

    Not covered are the seal itself, what a run writes after its report (WRITTEN_LATER), clock times and what desktops
    leave lying about (ANYWHERE). Raises Broken for a link and for a name that is not safe.
    """
    if not Path(folder).is_dir():
        raise HarnessError(f"{folder}: no such folder.")
    names = sorted(name for name in walk(folder) if not is_exempt(name))
    unsafe = [name for name in names if not is_safe(name)]
    if unsafe:
        raise Broken(f"{unsafe[0]!r}: a name that cannot stand under a seal; rename the file")
    return names


def is_exempt(name: str) -> bool:
    """Whether a file stands outside of the seal: written after the report, clock times, a desktop's, or half written just now."""
    last = PurePosixPath(name).name
    return name == NAME or name in WRITTEN_LATER or last in ANYWHERE or (last.startswith(".") and last.endswith(".tmp"))


def walk(folder: Path) -> Iterator[str]:
    """Names of all files below a folder; raises Broken for a link, whose target could be anywhere, for devices and pipes,
    and for a folder that cannot be read or has too long a path."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(Path(folder) / below) as children:
                found = [(below + child.name, child) for child in children]
        except OSError as error:
            raise Broken(f"{below[:200]}: cannot be read ({error.strerror})") from error
        for name, child in found:
            if not (child.is_dir(follow_symlinks=False) or child.is_file(follow_symlinks=False)):
                raise Broken(f"{name}: a link or a device; a report holds its files itself, put the file in its place")
            if child.is_dir(follow_symlinks=False):
                waiting.append(name + "/")
            else:
                yield name


def is_safe(name: str) -> bool:
    """Whether a path is relative, stays inside its folder, and means the same on every system."""
    path = PurePosixPath(name)
    parts = name.split("/")
    plain = all(c.isprintable() and c not in '\\:*?"<>|' for c in name)
    return bool(name) and plain and not path.is_absolute() and all(part not in ("", ".", "..") for part in parts)


def read(folder: Path) -> Seal:
    """The seal of a folder; raises Broken unless its bytes are exactly what `save` writes for what they say.

    Raises HarnessError where there is none, and for one from a newer version.
    """
    path = Path(folder) / NAME
    if path.is_symlink():
        raise Broken(f"{NAME}: is a link")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); a sealed report has this file beside its page.") from error
    try:
        held = json.loads(data)
        schema = held["signed"]["seal"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Broken(f"{NAME}: is not a seal any more ({type(error).__name__})") from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise HarnessError(f"{path}: written by a newer version (seal of form {schema}, this one reads {SCHEMA}); install that version to check it.")
    return _parse(held, data)


def _parse(held: Mapping[str, Any], data: bytes) -> Seal:
    try:
        entries = tuple(map(_entry, held["files"]))
        seal = Seal(entries, held["signed"]["root"], held["signed"]["key"], held["signature"])
        same = seal.data() == data
        plain = isinstance(seal.root, str) and HASH.match(seal.root) and SIGNED.match(f"{seal.key} {seal.signature}")
    except Broken:
        raise
    except (KeyError, TypeError, AttributeError, HarnessError) as error:
        raise Broken(f"{NAME}: is not a seal any more ({type(error).__name__})") from error
    names = [e.path for e in entries if e.path]
    if not plain:
        raise Broken(f"{NAME}: root, key or signature is none")
    if not same or names != sorted(set(names)):
        raise Broken(f"{NAME}: its form was changed; a seal has one form for one content")
    return seal


def _entry(row: Mapping[str, Any]) -> Entry:
    """One row of `files`; raises Broken for one that leads outside or is not what a seal holds."""
    keys = set(row)
    if keys == SHUT and HASH.match(row["leaf"]):
        return Entry(row["leaf"], withheld=True)
    if keys - {"withheld"} != OPEN or row.get("withheld", True) is not True:
        raise Broken(f"{NAME}: an entry holds {', '.join(sorted(map(str, keys)))}")
    if not is_safe(row["path"]) or is_exempt(row["path"]):
        raise Broken(f"{NAME}: the path {row['path']!r} leads outside of the report")
    if not HASH.match(row["sha256"]) or not SALT.match(row["salt"]):
        raise Broken(f"{NAME}: the hash or salt of {row['path']} is none")
    return Entry(leaf(row["sha256"], row["salt"], row["path"]), row["path"], row["sha256"], row["salt"], "withheld" in row)


def withhold(folder: Path, names: Sequence[str], shut: bool = True) -> Path:
    """Take files out of a sealed folder without breaking its signature: the files go, their leaves stay.

    With `shut` names, hashes and salts go too, so that nothing of a forgotten picture can be recognised in what stays.
    Needs no key. Raises HarnessError for a name that is not under the seal, before anything is removed.
    """
    seal, chosen = read(folder), set(names)
    unknown = chosen - {e.path for e in seal.entries}
    if unknown or "" in chosen:
        raise HarnessError(f"{folder}: not under the seal: {', '.join(sorted(unknown))}.")
    entries = tuple(_held_back(e, shut) if e.path in chosen else e for e in seal.entries)
    for name in chosen:
        (Path(folder) / name).unlink(missing_ok=True)
    return save(folder, Seal(entries, seal.root, seal.key, seal.signature))


def _held_back(entry: Entry, shut: bool) -> Entry:
    return Entry(entry.leaf, withheld=True) if shut else Entry(entry.leaf, entry.path, entry.sha256, entry.salt, True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness seal``."""
    parser.add_argument("folder", type=Path, help="the folder of the report")
    signer = parser.add_mutually_exclusive_group()
    signer.add_argument("--key", type=Path, help="your key's file (default: $HARNESS_KEY, or ~/.config/likeness/key.pem)")
    signer.add_argument("--unsigned", action="store_true", help="hold the files together without a signature")


def main(args: argparse.Namespace) -> int:
    """Seal a folder anew, after something in it was changed on purpose."""
    from harness.consent import keys
    from harness.report import redact

    key = None if args.unsigned else keys.load(args.key, os.environ.get(keys.PASSPHRASE) or None) if args.key else keys.default()
    redact.write_twins(args.folder)
    print(f"sealed: {write(args.folder, key)}, {f'signed with {key.fingerprint}' if key else 'not signed'}")
    return 0
