"""``harness compare A B``: settings that differ, then each finding's difference with its interval, then the pictures."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import provenance, runs
from harness.errors import HarnessError
from harness.images import ImageSet
from harness.runs import manifest
from harness.stats import Finding

if TYPE_CHECKING:
    import pandas as pd

    from harness.compare.paired import Contrast

KINDS = ("parameter", "preset", "model", "input", "device", "package", "notebook", "code", "git")
SHOWN = 8  # changed files of code named one by one in the terminal


@dataclass(frozen=True)
class Side:
    """One run, as far as a comparison reads it."""

    folder: Path
    manifest: Mapping[str, Any]
    findings: Sequence[Finding]
    rows: pd.DataFrame
    pictures: ImageSet | None
    lacks: Mapping[str, str]
    """what is not there, "findings" or "pictures", and why"""


@dataclass(frozen=True)
class Setting:
    """A setting that differs."""

    kind: str
    name: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """Two runs held against each other."""

    a: Side
    b: Side
    level: float
    settings: Sequence[Setting]
    contrasts: Sequence[Contrast]
    cautions: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness compare``."""
    parser.add_argument("a", metavar="A", type=Path, help="a complete run whose files are as it wrote them: its folder, or the folder's name "
                        "among this project's runs ($HARNESS_RESULTS, else results/runs)")
    parser.add_argument("b", metavar="B", type=Path, help="the run that is held against it; every difference is B minus A")
    parser.add_argument("--out", type=Path, help="where the page is kept, one file (default: compare-A-B.html beside the folder of A)")
    parser.add_argument("--level", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    parser.add_argument("--images", type=int, default=12, help="prompts whose pictures are shown, in the order of the runs (default: 12)")


def main(args: argparse.Namespace) -> int:
    """Print the comparison and write its page."""
    from harness.compare import page

    if not 0.5 <= args.level < 1 or args.images < 0:
        raise HarnessError("--level must lie between 0.5 and 1, and --images must not be negative")
    a, b = (find(path) for path in (args.a, args.b))
    if a.resolve() == b.resolve():
        raise HarnessError(f"{a}: A and B are the same run; name two")
    told = compare(read(a), read(b), args.level)
    print(text(told))
    print(f"page: {page.write(told, args.out or a.parent / f'compare-{a.name}-{b.name}.html', args.images)}")
    return 0


def find(run: Path) -> Path:
    """The folder of a run, named by its path or by its name among the runs of this project. Raises HarnessError."""
    named = runs.results(Path.cwd()) / run.name
    for folder in (run, named):
        if (folder / manifest.NAME).is_file():
            return folder
    raise HarnessError(f"{run}: no run lies there nor in {named.parent}; `ls {named.parent}` names those that do")


def read(folder: Path) -> Side:
    """A finished run's manifest, findings, rows and pictures; a run without findings still has settings and pictures.

    Raises HarnessError for a run that is not complete, or one whose files are not those that it wrote.
    """
    from harness.runs import rows

    found = manifest.read(folder)
    if found["status"] != manifest.COMPLETE:
        raise HarnessError(f"{folder}: this run is {found['status']}, not complete; finish it with `harness run` first")
    changed = [name for name, what in manifest.changed_outputs(folder).items() if what == "changed"]
    if changed:
        raise HarnessError(f"{folder}: {', '.join(changed[:3])} {'was' if len(changed) == 1 else 'were'} changed after the run, by the hashes in its "
                           "manifest; compare the run as it was, or make a fresh one with `harness run --force`")
    pictures, lacks = _pictures(folder)
    there = (folder / rows.FINDINGS).exists()
    lacks |= {} if there else {"findings": _gone(rows.FINDINGS, found)}
    return Side(folder, found, rows.findings(folder) if there else [], rows.read(folder), pictures, lacks)


def _gone(name: str, found: Mapping[str, Any]) -> str:
    return f"its {name} is gone" if name in found["outputs"] else f"it wrote no {name}"


def _pictures(folder: Path) -> tuple[ImageSet | None, dict[str, str]]:
    """Pictures that went since, by a withdrawal say, keep nobody from comparing the findings."""
    from harness.images import open_set
    from harness.runs.rows import SAMPLES

    if not (folder / SAMPLES).exists():
        return None, {"pictures": f"it wrote no {SAMPLES}"}
    try:
        return open_set(folder), {}
    except HarnessError as error:
        return None, {"pictures": str(error).replace(str(folder), folder.name)}


def compare(a: Side, b: Side, level: float = 0.95) -> Comparison:
    """Everything that two runs differ in: settings, findings (B minus A), and what a reader must be told beside it."""
    from harness.compare import paired

    differing = settings(a.manifest, b.manifest)
    found = paired.contrasts([a.findings, b.findings], [a.rows, b.rows], level)
    return Comparison(a, b, level, differing, found, _cautions(a, b, differing))


def _cautions(a: Side, b: Side, differing: Sequence[Setting]) -> list[str]:
    from harness.compare import paired

    said, matched = [], [f for pair in paired.partners(a.findings, b.findings) for f in pair]
    if any(s.kind == "model" and s.name.startswith("clip") for s in differing):
        said.append("The two runs were read by different CLIPs: a difference may be the reader's and not the pictures'.")
    if a.manifest["notebook"] != b.manifest["notebook"]:
        said.append(f"Two notebooks: A is of {a.manifest['notebook']}, B of {b.manifest['notebook']}.")
    for name, side in (("A", a), ("B", b)):
        lone = [f"{f.question}: {f.subject}" for f in side.findings if f not in matched]
        said += [f"Only {name} has a finding on {'; '.join(lone)}."] if lone else []
        said += [f"No {what} of {name}: {why}." for what, why in side.lacks.items()]
    return said


# --- settings ---------------------------------------------------------------------------------------------------------


def settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Setting]:
    """What differs between two manifests, what a person set first and what merely happened to differ last."""
    one, other = _facts(a), _facts(b)
    return [Setting(kind, name, _word(one[kind].get(name)), _word(other[kind].get(name))) for kind in KINDS
            for name in sorted({*one[kind], *other[kind]}) if one[kind].get(name) != other[kind].get(name)]


def _facts(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The facts of a manifest by kind and name."""
    decided = found["identity"]
    inputs = found.get("inputs") or []
    return {
        "parameter": found["parameters"]["resolved"], "preset": {"preset": found["parameters"]["preset"]},
        "model": found["notes"].get("models") or {}, "input": {_place(row): row["sha256"] for row in inputs},
        "device": {"device": decided["device"]}, "package": decided["packages"],
        "notebook": {"name": found["notebook"], "code": decided["notebook"]},
        "code": decided["code"] if isinstance(decided["code"], Mapping) else {"harness": decided["code"]},
        "git": {"commit": found["git"].get("commit"), "changes not committed": found["git"].get("diff_sha256")},
    }


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['parameter']}={row['name']}"


def _word(value: Any) -> str:
    """A value as one reads it; hashes are shortened."""
    if value is None:
        return "none"
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_hash = len(told) in (40, 64) and set(told) <= set("0123456789abcdef")
    return provenance.mask(told[:12] + "…" if is_hash else textwrap.shorten(told, 80, placeholder=" …"))


# --- the terminal -----------------------------------------------------------------------------------------------------


def text(told: Comparison) -> str:
    """The comparison as a terminal shows it."""
    head = [f"A  {_run(told.a)}", f"B  {_run(told.b)}", ""]
    return "\n".join([*head, *_settings_text(told.settings), "", *_findings_text(told), "", *told.cautions]).rstrip()


def _run(side: Side) -> str:
    found = side.manifest
    return f"{side.folder.name}  preset {found['parameters']['preset'] or 'none'}, {found['timings']['started'][:16].replace('T', ' ')} UTC"


def _settings_text(differing: Sequence[Setting]) -> list[str]:
    if not differing:
        return ["no setting differs: same parameters, inputs, code, packages and device"]
    shown = [s for s in differing if s.kind != "code"]
    files = [s.name for s in differing if s.kind == "code"]
    lines = _columns([("setting", "A", "B"), *((f"{s.kind} {s.name}" if s.kind != s.name else s.name, s.a, s.b) for s in shown)]) if shown else []
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return lines + ([f"code that differs: {', '.join(files[:SHOWN])}{more}"] if files else [])


def _findings_text(told: Comparison) -> list[str]:
    if not told.contrasts:
        return ["no finding stands in both runs"]
    head = ("finding", "A", "B", "B − A", f"{100 * told.level:g}% interval", "pairs", "p", "")
    rows = [(f"{c.question}: {c.subject}", number(c.a), number(c.b), signed(c.estimate), interval(c),
             pairs(c), probability(c.p), c.says) for c in told.contrasts]
    return _columns([head, *rows]) + [""] + [f"{c.question}: {c.subject}. {c.why}" for c in told.contrasts if c.why]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as aligned lines."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]


def number(value: float | None) -> str:
    """A value with three decimals, or up to six where it is smaller; a dash for none."""
    if value is None:
        return "–"
    places = 3 if value == 0 or abs(value) >= 0.001 else min(6, 2 - math.floor(math.log10(abs(value))))
    return f"{value + 0.0:.{places}f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def probability(p: float | None) -> str:
    """A p with three decimals, never a plain zero; a dash for none."""
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def pairs(c: Contrast) -> str:
    """How many pairs a difference rests on; a dash where there is no difference."""
    return str(c.pairs) if c.paired else "–" if c.estimate is None else "unpaired"


def interval(c: Contrast) -> str:
    """The interval of a difference, as ``low to high``; a dash for none."""
    return "–" if c.low is None else f"{signed(c.low)} to {signed(c.high)}"
