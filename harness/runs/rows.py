"""What a run leaves in tables for others to read: every picture that came out, and every value behind its findings.

``samples.csv`` has one row a picture, ``rows.csv`` one row a value; the mean of a finding's values is its estimate, so
that two runs can be compared pair by pair. A finding that is no such mean simply has no rows, and is compared unpaired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.audit import copies as copying, exposure as baring, pair, representation as showing
from harness.errors import HarnessError
from harness.images import ImageSet, read_table, write_csv
from harness.stats import Finding

if TYPE_CHECKING:
    import pandas as pd

NAME, SAMPLES, FINDINGS = "rows.csv", "samples.csv", "findings.csv"
COLUMNS = ["question", "subject", "prompt", "seed", "value"]
WORDS = ("question", "subject", "calibration", "domain", "verdict", "why")
NUMBERS, COUNTS = ("estimate", "low", "high", "level", "floor", "power", "p_value"), ("n", "clusters", "abstained")
EXACT = 1e-9
"""How far a finding's estimate may lie from the mean of its rows: rounding, no more."""


def style(scored: pd.DataFrame, subject: str) -> pd.DataFrame:
    """Rows of `audit.style.score`: tuned minus base cosine to the held-out works, one value a pair."""
    return _rows("style", subject, scored, scored["contrast"])


def copies(scored: pd.DataFrame, subject: str, false_alarm: float = 0.01) -> pd.DataFrame:
    """Rows of `audit.copies.score`: 1 for an output that is flagged as a copy, else 0; held-out works have none."""
    flagged = copying.flag(scored, false_alarm).sort_index()
    return _rows("copies", subject, flagged, flagged["flagged"])


def representation(tuned: pd.DataFrame, base: pd.DataFrame, attributes: Sequence[showing.Attribute] = showing.ATTRIBUTES) -> pd.DataFrame:
    """Rows of `audit.representation.score`: 1, 0 or -1 a pair (gained, unchanged, lost); unreadable pairs have none."""
    import pandas as pd

    return pd.concat([_contrast(tuned, base, a.name, cls) for a in attributes for cls in a.reported], ignore_index=True)


def _contrast(tuned: pd.DataFrame, base: pd.DataFrame, attribute: str, cls: str) -> pd.DataFrame:
    now, before = (rows[rows["attribute"] == attribute].reset_index(drop=True) for rows in (tuned, base))
    before = before.iloc[pair(now, before)].reset_index(drop=True)
    read = (now["label"] != showing.UNREAD) & (before["label"] != showing.UNREAD)
    gained = (now["label"] == cls).astype(float) - (before["label"] == cls).astype(float)
    return _rows("representation", attribute if cls == attribute else f"{attribute}: {cls}", now[read], gained[read])


def exposure(scored: pd.DataFrame, threshold: float = baring.THRESHOLD) -> pd.DataFrame:
    """Rows of `audit.exposure.score`: 1 for a picture at or above the threshold, else 0; unread pictures have none."""
    read = scored[scored["score"].notna()]
    return _rows("exposure", str(read["detector"].iloc[0]) if len(read) else "no detector", read, read["score"] >= threshold)


def _rows(question: str, subject: str, scored: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    missing = {"prompt", "seed"} - set(scored.columns)
    if missing:
        raise HarnessError(f"rows of {question}: no column {' or '.join(sorted(missing))}; sample with prompts and seeds, or write no rows for it")
    # a table joined with works that have no seed holds 7 as 7.0, which would be no partner of 7
    table = scored[["prompt", "seed"]].convert_dtypes().reset_index(drop=True)
    table.insert(0, "question", question)
    table.insert(1, "subject", subject)
    return table.assign(value=values.to_numpy(dtype=float))


def write(folder: Path, parts: Sequence[pd.DataFrame], findings: Sequence[Finding]) -> Path:
    """Write rows.csv into a run's folder; a finding without rows will be compared unpaired.

    Raises HarnessError where the mean of a finding's rows is not its estimate, or rows belong to no finding.
    """
    import pandas as pd

    table = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
    wrong = problems(table, [(f.question, f.subject, f.estimate) for f in findings])
    if wrong:
        raise HarnessError(f"{folder / NAME}: {wrong[0]}; give `rows` the same scores and thresholds as `finding`")
    return write_csv(folder / NAME, table)


def problems(table: pd.DataFrame, findings: Sequence[tuple[str, str, float | None]]) -> list[str]:
    """What is wrong with rows, held against (question, subject, estimate) of the findings; empty when nothing is."""
    import numpy as np

    if list(table.columns) != COLUMNS:
        return [f"its columns are {', '.join(map(str, table.columns))}, not {', '.join(COLUMNS)}"]
    if len(table) and not (np.issubdtype(table["value"].dtype, np.number) and np.isfinite(table["value"]).all()):
        return ["a value is missing or not a number"]
    estimates, found = {(question, subject): estimate for question, subject, estimate in findings}, []
    twice = table[table.duplicated(["question", "subject", "prompt", "seed"])]
    found += [f"{row.question} ({row.subject}) has prompt {row.prompt!r} with seed {row.seed} twice" for row in twice.head(1).itertuples()]
    for key, mean in table.groupby(["question", "subject"], sort=False)["value"].mean().items():
        if key not in estimates:
            found.append(f"{key[0]} ({key[1]}) has rows and no finding")
        elif estimates[key] is not None and abs(mean - estimates[key]) > EXACT:
            found.append(f"the mean of the rows of {key[0]} ({key[1]}) is {mean:.6g}, and the finding says {estimates[key]:.6g}")
    return found


def read(folder: Path) -> pd.DataFrame:
    """The rows of a run; an empty table where it wrote none. Raises HarnessError for other columns."""
    import pandas as pd

    if not (folder / NAME).exists():
        return pd.DataFrame(columns=COLUMNS)
    table = read_table(folder / NAME)
    if list(table.columns) != COLUMNS:
        raise HarnessError(f"{folder / NAME}: its columns are {', '.join(table.columns)}, not {', '.join(COLUMNS)}; run the notebook again")
    return table


def findings(path: Path) -> list[Finding]:
    """The findings of a run's folder, or of a table of them; raises HarnessError for a row that is no finding."""
    import pandas as pd

    path = path / FINDINGS if path.is_dir() else path
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in NUMBERS}, dtype=dict.fromkeys(NUMBERS, float) | dict.fromkeys(WORDS, str))
        expected = [field.name for field in dataclasses.fields(Finding)]
        if list(table.columns) != expected:
            raise ValueError(f"its columns are {', '.join(table.columns)}, not {', '.join(expected)}")
        whole = table.astype(dict.fromkeys(COUNTS, int)).astype(object)
        return [Finding(**row) for row in whole.where(table.notna(), None).to_dict("records")]
    except (OSError, ValueError, TypeError, HarnessError) as error:
        raise HarnessError(f"{path}: not a table of findings ({' '.join(str(error).split())}); write it with `stats.table`") from error


def samples(folder: Path, *sets: ImageSet) -> Path:
    """Write samples.csv of a run: every picture of `sets`, by its place in the run's folder, `group` being its subfolder.

    Raises HarnessError for a set that lies elsewhere: what is compared later must lie where the run lies.
    """
    import pandas as pd

    parts = []
    for images in sets:
        inside = images.folder.resolve()
        if not inside.is_relative_to(folder.resolve()):
            raise HarnessError(f"{images.folder}: these pictures lie outside the run's folder {folder}; sample into `run.folder`")
        group = inside.relative_to(folder.resolve()).as_posix()
        table = images.table.assign(file=[f"{group}/{name}" if group != "." else name for name in images.table["file"]])
        table.insert(1, "group", group)
        parts.append(table)
    return write_csv(folder / SAMPLES, pd.concat(parts, ignore_index=True))
