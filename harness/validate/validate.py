"""``harness validate [PATH]``: notebooks, presets, cards, runs and published results, against their schemas and hashes.

Every file of each kind below PATH is looked at, and the counts are printed: a check that found nothing to check is no
check. Each fault is one sentence that names its file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.runs import manifest, notebooks
from harness.validate import checkrun, checks

SKIPPED = {"node_modules", "__pycache__", "build", "dist"}
PARTS = ("notebooks", "data_cards", "results/runs", "results/published")
"""What of a project is looked at; its other folders hold code and caches."""
RUN = re.compile(r".+-[0-9a-f]{12}(-\d+)?")


@dataclass(frozen=True)
class Kind:
    """One kind of thing that can be checked."""

    name: str
    """as it is counted"""
    check: Callable[[Path], list[str]]
    """what is wrong with one of them, as sentences"""


KINDS = (Kind("notebooks", checks.notebook), Kind("presets", checks.preset), Kind("cards", checks.card), Kind("runs", checkrun.run),
         Kind("published results", checks.published))


@dataclass(frozen=True)
class Fault:
    """Something that is not as it should be."""

    path: Path
    what: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness validate``."""
    parser.add_argument("path", type=_path, nargs="*", help="a file, the folder of a run, or a folder of any of them; several may be named (default: this project)")


def _path(word: str) -> Path:
    """A path as it is typed; an empty one, from a variable that is not set, would be the folder where one stands."""
    if not word.strip():
        raise HarnessError("an empty path names nothing to check; name a file or a folder, `.` for the one where you are")
    return Path(word)


def _project() -> Path:
    top = notebooks.root(Path.cwd())
    if not any((top / mark).exists() for mark in notebooks.MARKS):
        raise HarnessError(f"{top}: not inside a project (no {' and no '.join(notebooks.MARKS)} here or above); name what is to be checked: `harness validate PATH`")
    return top


def main(args: argparse.Namespace) -> int:
    """Print how many of each kind were looked at and every fault; 1 when there is one."""
    tops = args.path or [_project()]
    found = find(*tops)
    counts = {kind.name: len(found[kind.name]) for kind in KINDS}
    if not any(counts.values()):
        raise HarnessError(f"{', '.join(map(str, tops))}: there is nothing here to check: no notebook, preset, card, run or published result")
    faults = check(found)
    print("looked at " + ", ".join(f"{count} {name if count != 1 else name.removesuffix('s')}" for name, count in counts.items()))
    stopped = [status for path in found["runs"] if (status := _status(path)) not in ("", manifest.COMPLETE)]
    if stopped:
        print(f"of the runs {len(stopped)} are not complete: " + ", ".join(f"{stopped.count(word)} {word}" for word in sorted(set(stopped))))
    for fault in faults:
        print(f"fault: {os.path.relpath(fault.path)}: {fault.what}")
    print(f"{len(faults)} fault{'s' * (len(faults) != 1)}" if faults else "no fault")
    return int(bool(faults))


def _status(folder: Path) -> str:
    try:
        return manifest.status(folder)
    except HarnessError:
        return ""


def check(found: Mapping[str, list[Path]]) -> list[Fault]:
    """Every fault of everything that was found."""
    faults = [Fault(path, what) for kind in KINDS for path in found[kind.name] for what in _check(kind, path)]
    sound = set(found["published results"]) - {fault.path for fault in faults}
    return faults + [Fault(path, what) for path, what in checks.stale(sound)]


def _check(kind: Kind, path: Path) -> list[str]:
    try:
        return kind.check(path)
    except HarnessError as error:
        return [re.sub(rf"^{re.escape(str(path))}(: |[/\\\\])", "", str(error))]
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"]


# --- what there is ----------------------------------------------------------------------------------------------------


def find(*tops: Path) -> dict[str, list[Path]]:
    """Everything of each kind below folders (or of single files), by name, nothing twice. Raises HarnessError where nothing lies."""
    found: dict[str, dict[Path, Path]] = {kind.name: {} for kind in KINDS}
    for top in tops:
        if not top.exists():
            raise HarnessError(f"{top}: there is no such file or folder to check; nothing was checked")
        for path in (path for part in _parts(top) for path in _walk(part.resolve() if part.is_symlink() else part)):
            if name := kind_of(path):
                found[name].setdefault(path.resolve(), path)
    return {name: list(paths.values()) for name, paths in found.items()}


def _parts(top: Path) -> list[Path]:
    """The folders of a project that are looked at; anything else is looked at as it is."""
    parts = [top / part for part in PARTS if (top / part).is_dir()]
    return parts if parts and any((top / mark).exists() for mark in notebooks.MARKS) else [top]


def _walk(top: Path) -> Iterator[Path]:
    """Files and folders of runs below a folder; a run's own files belong to its run."""
    if top.is_file() or is_run(top):
        yield top
        return
    for child in sorted(os.scandir(top), key=lambda entry: entry.name):
        hidden = child.name.startswith(".") or child.name in SKIPPED
        if child.is_dir(follow_symlinks=False) and not hidden:
            yield from _walk(Path(child.path))
        elif child.is_file() and not hidden:
            yield Path(child.path)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run: by its manifest, or by its name where the manifest is broken or lost."""
    if not folder.is_dir():
        return False
    try:
        held = json.loads((folder / manifest.NAME).read_text(encoding="utf-8"))
        return isinstance(held, dict) and "notebook" in held and "status" in held or bool(RUN.fullmatch(folder.name))
    except FileNotFoundError:
        return bool(RUN.fullmatch(folder.name)) and (folder / manifest.PARTIAL).exists()
    except (OSError, ValueError):
        return bool(RUN.fullmatch(folder.name))


def kind_of(path: Path) -> str | None:
    """Which kind a path is of, by its place and name; None for anything else."""
    if path.is_dir():
        return "runs"
    if path.suffix == ".ipynb":
        return "notebooks"
    if path.suffix in (".yaml", ".yml") and path.parent.name == "presets":
        return "presets"
    if path.parent.name == "data_cards":
        return "cards" if path.name.endswith((".md", ".croissant.json")) else None
    return "published results" if path.parent.name == "published" else None
