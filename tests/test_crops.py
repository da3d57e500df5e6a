"""Crops around a subject: planted off-centre, looked at, kept beside the picture."""

from __future__ import annotations

from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from harness import images as pictures
from harness.errors import HarnessError
from harness.finetune import crops
from harness.images import ImageSet, open_set, write_set
from harness.world.artists import artist
from harness.world.people import people


@cache
def portraits() -> list[Image.Image]:
    """Twelve drawn people with nothing behind them."""
    return [person.portrait(0).image(160, None) for person in islice(people(artist("artist-01"), "held-out"), 12)]


def ground(kind: str, high: int, wide: int, rng: np.random.Generator) -> Image.Image:
    """A background: one colour, a gradient, two halves as of sky and ground, or a blotchy wall."""
    one, two = rng.integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, high)[:, None, None] * np.ones((1, wide, 1))
    share = {"flat": slope * 0, "gradient": slope, "halves": (slope > 0.6) * 1.0, "wall": slope * 0}[kind]
    pixels = one * (1 - share) + two * share
    if kind == "wall":
        blotches = Image.fromarray(rng.integers(0, 256, (high // 16, wide // 16, 3), dtype=np.uint8)).resize((wide, high), Image.Resampling.BICUBIC)
        pixels = pixels + (np.asarray(blotches) - 128.0) * 0.15
    return Image.fromarray(np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8))


def planted(kind: str, n: int = 12) -> tuple[list[Image.Image], list[np.ndarray]]:
    """Canvases with a person off-centre, and where the person is (masks)."""
    rng, canvases, masks = np.random.default_rng(sum(map(ord, kind))), [], []
    for i in range(n):
        high, wide = ((360, 640), (640, 360), (480, 480))[i % 3]
        person = portraits()[i % 12]
        at = (int(rng.choice([0.02, 0.98]) * (wide - 160)), int(rng.uniform(0.0, 1.0) * (high - 160)))
        canvas, mask = ground(kind, high, wide, rng), Image.new("L", (wide, high))
        canvas.paste(person, at, person)
        mask.paste(person.getchannel("A"), at)
        canvases.append(canvas)
        masks.append(np.asarray(mask) > 127)
    return canvases, masks


def held(mask: np.ndarray, box: crops.Box) -> float:
    return mask[box.top:box.bottom, box.left:box.right].sum() / mask.sum()


def centred(mask: np.ndarray) -> crops.Box:
    high, wide = mask.shape
    side = min(high, wide)
    return crops.Box((wide - side) // 2, (high - side) // 2, (wide + side) // 2, (high + side) // 2)


@pytest.mark.parametrize("kind", ["flat", "gradient", "halves", "wall"])
def test_a_planted_subject_ends_within_the_box(kind: str, tmp_path: Path) -> None:
    canvases, masks = planted(kind)
    images = write_set(tmp_path, canvases, pd.DataFrame({"caption": ["a person"] * len(canvases)}))
    boxes = crops.propose(images, 128)
    found = [held(mask, box) for mask, box in zip(masks, boxes, strict=True)]
    before = [held(mask, centred(mask)) for mask in masks]
    assert min(found) > 0.95 and sum(share < 0.95 for share in before) >= 4  # a centred crop loses them
    assert np.median([min(mask.shape) / box.width for mask, box in zip(masks, boxes, strict=True)]) > 1.5  # and shows them smaller
    for box, picture in zip(boxes, canvases, strict=True):
        assert box.width == box.height >= 128 and box.left >= 0 and box.top >= 0 and box.right <= picture.width and box.bottom <= picture.height


def test_a_subject_that_fills_the_picture_keeps_it_and_an_empty_picture_its_middle(tmp_path: Path) -> None:
    person = portraits()[0].resize((400, 400))
    filled = Image.new("RGB", (400, 400), "#ddeecc")
    filled.paste(person, (0, 0), person)
    empty, tiny = Image.new("RGB", (300, 200), "navy"), Image.new("RGB", (9, 5), "red")
    images = write_set(tmp_path, [filled, empty, tiny], pd.DataFrame(index=range(3)))
    boxes = crops.propose(images, 64)
    assert held(np.asarray(person.getchannel("A")) > 127, boxes[0]) > 0.97
    assert abs(boxes[1].left + boxes[1].right - 300) <= 8 and abs(boxes[1].top + boxes[1].bottom - 200) <= 8
    assert boxes[2].width == boxes[2].height == 5  # never more than there is
    assert crops.propose(images, 1000)[0] == crops.Box(0, 0, 400, 400)


def test_boxes_are_in_pixels_of_the_upright_picture(tmp_path: Path) -> None:
    canvases, masks = planted("flat", 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    canvases[0].rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    canvases[0].save(tmp_path / "upright.jpg", quality=95)
    turned, upright = crops.propose(open_set(tmp_path), 128)
    assert held(masks[0], turned) > 0.95 and max(abs(a - b) for a, b in zip(turned, upright, strict=True)) <= 16


def test_a_sheet_shows_each_picture_with_its_box_and_the_crop_beside_it(tmp_path: Path) -> None:
    canvas = Image.new("RGB", (320, 160), "#102030")
    canvas.paste("#30c040", (200, 40, 280, 120))
    images = write_set(tmp_path, [canvas] * 5, pd.DataFrame({"file": [f"{'folder/' * 9}{i}.png" for i in range(5)]}))
    box = crops.Box(200, 40, 280, 120)
    page = np.asarray(crops.sheet(images, [box, None, box, box, box], cell=160, columns=2)).astype(int)
    beside = page[8:168, 8 + 160 + 8:8 + 2 * 160 + 8]
    assert (beside == (0x30, 0xC0, 0x40)).all()
    frame = (np.abs(page[8:88, 8:168] - (0xD5, 0x5E, 0)).sum(-1) < 9).nonzero()
    assert (frame[1].min(), frame[0].min()) == (100, 20) and abs(frame[1].max() - 139) <= 1 and abs(frame[0].max() - 59) <= 1
    assert page.shape == (8 + 3 * (160 + 8 + 15), 8 + 2 * (2 * 160 + 24), 3)


def test_applied_crops_keep_the_files_and_stand_beside_them(tmp_path: Path) -> None:
    canvases, _ = planted("flat", 3)
    images = write_set(tmp_path / "in", canvases, pd.DataFrame({"caption": list("abc"), "artist": "artist-07"}))
    boxes = crops.propose(images, 128)
    applied = crops.apply(images, [boxes[0], None, boxes[2]], tmp_path / "out")
    again = open_set(tmp_path / "out")
    assert again.table["sha256"].tolist() == images.table["sha256"].tolist() and crops.column(again) == [boxes[0], None, boxes[2]]
    assert applied.table.equals(again.table) and again.table["caption"].tolist() == list("abc") and crops.column(images) == [None] * 3
    assert crops.column(crops.apply(again, [None] * 3, tmp_path / "out")) == [None] * 3 == crops.column(open_set(tmp_path / "out"))
    size = ImageOps.exif_transpose(canvases[0]).size
    with pytest.raises(HarnessError, match=f"reaches outside the picture \\({size[0]} x {size[1]}"):
        crops.apply(images, [crops.Box(0, 0, 9999, 9), None, None], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    for wrong in ([], boxes[:2]):
        with pytest.raises(HarnessError, match="for 3 pictures"):
            crops.apply(images, wrong, tmp_path / "other")
    with pytest.raises(HarnessError, match="0 pictures"):
        crops.sheet(ImageSet(tmp_path, images.table[:0]), [])


def test_a_table_that_was_written_by_hand_is_read(tmp_path: Path) -> None:
    pictures.save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "samples.csv").write_text("file,crop\na.png,1 2 7 8\n")
    assert crops.column(open_set(tmp_path)) == [crops.Box(1, 2, 7, 8)]
    (tmp_path / "samples.csv").write_text("file,crop\na.png,12\n")
    with pytest.raises(HarnessError, match="cannot read the crop"):
        crops.column(open_set(tmp_path))
