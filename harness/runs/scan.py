"""All runs in a folder, read afresh each time: there is no index file that could be lost or disagree with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.runs import manifest

STATES = (manifest.RUNNING, manifest.COMPLETE, manifest.FAILED)


def runs(results: Path, notebook: str | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and manifest of every run in ``results`` (of one notebook, where named), the oldest first.

    A folder without a manifest that can be read is named in a line ``left out: …`` and skipped; hidden folders are
    nobody's run. A ``results`` that is not there holds no runs.
    """
    found = []
    for folder in _folders(results):
        try:
            facts = _checked(folder)
        except (HarnessError, OSError) as problem:
            print(f"left out: {problem}")
            continue
        if notebook in (None, facts["notebook"]):
            found.append((folder, facts))
    return sorted(found, key=lambda run: (run[1]["timings"]["started"], run[0].name))


def _folders(results: Path) -> Iterator[Path]:
    if results.is_dir():
        yield from sorted(path for path in results.iterdir() if path.is_dir() and not path.name.startswith("."))


def _checked(folder: Path) -> dict[str, Any]:
    """The manifest of a run, with what every reader of it counts on; raises HarnessError naming what is not there."""
    found = manifest.read(folder)
    wrong = [name for name, kind in (("id", str), ("notebook", str), ("parameters", dict), ("timings", dict)) if not isinstance(found.get(name), kind)]
    wrong += ["status"] if found.get("status") not in STATES else []
    wrong += [] if "parameters" in wrong or isinstance(found["parameters"].get("resolved"), dict) else ["parameters.resolved"]
    wrong += [] if "timings" in wrong or isinstance(found["timings"].get("started"), str) else ["timings.started"]
    if wrong:
        raise HarnessError(f"{folder / manifest.NAME}: `{'`, `'.join(wrong)}` missing or not what it should be; move the folder away and run again")
    return found
