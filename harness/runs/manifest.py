"""The file ``manifest.json`` of a run: read, written whole, and held against what lies beside it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError

NAME, SAVED, PARTIAL = "manifest.json", "notebook.ipynb", "notebook.part.ipynb"
SCHEMA = 2
RUNNING, COMPLETE, FAILED = "running", "complete", "failed"
LAUNCHER, ALONE = "harness run", "notebook"  # who began a run


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a run's folder; raises HarnessError when it is missing or broken."""
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HarnessError(f"{folder}: not the folder of a run, it holds no {NAME}") from error
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: broken ({error}); move the folder away and run again") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); check the folder and its permissions") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise HarnessError(f"{path}: its schema is {str(schema)[:20]}, this version reads {SCHEMA}; keep the folder elsewhere and run again")
    wrong = [name for name, fits in FIELDS.items() if (name in found or name == "status") and not _fits(fits, found)]
    if wrong:
        raise HarnessError(f"{path}: `{'`, `'.join(wrong)}` missing or not what it should be; move the folder away and run again")
    return found


def whole(folder: Path) -> dict[str, Any]:
    """The same, for who goes on with a run; raises HarnessError as well when one of the FIELDS is not there."""
    found = read(folder)
    wrong = [name for name in FIELDS if name not in found]
    if wrong:
        raise HarnessError(f"{folder / NAME}: `{'`, `'.join(wrong)}` missing; move the folder away and run again")
    return found


def _fits(fits: Callable[[dict[str, Any]], bool], found: dict[str, Any]) -> bool:
    try:
        return fits(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _is_table(value: Any, kind: type = object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())


def _is_error(value: Any) -> bool:
    return value is None or isinstance(value["reason"], str) and isinstance(value["source"], str) and isinstance(value["cell"], int | None)


def _is_identity(value: Any) -> bool:
    return all(_is_table(value[name], str) for name in ("code", "packages", "inputs") if name in value) and all(
        isinstance(value[name], str | None) for name in ("notebook", "device") if name in value)


def _are_times(value: Any) -> bool:
    return (isinstance(value, dict) and isinstance(value.get("attempts", 1), int) and isinstance(value.get("seconds"), int | float | None)
            and all(moment is None or bool(datetime.datetime.fromisoformat(moment)) for moment in (value.get("started"), value.get("ended"))))


def _are_inputs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row[name], str) for row in value for name in ("parameter", "path", "name", "sha256"))


# What every reader counts on, for the fields that are there; `harness validate` asks for all of them.
FIELDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "status": lambda found: found["status"] in (RUNNING, COMPLETE, FAILED), "id": lambda found: isinstance(found["id"], str),
    "notebook": lambda found: isinstance(found["notebook"], str), "parameters": lambda found: _is_table(found["parameters"]) and _is_table(found["parameters"].get("resolved", {})),
    "timings": lambda found: _are_times(found["timings"]), "identity": lambda found: _is_table(found["identity"]) and _is_identity(found["identity"]),
    "error": lambda found: _is_error(found["error"]), "process": lambda found: _is_table(found["process"]), "inputs": lambda found: _are_inputs(found["inputs"]),
    "outputs": lambda found: _is_table(found["outputs"], str), "notes": lambda found: _is_table(found["notes"]),
    "report": lambda found: isinstance(found["report"], str | None), "hardware": lambda found: _is_table(found["hardware"]),
}


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest whole, with everything that looks like a secret masked."""
    from harness.images import atomic_write

    atomic_write(folder / NAME, json.dumps(provenance.mask(plain(facts)), indent=1, ensure_ascii=False) + "\n")


def status(folder: Path) -> str:
    """The status of a run's folder; "" where there is no manifest."""
    return read(folder)["status"] if (folder / NAME).exists() else ""


def plain(value: Any) -> Any:
    """A value as JSON holds it; raises HarnessError for what JSON cannot hold (NaN, infinity, objects)."""
    try:
        return json.loads(json.dumps(value, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise HarnessError(f"a manifest cannot hold {str(value)[:80]!r}: {error}; pass text, finite numbers, lists and dicts") from error


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    for method in ("tolist", "isoformat"):  # numpy's scalars and arrays; dates
        if hasattr(value, method):
            return getattr(value, method)()
    raise TypeError(f"{type(value).__name__} is not plain")


def output_files(folder: Path, named: Iterable[Path | str]) -> list[str]:
    """Names, relative to the run's folder, of the files in ``named``; folders stand for all files in them."""
    found: dict[str, None] = {}
    for name in named:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise HarnessError(f"{path}: an output must lie in the run's folder {folder}")
        if not path.exists():
            raise HarnessError(f"{path}: named as an output, but it was not written")
        found.update((file.relative_to(folder.resolve()).as_posix(), None) for file in provenance.files(path))
    return [name for name in found if name not in (NAME, SAVED, PARTIAL) and not name.endswith(".tmp")]


def changed_outputs(folder: Path) -> dict[str, str]:
    """Outputs of a finished run that are "gone" or "changed" since."""
    found = {}
    for name, digest in read(folder).get("outputs", {}).items():
        if not (folder / name).is_file():
            found[name] = "gone"
        elif provenance.sha256(folder / name) != digest:
            found[name] = "changed"
    return found


def process(by: str) -> dict[str, Any]:
    """This process, and whether the launcher ("harness run") or a notebook by itself ("notebook") began the run."""
    import psutil

    return {"pid": os.getpid(), "created": psutil.Process().create_time(), "host": socket.gethostname(), "by": by}


def now() -> datetime.datetime:
    """This moment, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)
