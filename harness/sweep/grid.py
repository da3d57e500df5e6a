"""A grid: the runs of a sweep, read from YAML and checked row by row before anything starts.

Two forms. A mapping ``parameter: [values]`` is every combination of the values, the last parameter turning fastest;
a list of mappings is its rows as they stand. In both, ``preset: name`` chooses the settings beneath.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import params
from harness.errors import HarnessError, Refused

if TYPE_CHECKING:
    from harness.runs.launch import Plan

PRESET = "preset"
MOST = 10_000  # rows; a product grows past any use by one careless list


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a grid: its number from 1, the preset it names (None: the one that fits this machine), its settings."""

    number: int
    preset: str | None
    given: Mapping[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a grid file; raises HarnessError for a file that is not a grid, is empty or has too many rows."""
    found = _load(path)
    if isinstance(found, dict) and found:
        return _rows(path, _product(path, found))
    if isinstance(found, list) and found:
        if len(found) > MOST:
            raise HarnessError(f"{path}: {len(found):,} rows, at most {MOST:,} make one sweep; divide the grid")
        return _rows(path, found)
    raise HarnessError(f"{path}: a grid is a mapping `parameter: [values]` or a list of mappings, and not empty")


def _load(path: Path) -> Any:
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=params.yaml_loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        raise HarnessError(f"{path}: not a YAML file that can be read: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise HarnessError(f"{path}: the grid cannot be read: {error.strerror}; name a YAML file") from error


def _product(path: Path, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    lists = {name: values for name, values in found.items() if name != PRESET}
    for name, values in lists.items():
        if not isinstance(values, list) or not values:
            raise HarnessError(f"{path}: `{name}` must have a list of values, not {values!r}; for one value write `{name}: [{values}]`")
    count = math.prod(map(len, lists.values()))
    if count > MOST:
        raise HarnessError(f"{path}: {count:,} combinations, at most {MOST:,} make one sweep; leave values out")
    fixed = {PRESET: found[PRESET]} if PRESET in found else {}
    return [{**fixed, **dict(zip(lists, values))} for values in itertools.product(*lists.values())]


def _rows(path: Path, found: Sequence[Any]) -> list[Row]:
    rows = []
    for number, given in enumerate(found, 1):
        if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
            raise HarnessError(f"{path}, row {number}: must be a mapping `parameter: value`, not {given!r}")
        preset = given.get(PRESET)
        if preset is not None and not isinstance(preset, str):
            raise HarnessError(f"{path}, row {number}: `{PRESET}` must be the name of one preset, not {preset!r}")
        rows.append(Row(number, preset, {name: value for name, value in given.items() if name != PRESET}))
    return rows


def plans(path: Path, notebook: Path, rows: Sequence[Row], results: Path | None = None) -> list[Plan]:
    """What each row would run, every one checked as ``harness run`` checks it.

    Raises HarnessError that names the row which the notebook does not take, and rows that are the same run.
    """
    from harness.runs import launch

    found = []
    for row in rows:
        try:
            found.append(launch.plan(notebook, row.preset, row.given, results=results))
        except HarnessError as error:
            kind = Refused if isinstance(error, Refused) else HarnessError
            raise kind(f"{path}, row {row.number}: {error}") from error
    _refuse_duplicates(path, rows, found)
    return found


def _refuse_duplicates(path: Path, rows: Sequence[Row], found: Sequence[Plan]) -> None:
    first: dict[str, int] = {}
    same = [f"{first[plan.folder.name]} and {row.number}" for row, plan in zip(rows, found)
            if first.setdefault(plan.folder.name, row.number) != row.number]
    if same:
        more = f" and {len(same) - 5} more pairs" if len(same) > 5 else ""
        raise HarnessError(f"{path}: rows {', '.join(same[:5])}{more} are the same run; keep one of each")


def varying(found: Sequence[Plan]) -> list[str]:
    """Names of the settings that are not the same in every row, in the notebook's order."""
    names = list(found[0].resolved)
    return [name for name in names if len({repr(plan.resolved[name]) for plan in found}) > 1]
