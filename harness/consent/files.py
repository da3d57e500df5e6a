"""Files as the rooms to the right leave them, read as plain files: tables, tensor headers, embeddings, run folders.

Consent comes before fine-tuning, embedding and reporting and imports none of them; so their formats are read here, not their code.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.consent import tables
from harness.consent.names import fold
from harness.errors import HarnessError
from harness.images import sha256

HASH = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
SKIPPED = {".git", ".venv", "__pycache__", "node_modules", "tombstones"}
"""folders that hold no work of anybody's: code, packages, and what is left to say that something was removed"""
TEXT_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
MAKERS, SHOWN, HOLDERS = ("artist", "creator"), ("subject", "person", "depicted", "depicts"), ("rights_holder",)
OWNER = (*MAKERS, *SHOWN, *HOLDERS)
"""columns of a table that say whose picture it is, or who is on it"""
PARENTS = ("adapter_sha256", "model_sha256", "init_sha256", "source_sha256", "original_sha256", "parent_sha256")
"""columns that name what a picture was made with or from"""
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, RecursionError, MemoryError, NotImplementedError,
          RuntimeError, zipfile.BadZipFile, zlib.error, struct.error, HarnessError)
"""what reading a damaged file may raise: no such file stops anything, and none is passed over in silence"""
ADAPTER = "likeness"
"""key of the training manifest in an adapter's metadata"""
LARGEST_HEADER = 100_000_000
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
FILMS = (b"%PDF", b"\x1aE\xdf\xa3", b"FLV\1")


def walk(roots: Iterable[Path], links: list[Path] | None = None) -> list[Path]:
    """Every regular file below the folders, each once, sorted; links are never followed, but listed. Raises HarnessError for a missing folder."""
    found: dict[str, None] = {}
    for root in roots:
        if not Path(root).is_dir():
            raise HarnessError(f"{root}: no such folder to look into.")
        found.update(dict.fromkeys(_below(os.path.realpath(root), [] if links is None else links)))
    return [Path(name) for name in sorted(found)]


def _below(folder: str, links: list[Path]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                links.append(Path(entry.path))
            elif entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED:
                    yield from _below(entry.path, links)
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


def shows(data: bytes) -> bool:
    """Does a file begin like a picture, a film or a paper, whether it can be opened here or not?"""
    return is_picture(data) or data[4:8] == b"ftyp" or data[:4] == b"RIFF" or data.startswith(FILMS)


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
        """Its lines by column (in small letters); empty for what is no table."""
        read = tables.read(self.data)
        return read.rows() if read else []

    @cached_property
    def by_file(self) -> dict[str, dict[str, str]]:
        """Its lines by the file that they name."""
        return {str(path): row for row in self.rows if (path := self.file(row))}

    @property
    def text(self) -> str:
        """Its text."""
        return tables.decoded(self.data)[0]

    def is_plain(self) -> bool:
        """Do its columns say which files it is about? Raises nothing: what cannot be read at all is not plain."""
        read = tables.read(self.data)
        columns = set(read.columns) if read else set()
        return bool(columns & {"sha256", "file"}) or bool(read) and not any(map(self._names_a_file, read.lines))

    def _names_a_file(self, line: Iterable[str]) -> bool:
        return any(is_hash(cell) or cell and len(cell) < 200 and "\0" not in cell and (self.path.parent / cell).is_file() for cell in line)

    def file(self, row: dict[str, str]) -> Path | None:
        """The file that a row names, if it names one below the table's folder."""
        name = row.get("file") or ""
        path = Path(os.path.normpath(self.path.parent / name))
        return path if name and path.is_relative_to(self.path.parent) and path != self.path.parent else None


def owned(row: dict[str, str], names: Iterable[str], columns: Iterable[str] = OWNER) -> bool:
    """Does a row say that the picture belongs to, or shows, one of the names? ("artist-21/4eebab3f" is of artist-21)"""
    held, own = [fold(name) for name in named(row, columns)], [fold(name) for name in names]
    return any(value == name or value.startswith(f"{name}/") for value in held for name in own)


def named(row: dict[str, str], columns: Iterable[str] = OWNER) -> list[str]:
    """Everybody whom a row names as owner of the picture, or as shown."""
    return [name for column in columns for value in (row.get(column) or "").split(";") if (name := value.strip())]


def tensor_header(path: Path) -> dict:
    """The header of a safetensors file: tensors by name, and `__metadata__`; {} for another file."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            held = json.loads(file.read(length)) if 2 <= length <= LARGEST_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def said(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, as far as it is text. Raises HarnessError for a damaged file."""
    header = tensor_header(path)
    if not header and path.stat().st_size:
        raise HarnessError("its header cannot be read")
    held = header.get("__metadata__")
    return {key: value for key, value in held.items() if isinstance(value, str)} if isinstance(held, dict) else {}


def embedded(path: Path) -> list[str]:
    """The hashes of the pictures whose vectors a .npz holds, in its order; [] for another file."""
    try:
        return _embedded(path)
    except BROKEN:
        return []


def _embedded(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as stored:
        return [str(name) for name in stored["sha256"]] if "sha256" in stored.files else []


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
    links: list[Path] = field(default_factory=list)
    """Links, which are never followed."""
    unread: dict[Path, str] = field(default_factory=dict)
    """Files that cannot be read, and why."""
    roots: frozenset[str] = frozenset()
    """The folders."""

    @cached_property
    def tables_of(self) -> dict[Path, list[Table]]:
        """Tables by the folder in which they lie."""
        found: dict[Path, list[Table]] = {}
        for table in self.tables:
            found.setdefault(table.path.parent, []).append(table)
        return found

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
    """Read tables, tensor headers, embedding files and run manifests below some folders. What is damaged is `unread`."""
    links: list[Path] = []
    roots = list(roots)
    found = Index(walk(roots, links), links=links, roots=frozenset(map(os.path.realpath, roots)))
    for path in found.files:
        try:
            _read(path, found)
        except BROKEN as error:
            found.unread[path] = str(error) or type(error).__name__
    return found


def _read(path: Path, found: Index) -> None:
    """One file, as far as its kind needs."""
    suffix = path.suffix
    if suffix in (".csv", ".tsv"):
        found.tables.append(Table(path, path.read_bytes()))
    elif suffix == ".safetensors":
        found.headers[path] = said(path)
    elif suffix == ".npz":
        found.vectors[path] = _embedded(path)
    elif path.name == "manifest.json" and (manifest := _run_manifest(path)):
        found.runs[path.parent] = manifest


def _run_manifest(path: Path) -> dict | None:
    """The manifest of a run; None for an adapter's or anything else of that name."""
    held = json.loads(path.read_bytes())
    return held if isinstance(held, dict) and {"notebook", "status"} <= set(held) else None
