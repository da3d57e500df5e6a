"""Files as the rooms to the right leave them, read as plain files: tables, tensor headers, embeddings, run folders.

Consent comes before fine-tuning, embedding and reporting and imports none of them; so their formats are read here, not their code.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.errors import HarnessError
from harness.images import sha256

HASH = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
SKIPPED = {".git", ".venv", "__pycache__", "node_modules", "tombstones"}
"""folders that hold no work of anybody's: code, packages, and what is left to say that something was removed"""
TEXT_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
OWNER = ("artist", "subject", "person", "creator", "depicted", "depicts", "rights_holder")
"""columns of a table that say whose picture it is, or who is on it"""
ADAPTER = "likeness"
"""key of the training manifest in an adapter's metadata"""
LARGEST_HEADER = 100_000_000
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def walk(roots: Iterable[Path]) -> list[Path]:
    """Every regular file below the folders, each once, sorted; links are never followed. Raises HarnessError for a missing folder."""
    found: dict[str, None] = {}
    for root in roots:
        if not Path(root).is_dir():
            raise HarnessError(f"{root}: no such folder to look into.")
        found.update(dict.fromkeys(_below(os.path.realpath(root))))
    return [Path(name) for name in sorted(found)]


def _below(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED:
                    yield from _below(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path


def hashes(data: bytes | str) -> set[str]:
    """All SHA-256 in hexadecimal that stand in a text."""
    return {found.decode() for found in HASH.findall(data.encode() if isinstance(data, str) else data)}


def is_hash(text: str | None) -> bool:
    """Is it a SHA-256, and not the * that a ledger writes for all works?"""
    return bool(text and TEXT_HASH.fullmatch(text))


def is_picture(data: bytes) -> bool:
    """Does a file begin like a picture?"""
    return data.startswith(MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


@dataclass
class Table:
    """A CSV with its text, read once."""

    path: Path
    """Where it lies; file names in it are relative to this folder."""
    data: bytes
    """Its bytes."""

    @cached_property
    def hashes(self) -> set[str]:
        """Every hash in it."""
        return hashes(self.data)

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """Its lines by column; empty for what is no table in UTF-8."""
        try:
            return list(csv.DictReader(io.StringIO(self.data.decode("utf-8-sig"), newline="")))
        except (UnicodeDecodeError, csv.Error):
            return []

    def file(self, row: dict[str, str]) -> Path | None:
        """The file that a row names, if it names one below the table's folder."""
        name = row.get("file") or ""
        path = Path(os.path.normpath(self.path.parent / name))
        return path if name and path.is_relative_to(self.path.parent) and path != self.path.parent else None


def owned(row: dict[str, str], names: Iterable[str]) -> bool:
    """Does a row say that the picture belongs to, or shows, one of the names? ("artist-21/4eebab3f" is of artist-21)"""
    held = [value.strip() for column in OWNER for value in (row.get(column) or "").split(";")]
    return any(value == name or value.startswith(f"{name}/") for value in held for name in names)


def tensor_header(path: Path) -> dict:
    """The header of a safetensors file: tensors by name, and `__metadata__`; {} for another file."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)) if 2 <= length <= LARGEST_HEADER else {}
    except (OSError, ValueError):
        return {}


def embedded(path: Path) -> list[str]:
    """The hashes of the pictures whose vectors a .npz holds, in its order; [] for another file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return [str(name) for name in stored["sha256"]] if "sha256" in stored.files else []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return []


@dataclass
class Index:
    """What lies in some folders, as far as tables and headers tell; pictures themselves are not opened."""

    files: list[Path]
    """Every file."""
    tables: list[Table] = field(default_factory=list)
    """CSV files that hold a hash."""
    headers: dict[Path, dict[str, str]] = field(default_factory=dict)
    """Metadata of safetensors files."""
    vectors: dict[Path, list[str]] = field(default_factory=dict)
    """Hashes in embedding files."""
    runs: dict[Path, dict] = field(default_factory=dict)
    """Run folders with their manifests."""

    def run_of(self, path: Path) -> Path | None:
        """The run folder in which a file lies."""
        parent = path.parent
        if parent not in self._homes:
            self._homes[parent] = next((folder for folder in path.parents if folder in self.runs), None)
        return self._homes[parent]

    @cached_property
    def _homes(self) -> dict[Path, Path | None]:
        return {}

    @cached_property
    def _file_hashes(self) -> dict[Path, str]:
        return {}

    def sha256(self, path: Path) -> str:
        """A file's hash, computed once."""
        if path not in self._file_hashes:
            self._file_hashes[path] = sha256(path)
        return self._file_hashes[path]


def index(roots: Iterable[Path]) -> Index:
    """Read tables, tensor headers, embedding files and run manifests below some folders."""
    found = Index(walk(roots))
    for path in found.files:
        if path.suffix == ".csv":
            found.tables.append(Table(path, path.read_bytes()))
        elif path.suffix == ".safetensors":
            found.headers[path] = tensor_header(path).get("__metadata__") or {}
        elif path.suffix == ".npz":
            found.vectors[path] = embedded(path)
        elif path.name == "manifest.json" and (manifest := _run_manifest(path)):
            found.runs[path.parent] = manifest
    return found


def _run_manifest(path: Path) -> dict | None:
    """The manifest of a run; None for an adapter's or anything else of that name."""
    try:
        held = json.loads(path.read_bytes())
    except ValueError:
        return None
    return held if isinstance(held, dict) and {"notebook", "status"} <= set(held) else None
