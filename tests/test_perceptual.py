"""Copies are found whatever is usually done to them, and other pictures are not taken for copies."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from harness import perceptual
from harness.errors import HarnessError
from harness.world.artists import artists
from harness.world.render import portraits


@pytest.fixture(scope="module")
def works() -> list[Image.Image]:
    """One work each by six artists, as large as pictures usually are when they are copied."""
    return [next(portraits(artists()[f"artist-{n:02d}"], "judge", 1)).image(192) for n in (1, 3, 5, 6, 8, 23)]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer)


def part(picture: Image.Image, left: float, top: float, across: float, down: float) -> Image.Image:
    w, h = picture.size
    return picture.crop((round(w * left), round(h * top), round(w * (left + across)), round(h * (top + down))))


def turned(picture: Image.Image, degrees: int) -> Image.Image:
    h, s, v = picture.convert("HSV").split()
    return Image.merge("HSV", (h.point(lambda x: (x + degrees * 256 // 360) % 256), s, v)).convert("RGB")


def warmer(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture, float) * (1.2, 0.95, 0.7)).clip(0, 255).astype(np.uint8))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "crop 90 %": lambda p: part(p, 0.07, 0.02, 0.9, 0.9), "crop 75 %": lambda p: part(p, 0.13, 0.2, 0.75, 0.75), "crop 62 %": lambda p: part(p, 0.2, 0.17, 0.62, 0.62),
    "lower quarter off": lambda p: part(p, 0, 0, 1, 0.75), "a quarter of the size": lambda p: p.resize((48, 48)), "twice the size": lambda p: p.resize((384, 384)),
    "JPEG 30": lambda p: jpeg(p, 30), "mirrored": ImageOps.mirror, "hue turned": lambda p: turned(p, 140), "warmer": warmer, "grey": lambda p: p.convert("L"),
    "all of it": lambda p: jpeg(warmer(ImageOps.mirror(part(p, 0.1, 0.05, 0.85, 0.85)).resize((120, 120))), 60)}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near(name: str, works: list[Image.Image]) -> None:
    missed = [i for i, work in enumerate(works) if not perceptual.is_near(perceptual.descriptor(work), perceptual.descriptor(COPIES[name](work)))]
    assert len(missed) <= 1, missed


def test_other_works_are_far(works: list[Image.Image]) -> None:
    sketches = [perceptual.descriptor(work) for work in works]
    assert min(perceptual.distance(a, b) for i, a in enumerate(sketches) for b in sketches[:i]) > 1


def test_another_expression_is_another_picture() -> None:
    pairs = []
    for name in ("artist-01", "artist-06", "artist-09"):
        drawn = list(portraits(artists()[name], "judge", 12, each=2))
        pairs += [(a.image(192), b.image(192)) for a, b in zip(drawn[::2], drawn[1::2], strict=True) if a.person == b.person]
    found = [perceptual.is_near(*map(perceptual.descriptor, pair)) for pair in pairs]
    assert len(pairs) >= 15 and sum(found) <= 1
    assert all(perceptual.is_near(perceptual.descriptor(a), perceptual.descriptor(turned(a, 100))) for a, _ in pairs)


def test_a_mark_of_a_few_pixels_is_seen_where_a_usual_hash_sees_nothing(works: list[Image.Image]) -> None:
    import imagehash

    work, changed = works[0], works[0].copy()
    changed.paste((200, 30, 30), (80, 118, 104, 130))  # a mouth's size
    assert imagehash.phash(work) - imagehash.phash(changed) <= 4
    assert not perceptual.is_near(perceptual.descriptor(work), perceptual.descriptor(changed))


def test_the_distance_is_symmetric_and_nothing_for_itself(works: list[Image.Image]) -> None:
    a, b = perceptual.descriptor(works[0]), perceptual.descriptor(part(works[0], 0.1, 0.1, 0.8, 0.8))
    assert perceptual.distance(a, b) == perceptual.distance(b, a) <= perceptual.NEAR
    assert perceptual.distance(a, a) == 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_any_mode_and_size_have_a_descriptor_of_one_size(mode: str, works: list[Image.Image]) -> None:
    odd = works[1].convert(mode).resize((37, 201))
    blob = perceptual.descriptor(odd)
    assert len(blob) == perceptual.SIZE and blob == perceptual.descriptor(odd)


def test_empty_and_tiny_pictures_are_compared_like_any_other(works: list[Image.Image]) -> None:
    white, black, dot = (Image.new("RGB", size, colour) for size, colour in (((64, 64), "white"), ((200, 90), "black"), ((1, 1), "red")))
    sketches = [perceptual.descriptor(picture) for picture in (white, black, dot, works[0])]
    values = [perceptual.distance(a, b) for a in sketches for b in sketches]
    assert all(np.isfinite(values)) and 0 <= min(values) and max(values) <= perceptual.FAR
    assert not any(perceptual.is_near(sketch, sketches[-1]) for sketch in sketches[:-1])


@pytest.mark.parametrize("blob", [b"", b"\x01" * 10, b"\x02" * perceptual.SIZE], ids=["nothing", "too short", "another version"])
def test_what_is_no_descriptor_is_refused(blob: bytes, works: list[Image.Image]) -> None:
    with pytest.raises(HarnessError, match="not a perceptual descriptor"):
        perceptual.distance(blob, perceptual.descriptor(works[0]))
    with pytest.raises(HarnessError, match="not a perceptual descriptor"):
        perceptual.distance(blob, blob)


def test_a_library_names_the_work_that_was_copied(works: list[Image.Image]) -> None:
    library = [perceptual.descriptor(work) for work in works]
    strange = perceptual.descriptor(works[0].rotate(90).filter(ImageFilter.CONTOUR))
    asked = [perceptual.descriptor(ImageOps.mirror(part(works[2], 0.1, 0.1, 0.8, 0.8))), perceptual.descriptor(jpeg(works[4], 40)), strange]
    crop, small, none = perceptual.matches(asked, library, look=3)
    assert [i for i, _ in crop] == [2] and [i for i, _ in small] == [4] and none == []
    assert perceptual.matches([], library) == [] and perceptual.matches(asked, []) == [[], [], []]


def test_the_library_also_finds_the_work_of_which_it_holds_a_crop(works: list[Image.Image]) -> None:
    library = [perceptual.descriptor(part(work, 0.15, 0.1, 0.7, 0.7)) for work in works]
    assert [i for i, _ in perceptual.matches([perceptual.descriptor(works[3])], library)[0]] == [3]
