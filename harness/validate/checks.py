"""What can be wrong with a notebook, a preset, a data or model card, a published result: one function for each kind.

Each takes the path of one file and returns its faults as sentences, or raises HarnessError with the one that hides all others.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import params, prove, provenance
from harness.errors import HarnessError, Refused
from harness.forecast import work
from harness.runs import notebooks, refuse, rows
from harness.runs.folders import PICTURE

COMMAND = re.compile(r"`[^`]*\b(harness|python|make)\s+[^`]+`")
TWIN = ".croissant.json"
MODEL_CARD = ("license", "library_name", "pipeline_tag")
"""What the front matter of a model card must say."""


def notebook(path: Path) -> list[str]:
    """A notebook: its format, parameters, question, clean outputs, and what its metadata say to the harness."""
    held, found = notebooks.load(path), notebooks.read(path)
    titles = [line for cell in held["cells"] if cell.get("cell_type") == "markdown" for line in notebooks.text(cell).splitlines() if line.startswith("# ")]
    faults = format_faults(held) + _saved(held)
    faults += [] if len(titles) == 1 else [f"it has {len(titles) or 'no'} headings of the first level; give it one"]
    faults += [] if found.question else ["no paragraph of it is a question; say what the notebook asks"]
    return faults + _metadata(found, found.defaults) + secrets(path)


def format_faults(held: dict[str, Any]) -> list[str]:
    """Faults of a notebook's JSON against nbformat's own schema, and cells that lack an id or share one."""
    import nbformat

    ids = [cell.get("id") for cell in held["cells"]]
    faults = [f"cell {ids.index(None) + 1} has no id"] if None in ids else []
    faults += ["two of its cells have one id"] if len(set(ids)) < len(ids) and not faults else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it gives such cells an id and warns of that; hence a copy
            nbformat.validate(copy.deepcopy(held))
    except (nbformat.ValidationError, KeyError, TypeError, AttributeError) as error:
        return [f"not a notebook of format 4: {_first_line(error)}"]
    return faults


def _saved(held: dict[str, Any]) -> list[str]:
    """Outputs and widgets, which viewers refuse and which may show what nobody meant to publish."""
    code = [cell for cell in held["cells"] if cell.get("cell_type") == "code"]
    used = [number for number, cell in enumerate(code, 1) if cell.get("outputs") or cell.get("execution_count")]
    faults = [f"code cell {used[0]} was saved with outputs; clear them (JupyterLab: Edit, Clear Outputs of All Cells)"] if used else []
    return faults + (["its metadata hold widgets, so that viewers refuse it; save it without"] if "widgets" in held.get("metadata", {}) else [])


def _metadata(found: notebooks.Notebook, resolved: dict[str, Any]) -> list[str]:
    """Contradictory settings, and declared work that cannot be worked out."""
    faults, where = [], f"its metadata `harness` with {'its defaults' if resolved == found.defaults else 'these settings'}"
    try:
        refuse.contradictions(found.harness.get("refuse", []), resolved, where)
    except Refused as error:
        faults.append(f"its settings contradict each other: {error}")
    except HarnessError as error:
        faults.append(str(error))
    try:
        work.declared(found, resolved)
    except HarnessError as error:
        faults.append(str(error).removeprefix(f"{found.path}, "))
    return faults


def preset(path: Path) -> list[str]:
    """A preset: the command that runs it, whether it was ever run, and settings that its notebook has and takes."""
    name, _, chosen = path.name.removesuffix(path.suffix).rpartition(".")
    owner = path.parents[1] / f"{name}.ipynb"
    if not name or not owner.is_file():
        return [f"there is no notebook {owner.name} beside the folder of presets; a preset is called NOTEBOOK.PRESET.yaml"]
    found = notebooks.read(owner)
    given = params.read_preset(path, found.parameters)
    lines = path.read_text(encoding="utf-8").splitlines()
    notes = " ".join(line for line in lines[1:] if line.startswith("#"))
    command = rf"# harness run \S*{re.escape(owner.name)} --preset {re.escape(chosen)}( -p \w+=\S+)*"
    faults = [] if lines and re.fullmatch(command, lines[0]) else [f"its first line is not the command that runs it (`# harness run notebooks/{owner.name} --preset {chosen}`)"]
    faults += [] if re.search(r"\brun(s|ning)?\b", notes, re.IGNORECASE) else ["no comment says whether it was ever run"]
    return faults + _metadata(found, found.defaults | given) + secrets(path)


# --- cards ------------------------------------------------------------------------------------------------------------


def card(path: Path) -> list[str]:
    """A data card in either form, or a model card (front matter with `library_name`)."""
    from harness.consent import cards

    if path.name.endswith(TWIN):
        return _croissant(path)
    front = _front(path)
    if "library_name" in front or "pipeline_tag" in front:
        lost = [name for name in MODEL_CARD if not front.get(name)]
        away = [name for name in front.get("datasets") or [] if not (path.parent / f"{name}.md").is_file()]
        return [f"its front matter says no `{name}`" for name in lost] + [f"it names the data set `{name}`, which has no card here" for name in away]
    found = cards.read(path)
    faults = cards.problems(found) + ([] if found.name == path.stem else [f"it calls itself {found.name}; the file must have that name"])
    return faults + ([] if (path.parent / f"{path.stem}{TWIN}").is_file() else [f"its twin for machines, {path.stem}{TWIN}, is not there"])


def _front(path: Path) -> dict[str, Any]:
    import yaml

    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    try:
        found = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError as error:
        raise HarnessError(f"{path}: its front matter is not YAML: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise HarnessError(f"{path}: it has no front matter (fields between two lines `---`)")
    return found


def _croissant(path: Path) -> list[str]:
    """Croissant: its form by `mlcroissant`, where that is installed, and the same content as its Markdown."""
    from importlib.util import find_spec

    from harness.consent import cards

    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"not JSON: {error}"]
    twin = path.with_name(path.name.removesuffix(TWIN) + ".md")
    if not twin.is_file():
        return [f"its twin for people, {twin.name}, is not there"]
    if not isinstance(held, dict):
        return ["not a Croissant description: it is no table"]
    if find_spec("mlcroissant"):
        cards.check(path)
    told = json.loads(json.dumps(cards.croissant(cards.read(twin))))
    return [f"its `{name}` is not what {twin.name} says; write both again with `cards.write`" for name in told if held.get(name) != told[name]]


# --- published results ------------------------------------------------------------------------------------------------


def published(path: Path) -> list[str]:
    """A published result: its stamp fits code and bytes, or a text beside it says the command; its tables are tables."""
    if path.name.endswith(prove.STAMP):
        return _stamp(path)
    stem = path.name.split(".")[0]
    stamp, beside = path.with_name(f"{stem}{prove.STAMP}"), path.with_name(f"{stem}.md")
    faults = []
    if not stamp.is_file() and not (beside.is_file() and COMMAND.search(beside.read_text(encoding="utf-8"))):
        faults.append(f"nothing says which command made it: neither a stamp nor {beside.name}")
    elif stamp.is_file() and path.name not in (_read_stamp(stamp).get("results") or {}):
        faults.append(f"the stamp {stamp.name} does not name it")
    return faults + _table(path) + secrets(path)


def _table(path: Path) -> list[str]:
    """What can be read of a result by its ending."""
    from harness.images import decode, read_table

    if path.name.endswith("findings.csv"):
        rows.findings(path)
    elif path.suffix == ".csv":
        return [] if len(read_table(path)) else ["a table without a row"]
    elif path.suffix == ".json":
        json_of(path)
    elif path.suffix in (".png", ".jpg"):
        decode(path)
    return []


def _stamp(path: Path) -> list[str]:
    """A stamp's fields; whether it is stale is asked once for all of them (`stale`)."""
    held = _read_stamp(path)
    return [f"it says no `{name}`" for name in ("command", "code", "code_sha256", "results", "date", "device") if not held.get(name)]


def stale(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Which of these published results, in the checkouts where they lie, are no longer what their stamps and code say."""
    named = {path.resolve() for path in paths}
    roots = {notebooks.root(path) for path in named if path.name.endswith(prove.STAMP)}
    roots = {root for root in roots if all(map(_sound, (root / prove.PUBLISHED).glob(f"*{prove.STAMP}")))}  # a broken one is a fault already
    lines = [(root / prove.PUBLISHED / line.split(": ")[0], line.partition(": ")[2]) for root in sorted(roots) for line in prove.stale(root)]
    return [(path, what) for path, what in lines if path in named or not path.exists()]


def _sound(stamp: Path) -> bool:
    try:
        return not _stamp(stamp)
    except HarnessError:
        return False


def _read_stamp(path: Path) -> dict[str, Any]:
    held = json_of(path)
    if not isinstance(held, dict):
        raise HarnessError(f"{path}: not a stamp: it is no table")
    return held


# --- what all share ---------------------------------------------------------------------------------------------------


def json_of(path: Path) -> Any:
    """What a JSON file holds; raises HarnessError for a broken one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HarnessError(f"{path}: not JSON: {error}") from error


def secrets(path: Path) -> list[str]:
    """A sentence where a text file holds what looks like a token, a key or a password."""
    try:
        text = PICTURE.sub("", path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return []
    return ["it holds what looks like a secret; take it out, and make a new one"] if provenance.is_secret(text) else []


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
