"""The right to speak: a verdict stands only where the instrument that read the images has passed its test.

A record says how a scorer did on planted truth, with exactly this code, these weights and this kind of images. Without
one that matches and passes, a finding keeps its numbers and loses its verdict.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from harness.errors import HarnessError
from harness.images import atomic_write
from harness.stats import Finding

UNCHECKED = "unchecked"
NONE = "none"


@dataclass(frozen=True)
class Record:
    """What is known of one instrument in one domain."""

    instrument: str
    """scorer, code and weights, as `harness.audit.instrument` writes it"""
    domain: str
    """kind of images it was tested on, as in `Finding.domain`"""
    passed: bool
    """did it reach its bars?"""
    sensitivity: float
    """share of planted truths that it found"""
    false_alarms: float
    """share of planted nothings that it called"""
    n_planted: int
    """how many truths were planted"""
    n_nothing: int
    """how many nothings were planted"""
    made: str
    """day of the test, ISO"""

    def __post_init__(self) -> None:
        if not (0 <= self.sensitivity <= 1 and 0 <= self.false_alarms <= 1):
            raise HarnessError(f"calibration of {self.instrument}: rates lie between 0 and 1.")
        if self.passed and min(self.n_planted, self.n_nothing) < 1:
            raise HarnessError(f"calibration of {self.instrument}: nothing was planted, so nothing was passed.")

    def sentence(self) -> str:
        """What a report says of it."""
        return (f"Tested {self.made} on {self.domain}: it finds {self.sensitivity:.1%} of {self.n_planted} planted truths "
                f"and cries wolf in {self.false_alarms:.1%} of {self.n_nothing} cases where nothing was planted.")


def verdict(finding: Finding, record: Record | None) -> Finding:
    """The finding as it may be printed.

    With a record that matches in instrument and domain and that passes, the verdict stands and `calibration` tells the
    record. Else `found` and `not found` become `not calibrated`, with the reason in `calibration`; the numbers stay. A finding
    that cannot tell anyway, or is a mere count, keeps that word.
    """
    reason = _mismatch(finding, record)
    if reason is None:
        return finding.but(calibration=record.sentence())
    if finding.verdict in ("found", "not found"):
        return finding.but(verdict="not calibrated", calibration=f"{NONE}: {reason}",
                           why=f"Were the instrument trusted: {finding.why}")
    return finding.but(calibration=f"{NONE}: {reason}")


def _mismatch(finding: Finding, record: Record | None) -> str | None:
    """Why this record gives this finding no right to speak, or None."""
    if record is None:
        return "No test of this instrument with planted truth is on record for these weights and this kind of images."
    if finding.calibration != f"{UNCHECKED}: {record.instrument}":
        return f"The test on record is of another instrument ({record.instrument}): code or weights have changed since."
    if not finding.domain or finding.domain != record.domain:
        return f"The instrument was tested on {record.domain}, and these images are {finding.domain or 'of a kind not stated'}."
    if not record.passed:
        return "The instrument was tested and did not reach its bars."
    return None


def save(record: Record, path: Path) -> Path:
    """Write a record as JSON."""
    return atomic_write(path, json.dumps(asdict(record), indent=2, allow_nan=False) + "\n")


def load(path: Path) -> Record:
    """Read a record; raises HarnessError where it is not one."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
        return Record(**{f.name: given.pop(f.name) for f in fields(Record)}, **given)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"{path}: not a calibration record ({error}).") from error
