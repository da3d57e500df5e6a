"""Where runs lie, which folder a run takes, and the table of pictures that went into it."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness import provenance
from harness.errors import HarnessError, Refused
from harness.runs import manifest, notebooks

if TYPE_CHECKING:
    from harness.images import ImageSet

RESULTS = "HARNESS_RESULTS"  # environment: where all runs lie
WORKS, COLUMNS = "works.csv", ("sha256", "subject", "role")
SUBJECTS = ("subject", "artist", "person")  # columns that say whose a picture is, or whom it shows
TEXTS = (".csv", ".css", ".htm", ".html", ".js", ".json", ".jsonl", ".log", ".md", ".svg", ".txt", ".xml", ".yaml", ".yml")
LARGEST = 64 << 20  # bytes of an output of an unknown kind that is looked through for secrets
PICTURE = re.compile(r"base64,[A-Za-z0-9+/=\s]+")


def results(path: Path) -> Path:
    """Where the runs of a notebook lie: ``$HARNESS_RESULTS``, else ``results/runs`` in its project."""
    chosen = os.environ.get(RESULTS)
    try:
        chosen = str(Path(chosen).expanduser().resolve()) if chosen else ""
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, a loop of links
        raise HarnessError(f"{RESULTS}={chosen}: not a place where runs could lie ({error}); name a folder") from error
    return Path(chosen) if chosen else notebooks.root(path) / "results" / "runs"


def choose_folder(parent: Path, notebook: str, run_id: str, force: bool = False) -> Path:
    """The folder of a run: the latest finished one, else the latest try, else a new one; ``force``: one beside them."""
    name = f"{notebook}-{run_id}"
    taken = _tries(parent, name)
    if force or not taken:
        return parent / (f"{name}-{max(taken) + 1}" if taken else name)
    done = [number for number, folder in taken.items() if manifest.status(folder) == manifest.COMPLETE]
    return taken[max(done or taken)]


def _tries(parent: Path, name: str) -> dict[int, Path]:
    """What lies under a run's name by number: 1 is the plain name, and there may be holes."""
    found = [(re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", path.name), path) for path in (parent.iterdir() if parent.is_dir() else ())]
    return {int(match[1] or 1): path for match, path in found if match}


def is_finished(folder: Path) -> bool:
    """Whether a run is complete and all of its outputs are there; raises HarnessError when one was changed since."""
    if manifest.status(folder) != manifest.COMPLETE:
        return False
    manifest.whole(folder)
    changed = manifest.changed_outputs(folder)
    for name, what in changed.items():
        if what == "changed":
            raise HarnessError(f"{folder / name}: is not what the finished run wrote; delete it to have it made again, or use --force "
                               "for a fresh run beside it")
    return not changed and not lost_notebook(folder)


def is_complete(folder: Path) -> bool:
    """Whether a run is done, as every reader of it should ask: its manifest says so, and its outputs and its notebook are what it says.

    Raises HarnessError for a manifest that cannot be read.
    """
    return manifest.status(folder) == manifest.COMPLETE and not manifest.changed_outputs(folder) and not lost_notebook(folder)


def lost_notebook(folder: Path) -> bool:
    """Whether a finished run lacks its saved notebook: its launcher was killed between the last cell and the saving."""
    return manifest.read(folder).get("process", {}).get("by") == manifest.LAUNCHER and not (folder / manifest.SAVED).is_file()


def clear_halves(folder: Path) -> None:
    """Remove what a killed process left half-written under a temporary name."""
    for half in sorted(folder.rglob(".*.tmp")):
        if half.is_dir() and not half.is_symlink():
            shutil.rmtree(half, ignore_errors=True)
        else:
            half.unlink(missing_ok=True)


def refuse_leaks(folder: Path, names: Iterable[str]) -> None:
    """Raises Refused when an output that is text holds what looks like a secret; pictures inside it are not looked at.

    Text is what has one of the endings in ``TEXTS``, and whatever else is UTF-8 and no larger than ``LARGEST`` bytes.
    """
    for name in names:
        if provenance.is_secret(PICTURE.sub("", _text(folder / name))):
            raise Refused(f"{folder / name} holds what looks like a secret, and outputs are passed on; take it out of what the notebook writes")


def _text(path: Path) -> str:
    """What a file says; "" where it is no text."""
    known = path.suffix.lower() in TEXTS
    if not known and path.stat().st_size > LARGEST:
        return ""
    try:
        return path.read_text(encoding="utf-8", errors="replace" if known else "strict")
    except UnicodeDecodeError:
        return ""


def add_works(folder: Path, images: ImageSet, role: str) -> Path:
    """Add pictures to ``works.csv``: one row for each picture and each subject that its table names (artist, person); none twice.

    Raises HarnessError for pictures without hashes, or an empty role.
    """
    from harness.images import atomic_write

    if "sha256" not in images.table or not role.strip():
        raise HarnessError(f"{images.folder}: pictures that went into a run are written down by `sha256` and with a role such as \"trained on\"")
    path = folder / WORKS
    rows = dict.fromkeys([*works(folder), *_rows(images, role)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return atomic_write(path, text.getvalue())


def works(folder: Path) -> list[tuple[str, str, str]]:
    """(sha256, subject, role) of every picture that went into a run; raises HarnessError for a table that is something else."""
    path = folder / WORKS
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            head, *rows = csv.reader(lines)
    except (OSError, ValueError, csv.Error) as error:
        raise HarnessError(f"{path}: not a table that can be read ({error}); delete it and run again") from error
    if tuple(head) != COLUMNS or not all(len(row) == len(COLUMNS) for row in rows):
        raise HarnessError(f"{path}: its columns must be {', '.join(COLUMNS)}; delete it and run again")
    return [(row[0], row[1], row[2]) for row in rows]


def _rows(images: ImageSet, role: str) -> list[tuple[str, str, str]]:
    named = [images.table[name].astype(str) for name in SUBJECTS if name in images.table]
    rows = zip(images.table["sha256"].astype(str), *named, strict=True)
    return [(digest, who, role) for digest, *subjects in rows for who in (dict.fromkeys(who for who in subjects if who) or [""])]
