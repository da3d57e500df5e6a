"""What can be wrong with the folder of a run: its manifest against its schema, its files against their hashes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness import provenance
from harness.errors import HarnessError
from harness.runs import folders, identity, inputs, manifest, notebooks, rows
from harness.validate import checks
from harness.runs.folders import COLUMNS, TEXTS, WORKS

HASH = re.compile(r"[0-9a-f]{64}")
LARGEST_TEXT = 50_000_000


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest."""
    return json.loads((Path(__file__).parent / "manifest.schema.json").read_text(encoding="utf-8"))


def run(folder: Path) -> list[str]:
    """Faults of a run's folder; of a finished one also its tables, its notebook, its report's seal and secrets in its texts.

    Raises HarnessError where its manifest cannot be read at all.
    """
    held = manifest.read(folder)
    faults = _schema(held)
    if faults:
        return faults
    faults = _identity(folder, held)
    if held["status"] != manifest.COMPLETE:
        return faults + _secrets(folder)
    faults += [f"{name} is {what}, by the hash in its manifest" for name, what in manifest.changed_outputs(folder).items()]
    for part in (_findings, _samples, _works, _notebook, _seal):
        try:
            faults += part(folder)
        except HarnessError as error:
            faults.append(str(error).removeprefix(f"{folder}: ").removeprefix(f"{folder}/"))
    return faults + _secrets(folder)


def _schema(held: Mapping[str, Any]) -> list[str]:
    import jsonschema

    found = sorted(jsonschema.Draft202012Validator(schema()).iter_errors(held), key=lambda error: list(map(str, error.absolute_path)))
    return [f"manifest.json, {'.'.join(map(str, error.absolute_path)) or 'top'}: {error.message[:160]}" for error in found]


def _identity(folder: Path, held: Mapping[str, Any]) -> list[str]:
    """The id is the hash of what it says that it ran with, and names the folder."""
    facts = {**held["identity"], "parameters": inputs.portable(held["parameters"]["resolved"], held["inputs"])}
    faults = [] if identity.run_id(facts) == held["id"] else ["its id is not the hash of the parameters, code, inputs, packages and device that it names"]
    named = re.fullmatch(rf"{re.escape(held['notebook'])}-{held['id']}(-\d+)?", folder.name)
    return faults + ([] if named else [f"a run of {held['notebook']} with the id {held['id']} cannot lie in a folder of this name"])


def _findings(folder: Path) -> list[str]:
    """findings.csv row by row, and that the rows behind each finding have its mean."""
    if not (folder / rows.FINDINGS).exists():
        return [f"{rows.NAME} lies there without {rows.FINDINGS}"] if (folder / rows.NAME).exists() else []
    found = rows.findings(folder)
    return [f"{rows.NAME}: {what}" for what in rows.problems(rows.read(folder), [(f.question, f.subject, f.estimate) for f in found])]


def _samples(folder: Path) -> list[str]:
    from harness.images import open_set

    if (folder / rows.SAMPLES).exists():
        open_set(folder)  # raises for a picture that is gone or has another hash
    return []


def _works(folder: Path) -> list[str]:
    from harness.images import read_table

    if not (folder / WORKS).exists():
        return []
    table = read_table(folder / WORKS)
    lost = [name for name in COLUMNS if name not in table]
    if lost:
        return [f"{WORKS}: no column {' and no '.join(lost)}"]
    return [f"{WORKS}: {value!r} is no SHA-256" for value in table["sha256"] if not HASH.fullmatch(str(value))][:1]


def _notebook(folder: Path) -> list[str]:
    """The executed notebook: a notebook, without widgets."""
    path = folder / manifest.SAVED
    if not path.exists():
        return [f"{manifest.SAVED} is not there: the launcher was killed before it was saved; the same `harness run` goes on from there"] if folders.lost_notebook(folder) else []
    held = notebooks.load(path)
    return [f"{manifest.SAVED}: {what}" for what in checks.format_faults(held)] + ([f"{manifest.SAVED}: its metadata hold widgets"] if "widgets" in held.get("metadata", {}) else [])


def _seal(folder: Path) -> list[str]:
    """A sealed report is as it was sealed."""
    from harness.report import seal, verify

    if not (folder / seal.NAME).exists():
        return []
    differs = verify.check(folder).differs
    return [f"its report is not as it was sealed: {differs}"] if differs else []


def _secrets(folder: Path) -> list[str]:
    """Text files that hold what looks like a token, a key or a password."""
    texts = [path for path in provenance.files(folder) if path.suffix in (*TEXTS, ".ipynb") and path.stat().st_size < LARGEST_TEXT]
    return [f"{path.relative_to(folder).as_posix()}: {what}" for path in texts for what in checks.secrets(path)]
