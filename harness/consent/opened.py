"""What lies inside of other files: pictures among any bytes, members of archives, arrays of pixels; and what cannot be looked into here.

For the search for what is left; it goes by bytes, and shares nothing with what takes out.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness.consent import look
from harness.errors import HarnessError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError)
START = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xc0\xc4\xdb\xe0-\xef\xfe]|GIF8[79]a|RIFF....WEBP", re.DOTALL)
ENDS = 64
"""ends of a JPEG that are tried, as one inside of another ends first"""
STREAMS: tuple[tuple[bytes, str, Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", "gzip", lambda file: gzip.GzipFile(fileobj=file)), (b"BZh", "bzip2", bz2.BZ2File), (b"\xfd7zXZ\0", "xz", lzma.LZMAFile))
CLOSED = (
    (b"7z\xbc\xaf\x27\x1c", "packed by 7-Zip"), (b"Rar!\x1a\x07", "packed by RAR"), (b"\x28\xb5\x2f\xfd", "packed by Zstandard"), (b"\x04\x22\x4d\x18", "packed by LZ4"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"\x1aE\xdf\xa3", "a film"), (b"FLV\1", "a film"), (b"PACK\0\0\0", "packed by git"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document, or an encrypted one"), (b"age-encryption.org", "encrypted"), (b"-----BEGIN PGP MESSAGE", "encrypted"),
    (b"Salted__", "encrypted"), (b"LUKS\xba\xbe", "encrypted"))


def carved(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Pictures that stand whole among other bytes, wherever they begin."""
    for match in START.finditer(data, 1):
        at = match.start()
        yield from ((f"picture at {at}", raw) for raw in _whole(data, at))


def _whole(data: bytes, at: int) -> Iterator[bytes]:
    """The bytes of a picture that begins there: to its end, which for a JPEG may be one of several."""
    if data[at:at + 4] == b"\x89PNG":
        end = data.find(b"IEND\xaeB`\x82", at)
        yield data[at:end + 8] if end >= 0 else data[at:]
    elif data[at:at + 2] == b"\xff\xd8":
        ends, end = [], data.find(b"\xff\xd9", at)
        while end >= 0 and len(ends) < ENDS:
            ends.append(end + 2)
            end = data.find(b"\xff\xd9", end + 2)
        yield from (data[at:end] for end in ends if look.decode(data[at:end]))
    elif data[at:at + 4] == b"RIFF":
        yield data[at:at + 8 + int.from_bytes(data[at + 4:at + 8], "little")]
    else:
        yield data[at:]


def pixels(data: bytes) -> Iterator[tuple[str, Image.Image]]:
    """Pictures in an array of numbers (.npy): one, or a stack of them, grey or coloured, with the colours first or last."""
    import numpy as np

    if not data.startswith(b"\x93NUMPY"):
        return
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError:
        return
    stack = array[None] if array.ndim in (2, 3) and not (array.ndim == 3 and not {array.shape[0], array.shape[-1]} & {1, 3, 4}) else array
    for i, each in enumerate(stack[:look.MOST_FRAMES] if stack.ndim in (3, 4) else ()):
        if picture := _picture(each):
            yield f"array {i}", picture


def _picture(array: np.ndarray) -> Image.Image | None:
    import numpy as np
    from PIL import Image

    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    whole = array.ndim == 2 and array.dtype == np.uint8 or array.ndim == 3 and array.shape[-1] in (1, 3, 4)
    if not whole or min(array.shape[:2]) < look.FEWEST or array.dtype.kind not in "uif":
        return None
    high, low = float(array.max()), float(array.min())
    if array.dtype != np.uint8:  # numbers from 0 or -1 to 1, or from 0 to 255
        array = ((array - min(low, 0)) / (max(high, 1) - min(low, 0)) * 255) if high <= 1 else array.clip(0, 255)
    array = array.astype(np.uint8)
    return Image.fromarray(array if array.ndim == 2 else array[..., 0] if array.shape[-1] == 1 else array[..., :3]).convert("RGB")


def is_zip(data: bytes) -> bool:
    """A zip, or one that hangs behind something else."""
    return data[:2] == b"PK" or b"PK\5\6" in data[-65_557:]


def is_packed(data: bytes, place: str) -> bool:
    """A stream or a tar that `unpacked` opens; git's single objects count."""
    return data.startswith(tuple(start for start, *_ in STREAMS)) or data[257:262] == b"ustar" or (data[:1] == b"\x78" and "/.git/objects/" in place)


def unpacked(data: bytes, most: int) -> Iterator[tuple[str, bytes | None]]:
    """Name and bytes of what is inside; None for what is larger than `most`. Raises what DAMAGED names."""
    for start, name, opener in STREAMS:
        if data.startswith(start):
            with opener(io.BytesIO(data)) as file:
                raw = file.read(most + 1)
            yield "unpacked", raw if len(raw) <= most else None
            return
    if data[257:262] != b"ustar":
        yield "unpacked", zlib.decompress(data)
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            held = archive.extractfile(member) if member.isfile() else None
            yield member.name + (f" -> {member.linkname}" if member.linkname else ""), (held.read() if held and member.size <= most else None if held else b"")


def closed(data: bytes) -> str:
    """Why a file cannot be looked into, as far as its bytes tell; "" where there is no such reason."""
    for start, why in CLOSED:
        if data.startswith(start):
            return why
    if data[4:8] == b"ftyp" or data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a film, or a picture of a kind that is not read here"
    if data.startswith(b"%PDF") and (b"/Encrypt" in data or b"/FlateDecode" in data and b"/Image" in data):
        return "a PDF whose pictures are packed or encrypted"
    return "a pickle: what its numbers show is not looked at" if re.match(rb"\x80[\2-\5](?:\x95.{8})?[\x80-\xff}\](cX\x8c\x8a]", data, re.DOTALL) else ""


def below(folder: Path) -> Iterator[str]:
    """Every file, folder and link below a folder. Raises HarnessError for a missing folder, or one that may not be read."""
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder to search.")

    def stop(error: OSError) -> None:
        raise HarnessError(f"{error.filename}: cannot be searched ({error.strerror}).")
    for where, folders, names in os.walk(os.path.realpath(folder), onerror=stop):
        yield from (os.path.join(where, name) for name in (*folders, *names))


def pieces(name: str, most: int) -> Iterator[tuple[str, bytes, bool]]:
    """(place, bytes, is it all?) of a file; a very large one in pieces that overlap by more than any needle is long."""
    size, overlap = os.path.getsize(name), 2**20
    with open(name, "rb") as file:
        if size <= most:
            yield name, file.read(), True
            return
        for start in range(0, size, most - overlap):
            file.seek(start)
            yield f"{name} (from byte {start})", file.read(most), False
