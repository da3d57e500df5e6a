"""One page that a person who does not code can read and print, and the same numbers as JSON.

The page stands alone: images inside, no scripts, nothing from the network. It prints no verdict that has not been through
`calibrate.verdict`. There is no clock in it: the same findings, story, figures and key give the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.calibrate import UNCHECKED
from harness.errors import HarnessError
from harness.images import atomic_write, sha256
from harness.report import words
from harness.stats import Finding

if TYPE_CHECKING:
    from harness.consent.keys import Key

PURPOSES = ("training", "audit")
STORY = {"title": str, "purpose": str, "lead": str, "made": str, "questions": Mapping, "limits": Sequence, "methods": Sequence,
         "settings": Mapping, "consent": Mapping, "data": Sequence, "models": Sequence, "compute": Mapping, "cost": Mapping, "credits": Sequence}
"""What a story may hold; title and purpose it must. `questions`: key -> the question in other words. `consent`: the gate's
answer (`Decision.as_dict`). `data`, `models`, `credits`: dicts with the fields of ROWS. `cost`: what it took and cost."""
ROWS = {"credits": ("name", "work", "licence", "source", "note"), "data": ("name", "use", "works", "licence", "basis", "sha256"),
        "models": ("name", "use", "licence", "sha256")}
"""Fields of a row; each needs a name."""
SCHEMA = 1
"""Form of report.json."""
PAGES = {"report.html": True, "report.redacted.html": False}
"""The page with its pictures, and without."""


@dataclass(frozen=True)
class Figure:
    """A picture in the report."""

    png: bytes
    """PNG data"""
    caption: str
    """what stands below it"""
    alt: str
    """what it shows, for who cannot see it"""
    question: str = ""
    """key of the question that it belongs to; without one it stands at the beginning"""

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG"):
            raise HarnessError(f"figure {self.caption!r}: not PNG data.")
        if not self.alt.strip():
            raise HarnessError(f"figure {self.caption!r}: a text for who cannot see it (alt) is missing.")

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def sha256(self) -> str:
        """Of the PNG data, 64 hex digits."""
        return sha256(self.png)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, from the PNG header."""
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def write(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure], out: Path, key: Key | None = None) -> Path:
    """Write the report into the folder `out` and seal the whole folder, signed with `key`; returns the path of the page.

    It writes report.html, report.json, findings.csv, what a redacted form will show in their place, and seal.json last.
    Everything that the report stands on has to lie in `out` by then. Raises HarnessError for a story with unknown or
    missing keys, for findings that have not been through `calibrate.verdict`, and for links in the folder. What looks
    like a secret in the story or a finding's words is masked.
    """
    from harness.images import write_csv
    from harness.provenance import mask
    from harness.report import page, redact, seal
    from harness.stats import table

    _check(findings, story, figures)
    story, findings = mask(_plain(story)), [f.but(subject=mask(f.subject), why=mask(f.why)) for f in findings]
    data = seal.canonical(_record(findings, story, figures))
    told = page.content(findings, story, figures) | {"json_sha256": sha256(data)}
    out, texts = Path(out), {name: page.render(told, pictures) for name, pictures in PAGES.items()}
    atomic_write(out / "report.json", data)
    write_csv(out / "findings.csv", table(findings))
    for name, text in texts.items():
        atomic_write(out / name, text)
    redact.write_twins(out)
    seal.write(out, key)
    return out / "report.html"


def _check(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    """The story has the keys it must and no other; findings may be printed; figures have a place."""
    unknown, missing = sorted(set(story) - set(STORY)), [k for k in ("title", "purpose") if not story.get(k)]
    if unknown or missing:
        raise HarnessError(f"story of the report: unknown {unknown}, missing {missing}; it may hold {', '.join(STORY)}.")
    wrong = [k for k, v in story.items() if not isinstance(v, STORY[k]) or (STORY[k] is Sequence and isinstance(v, str))]
    if wrong or story["purpose"] not in PURPOSES:
        raise HarnessError(f"story of the report: {', '.join(wrong) or 'purpose'} is of the wrong kind; the purpose is one of "
                           f"{', '.join(PURPOSES)}.")
    for kind in ROWS:
        _check_rows(kind, story.get(kind, ()))
    if not findings:
        raise HarnessError("a report needs at least one finding.")
    for finding in findings:
        words.question(finding.question)
        if finding.calibration.startswith(UNCHECKED):
            raise HarnessError(f"the finding on {finding.question} ({finding.subject}) has not been through calibrate.verdict.")
    lost = {f.question for f in figures if f.question} - {f.question for f in findings}
    if lost:
        raise HarnessError(f"there are figures for questions without a finding: {', '.join(sorted(lost))}.")


def _check_rows(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if set(row) - set(ROWS[kind]) or not row.get("name"):
            raise HarnessError(f"{kind} of the report: each needs a name and may hold {', '.join(ROWS[kind])}; one holds {', '.join(row)}.")


def _record(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Everything that the page says, for machines."""
    told = [asdict(f) | {"answer": words.answer(f), "measured": words.measured(f)} for f in findings]
    shown = [{"caption": f.caption, "alt": f.alt, "question": f.question, "sha256": f.sha256} for f in figures]
    return {**story, "harness": __version__, "schema": SCHEMA, "findings": _plain(told), "figures": shown}


def _plain(value: Any) -> Any:
    """A value as JSON holds it: numbers, text, lists and dicts; anything else as its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _plain(value.tolist())
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
