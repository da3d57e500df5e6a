"""What decides a run's result, the hash of it, and how two runs differ in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import provenance
from harness.runs import imports, manifest, scan
from harness.runs.inputs import Input, hub_commits, portable
from harness.runs.notebooks import Notebook

DECIDING = ("notebook", "code", "inputs", "packages", "device")
SHOWN = 6  # differences named one by one; more are counted


def facts(notebook: Notebook | None, resolved: Mapping[str, Any], inputs: Sequence[Input] = ()) -> dict[str, Any]:
    """Everything that decides the result of a notebook with these parameters (None: its file is not to be found).

    The same facts come out wherever the project lies. Code is what the notebook can reach, all of it where the notebook
    is not to be found.
    """
    rows = [vars(each) for each in inputs]
    return manifest.plain({
        "notebook": notebook.code_sha256 if notebook else None, "code": code(notebook), "parameters": portable(resolved, rows),
        "inputs": {f"{each.parameter}={each.name}": each.sha256 for each in inputs} | hub_commits(resolved),
        "packages": provenance.versions_that_matter(), "device": provenance.device(),
    })


def code(notebook: Notebook | None) -> dict[str, str]:
    """Name and hash of every file of code and data that a notebook can reach."""
    here = Path.cwd()
    if notebook is None:
        return imports.everything([here])
    beside = notebook.path.resolve().parent
    return imports.reach(notebook.sources, [here, beside] if here != beside else [here])


def run_id(found: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name these facts."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def why_new(parent: Path, notebook: str, found: Mapping[str, Any]) -> str:
    """How a run differs from the nearest earlier run of the same notebook."""
    nearest = min((differences(earlier, found) for earlier in _earlier(parent, notebook)), key=len, default=None)
    if nearest is None:
        return "new: the first run of this notebook here"
    if not nearest:
        return "new: asked for once more (--force)"
    more = f"; and {len(nearest) - SHOWN} more" if len(nearest) > SHOWN else ""
    return f"new: {'; '.join(nearest[:SHOWN])}{more}"


def _earlier(parent: Path, notebook: str) -> list[dict[str, Any]]:
    """What decided each earlier run of a notebook, the latest first; folders that cannot be read are named and left out."""
    rows = []
    for folder, before in reversed(scan.runs(parent, notebook)):
        try:
            rows.append({**{name: before["identity"][name] for name in DECIDING}, "parameters": portable(before["parameters"]["resolved"], before["inputs"])})
        except KeyError as error:
            print(f"left out: {folder / manifest.NAME}: {error} is missing")
    return rows


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, settings first: ``steps 20 → 30; diffusers 0.42.1 → 0.42.2; harness/stats.py changed``."""
    found = [f"`{name}` {_short(a)} → {_short(b)}" for name, a, b in _changed(then["parameters"], now["parameters"])]
    found += [f"{name} {_short(a)} → {_short(b)}" for name, a, b in _changed(then["packages"], now["packages"])]
    found += [f"input {name} changed" for name, _, _ in _changed(then["inputs"], now["inputs"])]
    found += [f"device {then['device']} → {now['device']}"] if then["device"] != now["device"] else []
    found += ["the notebook's code changed"] if then["notebook"] != now["notebook"] else []
    return found + [f"{name} {_how(a, b)}" for name, a, b in _changed(then["code"], now["code"])]


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted({*then, *now})
    return [(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name) or (name in then) != (name in now)]


def _how(then: Any, now: Any) -> str:
    return "is newly reached" if then is None else "is no longer reached" if now is None else "changed"


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:60]
