"""Is anything left? A search of every file that knows nothing of how forgetting works.

It does not ask tables, manifests or names of files what a file is: it looks at bytes. By hash (of files, of members of archives, of
pictures inside notebooks and pages, and written anywhere as text or as bytes), by look (perceptual descriptors of everything that
decodes to a picture, cells of contact sheets too), by word, and by planted fragments of tensors. Free pages of a database are bytes
like all others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.consent import look, opened
from harness.errors import HarnessError
from harness.progress import Progress, silent

if TYPE_CHECKING:
    from PIL import Image

LARGEST = 512 * 2**20
"""bytes of a file, or of a member of an archive, that are read at once; what is larger is read in overlapping pieces"""
DEEPEST = 4
"""archives inside archives that are opened"""
HEX = re.compile(rb"[0-9a-f]{64}")
BASE64 = re.compile(rb"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-9A-Za-z+/]|SUkqA|TU0AK)[A-Za-z0-9+/\-_]{60,}")
DATABASE, JOURNALS = b"SQLite format 3\0", (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83", b"\xd9\xd5\x05\xf9")
BREAKS = re.compile(rb'(?<=[A-Za-z0-9+/])(?:\\r|\\n|%0D|%0A|"\s*,\s*"|[\r\n]+[ \t]*)+(?=[A-Za-z0-9+/])')  # inside of one base64 text


@dataclass(frozen=True)
class Needles:
    """What must not be found."""

    hashes: frozenset[str] = frozenset()
    """SHA-256 of files."""
    words: tuple[str, ...] = ()
    """Names and tokens."""
    near: tuple[bytes, ...] = ()
    """Perceptual descriptors."""
    raw: tuple[bytes, ...] = ()
    """Fragments of tensors and vectors, as they stand in a file."""
    others: tuple[str, ...] = ()
    """Names of others: a word that only stands in one of these is not meant."""

    def __post_init__(self) -> None:
        short = [word for word in self.words if len(word.strip()) < 3]
        if short:
            raise HarnessError(f"the word {short[0]!r} is too short to be searched for: it would be found everywhere.")


@dataclass(frozen=True)
class Hit:
    """One thing that was found."""

    place: str
    """File, and after "!" the member or picture inside it."""
    how: str
    """hash, look, word or bytes."""
    what: str
    """The hash, word or fragment; never a picture."""
    file: str = ""
    """The file or folder alone."""


@dataclass(frozen=True)
class Answer:
    """What a search found, and how far it could see."""

    hits: tuple[Hit, ...]
    """Empty when nothing is left."""
    files: int
    """Files looked into."""
    pictures: int
    """Pictures looked at, those inside other files included."""
    bytes: int
    """Bytes of the files."""
    unread: tuple[str, ...]
    """What could not be looked into (unreadable, encrypted, packed by git), each with the reason."""
    kept: tuple[str, ...] = ()
    """What was not looked for, as it is others': in words."""

    @property
    def clean(self) -> bool:
        """Was everything read and nothing found?"""
        return not self.hits and not self.unread

    def sentence(self) -> str:
        """The answer in words."""
        seen = f"{self.files:,} file{'s' * (self.files != 1)} ({self.bytes / 1e6:,.1f} MB, {self.pictures:,} picture{'s' * (self.pictures != 1)})"
        blind = f"; {len(self.unread)} could not be looked into, the first is {self.unread[0]}" if self.unread else ""
        if not self.hits:
            return f"nothing was found in {seen}{blind}"
        return f"{len(self.hits)} trace{'s' * (len(self.hits) != 1)} in {seen}, the first is {self.hits[0].place} ({self.hits[0].how}: {self.hits[0].what}){blind}"


def search(folders: Iterable[Path], needles: Needles, describe: Callable[[Any], bytes] | None = None,
           alike: Callable[[bytes, bytes], bool] | None = None, progress: Progress = silent) -> Answer:
    """Look into every file below `folders` (links are not followed, but their targets' names are read).

    `describe(picture)` and `alike(a, b)` default to harness.perceptual. Raises HarnessError for a missing folder.
    """
    if needles.near and not (describe and alike):
        from harness import perceptual
        describe, alike = perceptual.descriptor, perceptual.is_near
    paths = list(dict.fromkeys(path for folder in folders for path in (os.path.realpath(folder), *opened.below(Path(folder)))))
    return _look_into(paths, _Search(needles, describe, alike), progress)


def search_files(paths: Iterable[Path], needles: Needles) -> Answer:
    """Look into some files for everything but the look of pictures: a database with its journal, for one."""
    return _look_into([str(path) for path in paths], _Search(replace(needles, near=()), None, None, needles.near), silent)


def _look_into(paths: list[str], eye: _Search, progress: Progress) -> Answer:
    for i, path in enumerate(paths, 1):
        eye.path(path)
        progress({"stage": "search", "step": i, "of": len(paths), "found": len(eye.hits)})
    return Answer(tuple(dict.fromkeys(eye.hits)), sum(map(os.path.isfile, paths)), eye.pictures, eye.bytes, tuple(dict.fromkeys(eye.unread)))


class _Search:
    """The state of one search."""

    def __init__(self, needles: Needles, describe: Callable[[Any], bytes] | None, alike: Callable[[bytes, bytes], bool] | None,
                 further: tuple[bytes, ...] = ()) -> None:
        self.needles, self.describe, self.alike = needles, describe, alike
        # a descriptor may have been written down, too, as bytes or in hexadecimal
        self.pieces = tuple(piece for piece in (*needles.raw, *needles.near, *further) if len(set(piece)) > 4)
        self.pieces += tuple(piece.hex().encode() for piece in self.pieces)
        self.hits: list[Hit] = []
        self.unread: list[str] = []
        self.looked: dict[bytes, bool] = {}
        self.pictures = self.bytes = 0
        self.digests = {bytes.fromhex(name): name for name in needles.hashes}
        self.forms, self.others = sorted(set(map(look.bare, needles.words))), sorted(set(map(look.bare, needles.others)) - set(map(look.bare, needles.words)))
        self.words, self.file = look.words(self.forms, self.others), ""

    def found(self, place: str, how: str, what: str) -> None:
        self.hits.append(Hit(place, how, what, self.file))

    def path(self, name: str) -> None:
        """A file, a folder's name or a link."""
        self.file = name
        self.text(f"{name} (its name)", os.path.basename(name) + (f" -> {os.readlink(name)}" if os.path.islink(name) else ""))
        if os.path.islink(name) or not os.path.isfile(name):
            return
        try:
            self.bytes += os.path.getsize(name)
            for place, data, whole in opened.pieces(name, LARGEST):
                self.data(place, data, whole)
        except OSError as error:
            self.unread.append(f"{name} ({error.strerror})")
        except (ValueError, RecursionError, MemoryError, RuntimeError) as error:  # whatever foreign bytes do to a decoder
            self.unread.append(f"{name} ({type(error).__name__})")

    def data(self, place: str, data: bytes, whole: bool = True, depth: int = 0) -> None:
        """The bytes of a file or of a member of an archive."""
        if whole and (digest := hashlib.sha256(data).hexdigest()) in self.needles.hashes:
            self.found(place, "hash", digest)
        if not whole or not self.picture(place, data):
            self.inside(place, data, depth)

    def inside(self, place: str, data: bytes, depth: int) -> None:
        """What is no picture itself: text, fragments, archives, embedded pictures."""
        self.fragments(place, data)
        if b"\0" in data[:4096]:  # wide characters, as in arrays of strings, become plain ones
            self.fragments(place, data.replace(b"\0", b""))
        self.embedded(place, data, depth)
        for name, raw in opened.carved(data) if not data.startswith((b"PK", DATABASE)) else ():
            self.data(f"{place}!{name}", raw, depth=DEEPEST)
        for name, picture in opened.pixels(data) if self.needles.near else ():
            self.seen(f"{place}!{name}", picture)
        if opened.is_zip(data):
            self.archive(place, data, depth)
        elif opened.is_packed(data, place):
            self.members(place, data, depth)
        elif why := opened.closed(data):
            self.unread.append(f"{place} ({why})")

    def fragments(self, place: str, data: bytes) -> None:
        """Hashes, words and fragments among bytes."""
        for text in {m.decode() for m in HEX.findall(data.lower())} & self.needles.hashes:
            self.found(place, "hash", text)
        if b"\0" in data:
            for digest, name in self.digests.items():
                if digest in data:
                    self.found(place, "hash", name)
        for piece in self.pieces:
            if piece in data:
                self.found(place, "bytes", piece[:8].hex())
        if data.startswith((DATABASE, *JOURNALS)):
            self.database(place, data)
        else:
            self.text(place, look.written(data).decode("utf-8", "replace"))

    def database(self, place: str, data: bytes) -> None:
        """Names in live cells as words; and in free pages however they touch what stands beside them (cells have no gaps)."""
        held = look.live(data) if data.startswith(DATABASE) else None
        if held is None and data.startswith(DATABASE):
            self.unread.append(f"{place} (a database that cannot be read)")
        for cell in held[1] if held else []:
            self.text(place, cell)
        for i, cell in enumerate(held[2] if held else []):
            self.data(f"{place}!cell {i}", cell, depth=1)
        for form in self.forms:
            inside, fresh = (self.count(form, part) for part in (data, held[0] if held else b""))
            if inside > fresh:
                self.found(f"{place} (free pages)", "word", form)

    def count(self, form: str, data: bytes) -> int:
        """How often a word stands in bytes, however they touch, others' names that hold it left out."""
        text = look.plain(data.decode("utf-8", "replace"))
        for other in self.others:
            text = text.replace(other, "")
        return text.count(form)

    def text(self, place: str, text: str) -> None:
        """Words, whatever way they are escaped."""
        if self.needles.words:
            for word in {look.bare(m.group()) for m in self.words.finditer(look.plain(text))} & set(self.forms):
                self.found(place, "word", word)

    def embedded(self, place: str, data: bytes, depth: int) -> None:
        """Pictures that stand in a text as base64."""
        if not BASE64.search(data):
            return
        joined = BREAKS.sub(b"", data).replace(b"%2B", b"+").replace(b"%2F", b"/")
        for i, match in enumerate(BASE64.finditer(joined), 1):
            code = match.group().replace(b"-", b"+").replace(b"_", b"/")
            try:
                raw = base64.b64decode(code[:len(code) // 4 * 4] if len(code) % 4 == 1 else code + b"=" * (-len(code) % 4))
            except binascii.Error:
                continue
            if (digest := hashlib.sha256(raw).hexdigest()) in self.needles.hashes:
                self.found(f"{place}!picture {i}", "hash", digest)
            self.picture(f"{place}!picture {i}", raw)

    def archive(self, place: str, data: bytes, depth: int) -> None:
        """Members of a zip: notebooks packed, crates, .npz."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in archive.infolist():
                    self.text(f"{place}!{member.filename} (its name)", member.filename)
                    if depth >= DEEPEST or member.flag_bits & 1 or member.file_size > LARGEST:
                        self.unread.append(f"{place}!{member.filename} ({'encrypted' if member.flag_bits & 1 else 'too large or too deep'})")
                    else:
                        self.data(f"{place}!{member.filename}", archive.read(member), depth=depth + 1)
        except (zipfile.BadZipFile, OSError, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
            self.unread.append(f"{place} ({error})")

    def members(self, place: str, data: bytes, depth: int) -> None:
        """A compressed stream, or the members of a tar."""
        try:
            for name, raw in opened.unpacked(data, LARGEST):
                self.text(f"{place}!{name} (its name)", name)
                if depth >= DEEPEST or raw is None:
                    self.unread.append(f"{place}!{name} (too large or too deep)")
                else:
                    self.data(f"{place}!{name}", raw, depth=depth + 1)
        except opened.DAMAGED as error:
            self.unread.append(f"{place} ({error})")

    def picture(self, place: str, data: bytes) -> bool:
        """Look at a picture, at the cells of a sheet, and at what is written inside; False for what is none."""
        frames = look.decode(data)
        self.pictures += bool(frames)
        for note in look.notes(frames[0], data) if frames else ():
            self.fragments(f"{place}!text", note)
            self.embedded(f"{place}!text", note, DEEPEST)
        if not frames and data.startswith(look.PICTURES):
            self.unread.append(f"{place} (a picture that cannot be opened)")
        return any(self.seen(place, frame) for frame in frames if self.needles.near) or bool(frames)

    def seen(self, place: str, frame: Image.Image) -> bool:
        """Does a picture, or a cell of it, look like one of them?"""
        for name, part in [("", frame), *look.cells(frame)]:
            if self.looks(part):
                self.found(place + name, "look", f"{part.width} x {part.height}")
                return True
        return False

    def looks(self, picture: Image.Image) -> bool:
        """Is it near to one of the descriptors? A few pixels, or one even colour, show nobody."""
        if min(picture.size) < look.FEWEST or not any(high - low > 8 for low, high in picture.getextrema()):
            return False
        seen = self.describe(picture)
        if seen not in self.looked:  # pages repeat the pictures of folders
            self.looked[seen] = any(self.alike(seen, known) for known in self.needles.near)
        return self.looked[seen]
