"""A certificate for trying out content credentials: its form is right, and nobody trusts it.

C2PA takes no self-signed certificate: it wants a chain from an authority, with the extensions below (C2PA Technical
Specification, certificate profile). For pictures that others should trust buy one from an authority on the C2PA trust list.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.images import atomic_write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import CertificateBuilder, KeyUsage, Name

DAYS = 30
TOP = "Nobody’s authority, for trying out"
USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
          "encipher_only", "decipher_only")


def make(folder: Path, name: str) -> tuple[Path, Path]:
    """Write chain.pem and key.pem (mode 0600) for the signer `name` into a folder, good for 30 days; returns both.

    Raises HarnessError where a key.pem exists: a key is never written over.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = Path(folder)
    if (folder / "key.pem").exists():
        raise HarnessError(f"{folder / 'key.pem'}: there is a key already; choose another folder.")
    top, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = _certificate(name, own, top, False) + _certificate(TOP, top, top, True)
    pem = own.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    path = atomic_write(folder / "chain.pem", chain)
    with open(os.open(folder / "key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    return path, folder / "key.pem"


def _certificate(name: str, own: EllipticCurvePrivateKey, top: EllipticCurvePrivateKey, is_top: bool) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form

    now = datetime.datetime.now(datetime.timezone.utc)
    made = _extended(_begun(name, own, now), own, top, is_top)
    return made.sign(top, hashes.SHA256()).public_bytes(form.Encoding.PEM)


def _begun(name: str, own: EllipticCurvePrivateKey, now: datetime.datetime) -> CertificateBuilder:
    from cryptography import x509

    day = datetime.timedelta(days=1)
    return (x509.CertificateBuilder().subject_name(_named(name)).issuer_name(_named(TOP)).public_key(own.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + DAYS * day))


def _extended(made: CertificateBuilder, own: EllipticCurvePrivateKey, top: EllipticCurvePrivateKey, is_top: bool) -> CertificateBuilder:
    """The extensions that C2PA looks for: no authority, digital signature, a purpose, and whose key signed it."""
    from cryptography import x509

    made = (made.add_extension(x509.BasicConstraints(ca=is_top, path_length=None), critical=True)
            .add_extension(_usage("key_cert_sign" if is_top else "digital_signature"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(top.public_key()), critical=False))
    return made if is_top else made.add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)


def _usage(only: str) -> KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(**{name: name == only for name in USAGES})


def _named(name: str) -> Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
