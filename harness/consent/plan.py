"""What is to be done, written down before anything is: complete enough to go on with after the files that told it are gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from harness.errors import HarnessError
from harness.images import sha256

FORGET, WITHDRAW, SWEEP = "forget", "withdraw", "sweep"


@dataclass(frozen=True)
class Plan:
    """What a call intends."""

    id: str
    """Random; names the tombstone."""
    kind: str
    """forget (names too), withdraw (works and what was made of them) or sweep (only what shows them)."""
    at: str
    """UTC."""
    roots: list[str]
    """Folders to work on."""
    subject: str
    """Whom it is about; empty for single works."""
    names: list[str]
    """Names that must go; none when withdrawing."""
    works: list[str]
    """Hashes of the works."""
    tainted: list[str]
    """Hashes of the works and of all that was made of them."""
    near: list[str]
    """Perceptual descriptors of those, hexadecimal."""
    fragments: list[str]
    """Bytes of tensors and vectors that have to go, hexadecimal."""
    whole: list[str]
    """Files that go although nothing in them says why (caches and checkpoints of a reached training)."""
    runs: list[str]
    """Run folders that were reached."""
    retrain: list[dict]
    """Adapters to be made again without the works."""
    sign: list[str]
    """Reports to be signed again."""
    removed: dict[str, int] = field(default_factory=dict)
    """Not used any more; plans of earlier versions have it."""
    others: list[str] = field(default_factory=list)
    """Names of others in which one of the names stands, and which stay."""
    kept: dict[str, str] = field(default_factory=dict)
    """Others' originals among the works, by hash, and whose they are."""
    claimed: list[str] = field(default_factory=list)
    """Hashes of pictures that the ledger gives to others: they stay whatever they look like."""
    shown: list[str] = field(default_factory=list)
    """Those of others' originals that show the subject."""
    steps: list[list[str]] | None = None
    """Path, action, kind and the hash before, of every file that is to be deleted or rewritten."""


@dataclass(frozen=True)
class Eyes:
    """How pictures are compared; harness.perceptual unless a test says otherwise."""

    describe: Callable[[Any], bytes]
    """Descriptor of a picture."""
    alike: Callable[[bytes, bytes], bool]
    """Are two descriptors those of near-duplicates?"""

    def reads(self, mark: bytes) -> bool:
        """Can a descriptor be compared, or is it of another version? (An old one must not stand in the way of forgetting.)"""
        try:
            return self.alike(mark, mark)
        except HarnessError:
            return False

    def remembering(self) -> Eyes:
        """The same, which describes no picture twice: what was looked at for the plan is not looked at again when it is carried out."""
        seen: dict[str, bytes] = {}

        def describe(picture: Any) -> bytes:
            key = f"{picture.size} {picture.mode} {sha256(picture.tobytes())}"
            if key not in seen:
                seen[key] = self.describe(picture)
            return seen[key]
        return replace(self, describe=describe)
