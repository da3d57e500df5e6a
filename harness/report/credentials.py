"""C2PA content credentials on pictures, when a certificate is given: who made it, that a model made it, and what may not be done with it.

Needs `c2pa-python` (the extra "c2pa"). Credentials live in the file's metadata: whoever saves the picture anew, makes a
screenshot of it or sends it through most platforms takes them off. results/published/survival.md says what survives what.
Nothing is fetched: no time stamp is asked for, and reading trusts no list; it says whether the signature fits the picture.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import HarnessError
from harness.images import atomic_write

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
FORMATS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".tif": "image/tiff", ".tiff": "image/tiff"}
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}}
KINDS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512", "ed25519": "ed25519"}


@dataclass(frozen=True)
class Credential:
    """What a picture's credentials say."""

    intact: bool
    """does the signature fit the picture?"""
    title: str
    """name of the picture when it was signed"""
    generator: str
    """program that wrote them"""
    issuer: str
    """name in the certificate; nobody has looked whether it may be trusted"""
    assertions: dict[str, Any]
    """what is said of the picture, by label"""
    problems: tuple[str, ...]
    """codes of what does not fit"""


def sign(image: Path, to: Path, certificate: Path, key: Path, uses: Mapping[str, str], facts: Mapping[str, Any] | None = None) -> Path:
    """Write a copy of a picture with content credentials; returns it.

    `certificate` is a chain in PEM form, the signer's first, as C2PA asks for (not self-signed), `key` its private key
    (ECDSA or Ed25519), `uses` the CAWG training and data mining assertion as use -> allowed, notAllowed or constrained, and
    `facts` what else is known: model, adapter, run. Raises HarnessError without the package, for another format, and for a
    certificate that C2PA does not take.
    """
    c2pa, image, to = _package(), Path(image), Path(to)
    kind = FORMATS.get(image.suffix.lower())
    if kind is None:
        raise HarnessError(f"{image}: no content credentials for this format; they go into {', '.join(FORMATS)}.")
    out = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(_algorithm(key), _text(certificate).encode(), _text(key).encode(), None)
        with c2pa.Signer.from_info(info) as signer, open(image, "rb") as source:
            c2pa.Builder(_manifest(image.name, kind, uses, facts or {}), _context(c2pa)).sign(signer, kind, source, out)
    except (c2pa.C2paError, ValueError) as error:
        raise HarnessError(f"{image}: not signed with {certificate}: {' '.join(str(error).split())}; C2PA asks for a chain that ends in "
                           "an authority, and a certificate for signing documents or mail.") from error
    return atomic_write(to, out.getvalue())


def read(image: Path) -> Credential | None:
    """The credentials in a picture, or None where there are none. Raises HarnessError without the package, or for no picture."""
    c2pa, kind = _package(), FORMATS.get(Path(image).suffix.lower())
    try:
        with open(image, "rb") as source, c2pa.Reader(kind, source, context=_context(c2pa)) as reader:
            held = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except (c2pa.C2paError, OSError) as error:
        raise HarnessError(f"{image}: its content credentials cannot be read: {' '.join(str(error).split())}.") from error
    active = held["manifests"][held["active_manifest"]]
    problems = tuple(sorted({each["code"] for each in held.get("validation_status", ()) if each["code"] != "signingCredential.untrusted"}))
    generators = active.get("claim_generator_info") or [{}]
    return Credential(not problems, active.get("title", ""), generators[0].get("name", ""), active.get("signature_info", {}).get("issuer", ""),
                      {each["label"]: each["data"] for each in active.get("assertions", ())}, problems)


def _manifest(title: str, kind: str, uses: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest definition: created by a model, the training and data mining assertion, and our own facts."""
    from harness import __version__
    from harness.consent.ledger import DECISIONS, USES

    wrong = {use: said for use, said in uses.items() if use not in USES or said not in DECISIONS}
    if wrong:
        raise HarnessError(f"content credentials: {wrong} is not in the CAWG vocabulary; uses are {', '.join(USES)}, each {', '.join(DECISIONS)}.")
    created = {"action": "c2pa.created", "digitalSourceType": MADE_BY_A_MODEL}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                  {"label": "cawg.training-mining", "data": {"entries": {use: {"use": said} for use, said in uses.items()}}}]
    if facts:
        assertions.append({"label": "org.likeness.facts", "data": {key: str(value) for key, value in facts.items()}})
    return {"title": title, "format": kind, "claim_generator_info": [{"name": "Likeness", "version": __version__}], "assertions": assertions}


def _package() -> ModuleType:
    try:
        import c2pa
    except ImportError as error:
        raise HarnessError("content credentials need c2pa-python; `pip install 'likeness-harness[c2pa]'` brings it.") from error
    return c2pa


def _context(c2pa: ModuleType) -> Any:
    """Settings that fetch nothing."""
    return c2pa.Context(c2pa.Settings.from_dict(OFFLINE))


def _text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read as a PEM file.") from error


def _algorithm(key: Path) -> str:
    """The name that C2PA has for a private key's kind; raises HarnessError for one that it does not take."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(_text(key).encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HarnessError(f"{key}: not a private key in PEM form without a passphrase.") from error
    name = getattr(getattr(private, "curve", None), "name", type(private).__name__.removesuffix("PrivateKey").lower())
    if name not in KINDS:
        raise HarnessError(f"{key}: a key of the kind {name}; content credentials here are signed with {', '.join(KINDS)}.")
    return KINDS[name]
