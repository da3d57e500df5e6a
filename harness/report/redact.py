"""``harness redact``: a report without its pictures, and without prompts where asked, that verifies against the same root.

When a report is sealed each table with prompts gets a twin beside it, NAME.redacted.csv, in which every prompt is a number,
and the page a twin without pictures. All of them lie under the one root; a redacted form holds the twins, and of the rest
the leaves alone.
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from harness.errors import HarnessError
from harness.images import SUFFIXES, atomic_write
from harness.report import seal as seals
from harness.report.seal import Entry, Seal

TWIN = ".redacted"
WORDS = re.compile(r"(.*_)?(prompt|caption)\Z", re.IGNORECASE)
"""Columns whose text a twin replaces by numbers."""
ALWAYS = ("report.json", f"report{TWIN}.html")
TABLES = ("findings.csv", "rows.csv", "samples.csv", "works.csv")
"""Tables that a redacted form may hold, in any folder. A consent ledger is none of them: it may name people."""


def is_twin(name: str) -> bool:
    """Whether a file was made to stand in for another one in a redacted form."""
    return Path(name).stem.endswith(TWIN)


def write_twins(folder: Path) -> list[Path]:
    """Write the twin of every table of a folder that has a column of prompts or captions.

    The same text has the same number in all tables, by its first appearance, so that prompts still group the rows.
    """
    folder, numbers, written = Path(folder), {}, []
    for name in _tables(folder):
        table = _read(folder / name)
        if table and _columns(table[0]):
            path = folder / name
            written.append(atomic_write(path.with_name(f"{path.stem}{TWIN}{path.suffix}"), _without(table, numbers)))
    return written


def _tables(folder: Path) -> list[str]:
    return [name for name in seals.listed(folder) if name.lower().endswith(".csv") and not is_twin(name)]


def _read(path: Path) -> list[list[str]] | None:
    """The rows of a CSV; None for one that is not plain text: it then has no twin, and no redacted form without prompts holds it."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    except (ValueError, csv.Error):
        return None


def _columns(head: list[str]) -> list[int]:
    return [place for place, name in enumerate(head) if WORDS.match(name.strip())]


def _without(table: list[list[str]], numbers: dict[str, int]) -> str:
    """The table with each prompt as "text 7"; `numbers` goes on from table to table."""
    hidden, out = _columns(table[0]), io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(table[0])
    for row in table[1:]:
        write([f"text {numbers.setdefault(cell, len(numbers) + 1)}" if place in hidden and cell else cell for place, cell in enumerate(row)])
    return out.getvalue()


def redact(folder: Path, to: Path, prompts: bool = True) -> Path:
    """Write the redacted form of a sealed report into the new folder `to`; returns it.

    It holds the numbers, the tables and the page's text; pictures, models and everything else stay behind, by name and
    hash. With `prompts=False` tables come without prompts and captions, and of everything that is not shown only the leaf
    is told, salted, so that a prompt cannot be guessed from its hash; so too of a picture in whose name a prompt stands.
    Raises HarnessError for a report that does not verify, for an unsigned one without prompts (it has no salts), and where
    a prompt stands in what would be shown, in whatever case and spacing, escaped for HTML or JSON, or with tags in it.
    """
    from harness.report.verify import check

    folder, to = Path(folder), Path(to)
    found = check(folder)
    if found.differs:
        raise HarnessError(f"{folder}: is not as it was sealed ({found.differs}); only an unchanged report can be redacted.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())) or to.resolve().is_relative_to(folder.resolve()):
        raise HarnessError(f"{to}: the redacted form goes into a new folder of its own.")
    if not prompts and not found.signer:
        raise HarnessError(f"{folder}: not signed, so its hashes have no salts and prompts could be guessed from them; `harness seal` signs it.")
    seal = seals.read(folder)
    shown = {e.path for e in seal.entries if e.path and not e.withheld and _is_shown(folder, e.path, prompts)}
    telling = set() if prompts else _telling(folder, {e.path for e in seal.entries if e.path}, shown)
    for name in shown:
        atomic_write(to / name, (folder / name).read_bytes())
    entries = tuple(e if e.path in shown or not e.path else _away(e, not prompts, e.path in telling) for e in seal.entries)
    seals.save(to, Seal(entries, seal.root, seal.key, seal.signature))
    return to


def _is_shown(folder: Path, name: str, prompts: bool) -> bool:
    """Whether a redacted form holds a file; what is not known to be free of pictures and prompts stays behind."""
    last = Path(name).name
    if name in ALWAYS or last.replace(TWIN, "") not in TABLES:
        return name in ALWAYS
    if prompts or is_twin(name):
        return prompts != is_twin(name)
    table = _read(folder / name)
    return table is not None and not _columns(table[0] if table else [])


def _away(entry: Entry, shut: bool, telling: bool) -> Entry:
    """An entry without its file; pictures keep name and hash, which cannot be guessed, unless the name is telling."""
    if shut and (telling or Path(entry.path).suffix.lower() not in SUFFIXES):
        return Entry(entry.leaf, withheld=True)
    return Entry(entry.leaf, entry.path, entry.sha256, entry.salt, True)


def _telling(folder: Path, names: set[str], shown: set[str]) -> set[str]:
    """Names of files in which a prompt or caption of any table stands; raises HarnessError when one stands in what would be shown."""
    wanted = {form: text for text in sorted(set(_prompts(folder))) for form in _forms(text)}
    for name in sorted(shown):
        leak = _leak(wanted, (name, (folder / name).read_text(encoding="utf-8", errors="replace")))
        if leak:
            raise HarnessError(f"{folder / name}: holds the prompt {leak[:80]!r}; take it out of the report's story, or redact with prompts.")
    return {name for name in names if _leak(wanted, (name,))}


def _leak(wanted: dict[str, str], texts: Iterable[str]) -> str:
    """The prompt that stands in one of the texts, or ""."""
    held = {form for text in texts for read in _readings(text) for form in _forms(read)}
    return next((text for form, text in wanted.items() if any(form in each for each in held)), "")


def _readings(text: str) -> set[str]:
    """A text as it stands, and as it reads once escapes of HTML, JSON and addresses are undone and tags taken out."""
    found, new = set(), {text}
    while new and len(found) < 50:  # one may lie within the other, as JSON in a page
        found |= new
        new = {undo(each) for each in new for undo in (html.unescape, _without_escapes, unquote, _without_tags)} - found
    return found


def _without_tags(text: str) -> str:
    return re.sub(r"<[^<>]{0,500}>", "", text)


def _without_escapes(text: str) -> str:
    """JSON's escapes undone; two halves of a pair are joined."""
    plain = re.sub(r'\\(?:u([0-9a-fA-F]{4})|([nrtbf])|(["\\/]))', lambda m: chr(int(m[1], 16)) if m[1] else " " if m[2] else m[3], text)
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _forms(text: str) -> set[str]:
    """Case, spacing and Unicode form folded; and the words alone, as a file's name joins them."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return {plain, " ".join(re.split(r"[\W_]+", plain)).strip()} - {""}


def _prompts(folder: Path) -> Iterator[str]:
    for name in _tables(folder):
        table = _read(folder / name) or [[]]
        for row in table[1:]:
            yield from (row[place].strip() for place in _columns(table[0]) if place < len(row) and row[place].strip())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``harness redact``."""
    parser.add_argument("report", type=Path, help="the folder of the report, or a file in it")
    parser.add_argument("to", type=Path, help="a new folder for the redacted form")
    parser.add_argument("--no-prompts", action="store_true", help="without prompts and captions too")


def main(args: argparse.Namespace) -> int:
    """Write the redacted form of a report and say how to check it."""
    from harness.report.verify import folder_of

    to = redact(folder_of(args.report), args.to, prompts=not args.no_prompts)
    print(f"redacted: {to}, root {seals.read(to).root}; check it with `harness verify {to}`")
    return 0
