"""Files: written whole or not at all, known by their hash. Everything that leaves the harness goes through `atomic_write`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    import pandas as pd


def sha256(source: Path | str | bytes) -> str:
    """SHA-256 of a file's bytes, or of the bytes given, as 64 hex digits."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: Path, data: bytes | str | Iterable[bytes]) -> Path:
    """Write a file whole (bytes, text, or pieces of bytes): temporary name in the same folder, fsync, rename. Raises HarnessError on a full disk."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            for piece in [data.encode() if isinstance(data, str) else data] if isinstance(data, (str, bytes)) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise HarnessError(f"cannot write {path}: {error.strerror}; free some space or choose another folder, "
                           "then run the same command again.") from error
    finally:
        with suppress(OSError):  # the error worth telling is the one above
            temporary.unlink(missing_ok=True)
    return path


def pieces(path: Path, size: int = 1 << 24) -> Iterator[bytes]:
    """A file's bytes, a part at a time, for `atomic_write`."""
    with open(path, "rb") as file:
        while piece := file.read(size):
            yield piece


def sweep(folder: Path) -> None:
    """Remove the half-written temporary files that a killed process left in a folder."""
    for half in Path(folder).glob(".*.tmp"):
        half.unlink(missing_ok=True)


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table as CSV (UTF-8, no index, the same line ends everywhere), whole or not at all."""
    return atomic_write(path, frame.to_csv(index=False, lineterminator="\n"))
