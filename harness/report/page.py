"""What the page holds, in the order in which it is read, and its HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.report import ROWS, STORY, evidence, words
from harness.stats import Finding

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from harness.report import Figure


def content(findings: Sequence[Finding], story: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Everything that the template prints, but for the hash of report.json."""
    asked = [_section(key, findings, figures, story) for key in dict.fromkeys(f.question for f in findings)]
    consent = evidence.consent_sentences(story.get("consent"))
    rows = {kind: [_row(kind, row) for row in story.get(kind, ())] for kind in ROWS}
    return {"story": dict.fromkeys(STORY) | dict(story), "asked": asked, "opening": [f for f in figures if not f.question], **rows,
            "consent": consent, "sheet": evidence.sheet(asked, _taken(rows["data"], consent)), "unmeasured": evidence.UNMEASURED,
            "not_advice": evidence.NOT_ADVICE, "public": evidence.PUBLIC, "meaning": words.MEANING, "version": __version__}


def render(told: Mapping[str, Any], pictures: bool = True) -> str:
    """The page as HTML; without pictures each is named by its hash in its place."""
    return _environment().get_template("report.html.j2").render(told, pictures=pictures).lstrip()


def _taken(data: Sequence[Mapping[str, str]], consent: Sequence[str]) -> list[str]:
    """What is on record of the works that went in."""
    known = [f"{row['name']}: {row['works'] or 'an unrecorded number of'} works" + (f" ({row['use']})" if row["use"] else "") + "." for row in data]
    return known + list(consent)


def _section(key: str, findings: Sequence[Finding], figures: Sequence[Figure], story: Mapping[str, Any]) -> dict[str, Any]:
    """One question as the page tells it."""
    asked, mine = words.question(key), [f for f in findings if f.question == key]
    return {"key": key, "title": story.get("questions", {}).get(key, asked.title), "how": asked.how, "floor": asked.floor,
            "limits": asked.limits, "evidence": asked.evidence, "findings": [_told(f) for f in mine], "verdict": _one_verdict(mine),
            "answers": _answers(mine), "several": len({f.verdict for f in mine}) > 1,
            "calibrations": [words.typeset(c) for c in dict.fromkeys(f.calibration.removeprefix("none: ") for f in mine)],
            "domains": list(dict.fromkeys(f.domain for f in mine if f.domain)), "figures": [f for f in figures if f.question == key]}


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


def _row(kind: str, row: Mapping[str, Any]) -> dict[str, str]:
    """A row with every field of its kind as text."""
    return {name: "" if row.get(name) is None else str(row[name]) for name in ROWS[kind]}


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("harness.report", "templates"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters["link"] = _link
    return environment


def _link(source: str) -> Markup:
    """A web address as a link, anything else as plain text; nothing but http(s) becomes one."""
    from markupsafe import Markup

    text = html.escape(source)
    return Markup(f'<a href="{text}">{text}</a>' if source.startswith(("https://", "http://")) else text)
