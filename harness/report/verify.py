"""``harness verify``: is a report as it was sealed, and by whom? Offline; it names the first thing that differs.

That nothing was changed says nothing about who sealed it: anybody can change a report and seal it again with a key of
their own. Only a fingerprint that came from the signer by another way (`--key`) tells the two apart.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.consent import keys
from harness.errors import HarnessError
from harness.images import sha256
from harness.report import SCHEMA as REPORT_SCHEMA
from harness.report import seal as seals
from harness.report.seal import Broken, Entry, Seal

FINGERPRINT = re.compile(r"ed25519:[0-9a-f]{64}")


@dataclass(frozen=True)
class Answer:
    """What a check found."""

    differs: str
    """the first thing that is not as it was sealed; empty when nothing differs"""
    signer: str
    """fingerprint of the key that signed; empty when nobody did"""
    pinned: bool
    """was a fingerprint given, and is the signer's the same?"""
    files: int
    """files under the seal"""
    withheld: tuple[str, ...]
    """files that a redacted form leaves out, those without a name as their leaf"""
    outside: tuple[str, ...]
    """files beside the report that no seal covers"""

    @property
    def sentence(self) -> str:
        """The answer in words; never "valid", which nobody can know without the signer's key."""
        if self.differs:
            return f"changed: {self.differs}."
        if not self.signer:
            return "unchanged, not signed: anybody could have made this."
        if not self.pinned:
            return f"unchanged, signer unknown: {self.signer}; compare it with what the signer told you, or give it as --key."
        return f"unchanged, signed by the key that you gave: {self.signer}."


def check(folder: Path, pin: str = "") -> Answer:
    """Hold a folder against its seal; with `pin` (a fingerprint) the signer must be that one.

    Raises HarnessError where there is no seal, or one from a newer version.
    """
    folder = Path(folder)
    try:
        seal = seals.read(folder)
        differs = next(_differences(folder, seal, pin), "")
    except Broken as error:
        return Answer(str(error), "", False, 0, (), ())
    signer = keys.fingerprint(bytes.fromhex(seal.key)) if seal.key else ""
    away = tuple(e.path or e.leaf for e in seal.entries if e.withheld)
    beside = () if differs else tuple(sorted(n for n in seals.walk(folder) if seals.is_exempt(n) and n != seals.NAME))
    return Answer(differs, signer, bool(pin) and not differs, len(seal.entries), away, beside)


def _differences(folder: Path, seal: Seal, pin: str) -> Iterator[str]:
    """What differs, the plainest first: files, then the list of files, then the signature, then the signer."""
    honest = seals.merkle_root([e.leaf for e in seal.entries]) == seal.root
    if honest:
        yield from _files(folder, seal.entries)
    else:
        fits = next(_files(folder, seal.entries), "")
        yield f"{seals.NAME}: its list of files is not the one that was sealed" + (f" (against it, {fits})" if fits else "")
    if seal.key and not keys.verify(bytes.fromhex(seal.key), bytes.fromhex(seal.signature), seals.canonical(seal.signed)):
        yield f"{seals.NAME}: the signature does not belong to this root and key"
    if pin and not seal.key:
        yield f"{seals.NAME}: it is not signed, and {pin} was asked for"
    if pin and seal.key and keys.fingerprint(bytes.fromhex(seal.key)) != pin:
        yield f"{seals.NAME}: signed by {keys.fingerprint(bytes.fromhex(seal.key))} and not by {pin}"
    _refuse_newer(folder)


def _files(folder: Path, entries: tuple[Entry, ...]) -> Iterator[str]:
    """Files that are gone, changed, swapped, renamed or new, by name."""
    present = set(seals.listed(folder))
    listed = {e.path: e for e in entries if e.path}
    named = {e.sha256: e.path for e in listed.values() if not e.withheld}
    for name in sorted(present | {e.path for e in listed.values() if not e.withheld}):
        entry = listed.get(name)
        digest = sha256(folder / name) if name in present else ""
        if entry is None or entry.withheld:
            known = named.get(digest, "")
            yield f"{name}: was not there when the report was sealed" + (f"; it holds what was sealed as {known}" if known else "")
        elif not digest:
            yield f"{name}: is gone"
        elif digest != entry.sha256:
            known = named.get(digest, "")
            yield f"{name}: " + (f"holds what was sealed as {known}" if known else "is not what was sealed")


def _refuse_newer(folder: Path) -> None:
    """Raises HarnessError for a report of a later form, whose numbers this version could misread."""
    path = folder / "report.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # a sealed folder need not hold a report of ours
        return
    schema = found.get("schema", 0) if isinstance(found, dict) else 0
    if isinstance(schema, int) and schema > REPORT_SCHEMA:
        raise HarnessError(f"{path}: written by Likeness {found.get('harness', '(newer)')} in form {schema}, this one reads {REPORT_SCHEMA}; "
                           "install that version to check it.")


def read_pin(text: str) -> str:
    """A fingerprint from --key: itself, or a file that holds one or a public key in PEM form. Raises HarnessError."""
    if FINGERPRINT.fullmatch(text):
        return text
    try:
        data = Path(text).expanduser().read_bytes()[:10_000]
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~somebody of whom there is no home
        raise HarnessError(f"--key {text}: neither a fingerprint (ed25519: and 64 hex digits) nor a file that can be read.") from error
    if b"PRIVATE KEY" in data:
        raise HarnessError(f"--key {text}: a private key, which is for signing alone; give its fingerprint, `harness key show` prints it.")
    found = set(FINGERPRINT.findall(data.decode("utf-8", "replace")))
    if b"BEGIN PUBLIC KEY" in data:
        found.add(keys.fingerprint(_public(data, text)))
    if len(found) != 1:
        raise HarnessError(f"--key {text}: the file holds {len(found) or 'no'} fingerprints; it must hold exactly one.")
    return found.pop()


def _public(pem: bytes, text: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = form.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HarnessError(f"--key {text}: not a public key in PEM form.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise HarnessError(f"--key {text}: a key of another kind; reports are signed with Ed25519.")
    return key.public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)


def folder_of(report: Path) -> Path:
    """The folder of a report, given itself or a file in it; raises HarnessError when there is nothing."""
    if not report.exists():
        raise HarnessError(f"{report}: there is no such report; name its folder or its report.html.")
    return report if report.is_dir() else report.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness verify``."""
    parser.add_argument("report", type=Path, help="the folder of the report, or its report.html, report.json or seal.json")
    parser.add_argument("--key", metavar="FINGERPRINT|FILE", help="the signer's fingerprint, or a file with it or with their public key; "
                        "get it from them by another way than the report")
    parser.add_argument("--complete", action="store_true", help="refuse a redacted form")


def main(args: argparse.Namespace, say: Callable[[str], Any] = print) -> int:
    """Check a report: 0 when it is unchanged (and the pinned signer's, and complete, where that was asked), else 1."""
    answer = check(folder_of(args.report), read_pin(args.key) if args.key else "")
    say(answer.sentence)
    if answer.differs:
        return 1
    say(f"{answer.files} files under the seal" + (f", {len(answer.withheld)} of them withheld" if answer.withheld else "") + ".")
    for name in answer.withheld[:20]:
        say(f"  withheld: {name}")
    if len(answer.withheld) > 20:
        say(f"  … and {len(answer.withheld) - 20} more")
    if answer.outside:
        say(f"not under the seal: {', '.join(answer.outside)}")
    return int(args.complete and bool(answer.withheld))
