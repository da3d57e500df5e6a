"""Which part of a picture is trained on: proposals that a person looks at first, kept beside the picture and not instead of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from harness.errors import HarnessError
from harness.images import ImageSet, atomic_write, decode, write_csv
COLUMN = "crop"
"""column of samples.csv: left, top, right, bottom in pixels of the upright picture, with spaces between; empty for the whole picture"""
LOOK = 96
"""longer side in pixels at which a picture is looked at"""
STRIP = 0.06
"""share of a side that counts as border"""
HELD, MARGIN = 0.92, 1.25
"""Share of what stands out that a box must hold, and how much wider than that it is made."""
PAD, LINE = 8, 15
"""pixels on a contact sheet"""


class Box(NamedTuple):
    """A part of a picture, in pixels of the upright picture; right and bottom are just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.bottom - self.top

    def __str__(self) -> str:
        return " ".join(map(str, self))


def column(images: ImageSet) -> list[Box | None]:
    """The box of each picture from the table's column `crop`, None for a whole one. Raises HarnessError for what is no box."""
    return [_read(text, name) for text, name in zip(images.table[COLUMN], images.table["file"], strict=True)] if COLUMN in images.table else [None] * len(images)


def _read(text: str, name: str) -> Box | None:
    words = str(text).split()
    if not words:
        return None
    if len(words) != 4 or not all(word.isdecimal() for word in words):
        raise HarnessError(f"{name}: cannot read the crop {text!r}; write left, top, right and bottom in pixels, such as '0 40 512 552'.")
    box = Box(*map(int, words))
    if box.width < 1 or box.height < 1:
        raise HarnessError(f"{name}: the crop {text!r} holds no pixel; right must be above left, and bottom above top.")
    return box


def cut(picture: Image.Image, box: Box, name: Path | str) -> Image.Image:
    """The part of a decoded picture within the box; raises HarnessError for a box that reaches outside."""
    if box.right > picture.width or box.bottom > picture.height:
        raise HarnessError(f"{name}: the crop '{box}' reaches outside the picture ({picture.width} x {picture.height} pixels, upright).")
    return picture.crop(box)


def propose(images: ImageSet, size: int) -> list[Box]:
    """A square box for each picture around what stands out, at least `size` pixels a side where the picture has as many.

    It is no detector of faces or things: it knows nothing of what it sees. What stands out is colour unlike that along the picture's
    sides (the boundary prior of Yang et al. 2013) and detail, with a mild preference for the middle. A busy background or a subject that
    fills the picture misleads it, so a person looks at `sheet` before `apply`. The same picture always gets the same box.
    """
    return [_proposed(picture, size) for picture in images.decoded()]


def _proposed(picture: Image.Image, size: int) -> Box:
    """The smallest square that holds most of what stands out, with a margin; the centred square where nothing does."""
    salience = _salience(picture)
    scale, short = max(picture.size) / LOOK, min(picture.size)
    least = min(short, max(size, short * 2 // 5))
    for side in np.linspace(least / MARGIN, short, 24):
        centre, held = _best(salience, max(1, round(side / scale)))
        if held >= HELD:
            break
    else:
        side = short
    side = int(min(short, max(least, side * MARGIN)))
    left, top = (int(min(max(0, round(at * scale - side / 2)), length - side)) for at, length in zip(centre, picture.size, strict=True))
    return Box(left, top, left + side, top + side)


def _salience(picture: Image.Image) -> np.ndarray:
    """(h, w) of a small version: how much each place stands out; sums to 1, and is only the preference for the middle where nothing does."""
    small = picture.resize([max(3, round(LOOK * side / max(picture.size))) for side in picture.size], Image.Resampling.BOX)
    pixels = np.asarray(small, np.float64) / 255
    down, across = np.gradient(pixels, axis=(0, 1))
    detail = _spread(np.sqrt((down**2 + across**2).sum(-1)))
    found = _unlike_border(pixels) + detail / max(detail.mean(), 1e-3) / 4
    high, wide = found.shape
    y, x = (np.linspace(-1, 1, side) for side in (high, wide))
    middle = np.exp(-(y[:, None] ** 2 + x**2) / 4)
    found = np.maximum(0, found - 1.5 * np.median(found)) * middle
    found = found if found.sum() > 1e-9 else middle
    return found / found.sum()


def _unlike_border(pixels: np.ndarray) -> np.ndarray:
    """(h, w): how unlike the colours along the sides each place is (Mahalanobis), by the side second most alike.

    The most alike one does not count: a subject may stand on one side of the picture, but a background touches two.
    """
    high, wide = pixels.shape[:2]
    rows, columns = max(2, round(STRIP * high)), max(2, round(STRIP * wide))
    away = []
    for strip in (pixels[:rows], pixels[-rows:], pixels[:, :columns], pixels[:, -columns:]):
        colours = strip.reshape(-1, 3)
        spread = np.cov(colours.T) + (12 / 255) ** 2 * np.eye(3)
        off = pixels - colours.mean(0)
        away.append(np.sqrt(np.einsum("yxc,cd,yxd->yx", off, np.linalg.inv(spread), off)))
    return _spread(np.sort(np.minimum(away, 8), axis=0)[1])


def _spread(plane: np.ndarray) -> np.ndarray:
    """Each place with its neighbours: the mean over three by three, twice."""
    for _ in range(2):
        padded = np.pad(plane, 1, mode="edge")
        plane = sum(padded[dy:dy + plane.shape[0], dx:dx + plane.shape[1]] for dy in range(3) for dx in range(3)) / 9
    return plane


def _best(salience: np.ndarray, side: int) -> tuple[tuple[float, float], float]:
    """(x, y) of the middle of the square that holds most, and the share it holds; of equals the one with what it holds in its middle."""
    high, wide = salience.shape
    side = min(side, high, wide)
    total = np.pad(salience.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    held = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    y, x = np.indices(salience.shape)
    top, left = np.unravel_index(held.argmax(), held.shape)
    window = (slice(top, top + side), slice(left, left + side))
    middle = [float((axis[window] * salience[window]).sum() / salience[window].sum()) + 0.5 for axis in (x, y)]
    return (middle[0], middle[1]), float(held.max())


def sheet(images: ImageSet, boxes: Sequence[Box | None], cell: int = 160, columns: int = 4) -> Image.Image:
    """A contact sheet: each picture with its box drawn on it, and beside it the crop; below them the file's name and the crop in pixels."""
    _check(images, boxes)
    columns = max(1, min(columns, len(images)))
    pair, high = (2 * cell + 3 * PAD, cell + PAD + LINE)
    page = Image.new("RGB", (PAD + columns * pair, PAD + -(-len(images) // columns) * high), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, box, name) in enumerate(zip(images.decoded(), boxes, images.table["file"], strict=True)):
        left, top = PAD + i % columns * pair, PAD + i // columns * high
        shown = box or Box(0, 0, picture.width, picture.height)
        scale = cell / max(picture.size)
        page.paste(_within(picture, cell), (left, top))
        frame = [left + shown.left * scale, top + shown.top * scale, left + shown.right * scale - 1, top + shown.bottom * scale - 1]
        pen.rectangle(frame, outline="white", width=4)
        pen.rectangle(frame, outline="#d55e00", width=2)
        page.paste(_within(cut(picture, shown, name), cell), (left + cell + PAD, top))
        pen.text((left, top + cell + 1), _short(pen, f"{name}: {shown.width} x {shown.height} px", 2 * cell), fill="#1f2328")
    return page


def apply(images: ImageSet, boxes: Sequence[Box | None], out: Path) -> ImageSet:
    """The same pictures with the boxes in column `crop`, as a set in the folder `out` (or, where that is their own folder, in its table).

    Files are copied as they are, so each keeps the hash under which consent was given and will be withdrawn; what reads the set for
    training cuts the box out. A box from an earlier `apply` is replaced. Raises HarnessError for boxes that do not fit.
    """
    _check(images, boxes)
    for path, name, box in zip(images.paths, images.table["file"], boxes, strict=True):
        if box is not None:
            cut(decode(path), box, name)
    chosen = images.assign(**{COLUMN: ["" if box is None else str(box) for box in boxes]})
    if Path(out).resolve() != images.folder.resolve():
        for path, name in zip(images.paths, images.table["file"], strict=True):
            atomic_write(Path(out) / name, path.read_bytes())
    write_csv(Path(out) / "samples.csv", chosen.table)
    return ImageSet(Path(out), chosen.table)


def _check(images: ImageSet, boxes: Sequence[Box | None]) -> None:
    if len(boxes) != len(images) or not len(images):
        raise HarnessError(f"{images.folder}: {len(boxes)} crops for {len(images)} pictures; propose(images, size) gives one for each.")


def _within(picture: Image.Image, cell: int) -> Image.Image:
    """The picture as large as fits into a cell, without blur where it is enlarged."""
    small = max(picture.size) < cell
    return ImageOps.contain(picture, (cell, cell), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _short(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """A line cut at its front, where folders stand, until it fits."""
    while pen.textlength(text) > width:
        text = "…" + text[2:]
    return text
