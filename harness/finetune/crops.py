"""Which part of a picture is trained on: proposals that a person looks at first, kept beside the picture and not instead of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import HarnessError
from harness.images import ImageSet

if TYPE_CHECKING:
    from PIL import Image

COLUMN = "crop"
"""column of samples.csv: left, top, right, bottom in pixels of the upright picture, with spaces between; empty for the whole picture"""


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
