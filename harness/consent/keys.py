"""Signing keys: one Ed25519 key (RFC 8032) in one file that only its owner may read.

The private half is read from its file when something is signed and goes nowhere else: it is in no message, no manifest,
no pickle and on no command line. Ledger entries and reports name a key by its fingerprint.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from harness.errors import HarnessError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HOME = Path("~/.config/likeness/key.pem")
PASSPHRASE = "HARNESS_KEY_PASSPHRASE"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LARGEST = 10_000  # bytes; a key file has a few hundred
LONGEST = 1023  # bytes of a passphrase, which is as many as OpenSSL takes


@dataclass(frozen=True)
class Key:
    """A key that can sign. It cannot be pickled or copied; `str` and `repr` show the public half alone."""

    path: Path
    """The file that it came from."""
    public: bytes
    """The public half, 32 raw bytes."""
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """ "ed25519:" and the SHA-256 of the public half, 64 hex digits."""
        return fingerprint(self.public)

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 bytes."""
        return self._private.sign(data)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Keys never leave their file."""
        raise TypeError("a key cannot be pickled or copied; hand over its path")


def fingerprint(public: bytes) -> str:
    """How a public key (32 raw bytes) is named: "ed25519:" and 64 hex digits of its SHA-256."""
    return "ed25519:" + hashlib.sha256(public).hexdigest()


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Is it this public key's (32 raw bytes) signature (64 bytes) of `data`? Anything malformed is a no."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def create(path: Path, passphrase: str | None = None) -> Key:
    """Make a key in a new file (PKCS #8 PEM, mode 0600), whole or not at all.

    Raises HarnessError when the file exists (a key is never written over) or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if passphrase == "" or len(_as_bytes(passphrase or "")) > LONGEST:
        raise HarnessError(f"the passphrase is {'too long' if passphrase else 'empty'}; give one of up to {LONGEST} bytes, or none at all.")
    path = at_home(path)
    private = Ed25519PrivateKey.generate()
    lock = form.BestAvailableEncryption(_as_bytes(passphrase)) if passphrase else form.NoEncryption()
    _write_new(path, private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock))
    return load(path, passphrase)


def at_home(path: Path) -> Path:
    """A path whose ~ is spelled out; raises HarnessError for ~somebody of whom there is no home here."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise HarnessError(f"{path}: nobody of that name has a home here; write the path out.") from error


def _as_bytes(passphrase: str) -> bytes:
    return passphrase.encode("utf-8", "surrogateescape")  # what an environment holds need not be Unicode


def _write_new(path: Path, pem: bytes) -> None:
    """Write a file of mode 0600 under a name that must be free; a link, unlike a rename, fails when it is not."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")  # made with mode 0600
        with open(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError as error:
        raise HarnessError(f"{path}: there is a file already and a key is never written over; choose another name.") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot write a key there ({error.strerror}); choose another place.") from error
    finally:
        if temporary:
            os.unlink(temporary)


def load(path: Path, passphrase: str | None = None) -> Key:
    """Read a key. Raises HarnessError for a wrong or missing passphrase, for a file that others may read, and for no key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = at_home(path)
    pem = _read_private(path)
    locked = b"ENCRYPTED" in pem
    if locked != bool(passphrase):
        raise HarnessError(f"{path}: the key {f'needs its passphrase; set ${PASSPHRASE}' if locked else 'has no passphrase, and one was given'}.")
    try:
        private = form.load_pem_private_key(pem, _as_bytes(passphrase) if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = f"wrong passphrase, or a damaged key; check ${PASSPHRASE}" if locked else "not a key in PEM form; make one with `harness key new`"
        raise HarnessError(f"{path}: {what}.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise HarnessError(f"{path}: a key of another kind; only Ed25519 is used, make one with `harness key new`.")
    return Key(path, private.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw), private)


def _read_private(path: Path) -> bytes:
    """The file's bytes, if nobody but its owner may read it (asked of the open file, so that it cannot change between)."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if os.name == "posix" and stat.S_IMODE(status.st_mode) & OTHERS:
                raise HarnessError(f"{path}: others than its owner may read this key (mode {stat.S_IMODE(status.st_mode):04o}); "
                                   f"run `chmod 600 {path}`, and make a new key if someone has.")
            return file.read(LARGEST)
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the key ({error.strerror}); make one with `harness key new`.") from error


def location() -> Path:
    """Where this user's key is: $HARNESS_KEY, or ~/.config/likeness/key.pem."""
    return at_home(Path(os.environ.get("HARNESS_KEY") or HOME))


def default() -> Key:
    """This user's key, made at its first use; its passphrase is $HARNESS_KEY_PASSPHRASE, where that is set."""
    path, passphrase = location(), os.environ.get(PASSPHRASE) or None
    if not path.exists():
        try:
            return create(path, passphrase)
        except HarnessError:
            if not path.exists():  # else another process made it in the meantime, and it serves as well
                raise
    return load(path, passphrase)


def public_pem(key: Key) -> str:
    """The public half as PEM, to be handed to whoever wants to pin it."""
    from cryptography.hazmat.primitives import serialization as form

    return key._private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo).decode()


def read_public(path: Path) -> bytes:
    """The 32 raw bytes of a public key's PEM file; raises HarnessError for anything else, a private key included."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        with open(at_home(path), "rb") as file:
            public = form.load_pem_public_key(file.read(LARGEST))
    except OSError as error:
        raise HarnessError(f"{path}: cannot read the public key ({error.strerror}); check the path.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HarnessError(f"{path}: not a public key in PEM form; `harness key show --pem` writes one.") from error
    if not isinstance(public, Ed25519PublicKey):
        raise HarnessError(f"{path}: a public key of another kind; only Ed25519 is used.")
    return public.public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `new` and `show`. A passphrase is asked for or comes from the environment: a command line is public."""
    actions = parser.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="make a key")
    new.add_argument("--protect", action="store_true", help=f"ask for a passphrase (else ${PASSPHRASE}, where it is set)")
    show = actions.add_parser("show", help="the public half: where it lies and its fingerprint")
    show.add_argument("--pem", action="store_true", help="print the public half as PEM, for others to pin")
    for each in (new, show):
        each.add_argument("path", type=Path, nargs="?", help=f"the key's file (default $HARNESS_KEY or {HOME})")


def main(args: argparse.Namespace) -> int:
    """Make or show a key; what is wrong is raised as HarnessError."""
    path, passphrase = args.path or location(), os.environ.get(PASSPHRASE) or None
    if args.action == "new":
        key = create(path, _asked() if args.protect else passphrase)
    else:
        key = load(path, passphrase)
    print(public_pem(key) if getattr(args, "pem", False) else f"{key.path}\n{key.fingerprint}", end="" if getattr(args, "pem", False) else "\n")
    return 0


def _asked() -> str:
    """A passphrase typed twice."""
    first = getpass.getpass("passphrase: ")
    if first != getpass.getpass("again: "):
        raise HarnessError("the two passphrases differ; run the command again.")
    return first
