"""A file without somebody: rows, vectors, embedded pictures and names taken out, everything of others left as it was.

Every function gives back the file's new bytes, the same bytes where nothing had to change, or None where nothing may stay.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.consent import files, tables
from harness.consent.names import Names, is_format
from harness.errors import BadImage
from harness.images import decode, sha256

GONE = "removed"
"""what stands in place of a name or a hash"""
PLACEHOLDER = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
"""a PNG of one grey pixel, in place of a picture inside a page"""
PICTURE = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-9A-Za-z+/]|SUkqA|TU0AK)[A-Za-z0-9+/]{60,}(?:\r?\n[A-Za-z0-9+/]{20,})*\s?={0,2}")
TEXTS = {".json", ".ipynb", ".html", ".htm", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".log", ".svg", ".jsonl", ".xml", ".sig", ".j2", ".toml", ".cfg", ".py"}


@dataclass(frozen=True)
class Scrub:
    """Whom to take out."""

    tainted: frozenset[str]
    """Hashes of their works and of all that was made from them."""
    names: tuple[str, ...] = ()
    """Names whose rows go and that must not be left; none where names may stay."""
    others: tuple[str, ...] = ()
    """Names of others: where one of theirs stands in one of these it stays."""
    near: Callable[[Any], bool] = field(default=lambda picture: False)
    """Does a decoded picture look like one of their works?"""
    doubtful: Callable[[Any], bool] = field(default=lambda picture: False)
    """In pages of a reached run: may this picture show them, because it is recognisably nobody else's? (contact sheets)"""
    claimed: frozenset[str] = frozenset()
    """Hashes that tables give to others: those stay, whatever they look like."""
    only_pictures: bool = False
    """Take out what shows the works; hashes in texts and adapters trained on them may stay."""
    made_of: frozenset[str] = frozenset()
    """Hashes of others' works that stay, but of which no vectors or latents may."""

    @cached_property
    def _names(self) -> Names:
        """The names as they are taken out of texts; words of the files' own formats (`artist`, `status`) stay there."""
        return Names((name for name in self.names if not is_format(name)), self.others)

    def plain(self, text: str) -> str:
        """A text without their names."""
        return self._names.sub(GONE, text)

    def text(self, text: str) -> str:
        """A text without their names, hashes and pictures."""
        if not self.only_pictures:
            text = self.plain(files.TEXT_HASH.sub(lambda m: GONE if m.group() in self.tainted else m.group(), text))
        return PICTURE.sub(lambda m: PLACEHOLDER if self.shows(m.group()) else m.group(), text)

    def shows(self, code: str) -> bool:
        """Is a picture in base64 one that has to go?"""
        try:
            joined = re.sub(r"\s", "", code)
            raw = base64.b64decode(joined + "=" * (-len(joined) % 4))
        except binascii.Error:
            return False
        return joined != PLACEHOLDER and self.is_theirs(raw, embedded=True)

    def is_theirs(self, raw: bytes, embedded: bool = False) -> bool:
        """Is a picture's file one that has to go: by hash, by look, by what is written in it, and in pages by doubt?"""
        digest = sha256(raw)
        if digest in self.tainted or digest in self.claimed:
            return digest in self.tainted
        try:
            picture = decode(raw)
        except BadImage:
            return False
        return self.near(picture) or bool(self.names and self._names.search(_written(raw))) or (embedded and self.doubtful(picture))

    def clean(self, name: str, data: bytes) -> bytes | None:
        """A file's bytes without them; None when the whole file has to go. `name` is only read for its suffix."""
        suffix = "." + name.rpartition(".")[2].lower()
        if sha256(data) in self.tainted:
            return None
        if files.is_picture(data):
            return None if self.is_theirs(data) else data
        if data[:2] == b"PK":
            return self.vectors(data) if suffix == ".npz" else self.archive(data)
        if data[8:9] == b"{" and suffix == ".safetensors":
            return self.tensors(data)
        return self.words(suffix, data) if suffix in TEXTS or b"\0" not in data[:8192] else data

    def words(self, suffix: str, data: bytes) -> bytes | None:
        """A text file of any kind; a table loses their rows, JSON stays JSON."""
        if suffix in (".csv", ".tsv") and (kept := self.table(data)) != data:
            return kept if kept is None else self.words(".txt", kept)
        text, encoding = tables.decoded(data)
        cleaned = self.json(text) if suffix in (".json", ".ipynb") else self.text(text)
        return data if cleaned == text else cleaned.encode(encoding, "replace")

    def table(self, data: bytes) -> bytes | None:
        """A table without the rows of their pictures, the others in their order; None for a list of files in which none is left."""
        read = tables.read(data)
        if not read or not read.lines:
            return data
        columns = read.columns
        kept = [line for i, line in enumerate(read.lines) if not i or not self.of_them(dict(zip(columns, line, strict=False)))]
        if len(kept) == len(read.lines) or (self.only_pictures and "file" not in columns):
            return data
        return None if len(kept) == 1 and {"file", "sha256"} <= set(columns) else read.write(kept)

    def of_them(self, row: dict[str, str]) -> bool:
        """Is a row of a table about one of their pictures, by hash, owner, or as drawn from their name?"""
        if row.get("sha256") in self.tainted:
            return True
        if row.get("sha256") in self.claimed or not self.names:
            return False
        return files.owned(row, self.names) or "sha256" in row and self._names.search(row.get("prompt", ""))

    def json(self, text: str) -> str:
        """JSON with every text in it cleaned; laid out as it was, and the same bytes when nothing had to change."""
        try:
            held = json.loads(text)
        except ValueError:
            return self.text(text)
        cleaned = self.value(held)
        if cleaned == held:
            return text
        first = re.match(r"[\[{]\r?\n( +)", text)
        layout = {"indent": len(first.group(1))} if first else {"separators": (",", ":") if '": ' not in text[:2000] else (", ", ": ")}
        return json.dumps(cleaned, ensure_ascii=False, **layout) + ("\n" if text.endswith("\n") else "")

    def value(self, value: Any) -> Any:
        """Plain lists, dicts and texts, cleaned."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(part) for key, part in value.items()}  # a key may be a name, but no word of the format
        if isinstance(value, list):
            if len(value) > 1 and all(isinstance(line, str) for line in value) and PICTURE.match(joined := "".join(value)):
                return [PLACEHOLDER] if self.shows(joined) else value  # a picture in lines, as older notebooks hold it
            return [self.value(part) for part in value]
        return value

    def vectors(self, data: bytes) -> bytes | None:
        """An embeddings file without their rows; None when no row is left."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        if "sha256" not in arrays:
            return data
        keep = np.array([str(name) not in self.tainted | self.made_of for name in arrays["sha256"]], dtype=bool)
        for key in (key for key in arrays if key.startswith("table_") and self.names):
            keep &= np.array([not self._names.search(str(value)) for value in arrays[key]], dtype=bool)
        if keep.all():
            return data
        buffer = io.BytesIO()
        rows = len(keep)
        np.savez_compressed(buffer, **{key: part[keep] if part.ndim and len(part) == rows else part for key, part in arrays.items()})
        return buffer.getvalue() if keep.any() else None

    def tensors(self, data: bytes) -> bytes | None:
        """A safetensors file whose metadata names one of their works goes; of another one their names do."""
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        said = header.get("__metadata__") or {}
        if self.only_pictures and files.ADAPTER in said:
            return data
        if any(found in self.tainted | self.made_of for value in said.values() for found in files.hashes(value)):
            return None
        header["__metadata__"] = {key: self.json(value) for key, value in said.items()}
        if header["__metadata__"] == said:
            return data
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + data[8 + length:]

    def _names_a_picture(self, name: str, raw: bytes) -> bool:
        """Does the name of an archive's member say that the picture is theirs?"""
        return self._names.search(name) and files.shows(raw) and sha256(raw) not in self.claimed

    def archive(self, data: bytes) -> bytes | None:
        """A zip with its members cleaned; None when nothing is left in it."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as held:
                members = [(info, held.read(info)) for info in held.infolist()]
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError):  # damaged or encrypted: the search says so
            return data
        cleaned = [(info, None if self._names_a_picture(info.filename, raw) else self.clean(info.filename, raw)) for info, raw in members]
        if all(new == raw for (_, new), (_, raw) in zip(cleaned, members, strict=True)):
            return data
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
            for info, new in cleaned:
                if new is not None:
                    out.writestr(self.plain(info.filename), new)
        return buffer.getvalue() if any(new is not None for _, new in cleaned) else None


def _written(raw: bytes) -> str:
    """What a picture's file says in words (PNG text, EXIF, comments)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as picture:
            notes = {**picture.info, **(getattr(picture, "text", None) or {})}
    except (OSError, SyntaxError, ValueError):
        return ""
    return "\n".join(note.decode("utf-8", "replace") if isinstance(note, bytes) else str(note) for note in notes.values())
