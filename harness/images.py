"""Pictures and files: read once and safely, write whole or not at all.

Everything that leaves the harness goes through `atomic_write`; everything that enters it as a picture goes
through `decode`. An `ImageSet` is a folder of pictures with a table, the one currency between the rooms.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from harness.errors import BadImage, HarnessError
from harness.files import atomic_write, pieces, sha256, sweep, write_csv

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
# Only formats whose decoders run no other program (an EPS would start a PostScript interpreter).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, MemoryError,
          Image.DecompressionBombError)
# Identifiers and sentences stay text: an artist called 07 is not the number 7, a prompt "null" is not missing.
TEXT_COLUMNS = dict.fromkeys(("file", "sha256", "prompt", "negative_prompt", "caption", "artist", "subject", "person",
                              "creator", "depicted", "depicts", "rights_holder",
                              "scheduler", "model", "model_sha256", "adapter", "adapter_sha256", "dtype", "device"), str)


def save_png(path: Path, image: np.ndarray | Image.Image, text: dict[str, str] | None = None) -> str:
    """Write a picture (uint8, (h, w, 3), or a PIL image) as PNG with text fields; returns the file's sha256."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, dtype=np.uint8))
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    atomic_write(path, buffer.getvalue())
    return sha256(buffer.getvalue())


def decode(source: Path | str | bytes, max_pixels: int = 64_000_000) -> Image.Image:
    """Any usual picture as plain RGB, 8 bit, without metadata.

    EXIF orientation is applied and then dropped, colour profiles become sRGB, transparency is laid over white,
    16-bit grey is scaled. Raises BadImage, naming the file, for what is missing, truncated, no picture, animated,
    of floating point, or larger than `max_pixels` (checked before the pixels are unpacked).
    """
    name = "image data" if isinstance(source, bytes) else str(source)
    try:
        raw = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadImage(f"{name}: cannot be read ({error.strerror}); check the path.") from error
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as picture:
            _check_header(picture, name, max_pixels)
            picture.load()
            # A fresh image from the pixels alone: nothing of EXIF, GPS, profile or comment can come along.
            return Image.fromarray(np.asarray(_to_rgb(ImageOps.exif_transpose(picture), name)))
    except BROKEN as error:
        raise BadImage(f"{name}: not a whole picture ({str(error) or type(error).__name__}); "
                       "replace it or take it out.") from error


def _check_header(picture: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse by the header alone what is too large or has several frames."""
    width, height = picture.size
    if width * height > max_pixels:
        raise BadImage(f"{name}: {width} x {height} pixels, more than the {max_pixels:,} allowed; make it smaller.")
    # A phone's JPEG may carry a second picture (depth, preview) as MPO; its first frame is the photograph.
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise BadImage(f"{name}: animated or of several pages ({picture.n_frames}); save the one meant as PNG.")


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    """8-bit sRGB from any mode; transparency over white."""
    if picture.mode == "F":
        raise BadImage(f"{name}: floating-point pixels have no agreed white; save it as 8-bit PNG.")
    if picture.mode.startswith("I"):
        return _from_16_bit(picture, name)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        profile = picture.info.get("icc_profile")
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        picture.info["icc_profile"] = profile
    return _to_srgb(picture)


def _from_16_bit(picture: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bit (Pillow's own conversion would clip it to white) scaled to 8."""
    grey = np.asarray(picture).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65_535:
        raise BadImage(f"{name}: grey values outside 16 bit; save it as 8-bit PNG.")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Apply an embedded colour profile; without one, or with a broken one, Pillow's plain conversion."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return picture.convert("RGB")
    base = picture if picture.mode in ("RGB", "L", "CMYK") else picture.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(base, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or base
    except (ImageCms.PyCMSError, OSError, ValueError):
        return base.convert("RGB")


def square(picture: Image.Image, size: int) -> Image.Image:
    """Centre crop to a square of `size` pixels (shorter side scaled with Lanczos)."""
    return ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A folder of pictures and a table with one row each (columns at least `file`, relative, and `sha256`)."""

    folder: Path
    """Where the files lie."""
    table: pd.DataFrame
    """One row a picture, in order."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def paths(self) -> list[Path]:
        """The files, in the table's order."""
        return [self.folder / name for name in self.table["file"]]

    def decoded(self) -> Iterable[Image.Image]:
        """The pictures one after the other (`decode`d: RGB, upright); never more than one in memory."""
        return (decode(path) for path in self.paths)

    def pixels(self, size: int | None = None) -> np.ndarray:
        """uint8 (n, h, w, 3). With `size` each is cropped to a centred square; without, all must be of one size."""
        pictures = [np.asarray(picture if size is None else square(picture, size)) for picture in self.decoded()]
        if len({picture.shape for picture in pictures}) > 1:
            raise HarnessError(f"{self.folder}: pictures of several sizes; ask for one with pixels(size=...).")
        side = size or 0
        return np.stack(pictures) if pictures else np.zeros((0, side, side, 3), dtype=np.uint8)

    def where(self, mask: Any) -> ImageSet:
        """The rows where the mask (n booleans) is true, of the same folder."""
        return ImageSet(self.folder, self.table[np.asarray(mask, dtype=bool)].reset_index(drop=True))

    def __add__(self, other: ImageSet) -> ImageSet:
        """Both sets' pictures, as one set below the folder that they share; what only one table says is "" in the other's rows."""
        import pandas as pd

        folder = Path(os.path.commonpath([self.folder.resolve(), other.folder.resolve()]))
        moved = [each.table.assign(file=[path.resolve().relative_to(folder).as_posix() for path in each.paths]) for each in (self, other)]
        table = pd.concat(moved, ignore_index=True)
        return ImageSet(folder, table.assign(**{name: table[name].fillna("") for name in table if table[name].dtype == object or name in TEXT_COLUMNS}))

    def assign(self, **columns: Any) -> ImageSet:
        """The same pictures with further columns, e.g. `caption=` for a folder that has none."""
        return ImageSet(self.folder, self.table.assign(**columns))


def read_table(path: Path) -> pd.DataFrame:
    """A CSV as it was meant: prompts and names stay text, empty text is "", empty numbers are missing."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path}: not a readable table ({str(error).strip()}).") from error
    words = [name for name in table if table[name].isna().all() or not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: table[name].astype(object).fillna("").astype(str) for name in words})


def open_set(folder: Path) -> ImageSet:
    """A folder as an ImageSet.

    With a `samples.csv` every file named there must exist and have the hash that stands beside it; without one the
    folder's pictures are all decoded once, and broken ones are named and refused. Raises HarnessError or BadImage.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder of images.")
    listed = folder / "samples.csv"
    images = _listed(folder, read_table(listed)) if listed.exists() else _scanned(folder)
    if not len(images):
        raise HarnessError(f"{folder}: no picture in it ({', '.join(sorted(SUFFIXES))}).")
    return images


def _listed(folder: Path, table: pd.DataFrame) -> ImageSet:
    """The set that samples.csv describes, after checking it against the files."""
    if "file" not in table:
        raise HarnessError(f"{folder / 'samples.csv'}: no column 'file'; it has {', '.join(table.columns)}.")
    for name in table["file"]:
        _check_inside(folder, name)
    hashes = [sha256(folder / name) for name in table["file"]]
    if "sha256" in table:
        changed = [name for name, new, old in zip(table["file"], hashes, table["sha256"], strict=True) if new != old]
        if changed:
            raise HarnessError(f"{folder}: {len(changed)} file(s) differ from samples.csv, the first is {changed[0]}; "
                               "restore them, or delete samples.csv to take the folder as it is.")
    else:
        _check_all(folder, list(table["file"]))
    return ImageSet(folder, table.assign(sha256=hashes))


def _check_inside(folder: Path, name: str) -> None:
    """A table must not reach outside its folder, nor name what is not there."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or Path(name).is_absolute():
        raise HarnessError(f"{folder / 'samples.csv'}: the file name {name!r} leads outside the folder.")
    if not (folder / name).is_file():
        raise HarnessError(f"{folder}: {name} stands in samples.csv and is not there; restore it or take its row out.")


def _check_all(folder: Path, names: list[str]) -> None:
    """Decode every file once; raises one BadImage that names all broken ones."""
    broken = []
    for name in names:
        try:
            decode(folder / name)
        except BadImage as error:
            broken.append(str(error))
    if broken:
        raise BadImage(f"{len(broken)} of {len(names)} pictures cannot be used: " + " | ".join(broken))


def _scanned(folder: Path) -> ImageSet:
    """The pictures of a folder that has no table, by name."""
    import pandas as pd

    names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    _check_all(folder, names)
    return ImageSet(folder, pd.DataFrame({"file": names, "sha256": [sha256(folder / name) for name in names]}))


def write_set(folder: Path, images: Iterable[np.ndarray | Image.Image], table: pd.DataFrame) -> ImageSet:
    """Write pictures as PNG and then their samples.csv; names come from a column `file` or are 00000.png and so on.

    Raises HarnessError when pictures and rows are not equally many.
    """
    folder, pictures = Path(folder), list(images)
    if len(pictures) != len(table):
        raise HarnessError(f"{folder}: {len(pictures)} pictures for {len(table)} rows of the table.")
    names = list(table["file"]) if "file" in table else [f"{i:05d}.png" for i in range(len(table))]
    hashes = [save_png(folder / name, picture) for name, picture in zip(names, pictures, strict=True)]
    rest = table.drop(columns=["file", "sha256"], errors="ignore").reset_index(drop=True)
    rest.insert(0, "file", names)
    rest.insert(1, "sha256", hashes)
    write_csv(folder / "samples.csv", rest)
    return ImageSet(folder, rest)
