"""A run's folder as one zip file, for machines that do not share a disk: packed, unpacked, held against its manifest."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from harness import runs
from harness.errors import HarnessError
from harness.runs import manifest


def write(path: Path, data: bytes) -> None:
    """Write a file whole, unless it is there with these bytes: other runs may be reading it."""
    from harness.images import atomic_write

    if not path.is_file() or path.read_bytes() != data:
        atomic_write(path, data)


def pack(folder: Path) -> bytes:
    """A folder as a zip file; its pictures are compressed already, so nothing is compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def unpack(data: bytes, name: str, results: Path) -> Path:
    """Lay a run's folder called ``name`` into ``results``, whole or not at all; returns where it lies.

    It stands beside what has that name already. Raises HarnessError for an archive that is broken, that names files
    outside its folder, or whose files are not those that its manifest says.
    """
    if not name or PurePosixPath(name).name != name or name.startswith("."):
        raise HarnessError(f"{name!r}: not the name of a run's folder; the worker that sent it is not to be trusted")
    half = results / f".{name}.{os.getpid()}.tmp"
    try:
        _extract(data, name, half)
        changed = manifest.changed_outputs(half)
        if changed:
            raise HarnessError(f"{name}: came back from its worker with {', '.join(sorted(changed)[:3])} changed or gone; run the sweep again")
        folder = results / name
        if folder.exists():
            found = manifest.read(half)
            folder = runs.choose_folder(results, found["notebook"], found["id"], force=True)
        half.rename(folder)
        return folder
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _extract(data: bytes, name: str, half: Path) -> None:
    shutil.rmtree(half, ignore_errors=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                path = PurePosixPath(entry)
                if path.is_absolute() or ".." in path.parts or "\\" in entry or ":" in entry:
                    raise HarnessError(f"{name}: its archive names {entry!r}, which lies outside; the worker that sent it is not to be trusted")
            archive.extractall(half)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise HarnessError(f"{name}: what its worker sent back cannot be unpacked into {half.parent}: {error}; run the sweep again") from error
