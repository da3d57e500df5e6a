"""Where runs lie, which folder a run takes, and the table of pictures that went into it."""

from __future__ import annotations

import csv
import io
import os
import re
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
PICTURE = re.compile(r"base64,[A-Za-z0-9+/=\s]+")


def results(path: Path) -> Path:
    """Where the runs of a notebook lie: ``$HARNESS_RESULTS``, else ``results/runs`` in its project."""
    chosen = os.environ.get(RESULTS)
    return Path(chosen).expanduser().resolve() if chosen else notebooks.root(path) / "results" / "runs"


def choose_folder(parent: Path, notebook: str, run_id: str, force: bool = False) -> Path:
    """The folder of a run: the latest finished one, else the latest try, else a new one; ``force``: one beside them."""
    taken, free = [], parent / f"{notebook}-{run_id}"
    while free.exists():
        taken.append(free)
        free = parent / f"{notebook}-{run_id}-{len(taken) + 1}"
    if force or not taken:
        return free
    done = [folder for folder in taken if manifest.status(folder) == manifest.COMPLETE]
    return (done or taken)[-1]


def is_finished(folder: Path) -> bool:
    """Whether a run is complete and all of its outputs are there; raises HarnessError when one was changed since."""
    if manifest.status(folder) != manifest.COMPLETE:
        return False
    changed = manifest.changed_outputs(folder)
    for name, what in changed.items():
        if what == "changed":
            raise HarnessError(f"{folder / name}: is not what the finished run wrote; delete it to have it made again, or use --force "
                               "for a fresh run beside it")
    return not changed and not lost_notebook(folder)


def lost_notebook(folder: Path) -> bool:
    """Whether a finished run lacks its saved notebook: its launcher was killed between the last cell and the saving."""
    return manifest.read(folder)["process"].get("by") == manifest.LAUNCHER and not (folder / manifest.SAVED).is_file()


def clear_halves(folder: Path) -> None:
    """Remove what a killed process left half-written under a temporary name."""
    for half in folder.rglob(".*.tmp"):
        half.unlink(missing_ok=True)


def refuse_leaks(folder: Path, names: Iterable[str]) -> None:
    """Raises Refused when a text file among a run's outputs holds what looks like a secret; pictures inside it are not looked at."""
    for name in names:
        if name.endswith(TEXTS) and provenance.is_secret(PICTURE.sub("", (folder / name).read_text(encoding="utf-8", errors="replace"))):
            raise Refused(f"{folder / name} holds what looks like a secret, and outputs are passed on; take it out of what the notebook writes")


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
