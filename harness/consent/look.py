"""How the search for what is left reads pictures, databases and texts: what is written inside, what the cells of a sheet show, what is live.

It shares nothing with `harness.images`, through which everything else enters: a second reader does not repeat the first one's mistakes.
"""

from __future__ import annotations

import html
import io
import itertools
import re
import sqlite3
import tempfile
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

CELLS = ((96, 8),)
"""cell and gap, in pixels, of the house's own contact sheets (harness.plots)"""
MOST_FRAMES = 500
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""how files begin that are nothing but pictures"""
SHEET = 128
"""side in pixels from which a picture may be a sheet of others"""
FEWEST = 8
"""side in pixels below which no picture shows anybody"""
SMALLEST = 24
"""side in pixels below which a cell shows nobody"""


def decode(data: bytes) -> list[Image.Image]:
    """A picture, or the frames of a moving one, in plain colours, the first with its notes; nothing for other bytes."""
    from PIL import Image, ImageOps, ImageSequence

    frames = []
    try:
        with Image.open(io.BytesIO(data)) as opened:
            info = dict(opened.info) | {"text": getattr(opened, "text", {})}
            for frame in itertools.islice(ImageSequence.Iterator(opened), MOST_FRAMES):
                plain = ImageOps.exif_transpose(frame).convert("RGBA")
                frames.append(Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain).convert("RGB"))
        frames[0].info = info
    except Exception:  # whatever a decoder raises on foreign or torn bytes: what came before is looked at, and the bytes as bytes
        pass
    return frames


def notes(picture: Image.Image, data: bytes) -> Iterator[bytes]:
    """Text, EXIF and comments inside a picture's file, unpacked, and whatever else its file holds that is no pixel."""
    for key, value in (*picture.info.items(), *picture.info.get("text", {}).items()):
        yield str(key).encode()
        yield value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    if data.startswith(b"\x89PNG"):
        yield from _chunks(data, 8, "big", b"IDAT")
    elif data[:4] == b"RIFF":
        yield from _chunks(data, 12, "little", b"VP8")
    elif data.startswith(b"\xff\xd8"):
        yield data[:data.find(b"\xff\xda")]
        yield data[data.rfind(b"\xff\xd9"):]


def _chunks(data: bytes, start: int, order: str, pixels: bytes) -> Iterator[bytes]:
    """The chunks of a PNG (length, name, data, checksum) or a WebP (name, length, data) but its pixels, and what follows the last."""
    while start + 8 <= len(data):
        name, length = (data[start + 4:start + 8], data[start:start + 4])[:: 1 if order == "big" else -1]
        end = start + 8 + int.from_bytes(length, order) + (4 if order == "big" else int.from_bytes(length, order) % 2)
        if not name.startswith(pixels):
            yield data[start:end]
        start = end
        if name == b"IEND":
            break
    yield data[start:]


def cells(picture: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """The cells of a contact sheet: by the house's own geometry, and between even lines that cross the whole picture."""
    width, height = picture.size
    if max(width, height) < SHEET:
        return
    boxes: dict[tuple[int, int, int, int], None] = {}
    for cell, gap in CELLS:
        if (width - gap) % (cell + gap) == 0 and width > cell + 2 * gap or height > cell + 2 * gap and width == cell + 2 * gap:
            boxes |= dict.fromkeys((x, y, x + cell, y + cell) for x in range(gap, width - cell + 1, cell + gap)
                                   for y in _tops(height, cell, gap))
    boxes |= dict.fromkeys(_cut(picture, (0, 0, width, height)))
    for box in boxes:
        if min(box[2] - box[0], box[3] - box[1]) >= SMALLEST and box != (0, 0, width, height):
            yield f"!cell at {box[0]}, {box[1]}", picture.crop(box)


def _tops(height: int, cell: int, gap: int) -> list[int]:
    """Where rows of cells may begin: with a line of text above the first, below each, or neither."""
    return sorted({y for head in (0, 15) for step in (cell + gap, cell + gap + 15) for y in range(gap + head, height - cell + 1, step)})


def _cut(picture: Image.Image, box: tuple[int, int, int, int], depth: int = 6) -> Iterator[tuple[int, int, int, int]]:
    """Cut a box along lines of one colour, first one way and then the other, until nothing more falls apart."""
    import numpy as np

    pixels = np.asarray(picture.crop(box)).astype(int)
    for axis in (0, 1):
        busy = (pixels.max(axis=1 - axis) - pixels.min(axis=1 - axis)).max(axis=-1) > 8
        edges = np.flatnonzero(np.diff(np.concatenate([[False], busy, [False]]).astype(int)))
        parts = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= SMALLEST]
        if len(parts) > 1 and depth:
            for a, b in parts:
                inner = (box[0], box[1] + a, box[2], box[1] + b) if axis == 0 else (box[0] + a, box[1], box[0] + b, box[3])
                yield from _cut(picture, inner, depth - 1)
            return
        if parts and (parts[0][1] - parts[0][0]) < len(busy):  # one part within a border
            a, b = parts[0]
            box = (box[0], box[1] + a, box[2], box[1] + b) if axis == 0 else (box[0] + a, box[1], box[0] + b, box[3])
            pixels = np.asarray(picture.crop(box)).astype(int)
    yield box


def live(data: bytes) -> tuple[bytes, list[str], list[bytes]] | None:
    """A database as it would be without free pages, the texts of its live cells and the bytes of others; None for what SQLite cannot read."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "held").write_bytes(data[:18] + b"\1\1" + data[20:])  # no journal of its own beside the copy
        connection = sqlite3.connect(Path(folder) / "held")
        try:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("VACUUM INTO ?", (str(Path(folder) / "fresh"),))
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            cells = [cell for name in names for row in connection.execute('SELECT * FROM "{}"'.format(name.replace('"', '""'))) for cell in row]
            return (Path(folder) / "fresh").read_bytes(), [cell for cell in cells if isinstance(cell, str)], [cell for cell in cells if isinstance(cell, bytes)]
        except sqlite3.Error:
            return None
        finally:
            connection.close()


def written(data: bytes) -> bytes:
    """The part in which words may stand: of tensors the header, of arrays of numbers nothing (among random bytes any word turns up)."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 2 <= length <= len(data) - 8:
        return data[8:8 + length]
    return b"" if data.startswith(b"\x93NUMPY") and not re.search(rb"'descr': *'[<>|=]?[US]", data[:256]) else data


def plain(text: str) -> str:
    r"""A text without the escapes of JSON (é), HTML (&eacute;) and addresses (%C3%A9), folded like the words."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m.group(1), 16)), text) if "\\u" in text else text
    text = html.unescape(text) if "&" in text else text
    text = urllib.parse.unquote(text) if "%" in text else text
    return unicodedata.normalize("NFKC", text).casefold()


def bare(word: str) -> str:
    """A word without regard to case and to what stands between its parts."""
    return re.sub(r"[\s_+-]+", " ", unicodedata.normalize("NFKC", word).casefold()).strip()


def words(forms: Iterable[str], others: Iterable[str] = ()) -> re.Pattern[str]:
    """The words, longest first, so that who is called by two words is not taken for who is called by one of them."""
    ways = [r"[\s_+-]+".join(map(re.escape, form.split())) for form in sorted({*forms, *others}, key=len, reverse=True)]
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(ways)})(?![^\W_])" if ways else r"(?!)")


def stands(text: str, wanted: Iterable[str], others: Iterable[str] = ()) -> bool:
    """Does one of the names stand in a text, and not only in a name of others?"""
    forms = set(map(bare, wanted))
    return any(bare(m.group()) in forms for m in words(forms, map(bare, others)).finditer(plain(text)))


def around(wanted: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those names of others in which one of the names stands."""
    forms = set(map(bare, wanted))
    return [other for other in others if bare(other) not in forms and stands(other, forms)]
