"""Reading pictures safely and writing files whole."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

from harness import images
from harness.errors import BadImage, HarnessError


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def gradient(width: int = 12, height: int = 8) -> Image.Image:
    rows = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(rows.astype(np.uint8))


def test_plain_picture_is_unchanged() -> None:
    assert np.array_equal(np.asarray(images.decode(encoded(gradient(), "PNG"))), np.asarray(gradient()))


def test_exif_is_turned_and_then_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be turned by 90 degrees
    exif[0x010F] = "a camera that names its owner"
    raw = encoded(gradient(), "JPEG", exif=exif, comment=b"at home", quality=100, subsampling=0)
    out = images.decode(raw)
    assert out.size == (8, 12)
    assert not out.getexif() and not out.info
    assert np.abs(np.asarray(out).astype(int) - np.asarray(gradient().rotate(-90, expand=True)).astype(int)).mean() < 4


def test_transparency_lies_over_white() -> None:
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    layer.putpixel((1, 0), (200, 0, 0, 128))
    assert np.asarray(images.decode(encoded(layer, "PNG")))[0].tolist() == [[255, 255, 255], [227, 127, 127]]


def test_transparent_palette_lies_over_white() -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    assert np.asarray(images.decode(encoded(picture, "PNG", transparency=0)))[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 30000, 65535]], dtype=np.uint16))
    assert np.asarray(images.decode(encoded(grey, "PNG")))[0].tolist() == [[0] * 3, [117] * 3, [255] * 3]


def test_cmyk_becomes_rgb() -> None:
    out = np.asarray(images.decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100)))
    assert out[..., 0].min() > 200 and out[..., 1:].max() < 60


def test_colour_profile_is_applied() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = images.decode(encoded(gradient(), "PNG", icc_profile=lab))
    assert np.abs(np.asarray(same).astype(int) - np.asarray(gradient())).max() <= 1
    assert images.decode(encoded(gradient(), "PNG", icc_profile=b"no profile")).mode == "RGB"


def test_animated_is_refused_and_says_how_many() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (0, 100, 200)]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="3"):
        images.decode(raw)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    raw = encoded(noisy, kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadImage, match="half"):
        images.decode(path)


def test_missing_and_text_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"gone\.png"):
        images.decode(tmp_path / "gone.png")
    (tmp_path / "letter.png").write_text("dear reader")
    with pytest.raises(BadImage, match=r"letter\.png"):
        images.decode(tmp_path / "letter.png")


def test_decompression_bomb_is_refused_by_its_header_alone() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(BadImage):
        images.decode(bomb)
    with pytest.raises(BadImage, match="96 allowed|95 allowed"):
        images.decode(encoded(gradient(), "PNG"), max_pixels=95)


def test_postscript_is_never_opened() -> None:
    with pytest.raises(BadImage):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = images.atomic_write(tmp_path / "deep" / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarnessError, match="No space left"):
        images.atomic_write(path, "new")
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HarnessError, match="cannot write"):
        images.atomic_write(tmp_path / "file" / "a.txt", "x")


def test_png_text_comes_back_in_any_script(tmp_path: Path) -> None:
    digest = images.save_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), {"prompt": "ein Käfer, 猫 🙂"})
    assert digest == images.sha256(tmp_path / "a.png") == images.sha256((tmp_path / "a.png").read_bytes())
    assert Image.open(tmp_path / "a.png").text == {"prompt": "ein Käfer, 猫 🙂"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    images.write_set(tmp_path / "set", pixels, pd.DataFrame({"prompt": ["null", "", "a"], "artist": ["07", "07", "8"], "seed": [1, 2, 3]}))
    return tmp_path / "set"


def test_a_set_comes_back_as_it_was_written(folder: Path) -> None:
    back = images.open_set(folder)
    assert back.table["prompt"].tolist() == ["null", "", "a"] and back.table["artist"].tolist() == ["07", "07", "8"]
    assert back.table["seed"].tolist() == [1, 2, 3]
    assert np.array_equal(back.pixels(), np.arange(144, dtype=np.uint8).reshape(3, 4, 4, 3))
    assert len(back.where(back.table["artist"] == "07")) == 2 and back.pixels(8).shape == (3, 8, 8, 3)


def test_a_changed_or_missing_file_is_named(folder: Path) -> None:
    images.save_png(folder / "00001.png", np.ones((4, 4, 3), np.uint8))
    with pytest.raises(HarnessError, match=r"00001\.png"):
        images.open_set(folder)
    (folder / "00001.png").unlink()
    with pytest.raises(HarnessError, match=r"00001\.png"):
        images.open_set(folder)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hosts", "a/../../b.png"])
def test_a_table_cannot_reach_outside(folder: Path, name: str) -> None:
    (folder / "samples.csv").write_text(f"file,sha256\n{name},00\n")
    with pytest.raises(HarnessError, match="outside"):
        images.open_set(folder)


def test_a_plain_folder_is_scanned_and_every_broken_picture_named(folder: Path) -> None:
    (folder / "samples.csv").unlink()
    (folder / "notes.txt").write_text("not a picture")
    assert images.open_set(folder).table["file"].tolist() == ["00000.png", "00001.png", "00002.png"]
    for name in ("x.jpg", "y.png"):
        (folder / name).write_bytes(b"broken")
    with pytest.raises(BadImage, match=r"(?s)2 of 5.*x\.jpg.*y\.png"):
        images.open_set(folder)


def test_no_folder_and_no_picture_are_said(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no such folder"):
        images.open_set(tmp_path / "gone")
    with pytest.raises(HarnessError, match="no picture"):
        images.open_set(tmp_path)


def test_sizes_are_not_mixed_in_silence(tmp_path: Path) -> None:
    mixed = images.write_set(tmp_path, [np.zeros((4, 4, 3)), np.zeros((6, 4, 3))], pd.DataFrame({"prompt": ["a", "b"]}))
    with pytest.raises(HarnessError, match="several sizes"):
        mixed.pixels()
    with pytest.raises(HarnessError, match="1 pictures for 2 rows"):
        images.write_set(tmp_path, [np.zeros((4, 4, 3))], pd.DataFrame({"prompt": ["a", "b"]}))
