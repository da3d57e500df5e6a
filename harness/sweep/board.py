"""The table of a sweep: what was set, how it ended, and what each run found."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.runs import manifest
from harness.sweep.job import COMPLETE, REUSED, Outcome

if TYPE_CHECKING:
    from harness.stats import Finding

NUMBERS = ("estimate", "low", "high")
BESIDE = "cost and energy: rows that ran at the same time on one machine each count the whole machine, so their sum is too high"


class Board:
    """One row for each run of a sweep, read from the runs' folders."""

    def __init__(self, results: Path, varying: Sequence[str], settings: Mapping[int, Mapping[str, Any]], outcomes: Sequence[Outcome]) -> None:
        self.varying, self.settings, self.outcomes = varying, settings, outcomes
        self.facts: dict[int, Mapping[str, Any]] = {}
        self.findings: dict[int, dict[str, Finding]] = {}
        self.problems: list[str] = []
        for each in outcomes:
            try:
                self._read(each, results / each.folder)
            except HarnessError as error:
                self.problems.append(f"row {each.number}: {error}")
        self.questions = list(dict.fromkeys(question for found in self.findings.values() for question in found))

    def _read(self, each: Outcome, folder: Path) -> None:
        if not each.folder:
            return
        if manifest.status(folder):
            self.facts[each.number] = manifest.read(folder)
        if each.status in (COMPLETE, REUSED):
            self.findings[each.number] = findings(folder)

    def write(self, path: Path) -> Path:
        """Write the table as CSV: for each finding its estimate, the ends of its interval and its verdict."""
        from harness.images import atomic_write

        heads = [f"{question} {name}" for question in self.questions for name in (*NUMBERS, "verdict")]
        buffer = io.StringIO()
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(["row", "id", *self.varying, "status", "seconds", "host", "folder", "report", "reason", *heads])
        for each in self.outcomes:
            facts, found = self.facts.get(each.number, {}), self.findings.get(each.number, {})
            numbers = [getattr(found.get(question), name, None) for question in self.questions for name in (*NUMBERS, "verdict")]
            table.writerow([each.number, facts.get("id", ""), *self._values(each.number), each.status, self._seconds(each.number), each.host,
                            each.folder, facts.get("report") or "", each.reason, *numbers])
        return atomic_write(path, buffer.getvalue())

    def text(self, width: int = 0) -> str:
        """The table for a terminal ``width`` characters wide (0: this one); findings that do not fit stand beneath."""
        width = width or shutil.get_terminal_size((150, 24)).columns
        heads = ["row", "id", *self.varying, "status", "seconds", *self.questions]
        rows = [[str(each.number), self.facts.get(each.number, {}).get("id", "–"), *self._values(each.number), each.status,
                 self._seconds(each.number) or "–", *(self._finding(each.number, question) for question in self.questions)] for each in self.outcomes]
        return "\n\n".join([*(_lines(block) for block in _blocks([heads, *rows], width)), *self.problems, *([BESIDE] if self.beside() else [])])

    def beside(self) -> bool:
        """Whether two runs of this sweep were at work on one machine at the same time."""
        spans: dict[str, list[tuple[str, str]]] = {}
        for facts in self.facts.values():
            times = facts.get("timings", {})
            if times.get("started") and times.get("ended"):
                spans.setdefault(facts.get("process", {}).get("host", ""), []).append((times["started"], times["ended"]))
        ordered = [sorted(each) for each in spans.values()]
        return any(later[0] < earlier[1] for each in ordered for earlier, later in zip(each, each[1:]))

    def _values(self, number: int) -> list[str]:
        return [str(self.settings[number][name]) for name in self.varying]

    def _seconds(self, number: int) -> str:
        seconds = self.facts.get(number, {}).get("timings", {}).get("seconds")
        return "" if seconds is None else f"{seconds:.1f}"

    def _finding(self, number: int, question: str) -> str:
        found = self.findings.get(number, {}).get(question)
        if not found:
            return "–"
        estimate, low, high = (_short(getattr(found, name)) for name in NUMBERS)
        return f"{estimate} [{low}, {high}] {found.verdict}"


def findings(folder: Path) -> dict[str, Finding]:
    """The findings of a run by ``question: subject``; a second one of the same name is numbered. {} where it kept none.

    Raises HarnessError for a table that is none of findings.
    """
    from harness.runs import rows

    found: dict[str, Finding] = {}
    for each in rows.findings(folder) if (folder / rows.FINDINGS).is_file() else ():
        name = ": ".join(word for word in (each.question, each.subject) if word)
        same = sum(other == name or other.startswith(f"{name} (") for other in found)
        found[f"{name} ({same + 1})" if same else name] = each
    return found


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _blocks(rows: Sequence[Sequence[str]], width: int) -> list[list[Sequence[str]]]:
    """The table cut into blocks of columns that fit; each begins with the row's number."""
    widths = [max(len(row[place]) for row in rows) + 2 for place in range(len(rows[0]))]
    blocks, taken = [[0]], widths[0]
    for place in range(1, len(widths)):
        if taken + widths[place] > width and blocks[-1] != [0]:
            blocks.append([0])
            taken = widths[0]
        blocks[-1].append(place)
        taken += widths[place]
    return [[[row[place] for place in block] for row in rows] for block in blocks]


def _lines(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(f"{word:<{width}}" for word, width in zip(row, widths)).rstrip() for row in rows)
