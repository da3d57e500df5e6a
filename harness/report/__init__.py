"""One page that a person who does not code can read and print, and the same numbers as JSON.

The page stands alone: images inside, no scripts, nothing from the network. It prints no verdict that has not been through
`calibrate.verdict`.
"""

from __future__ import annotations

import base64
import html
import json
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
    from jinja2 import Environment

PURPOSES = ("training", "audit")
STORY = {"title": str, "purpose": str, "lead": str, "made": str, "questions": Mapping, "limits": Sequence, "methods": Sequence,
         "settings": Mapping, "compute": Mapping, "credits": Sequence}
"""What a story may hold; title and purpose it must. `questions`: key -> the question in other words. `credits`: dicts with
name, work, licence, source, note."""
CREDIT = ("name", "work", "licence", "source", "note")


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
    def size(self) -> tuple[int, int]:
        """Width and height, from the PNG header."""
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def write(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure], out: Path) -> Path:
    """Write report.html and report.json into the folder `out`; returns the path of the page.

    Raises HarnessError for a story with unknown or missing keys, and for findings that have not been through
    `calibrate.verdict`.
    """
    _check(findings, story, figures)
    record = _record(findings, story, figures)
    data = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    asked = [_section(key, findings, figures, story) for key in dict.fromkeys(f.question for f in findings)]
    opening = [f for f in figures if not f.question]
    page = _environment().get_template("report.html.j2").render(
        story=dict.fromkeys(STORY) | dict(story), asked=asked, opening=opening, credits=[_credit(c) for c in story.get("credits", ())],
        meaning=words.MEANING, version=__version__, json_sha256=sha256(data.encode()))
    atomic_write(Path(out) / "report.json", data)
    return atomic_write(Path(out) / "report.html", page.lstrip())


def _check(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    """The story has the keys it must and no other; findings may be printed; figures have a place."""
    unknown, missing = sorted(set(story) - set(STORY)), [k for k in ("title", "purpose") if not story.get(k)]
    if unknown or missing:
        raise HarnessError(f"story of the report: unknown {unknown}, missing {missing}; it may hold {', '.join(STORY)}.")
    wrong = [k for k, v in story.items() if not isinstance(v, STORY[k]) or (STORY[k] is Sequence and isinstance(v, str))]
    if wrong or story["purpose"] not in PURPOSES:
        raise HarnessError(f"story of the report: {', '.join(wrong) or 'purpose'} is of the wrong kind; the purpose is one of "
                           f"{', '.join(PURPOSES)}.")
    if not findings:
        raise HarnessError("a report needs at least one finding.")
    for finding in findings:
        words.question(finding.question)
        if finding.calibration.startswith(UNCHECKED):
            raise HarnessError(f"the finding on {finding.question} ({finding.subject}) has not been through calibrate.verdict.")
    lost = {f.question for f in figures if f.question} - {f.question for f in findings}
    if lost:
        raise HarnessError(f"there are figures for questions without a finding: {', '.join(sorted(lost))}.")


def _record(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Everything that the page says, for machines."""
    told = [asdict(f) | {"answer": words.answer(f), "measured": words.measured(f)} for f in findings]
    shown = [{"caption": f.caption, "alt": f.alt, "question": f.question, "sha256": sha256(f.png)} for f in figures]
    return {"harness": __version__, **story, "findings": told, "figures": shown}


def _section(key: str, findings: Sequence[Finding], figures: Sequence[Figure], story: Mapping[str, Any]) -> dict[str, Any]:
    """One question as the page tells it."""
    asked, mine = words.question(key), [f for f in findings if f.question == key]
    return {"key": key, "title": story.get("questions", {}).get(key, asked.title), "how": asked.how, "floor": asked.floor,
            "limits": asked.limits, "findings": [_told(f) for f in mine], "verdict": _one_verdict(mine),
            "answers": _answers(mine), "several": len({f.verdict for f in mine}) > 1,
            "calibrations": [words.typeset(c) for c in dict.fromkeys(f.calibration.removeprefix("none: ") for f in mine)],
            "figures": [f for f in figures if f.question == key]}


def _answers(findings: Sequence[Finding]) -> list[str]:
    """What the findings of one question say: each its sentence, or for several verdicts the subjects of each."""
    if findings[0].question != "representation" or len({f.verdict for f in findings}) == 1:
        return list(dict.fromkeys(words.answer(f) for f in findings))
    groups = {v: [f.subject for f in findings if f.verdict == v] for v in dict.fromkeys(f.verdict for f in findings)}
    said = {"found": "Changed: {}.", "not found": "No change could be shown: {}.", "cannot tell": "Cannot be told: {}.",
            "not calibrated": "There is a measurement, but no verdict: {}."}
    return [said[verdict].format(", ".join(subjects)) for verdict, subjects in groups.items()]


def _one_verdict(findings: Sequence[Finding]) -> str:
    """The word beside a question: the only verdict, or the strongest with the number of findings that have it."""
    ranked = sorted({f.verdict for f in findings}, key=("found", "not found", "cannot tell", "not calibrated").index)
    if len(ranked) == 1:
        return ranked[0]
    return f"{ranked[0]} ({sum(f.verdict == ranked[0] for f in findings)} of {len(findings)})"


def _told(finding: Finding) -> dict[str, Any]:
    """One finding in words and in the cells of its table."""
    return {"subject": finding.subject, "verdict": finding.verdict, "measured": words.measured(finding), "why": words.typeset(finding.why),
            "estimate": words.number(finding, finding.estimate), "interval": words.interval(finding),
            "level": f"{100 * finding.level:.3g}{words.NB}%", "n": finding.n, "clusters": finding.clusters,
            "unread": finding.abstained, "floor": words.number(finding, finding.floor), "p": words.p_value(finding.p_value)}


def _credit(credit: Mapping[str, str]) -> Mapping[str, str]:
    """A credit with every field, and no field that would be lost."""
    unknown = set(credit) - set(CREDIT)
    if unknown or not credit.get("name"):
        raise HarnessError(f"a credit needs a name and may hold {', '.join(CREDIT)}; this one holds {', '.join(credit)}.")
    return {name: str(credit.get(name) or "") for name in CREDIT}


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("harness.report", "templates"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters["link"] = _link
    return environment


def _link(source: str) -> str:
    """A web address as a link, anything else as plain text; nothing but http(s) becomes one."""
    from markupsafe import Markup

    text = html.escape(source)
    return Markup(f'<a href="{text}">{text}</a>' if source.startswith(("https://", "http://")) else text)
