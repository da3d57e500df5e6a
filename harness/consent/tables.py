"""Tables as people and programs write them: commas, semicolons or tabs, UTF-8 or what spreadsheets save, cells of any length."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KNOWN = frozenset(("file", "sha256", "prompt", "caption", "role", "artist", "subject", "person", "creator", "depicted", "depicts", "rights_holder"))
ENCODINGS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))
LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Read:
    """A table with the way in which it was written."""

    lines: tuple[Sequence[str], ...]
    """Its lines, the first with the names of the columns."""
    delimiter: str
    """What stands between two cells."""
    encoding: str
    """How its text became bytes."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in small letters."""
        return [name.strip().lower() for name in self.lines[0]] if self.lines else []

    def rows(self) -> list[dict[str, str]]:
        """The lines by column."""
        columns = self.columns
        return [dict(zip(columns, line, strict=False)) for line in self.lines[1:]]

    def write(self, lines: Iterable[Sequence[str]]) -> bytes:
        """Other lines in the same way."""
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n", delimiter=self.delimiter).writerows(lines)
        return out.getvalue().encode(self.encoding.removesuffix("-sig"), "replace")


def decoded(data: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding: what its first bytes say, else UTF-8, else the one of old spreadsheets."""
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def read(data: bytes) -> Read | None:
    """A table; None for what is none."""
    text, encoding = decoded(data)
    head = text.partition("\n")[0]
    delimiter = max(",;\t|", key=lambda each: len(KNOWN & {name.strip().strip('"').lower() for name in head.split(each)}))
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        return Read(tuple(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), delimiter, encoding)
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(before)
